//! One process per state directory and per network namespace. The kernel gives both locks back when a process dies, however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Name of an abstract unix socket. Such names belong to the network namespace, as the hostlink does.
const NAMESPACE_LOCK: &str = "ringway";

/// The locks, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    /// None for a state directory that does not exist.
    _file: Option<File>,
    _namespace: UnixListener,
}

/// Where the process id of the holder stands.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("lock")
}

impl Lock {
    /// Takes both locks; the state directory exists.
    ///
    /// # Errors
    /// Another process holds one of them, or the file cannot be written.
    pub fn acquire(state_dir: &Path) -> anyhow::Result<Lock> {
        let path = path(state_dir);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.with_context(|| format!("cannot open the lock file {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(&mut file).map_or("unknown".into(), |pid| pid.to_string());
                bail!(
                    "a ringway with process id {pid} runs with the state directory {}: stop it first, or use another --state-dir",
                    state_dir.display()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        let namespace = lock_namespace()?;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .context("cannot write the process id into the lock file")?;
        Ok(Lock { _file: Some(file), _namespace: namespace })
    }

    /// Takes the lock of the network namespace only: for a state directory that does not exist.
    ///
    /// # Errors
    /// Another process holds it.
    pub fn acquire_namespace() -> anyhow::Result<Lock> {
        Ok(Lock { _file: None, _namespace: lock_namespace()? })
    }
}

fn lock_namespace() -> anyhow::Result<UnixListener> {
    SocketAddr::from_abstract_name(NAMESPACE_LOCK)
        .and_then(|address| UnixListener::bind_addr(&address))
        .context("another ringway runs in this network namespace with another --state-dir (`ss -xlp src @ringway` shows it): stop it first")
}

/// How long the kernel may need to take a killed process apart: its sockets' rings and the pinned memory go first, its locks last.
const DEATH: Duration = Duration::from_secs(3);

/// Waits while a process that was killed just now still holds one of the locks, so that it can be started again at once. Ends early
/// when both are free, and after a bounded time in any case: then the holder lives.
pub async fn outlast_the_dying(state_dir: &Path) {
    let deadline = Instant::now() + DEATH;
    while (holder(state_dir).is_some() || namespace_held()) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The process that holds the lock of the state directory now; `None` if none does. A process id of 0 means that it has not written it yet.
pub fn holder(state_dir: &Path) -> Option<u32> {
    let mut file = File::open(path(state_dir)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(read_pid(&mut file).unwrap_or(0)),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// Whether a process holds the lock of this network namespace now, with whatever state directory.
pub fn namespace_held() -> bool {
    let ending = format!(" @{NAMESPACE_LOCK}");
    std::fs::read_to_string("/proc/net/unix").is_ok_and(|sockets| sockets.lines().any(|line| line.ends_with(&ending)))
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlocked_file_has_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()), None);
        std::fs::write(path(dir.path()), "4711\n").unwrap();
        assert_eq!(holder(dir.path()), None, "the file of a dead process");
        let file = File::open(path(dir.path())).unwrap();
        file.try_lock().unwrap();
        assert_eq!(holder(dir.path()), Some(4711));
    }
}
