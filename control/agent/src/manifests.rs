//! The folder of manifests: read once, then followed by inotify. It may appear later, and files may come and go in any way that
//! editors and ConfigMap volumes do it (written in place, renamed over, a symbolic link swapped).
//!
//! inotify only says *when* to look; what changed is found by comparing each file with what was read last. So nothing depends on
//! the order or completeness of notifications.

mod watch;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ringway_model::manifest::{FILE_BYTES_MAX, ManifestFile};
use ringway_model::{Problem, Severity};

pub use watch::Watch;

/// A jiffy is 10 ms at most.
const SETTLED_NS: i128 = 50_000_000;

/// What changed since the last look.
#[derive(Debug, Default, PartialEq)]
pub struct Scan {
    pub updated: Vec<ManifestFile>,
    /// Names of files that are gone.
    pub removed: Vec<String>,
}

/// The files as they were read last.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    files: BTreeMap<String, KnownFile>,
    /// Why the folder cannot be listed now.
    folder_problem: Option<Problem>,
}

#[derive(Debug, Default)]
struct KnownFile {
    /// Of the last reading; nothing if the next look has to read it again whatever it is.
    stamp: Option<Stamp>,
    /// Why the file cannot be read now; what it said last stays in force.
    problem: Option<Problem>,
}

/// Tells whether a file may have changed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Manifests {
    pub fn new(dir: &Path) -> Manifests {
        Manifests { dir: dir.to_owned(), files: BTreeMap::new(), folder_problem: None }
    }

    /// Looks at every `*.yaml`, `*.yml` and `*.json` in the folder (not below it) and reads those that may have changed; what did not change
    /// after all costs [`ringway_model::Folder`] next to nothing.
    ///
    /// A folder or file that cannot be read is a problem, and what it said last stays in force: a volume that is remounted must not
    /// tear services down. Only a file that is gone from a folder that can be listed is removed.
    pub fn scan(&mut self) -> Scan {
        let mut scan = Scan::default();
        let names = match list(&self.dir) {
            Ok(names) => names,
            Err(error) => {
                self.folder_problem = Some(problem(
                    None,
                    format!("cannot list the folder {}: {error}; what was read last stays in force", self.dir.display()),
                ));
                return scan;
            }
        };
        self.folder_problem = None;
        let gone = self.files.keys().filter(|name| names.binary_search(name).is_err());
        scan.removed = gone.cloned().collect();
        self.files.retain(|name, _| names.binary_search(name).is_ok());
        for name in names {
            if let Some(text) = self.read(&name) {
                scan.updated.push(ManifestFile { file: name, text });
            }
        }
        scan
    }

    /// What is wrong with the folder and its files, apart from what stands in them.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.folder_problem.iter().chain(self.files.values().filter_map(|file| file.problem.as_ref()))
    }

    /// The text of the file if it may have changed.
    fn read(&mut self, name: &str) -> Option<String> {
        let path = self.dir.join(name);
        let file = self.files.entry(name.to_owned()).or_default();
        let kept = "what it said last stays in force";
        let stamp = match stamp(&path) {
            Ok(stamp) if file.stamp == Some(stamp) => return None,
            Ok(stamp) => stamp,
            Err(error) => {
                file.problem = Some(problem(Some(name), format!("cannot read the file: {error}; {kept}")));
                return None;
            }
        };
        if stamp.bytes > FILE_BYTES_MAX as u64 {
            file.problem =
                Some(problem(Some(name), format!("the file has {} bytes, at most {FILE_BYTES_MAX} are read; {kept}", stamp.bytes)));
            return None;
        }
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                file.problem = None;
                file.stamp = Some(stamp).filter(Stamp::is_settled);
                Some(text)
            }
            Err(error) => {
                file.stamp = None;
                file.problem = Some(problem(Some(name), format!("cannot read the file: {error}; {kept}")));
                None
            }
        }
    }
}

