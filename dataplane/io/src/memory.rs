//! Memory that nobody uses.

/// Gives free memory of the process back to the system. What a burst needed, such as the lists of an apiserver or a large document, else
/// stays with the process, for what lives on lies between. Takes some milliseconds: for the control half, when a burst is over.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments but the number of bytes to keep; it takes the allocator's own locks (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
