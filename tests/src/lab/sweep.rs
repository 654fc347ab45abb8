//! What a killed test leaves behind, and how it goes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{PREFIX, STATE_ROOT};

/// Deletes the namespaces, processes and state of labs whose process is dead. Those of living processes are left alone.
pub fn sweep_leftovers() -> Result<()> {
    for name in entries("/run/netns") {
        if is_orphan(&name) {
            delete_namespace(&name);
        }
    }
    for name in entries(STATE_ROOT) {
        if is_orphan(&name) {
            remove_state(&Path::new(STATE_ROOT).join(name));
        }
    }
    Ok(())
}

/// Kills what runs in a namespace, then deletes it; its devices go with it.
pub(super) fn delete_namespace(name: &str) {
    for _ in 0..20 {
        let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() else { break };
        let pids = String::from_utf8_lossy(&output.stdout).into_owned();
        if pids.trim().is_empty() {
            break;
        }
        let _ = Command::new("kill").arg("-KILL").args(pids.split_whitespace()).output();
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

/// Removes a lab's state directory; a bpffs that `ringway` mounted below it is unmounted first.
pub(super) fn remove_state(dir: &Path) {
    for mount in mounts_below(dir) {
        let _ = Command::new("umount").arg("-l").arg(mount).output();
    }
    let _ = std::fs::remove_dir_all(dir);
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    // The innermost last in the table, and first to go.
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    below.reverse();
    below
}

/// `rwl-PID-N…` whose PID is no process any more.
fn is_orphan(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn entries(dir: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_of_dead_processes_are_orphans() {
        assert!(!is_orphan(&format!("{PREFIX}{}-0-client", std::process::id())));
        // Above the largest pid of 64-bit Linux.
        assert!(is_orphan(&format!("{PREFIX}4194305-0-client")));
        assert!(!is_orphan("cni-1234"));
        assert!(!is_orphan("rwl-x-0"));
    }
}
