//! What is wrong with an object, and where to find it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether an object was refused or only partly used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object (or file) is not in force as written; its last good version is, if there was one.
    Error,
    /// The object is in force, but a part of it has no effect.
    Notice,
}

/// One thing that the author of an object should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Problem {
    pub severity: Severity,
    /// File of the manifests folder; `None` for what is no file's fault alone, and for objects of an apiserver.
    pub file: Option<String>,
    /// Number of the document in its file, from 1.
    pub document: Option<usize>,
    /// Line in the file, from 1.
    pub line: Option<u64>,
    /// As far as they could be read.
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// Path of the field, like `spec.ports[1].port`.
    pub field: Option<String>,
    pub message: String,
}

impl Problem {
    /// A problem without a place; the caller that knows the place adds it.
    pub(crate) fn new(severity: Severity, message: impl Into<String>) -> Problem {
        Problem {
            severity,
            file: None,
            document: None,
            line: None,
            kind: None,
            namespace: None,
            name: None,
            field: None,
            message: message.into(),
        }
    }
}

/// `a.yaml:12 (document 2): Service default/web: spec.ports[0].port: …`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            if let Some(document) = self.document {
                write!(f, " (document {document})")?;
            }
            f.write_str(": ")?;
        }
        if let Some(kind) = &self.kind {
            f.write_str(kind)?;
            match (&self.namespace, &self.name) {
                (Some(namespace), Some(name)) => write!(f, " {namespace}/{name}")?,
                (None, Some(name)) => write!(f, " {name}")?,
                (_, None) => f.write_str(" without a name")?,
            }
            f.write_str(": ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}
