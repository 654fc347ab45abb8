//! When to look at the folder: inotify by the crate `notify`, with bursts of notifications joined.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// A burst ends when nothing was heard for this long: long enough for the two or three calls of a rename or a symlink swap.
const QUIET: Duration = Duration::from_millis(5);

/// A file that is being written is waited for until it is closed, but a burst lasts no longer than this: a change acts within 100 ms.
const BURST_MAX: Duration = Duration::from_millis(60);

/// inotify does not see the target of a symbolic link that lies elsewhere, nor what other hosts do on network file systems.
const LOOK_ANYWAY: Duration = Duration::from_secs(5);

/// Tells when the folder may have changed.
#[derive(Debug)]
pub struct Watch {
    dir: PathBuf,
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<notify::Result<Event>>,
    /// What inotify watches now: the folder, and the nearest parent that exists, for the folder may appear or be replaced.
    watched: HashMap<PathBuf, Identity>,
}

/// Device and inode: inotify follows the inode, not the name.
type Identity = (u64, u64);

impl Watch {
    /// Starts to watch before the first look, so that no change falls between.
    ///
    /// # Errors
    /// inotify refuses: mostly `fs.inotify.max_user_instances` is reached.
    pub fn new(dir: &Path) -> anyhow::Result<Watch> {
        let (sender, events) = mpsc::unbounded_channel();
        // Fails only when the receiver is gone, at the end of the process.
        let watcher = notify::recommended_watcher(move |event| drop(sender.send(event)))
            .with_context(|| format!("cannot watch the folder {} by inotify; raise fs.inotify.max_user_instances", dir.display()))?;
        let dir =
            std::path::absolute(dir).with_context(|| format!("cannot find the current directory, below which {} is", dir.display()))?;
        let mut watch = Watch { dir, watcher, events, watched: HashMap::new() };
        watch.arm();
        Ok(watch)
    }

    /// Returns when the folder may have changed. Not cancel safe: give it a task of its own.
    pub async fn changed(&mut self) {
        let mut writing = HashSet::new();
        let look_anyway = Instant::now() + LOOK_ANYWAY;
        while !match timeout_at(look_anyway, self.events.recv()).await {
            Ok(Some(event)) => self.note(event, &mut writing),
            // The watcher lives as long as we do, so the channel is never closed.
            Ok(None) | Err(_) => return self.arm(),
        } {}
        let end = Instant::now() + BURST_MAX;
        loop {
            let wait_until = if writing.is_empty() { end.min(Instant::now() + QUIET) } else { end };
            match timeout_at(wait_until, self.events.recv()).await {
                Ok(Some(event)) => {
                    self.note(event, &mut writing);
                }
                Ok(None) | Err(_) => break,
            }
        }
        self.arm();
    }

    /// Watches what exists now. Watches of directories that were replaced are made anew, for inotify follows the inode.
    fn arm(&mut self) {
        let parent = self.dir.ancestors().skip(1).find(|path| path.is_dir()).map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        let parent = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent };
        let identity = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let wanted: HashMap<PathBuf, Identity> =
            [self.dir.clone(), parent].into_iter().filter_map(|path| identity(&path).map(|identity| (path, identity))).collect();
        for (path, identity) in &self.watched {
            if wanted.get(path) != Some(identity) {
                // Fails if the directory is gone, and its watch with it.
                let _ = self.watcher.unwatch(path);
            }
        }
        self.watched.retain(|path, identity| wanted.get(path) == Some(identity));
        for (path, identity) in wanted {
            if !self.watched.contains_key(&path) && self.watcher.watch(&path, RecursiveMode::NonRecursive).is_ok() {
                self.watched.insert(path, identity);
            }
        }
    }

    /// Keeps the set of files that are open for writing. False if the folder cannot have changed by this: the event is one of the
    /// parent's other children, or our own reading.
    fn note(&self, event: notify::Result<Event>, writing: &mut HashSet<PathBuf>) -> bool {
        // The queue overflowed, or the like: better look.
        let Ok(event) = event else { return true };
        let closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        if matches!(event.kind, EventKind::Access(_)) && !closed {
            return false;
        }
        let mut relevant = event.paths.is_empty();
        for path in event.paths {
            relevant |= path.starts_with(&self.dir) || self.dir.starts_with(&path);
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => writing.insert(path),
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Access(_) => writing.remove(&path),
                _ => continue,
            };
        }
        relevant
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    async fn heard_within(watch: &mut Watch, limit: Duration) -> bool {
        tokio::time::timeout(limit, watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn writes_renames_and_late_folders_are_heard() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("manifests");
        let mut watch = Watch::new(&dir).unwrap();
        let soon = Duration::from_millis(500);
        fs::create_dir(&dir).unwrap();
        assert!(heard_within(&mut watch, soon).await, "the folder appears");
        fs::write(dir.join("a.yaml"), "# a").unwrap();
        assert!(heard_within(&mut watch, soon).await, "a file is written");
        fs::write(dir.join("tmp"), "# b").unwrap();
        fs::rename(dir.join("tmp"), dir.join("a.yaml")).unwrap();
        assert!(heard_within(&mut watch, soon).await, "a file is renamed over");
        fs::rename(&dir, parent.path().join("old")).unwrap();
        fs::create_dir(&dir).unwrap();
        assert!(heard_within(&mut watch, soon).await, "the folder is replaced");
        fs::write(dir.join("a.yaml"), "# a").unwrap();
        assert!(heard_within(&mut watch, soon).await, "a file in the new folder");
        fs::write(parent.path().join("other"), "").unwrap();
        crate::manifests::Manifests::new(&dir).scan();
        assert!(!heard_within(&mut watch, Duration::from_millis(200)).await, "neither other files nor our own reading");
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_waited_for() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path()).unwrap();
        let path = dir.path().join("a.yaml");
        let writer = std::thread::spawn(move || {
            let mut file = fs::File::create(path).unwrap();
            for _ in 0..3 {
                file.write_all(b"# part\n").unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        watch.changed().await;
        assert!(writer.is_finished() || writer.join().is_ok());
        assert_eq!(fs::read_to_string(dir.path().join("a.yaml")).unwrap().len(), 21);
    }
}
