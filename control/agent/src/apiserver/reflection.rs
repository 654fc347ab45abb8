//! The objects of one kind as the apiserver has them, and what changes: pure.
//!
//! A list begins, names objects, and ends: what it did not name is gone, however long nobody listened. Between lists each version
//! replaces an older one; what comes late, again or out of order is known by its resourceVersion, which grows (KEP-5504).

use std::collections::{BTreeMap, HashMap, HashSet};

use ringway_model::convert::{Converted, Refused};
use ringway_model::{Change, Model, Names, ObjectRef, Problem, Severity};

/// Objects that went are remembered up to this many; what comes out of order comes soon or never.
const GONE_MAX: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub struct Reflection {
    in_force: HashMap<ObjectRef, Model>,
    /// What is wrong with objects that are there now.
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Of each object that is there, served or not.
    versions: HashMap<ObjectRef, u64>,
    /// At which version objects went, since the last list: an older version that comes later does not bring them back.
    gone: HashMap<ObjectRef, u64>,
    /// Named since the list began; `None`: no list is under way.
    named: Option<HashSet<ObjectRef>>,
    names: Names,
}

impl Reflection {
    /// What an earlier process knew: in force until a list says otherwise.
    pub fn preload(&mut self, mut model: Model) -> Model {
        self.names.share_in(&mut model);
        self.in_force.insert(model.object_ref(), model.clone());
        model
    }

    /// A list begins. One that was under way has come to nothing.
    pub fn begin_list(&mut self) {
        self.named = Some(HashSet::new());
    }

    /// The list has ended: the objects that are gone.
    pub fn end_list(&mut self) -> Vec<Change> {
        let Some(named) = self.named.take() else { return Vec::new() };
        self.gone.clear();
        self.versions.retain(|object, _| named.contains(object));
        self.problems.retain(|object, _| named.contains(object));
        let gone: Vec<ObjectRef> = self.in_force.keys().filter(|object| !named.contains(*object)).cloned().collect();
        gone.into_iter().filter_map(|object| self.remove(object)).collect()
    }

    /// An object is new or has a new version. One that breaks a rule changes nothing: its last good version stays.
    pub fn apply(&mut self, object: ObjectRef, version: Option<u64>, converted: Result<Converted, Refused>) -> Option<Change> {
        if let Some(named) = &mut self.named {
            // What a list says counts, whatever was heard before: the cluster may be another.
            named.insert(object.clone());
        } else if self.is_old(&object, version) {
            return None;
        }
        self.gone.remove(&object);
        version.and_then(|version| self.versions.insert(object.clone(), version));
        let (change, problems) = match converted {
            Ok(Converted::Ours(mut model, problems)) => {
                // One that says the same is not kept: others hold the first, and a list names everything once more.
                let change = (self.in_force.get(&object) != Some(&model)).then(|| {
                    self.names.share_in(&mut model);
                    self.in_force.insert(object.clone(), model.clone());
                    Change::Upsert(model)
                });
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
    pub fn delete(&mut self, object: &ObjectRef, version: Option<u64>) -> Option<Change> {
        if self.is_old(object, version) {
            return None;
        }
        self.versions.remove(object);
        if self.gone.len() >= GONE_MAX {
            self.gone.clear();
        }
        version.and_then(|version| self.gone.insert(object.clone(), version));
        if let Some(named) = &mut self.named {
            named.remove(object);
        }
        self.problems.remove(object);
        self.remove(object.clone())
    }

    fn is_old(&self, object: &ObjectRef, version: Option<u64>) -> bool {
        let Some(version) = version else { return false };
        let newer = self.versions.get(object).is_some_and(|known| version < *known);
        newer || self.gone.get(object).is_some_and(|gone| version <= *gone)
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
