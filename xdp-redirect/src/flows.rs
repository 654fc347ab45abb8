//! The flow tables and the affinity table as memory: BPF arrays, mapped into this process.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::slice;

use ringway_engine::affinity::AffinitySlot;
use ringway_engine::family::Family;
use ringway_engine::flow::{BUCKET_ENTRIES, FlowSlot};

use crate::Error;

/// Slots of a table with `1 << bucket_bits` buckets.
pub(crate) fn slots_of(bucket_bits: u32) -> usize {
    BUCKET_ENTRIES << bucket_bits
}

/// Maps a flow table for reading and writing. The mapping is never undone: it lives as long as the process.
pub(crate) fn map_slots<F: Family>(flows: BorrowedFd<'_>, bucket_bits: u32) -> Result<&'static [FlowSlot<F>], Error> {
    let slots = slots_of(bucket_bits);
    let address = map_array(flows, slots * mem::size_of::<FlowSlot<F>>())?;
    // SAFETY: the mapping has this many bytes, is aligned to a page (more than FlowSlot's 64 bytes) and is never unmapped. A FlowSlot
    // consists of atomic integers, for which every bit pattern is valid, and the BPF programs and other
    // processes access them as such: aligned words.
    Ok(unsafe { slice::from_raw_parts(address.cast::<FlowSlot<F>>(), slots) })
}

/// Likewise the affinity table.
pub(crate) fn map_affinity(affinity: BorrowedFd<'_>, slots: usize) -> Result<&'static [AffinitySlot], Error> {
    let address = map_array(affinity, slots * mem::size_of::<AffinitySlot>())?;
    // SAFETY: as in `map_slots`; an AffinitySlot is aligned to 64 bytes and consists of atomic integers too.
    Ok(unsafe { slice::from_raw_parts(address.cast::<AffinitySlot>(), slots) })
}

fn map_array(map: BorrowedFd<'_>, bytes: usize) -> Result<*mut libc::c_void, Error> {
    // SAFETY: a new shared mapping at an address of the kernel's choice; no memory of ours is touched.
    let address = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, map.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(Error::MapFlows { bytes, source: io::Error::last_os_error() });
    }
    Ok(address)
}
