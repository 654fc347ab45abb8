//! Memory that nobody uses.

/// glibc's own default, in bytes.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES: libc::c_int = 128 << 10;

/// Makes the allocator keep less of what is freed. For the begin of the process: threads that have allocated keep what they have.
pub fn keep_little_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers only, and it takes the allocator's own locks (mallopt(3)).
    unsafe {
        // What is larger has a mapping of its own, which ends when it is freed. Said once, for by itself the bound grows to what was freed
        // last: then the answers of an apiserver, and tables that grow, leave holes between what lives on.
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
    }
}

/// Gives free memory of the process back to the system. What a burst needed, such as the lists of an apiserver or a large document, else
/// stays with the process, for what lives on lies between. Takes some milliseconds: for the control half, when a burst is over.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments but the number of bytes to keep; it takes the allocator's own locks (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
