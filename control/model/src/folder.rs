//! A folder of manifest files as a source of changes.
//!
//! The last good version of an object stays in force while its file, its document or itself is broken; what is gone from a readable file is
//! gone. If two files hold the same object, the file whose name sorts first wins.

//!
//! A document whose text did not change is not parsed again: one edit in a file of thousands of objects costs little more than the edit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map};
use std::sync::Arc;

use crate::manifest::{FILE_BYTES_MAX, ManifestFile, documents};
use crate::model::{Change, Model, ObjectRef};
use crate::problem::{Problem, Severity};
use crate::reading::Reading;

/// What each file of the folder last said, and which object of which file is in force.
#[derive(Debug, Default)]
pub struct Folder {
    files: BTreeMap<String, FileState>,
    /// Files that hold an object, the winner first.
    holders: HashMap<Arc<ObjectRef>, BTreeSet<String>>,
    /// Objects that more than one file holds.
    contested: BTreeSet<Arc<ObjectRef>>,
    in_force: HashMap<Arc<ObjectRef>, Model>,
}

#[derive(Debug, Default)]
struct FileState {
    /// By the text of the document.
    readings: HashMap<Box<str>, Arc<Reading>>,
    objects: BTreeMap<Arc<ObjectRef>, Entry>,
    problems: Vec<Problem>,
}

/// The last good version of an object in a file.
#[derive(Clone, Debug)]
struct Entry {
    /// `None`: nothing that we serve.
    model: Option<Model>,
    place: Place,
}

/// Where an object stands in its file.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Number of the document, from 1. Empty documents are not counted.
    document: usize,
    /// Line on which the document begins, from 1.
    line: u64,
}

impl Folder {
    /// The file is new or has changed. Never fails as a whole: what cannot be read is a problem, the rest counts.
    pub fn update(&mut self, ManifestFile { file, text }: ManifestFile) -> Vec<Change> {
        let mut before = self.files.remove(&file).unwrap_or_default();
        let after = FileState::read(&file, &text, &mut before);
        self.replace(file, &before, after)
    }

    /// The file is gone.
    pub fn remove(&mut self, file: &str) -> Vec<Change> {
        let Some(before) = self.files.remove(file) else { return Vec::new() };
        let changes = self.replace(file.to_owned(), &before, FileState::default());
        self.files.remove(file);
        changes
    }

    /// Names of the files that are known, to find those that are gone.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Everything that is wrong now, by file.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        problems.extend(self.contested.iter().flat_map(|object| self.contest(object)));
        problems
    }

    fn replace(&mut self, name: String, before: &FileState, after: FileState) -> Vec<Change> {
        let mut touched: BTreeSet<Arc<ObjectRef>> = BTreeSet::new();
        for object in before.objects.keys().filter(|object| !after.objects.contains_key(*object)) {
            if let Some(holders) = self.holders.get_mut(object) {
                holders.remove(&name);
            }
            touched.insert(Arc::clone(object));
        }
        for (object, entry) in &after.objects {
            match before.objects.get(object) {
                Some(known) if known.model == entry.model => continue,
                Some(_) => {}
                None => {
                    self.holders.entry(Arc::clone(object)).or_default().insert(name.clone());
                }
            }
            touched.insert(Arc::clone(object));
        }
        self.files.insert(name, after);
        touched.into_iter().filter_map(|object| self.decide(object)).collect()
    }

    /// Brings `in_force` up to date for one object.
    fn decide(&mut self, object: Arc<ObjectRef>) -> Option<Change> {
        let holders = self.holders.get(&object).map_or(0, BTreeSet::len);
        if holders > 1 {
            self.contested.insert(Arc::clone(&object));
        } else {
            self.contested.remove(&object);
        }
        if holders == 0 {
            self.holders.remove(&object);
        }
        let winner = self.holders.get(&object).and_then(BTreeSet::first).and_then(|file| self.files.get(file));
        let model = winner.and_then(|file| file.objects.get(&object)).and_then(|entry| entry.model.clone());
        match model {
            Some(model) if self.in_force.get(&object) == Some(&model) => None,
            Some(model) => {
                self.in_force.insert(object, model.clone());
                Some(Change::Upsert(model))
            }
            None => self.in_force.remove(&object).map(|_| Change::Delete((*object).clone())),
        }
    }

    /// A problem for each file that holds `object` in vain.
    fn contest(&self, object: &ObjectRef) -> Vec<Problem> {
        let mut holders = self.holders.get(object).into_iter().flatten();
        let Some(winner) = holders.next() else { return Vec::new() };
        let problem = |file: &String| {
            let place = self.files.get(file)?.objects.get(object)?.place;
            Some(duplicate(object, file, place, &format!("the file {winner}")))
        };
        holders.filter_map(problem).collect()
    }
}

fn duplicate(object: &ObjectRef, file: &str, place: Place, winner: &str) -> Problem {
    Problem {
        file: Some(file.to_owned()),
        document: Some(place.document),
        line: Some(place.line),
        kind: Some(object.kind.to_string()),
        namespace: object.kind.is_namespaced().then(|| object.namespace.to_string()),
        name: Some(object.name.to_string()),
        ..Problem::new(Severity::Error, format!("has no effect: {winner} holds the same object, and the first one wins"))
    }
}

impl FileState {
    /// What a file says now, given what it said `before`.
    fn read(name: &str, text: &str, before: &mut FileState) -> FileState {
        let mut file = FileState::default();
        let mut unreadable = false;
        let mut refused = HashSet::new();
        if text.len() > FILE_BYTES_MAX {
            let message = format!("the file has {} bytes, more than the {FILE_BYTES_MAX} that are read: split it", text.len());
            file.problems.push(Problem { file: Some(name.to_owned()), ..Problem::new(Severity::Error, message) });
            unreadable = true;
        } else {
            for (index, document) in documents(text).into_iter().enumerate() {
                let place = Place { document: index + 1, line: document.line };
                let reading = file.reading(document.text, before);
                unreadable |= reading.unreadable;
                refused.extend(reading.refused.iter().cloned());
                file.take(name, place, &reading);
            }
        }
        for (object, entry) in &before.objects {
            if unreadable || refused.contains(&**object) {
                file.objects.entry(object.clone()).or_insert_with(|| entry.clone());
            }
        }
        file
    }

    /// What a document says: known from its other copy in this file, or from what the file said before, or read now.
    fn reading(&mut self, text: &str, before: &mut FileState) -> Arc<Reading> {
        if let Some(reading) = self.readings.get(text) {
            return Arc::clone(reading);
        }
        let (text, reading) = before.readings.remove_entry(text).unwrap_or_else(|| (text.into(), Arc::new(Reading::of(text))));
        self.readings.insert(text, Arc::clone(&reading));
        reading
    }

    fn take(&mut self, name: &str, place: Place, reading: &Reading) {
        self.problems.extend(reading.problems.iter().cloned().map(|problem| Problem {
            file: Some(name.to_owned()),
            document: Some(place.document),
            line: problem.line.map(|line| place.line + line - 1),
            ..problem
        }));
        for (object, model) in &reading.objects {
            match self.objects.entry(object.clone()) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(Entry { model: model.clone(), place });
                }
                btree_map::Entry::Occupied(first) => {
                    let winner = format!("document {}", first.get().place.document);
                    self.problems.push(duplicate(object, name, place, &winner));
                }
            }
        }
    }
}
