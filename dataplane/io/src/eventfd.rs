//! Event counters of the kernel: how one thread wakes another that sleeps in `poll`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Readable when the workers have something to tell: a neighbor request, a new generation in force, a worker or socket that failed.
///
/// Give it to tokio's `AsyncFd`; when readable, call [`Notices::clear`] first, then look at all three.
#[derive(Clone, Debug)]
pub struct Notices {
    fd: Arc<OwnedFd>,
}

impl Notices {
    /// Makes it unreadable until the next notice.
    pub fn clear(&self) -> io::Result<()> { todo!() }
}

impl AsRawFd for Notices {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
