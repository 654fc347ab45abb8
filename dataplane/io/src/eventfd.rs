//! Event counters of the kernel: how one thread wakes another that sleeps in `poll`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// An `eventfd` that never blocks.
#[derive(Debug)]
pub(crate) struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(EventFd { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Makes it readable. Fails only if it has been signalled 2^64 − 2 times unread, and then it is readable.
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are read from `one`.
        unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Makes it unreadable until the next signal.
    pub fn clear(&self) -> io::Result<()> {
        let mut count = 0u64;
        // SAFETY: eight bytes are written to `count`.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        if read >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Readable when the workers have something to tell: a neighbor request, a new generation in force, a worker or socket that failed.
///
/// Give it to tokio's `AsyncFd`; when readable, call [`Notices::clear`] first, then look at all three.
#[derive(Clone, Debug)]
pub struct Notices {
    event: Arc<EventFd>,
}

impl Notices {
    pub(crate) fn new(event: Arc<EventFd>) -> Notices {
        Notices { event }
    }

    /// Makes it unreadable until the next notice.
    pub fn clear(&self) -> io::Result<()> {
        self.event.clear()
    }
}

impl AsRawFd for Notices {
    fn as_raw_fd(&self) -> RawFd {
        self.event.fd()
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.fd.as_fd()
    }
}