impl Stamp {
    /// The clock of file systems stands still for some milliseconds: a file written twice in that time may keep its stamp.
    fn is_settled(&self) -> bool {
        let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else { return false };
        now.as_nanos() as i128 - self.changed_ns > SETTLED_NS
    }
}

/// Names of the manifests in the folder, sorted. Hidden files are editors' temporaries and a ConfigMap's `..data`.
fn list(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let manifest = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
        if manifest && !name.starts_with('.') && !dir.join(&name).is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let meta = std::fs::metadata(path)?;
    let ns = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Ok(Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        bytes: meta.len(),
        modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
        changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
    })
}

fn problem(file: Option<&str>, message: String) -> Problem {
    Problem {
        severity: Severity::Error,
        file: file.map(str::to_owned),
        document: None,
        line: None,
        kind: None,
        namespace: None,
        name: None,
        field: None,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(scan: &Scan) -> Vec<&str> {
        scan.updated.iter().map(|file| file.file.as_str()).collect()
    }

    /// Until what was written is old enough for its stamp to be believed.
    fn settle() {
        std::thread::sleep(std::time::Duration::from_nanos(SETTLED_NS as u64 + 20_000_000));
    }

    #[test]
    fn a_folder_over_its_life() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("manifests");
        let mut manifests = Manifests::new(&dir);
        assert_eq!(manifests.scan(), Scan::default());
        assert_eq!(manifests.problems().count(), 1, "the folder is missing");

        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("b.yaml"), "# b").unwrap();
        fs::write(dir.join("a.yml"), "# a").unwrap();
        fs::write(dir.join(".a.yaml.swp.yaml"), "# hidden").unwrap();
        fs::write(dir.join("notes.txt"), "no manifest").unwrap();
        assert_eq!(names(&manifests.scan()), ["a.yml", "b.yaml"]);
        assert_eq!(manifests.problems().count(), 0);
        assert_eq!(names(&manifests.scan()), ["a.yml", "b.yaml"], "written just now: once more");
        settle();
        manifests.scan();
        assert_eq!(manifests.scan(), Scan::default(), "nothing changed");

        // Renamed over.
        fs::write(dir.join("tmp"), "# a2").unwrap();
        fs::rename(dir.join("tmp"), dir.join("a.yml")).unwrap();
        assert_eq!(names(&manifests.scan()), ["a.yml"]);
        settle();
        manifests.scan();

        fs::remove_file(dir.join("b.yaml")).unwrap();
        assert_eq!(manifests.scan().removed, ["b.yaml"]);

        // The folder vanishes: what was read last stays in force.
        fs::rename(&dir, parent.path().join("elsewhere")).unwrap();
        assert_eq!(manifests.scan(), Scan::default());
        assert_eq!(manifests.problems().count(), 1);
    }

    #[test]
    fn a_config_map_volume() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for (version, text) in [("..v1", "# one"), ("..v2", "# two")] {
            fs::create_dir(dir.join(version)).unwrap();
            fs::write(dir.join(version).join("x.yaml"), text).unwrap();
        }
        std::os::unix::fs::symlink("..v1", dir.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/x.yaml", dir.join("x.yaml")).unwrap();
        let mut manifests = Manifests::new(dir);
        assert_eq!(names(&manifests.scan()), ["x.yaml"]);
        std::os::unix::fs::symlink("..v2", dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        assert_eq!(names(&manifests.scan()), ["x.yaml"]);
    }

    #[test]
    fn an_unreadable_file_keeps_its_last_version() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.yaml");
        fs::write(&file, "# one").unwrap();
        let mut manifests = Manifests::new(dir.path());
        manifests.scan();
        fs::write(&file, [0xff, 0xfe]).unwrap();
        assert_eq!(manifests.scan(), Scan::default());
        assert_eq!(manifests.problems().count(), 1, "not UTF-8");
        fs::write(&file, "# two").unwrap();
        assert_eq!(names(&manifests.scan()), ["x.yaml"]);
        assert_eq!(manifests.problems().count(), 0);
    }
}
