//! The file system that pins live on.
//!
//! Pins must outlive the process, so their mount must, too. `ip netns exec` gives a process a mount namespace of its own, and
//! containers do: a bpffs mounted there vanishes with the last process in it, and with it all pins and programs. So it
//! is mounted in the mount namespace of PID 1 (or, where we may not enter that, of our outermost ancestor), and the
//! same file system is attached to ours if the mount does not propagate by itself.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path, PathBuf};
use std::process;
use std::thread;

use crate::Error;

/// The folder of the bpffs below the state directory.
pub const FOLDER: &str = "bpf";

/// Where the bpffs is and how it came there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bpffs {
    /// `<state_dir>/bpf`: the pin directory.
    pub path: PathBuf,
    pub mount: Mount,
}

/// How the bpffs came to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// It was there.
    Found,
    /// Mounted now, in the namespace of PID 1 or of our outermost ancestor.
    Lasting,
    /// Mounted in our own mount namespace only, because of `why`: pins vanish when the last process in it ends.
    OwnNamespace { why: String },
}

/// Ensures that a bpffs is mounted at `<state_dir>/bpf` here, and where possible in the mount namespace of PID 1.
pub fn ensure(state_dir: &Path) -> Result<Bpffs, Error> {
    let path = pin_dir(state_dir)?;
    let error = |source| Error::Mount { path: path.clone(), source };
    fs::create_dir_all(&path).map_err(error)?;
    if is_bpffs(&path) {
        return Ok(Bpffs { path, mount: Mount::Found });
    }
    let why = match outer_namespace() {
        None => {
            mount_bpffs(&path).map_err(error)?;
            return Ok(Bpffs { path, mount: Mount::Lasting });
        }
        Some(outer) => match mount_outside(outer, &path) {
            Ok(()) => return Ok(Bpffs { path, mount: Mount::Lasting }),
            Err(error) => error.to_string(),
        },
    };
    mount_bpffs(&path).map_err(error)?;
    Ok(Bpffs { path, mount: Mount::OwnNamespace { why } })
}

/// Unmounts what [`ensure`] mounted, in both namespaces, and removes the empty folder. What is not there is no error.
pub fn unmount(state_dir: &Path) -> Result<(), Error> {
    let path = pin_dir(state_dir)?;
    let error = |source| Error::Mount { path: path.clone(), source };
    if let Some(outer) = outer_namespace() {
        let path = path.clone();
        // Where we cannot enter, we have not mounted either.
        let _ = in_namespace(outer, move || unmount_here(&path));
    }
    unmount_here(&path).map_err(error)
}

/// The pin directory of a state directory: `<state_dir>/bpf`, absolute, mounted or not.
pub fn pin_dir(state_dir: &Path) -> Result<PathBuf, Error> {
    // Another mount namespace has another working directory.
    path::absolute(state_dir.join(FOLDER)).map_err(|source| Error::Mount { path: state_dir.into(), source })
}

/// True if `path` is on a bpffs.
pub fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: all zeroes are a valid statfs.
    let mut stat: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: a C string and a statfs that outlive the call.
    let ret = unsafe { libc::statfs(path.as_ptr(), &mut stat) };
    ret == 0 && stat.f_type == libc::BPF_FS_MAGIC
}

/// The mount namespace in which a mount lasts, if it is not ours: PID 1's, or where we may not see that one, the
/// outermost of our ancestors' that we may.
fn outer_namespace() -> Option<File> {
    let ours = fs::metadata("/proc/thread-self/ns/mnt").ok()?.ino();
    let other = |pid: u32| {
        let file = File::open(format!("/proc/{pid}/ns/mnt")).ok()?;
        let inode = file.metadata().ok()?.ino();
        Some((file, inode != ours))
    };
    if let Some((file, differs)) = other(1) {
        return differs.then_some(file);
    }
    let mut outermost = None;
    let mut pid = process::id();
    while let Some(parent) = parent_of(pid).filter(|&parent| parent > 1) {
        if let Some(found) = other(parent) {
            outermost = Some(found);
        }
        pid = parent;
    }
    outermost.and_then(|(file, differs)| differs.then_some(file))
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Mounts in `outer` and sees to it that the same file system is at `path` here.
fn mount_outside(outer: File, path: &Path) -> io::Result<()> {
    let there = path.to_path_buf();
    let tree = in_namespace(outer, move || {
        fs::create_dir_all(&there)?;
        if !is_bpffs(&there) {
            mount_bpffs(&there)?;
        }
        clone_tree(&there)
    })?;
    if is_bpffs(path) {
        return Ok(()); // it has propagated
    }
    attach_tree(&tree, path)
}

/// Runs `work` in another mount namespace, on a thread of its own that ends with it.
fn in_namespace<T: Send + 'static>(namespace: File, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = thread::Builder::new().name("mount".into()).spawn(move || {
        // A thread that shares root and working directory with others may not change its mount namespace.
        // SAFETY: concerns this thread only, which does nothing else.
        check(unsafe { libc::unshare(libc::CLONE_FS) })?;
        // SAFETY: an open descriptor of a namespace.
        check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) })?;
        work()
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
}

fn check(ret: i32) -> io::Result<()> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn mount_bpffs(path: &Path) -> io::Result<()> {
    const BPF: &CStr = c"bpf";
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: C strings that outlive the call; no data.
    check(unsafe { libc::mount(BPF.as_ptr(), path.as_ptr(), BPF.as_ptr(), 0, std::ptr::null()) })
}

fn unmount_here(path: &Path) -> io::Result<()> {
    while is_bpffs(path) {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: a C string that outlives the call.
        check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) })?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A second, not yet attached mount of the file system at `path` (open_tree(2)).
fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    check(fd as i32)?;
    // SAFETY: a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn attach_tree(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4; // linux/mount.h
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an open descriptor and C strings that outlive the call.
    let ret = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, path.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH)
    };
    check(ret as i32)
}
