//! The root of the cgroup hierarchy, where `node` is attached, and the cookie by which it knows the node's network namespace.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The root cgroup of version 2 and where it was found.
#[derive(Debug)]
pub struct Cgroup {
    pub path: PathBuf,
    pub(crate) folder: OwnedFd,
    /// As links tell it: the inode of the folder (kernfs).
    pub(crate) id: u64,
}

/// Opens the root cgroup. `ip netns exec` hides it from its processes, and containers see a part only: so PID 1 is asked first.
///
/// # Errors
/// No cgroup2 file system is mounted where we may look.
pub fn root() -> io::Result<Cgroup> {
    let mut tried = None;
    for process in ["1", "self"] {
        let Ok(table) = fs::read_to_string(format!("/proc/{process}/mountinfo")) else { continue };
        for mount in cgroup2_mounts(&table) {
            let path = Path::new("/proc").join(process).join("root").join(mount.trim_start_matches('/'));
            match open(path) {
                Ok(cgroup) => return Ok(cgroup),
                Err(error) => tried = Some(error),
            }
        }
    }
    Err(tried.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted")))
}

fn open(path: PathBuf) -> io::Result<Cgroup> {
    let folder = File::open(&path)?;
    let id = folder.metadata()?.ino();
    Ok(Cgroup { path, folder: folder.into(), id })
}

/// Where the whole hierarchy is mounted, by /proc/PID/mountinfo (proc_pid_mountinfo(5)): fields 4 and 5 are root and mount point,
/// the type of the file system follows a lone dash.
fn cgroup2_mounts(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then_some(point)
    })
}

/// The cookie of this thread's network namespace: unique on the machine since boot, what `bpf_get_netns_cookie` returns.
pub(crate) fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let (mut cookie, mut len) = (0u64, mem::size_of::<u64>() as libc::socklen_t);
    // SAFETY: an open socket; the kernel writes at most `len` bytes to `cookie`, and both outlive the call.
    let ret =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len) };
    if ret == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_whole_hierarchy() {
        let table = "\
            24 1 0:21 / /sys rw,nosuid - sysfs sysfs rw\n\
            30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
            31 24 0:26 /kubepods /pod rw - cgroup2 cgroup2 rw\n\
            32 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            broken line - cgroup2\n";
        assert_eq!(cgroup2_mounts(table).collect::<Vec<_>>(), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn this_namespace_has_a_cookie() {
        assert_eq!(netns_cookie().unwrap(), netns_cookie().unwrap());
    }
}
