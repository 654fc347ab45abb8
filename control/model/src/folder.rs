//! A folder of manifest files as a source of changes.

use crate::manifest::ParsedFile;
use crate::model::Change;
use crate::problem::Problem;

/// What each file of the folder last said, and which object of which file is in force.
#[derive(Debug, Default)]
pub struct Folder {}

impl Folder {
    /// The file is new or has changed.
    pub fn update(&mut self, _file: ParsedFile) -> Vec<Change> {
        Vec::new()
    }

    /// The file is gone.
    pub fn remove(&mut self, _file: &str) -> Vec<Change> {
        Vec::new()
    }

    /// Everything that is wrong now, by file.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        std::iter::empty()
    }
}
