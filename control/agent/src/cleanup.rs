//! Removes everything of ours from the node: what a process that ended without order has left, and what this one made.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::{apiserver, lock, netlink, programs, status};

/// `ringway cleanup`: prints what it removed. Doing it twice is no error.
///
/// # Errors
/// A process runs with this state directory, or something cannot be removed: everything else is removed first.
pub fn cleanup(state_dir: &Path) -> anyhow::Result<ExitCode> {
    if let Some(pid) = lock::holder(state_dir) {
        bail!("process {pid} runs with the state directory {}: stop it (kill {pid}), it removes everything itself", state_dir.display());
    }
    // Nobody may start meanwhile, and the hostlink may be another's who has another state directory.
    let lock = if state_dir.is_dir() { lock::Lock::acquire(state_dir)? } else { lock::Lock::acquire_namespace()? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // A process that ends in order leaves them for the next one.
    let kept = remove(state_dir, [apiserver::cache_path(state_dir), apiserver::corrupt_cache_path(state_dir)]);
    let removed = runtime.block_on(remove_all(state_dir));
    drop(lock);
    let removed = [kept?, removed?].concat();
    for line in &removed {
        println!("removed {line}");
    }
    if removed.is_empty() {
        println!("nothing to remove");
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes programs, pins, the bpffs, routes, the hostlink and the files; a line for each.
///
/// # Errors
/// The first thing that cannot be removed; the rest is removed nevertheless.
pub async fn remove_all(state_dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut removed = programs::leftovers(state_dir);
    let programs = remove_programs(state_dir);
    let network = netlink::cleanup().await.context("cannot remove routes and the hostlink");
    let files = remove_files(state_dir);
    programs?;
    removed.extend(network?);
    removed.extend(files?);
    Ok(removed)
}

fn remove_programs(state_dir: &Path) -> anyhow::Result<()> {
    let pin_dir = xdp_redirect::bpffs::pin_dir(state_dir)?;
    xdp_redirect::cleanup(&pin_dir).context("cannot remove the programs")?;
    xdp_redirect::bpffs::unmount(state_dir).context("cannot remove the bpffs")
}

fn remove_files(state_dir: &Path) -> anyhow::Result<Vec<String>> {
    remove(state_dir, [status::socket_path(state_dir), lock::path(state_dir)])
}

/// Files of these that are there, and the folder if nothing else is in it.
fn remove<const N: usize>(state_dir: &Path, files: [PathBuf; N]) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for path in files {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(format!("file {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }
    match fs::remove_dir(state_dir) {
        Ok(()) => removed.push(format!("folder {}", state_dir.display())),
        // What others have put there stays, and so does a folder that is mounted into a container.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", state_dir.display())),
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_removed_and_strangers_stay() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        fs::create_dir(&dir).unwrap();
        fs::write(lock::path(&dir), "1").unwrap();
        fs::write(dir.join("stranger"), "").unwrap();
        assert_eq!(remove_files(&dir).unwrap().len(), 1);
        assert!(dir.join("stranger").exists());
        fs::remove_file(dir.join("stranger")).unwrap();
        assert_eq!(remove_files(&dir).unwrap().len(), 1, "the folder");
        assert!(remove_files(&dir).unwrap().is_empty(), "a second time");
    }
}
