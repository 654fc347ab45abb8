//! The mount that pins live on, also under a mount namespace as `ip netns exec` makes it.

use std::fs;
use std::io;
use std::thread;

use xdp_redirect::bpffs::{self, Mount, is_bpffs};

#[test]
fn mounted_once_and_unmounted() {
    let state = tempfile::Builder::new().prefix("rwx-").tempdir().expect("a folder");
    let first = bpffs::ensure(state.path()).expect("mount");
    assert!(is_bpffs(&first.path));
    assert_eq!(bpffs::ensure(state.path()).expect("again").mount, Mount::Found);
    bpffs::unmount(state.path()).expect("unmount");
    assert!(!first.path.exists());
    bpffs::unmount(state.path()).expect("unmount of nothing");
}

/// As `ip netns exec`: a mount namespace of its own whose mounts go nowhere, but take what comes.
fn in_slave_namespace<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        // SAFETY: concerns this thread only; C strings that outlive the call.
        let ret = unsafe {
            libc::unshare(libc::CLONE_NEWNS)
                | libc::mount(c"".as_ptr(), c"/".as_ptr(), c"none".as_ptr(), libc::MS_SLAVE | libc::MS_REC, std::ptr::null())
        };
        assert_eq!(ret, 0, "{}", io::Error::last_os_error());
        work()
    });
    thread.join().expect("the thread")
}

#[test]
fn pins_survive_the_mount_namespace_that_they_were_made_in() {
    let state = tempfile::Builder::new().prefix("rwx-").tempdir().expect("a folder");
    let folder = state.path().to_path_buf();
    in_slave_namespace(move || {
        let mounted = bpffs::ensure(&folder).expect("mount");
        assert_eq!(mounted.mount, Mount::Lasting);
        assert!(is_bpffs(&mounted.path));
        fs::create_dir(mounted.path.join("map")).expect("a folder on the bpffs");
    });

    // The first namespace is gone; the next process has another one.
    let folder = state.path().to_path_buf();
    in_slave_namespace(move || {
        let mounted = bpffs::ensure(&folder).expect("mount");
        assert!(mounted.path.join("map").exists());
        bpffs::unmount(&folder).expect("unmount");
        assert!(!is_bpffs(&mounted.path));
    });

    let folder = state.path().to_path_buf();
    in_slave_namespace(move || {
        let mounted = bpffs::ensure(&folder).expect("mount");
        assert!(!mounted.path.join("map").exists(), "unmounted outside too");
        bpffs::unmount(&folder).expect("unmount");
    });
    bpffs::unmount(state.path()).expect("the folder");
}
