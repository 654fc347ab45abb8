//! The allocator's free memory.

/// Gives memory that was freed back to the kernel where the C library can (glibc's malloc_trim(3)). After a burst, such as the first list of
/// a large cluster, much of the heap is free but stays resident. Takes milliseconds: not for the packet path.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no memory of ours is involved; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
