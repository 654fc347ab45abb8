//! The objects of one kind as the apiserver has them, and what changes: pure.
//!
//! A list begins, names objects, and ends: what it did not name is gone, however long nobody listened. Between lists each version
//! replaces the one before, so repeated and reordered ones do no harm once the last has come.

use std::collections::{BTreeMap, HashMap, HashSet};

use ringway_model::convert::{Converted, Refused};
use ringway_model::{Change, Model, ObjectRef, Problem, Severity};

/// See the module.
#[derive(Debug, Default)]
pub struct Reflection {
    in_force: HashMap<ObjectRef, Model>,
    /// What is wrong with objects that are there now.
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Named since the list began; `None`: no list is under way.
    named: Option<HashSet<ObjectRef>>,
}

impl Reflection {
    /// What an earlier process knew: in force until a list says otherwise.
    pub fn preload(&mut self, model: Model) {
        self.in_force.insert(model.object_ref(), model);
    }

    /// A list begins. One that was under way has come to nothing.
    pub fn begin_list(&mut self) {
        self.named = Some(HashSet::new());
    }

    /// The list has ended: the objects that are gone.
    pub fn end_list(&mut self) -> Vec<Change> {
        let Some(named) = self.named.take() else { return Vec::new() };
        self.problems.retain(|object, _| named.contains(object));
        let gone: Vec<ObjectRef> = self.in_force.keys().filter(|object| !named.contains(*object)).cloned().collect();
        gone.into_iter().filter_map(|object| self.remove(object)).collect()
    }

    /// An object is new or has a new version. One that breaks a rule changes nothing: its last good version stays.
    pub fn apply(&mut self, object: ObjectRef, converted: Result<Converted, Refused>) -> Option<Change> {
        if let Some(named) = &mut self.named {
            named.insert(object.clone());
        }
        let (change, problems) = match converted {
            Ok(Converted::Ours(model, problems)) => {
                let same = self.in_force.get(&object) == Some(&model);
                let change = (!same).then(|| Change::Upsert(model.clone()));
                self.in_force.insert(object.clone(), model);
                (change, problems)
            }
            Ok(Converted::NotOurs(_, problems)) => (self.remove(object.clone()), problems),
            Err(refused) => (None, refused.problems),
        };
        if problems.is_empty() {
            self.problems.remove(&object);
        } else {
            self.problems.insert(object, problems);
        }
        change
    }

    /// An object is gone.
    pub fn delete(&mut self, object: &ObjectRef) -> Option<Change> {
        if let Some(named) = &mut self.named {
            named.remove(object);
        }
        self.problems.remove(object);
        self.remove(object.clone())
    }

    fn remove(&mut self, object: ObjectRef) -> Option<Change> {
        self.in_force.remove(&object).map(|_| Change::Delete(object))
    }

    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.in_force.values()
    }

    /// Number of objects in force.
    pub fn objects(&self) -> usize {
        self.in_force.len()
    }

    /// What is wrong with objects that are there, by object.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// Of one object.
    pub fn problems_of(&self, object: &ObjectRef) -> &[Problem] {
        self.problems.get(object).map_or(&[], Vec::as_slice)
    }

    /// Objects that are refused now.
    pub fn refused_len(&self) -> usize {
        self.problems.values().filter(|problems| problems.iter().any(|problem| problem.severity == Severity::Error)).count()
    }
}

#[cfg(test)]
mod tests;
