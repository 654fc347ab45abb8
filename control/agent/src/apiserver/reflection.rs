//! The objects of one kind as the apiserver has them, and what changes: pure.
//!
//! A list begins, names objects, and ends: what it did not name is gone, however long nobody listened. Between lists each version
//! replaces an older one; what comes late, again or out of order is known by its resourceVersion, which grows (KEP-5504).

use std::collections::{BTreeMap, HashMap};

use ringway_model::convert::{Converted, Refused};
use ringway_model::{Change, Model, Names, ObjectRef, Problem, Severity};

/// Objects that went are remembered up to this many; what comes out of order comes soon or never.
const GONE_MAX: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub struct Reflection {
    /// Those that are there, or that an earlier process knew.
    objects: HashMap<ObjectRef, Known>,
    /// How many of them are in force: asked for with each change.
    in_force: usize,
    /// What is wrong with objects that are there now.
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// At which version objects went, since the last list: an older version that comes later does not bring them back.
    gone: HashMap<ObjectRef, u64>,
    is_listing: bool,
    names: Names,
}

/// What is known of one object.
#[derive(Debug, Default)]
struct Known {
    /// The last good version; `None`: there is none, or it is not served.
    in_force: Option<Model>,
    /// The version heard of last, good or not.
    version: Option<u64>,
    /// Heard of since the last list began.
    is_named: bool,
}

impl Reflection {
    /// What an earlier process knew: in force until a list says otherwise.
    pub fn preload(&mut self, mut model: Model) -> Model {
        let mut object = model.object_ref();
        self.names.share(&mut object.namespace);
        self.names.share_in(&mut model, &object);
        let before = self.objects.insert(object, Known { in_force: Some(model.clone()), ..Known::default() });
        self.in_force += usize::from(before.is_none());
        model
    }

    /// A list begins. One that was under way has come to nothing.
    pub fn begin_list(&mut self) {
        self.is_listing = true;
        self.objects.values_mut().for_each(|known| known.is_named = false);
    }

    /// The list has ended: the objects that are gone.
    pub fn end_list(&mut self) -> Vec<Change> {
        if !std::mem::take(&mut self.is_listing) {
            return Vec::new();
        }
        self.gone.clear();
        self.problems.retain(|object, _| self.objects.get(object).is_some_and(|known| known.is_named));
        let gone = self.objects.extract_if(|_, known| !known.is_named);
        let gone: Vec<Change> = gone.filter(|(_, known)| known.in_force.is_some()).map(|(object, _)| Change::Delete(object)).collect();
        self.in_force -= gone.len();
        gone
    }

    /// An object is new or has a new version. One that breaks a rule changes nothing: its last good version stays.
    pub fn apply(&mut self, mut object: ObjectRef, version: Option<u64>, converted: Result<Converted, Refused>) -> Option<Change> {
        // What a list says counts, whatever was heard before: the cluster may be another.
        if !self.is_listing && self.is_old(&object, version) {
            return None;
        }
        self.gone.remove(&object);
        self.names.share(&mut object.namespace);
        let entry = self.objects.entry(object);
        let object = entry.key().clone();
        let known = entry.or_default();
        known.version = version.or(known.version);
        known.is_named = true;
        let (change, problems) = match converted {
            Ok(Converted::Ours(mut model, problems)) => {
                // One that says the same is not kept: others hold the first, and a list names everything once more.
                let change = (known.in_force.as_ref() != Some(&model)).then(|| {
                    self.names.share_in(&mut model, &object);
                    let before = known.in_force.replace(model.clone());
                    self.in_force += usize::from(before.is_none());
                    Change::Upsert(model)
                });
                (change, problems)
            }
            Ok(Converted::NotOurs(_, problems)) => {
                let before = known.in_force.take();
                self.in_force -= usize::from(before.is_some());
                (before.map(|_| Change::Delete(object.clone())), problems)
            }
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
        if self.gone.len() >= GONE_MAX {
            self.gone.clear();
        }
        version.and_then(|version| self.gone.insert(object.clone(), version));
        self.problems.remove(object);
        let before = self.objects.remove(object)?.in_force;
        self.in_force -= usize::from(before.is_some());
        before.map(|_| Change::Delete(object.clone()))
    }

    fn is_old(&self, object: &ObjectRef, version: Option<u64>) -> bool {
        let Some(version) = version else { return false };
        let newer = self.objects.get(object).and_then(|known| known.version).is_some_and(|known| version < known);
        newer || self.gone.get(object).is_some_and(|gone| version <= *gone)
    }

    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.objects.values().filter_map(|known| known.in_force.as_ref())
    }

    /// Number of objects in force.
    pub fn objects(&self) -> usize {
        self.in_force
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
