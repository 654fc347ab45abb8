//! Memory that is mapped, and unmapped when its last user is gone.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// A mapping of this process, readable and writable.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a `Mapping` owns its address range like a `Box` does; it offers no access to the bytes itself, only their address.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` allows reading the address and the length only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory, present from the start: a page fault on the first packets would cost more than the packets. In huge pages where the
    /// kernel has them (`transparent_hugepage` is `always` or `madvise`), for frames go round: in small ones each has a TLB miss of its own.
    pub fn anonymous(bytes: usize) -> io::Result<Mapping> {
        let mapping = Mapping::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
        // A kernel without huge pages refuses, and nothing is lost.
        let _ = mapping.advise(libc::MADV_HUGEPAGE);
        mapping.advise(libc::MADV_POPULATE_WRITE)?;
        Ok(mapping)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: base and length are those of a mapping of ours; neither of the two advices changes what stands in it.
        match unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A ring of an XSK; `offset` is one of `XDP_PGOFF_*` or `XDP_UMEM_PGOFF_*`.
    pub fn of_socket(fd: BorrowedFd<'_>, offset: libc::off_t, bytes: usize) -> io::Result<Mapping> {
        Mapping::map(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)
    }

    fn map(bytes: usize, flags: libc::c_int, fd: libc::c_int, offset: libc::off_t) -> io::Result<Mapping> {
        // SAFETY: without MAP_FIXED the kernel chooses an unused range, so no memory of this process changes its meaning.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Mapping { base, bytes })
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mmap above, and every pointer into the range is kept beside this `Mapping`
        // or an `Arc` of it, so none outlives it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
