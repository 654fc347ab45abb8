//! One document of a file, parsed and converted: what can be used again while its text stays the same.

use std::sync::Arc;

use crate::convert::{Converted, convert};
use crate::manifest;
use crate::model::{Model, ObjectRef};
use crate::problem::Problem;

/// What one document says.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Each object with its model; `None`: it asks for nothing that we serve (headless, another proxy's, …), which is also a version.
    pub objects: Vec<(Arc<ObjectRef>, Option<Model>)>,
    /// Objects that are there by name, but wrong: their last good versions stay.
    pub refused: Vec<ObjectRef>,
    /// Something is wrong that may have been any object: all that the file had before stays.
    pub unreadable: bool,
    /// Lines count within the document, from 1.
    pub problems: Vec<Problem>,
}

impl Reading {
    pub fn of(text: &str) -> Reading {
        let parsed = manifest::parse(text);
        let mut reading =
            Reading { objects: Vec::new(), refused: parsed.refused, unreadable: parsed.unreadable, problems: parsed.problems };
        for (within, object) in &parsed.objects {
            let problems = match convert(object) {
                Ok(Converted::Ours(model, problems)) => {
                    reading.objects.push((Arc::new(model.object_ref()), Some(model)));
                    problems
                }
                Ok(Converted::NotOurs(object, problems)) => {
                    reading.objects.push((Arc::new(object), None));
                    problems
                }
                Err(refusal) => {
                    reading.unreadable |= refusal.object.is_none();
                    reading.refused.extend(refusal.object);
                    refusal.problems
                }
            };
            reading.problems.extend(problems.into_iter().map(|problem| Problem {
                line: Some(1),
                field: problem.field.map(|field| format!("{within}{field}")),
                ..problem
            }));
        }
        reading
    }
}
