//! Kubernetes objects to model types: parse, don't validate.

use crate::manifest::Object;
use crate::model::{Model, ObjectRef};
use crate::problem::Problem;

/// What an object is to us.
#[derive(Clone, Debug, PartialEq)]
pub enum Converted {
    /// In force, with notices on parts that have no effect.
    Ours(Model, Vec<Problem>),
    /// Right, but nothing to serve (contract §1.1, §1.2): an earlier version goes out of force.
    NotOurs(ObjectRef, Vec<Problem>),
}

/// Converts one object, or says all that is wrong with it (problems without a place).
pub fn convert(_object: &Object) -> Result<Converted, Vec<Problem>> {
    Err(Vec::new())
}
