//! The rings that an XSK shares with the kernel: single producer, single consumer, a power of two of descriptors.
//!
//! ```text
//!             consumer              producer
//!                │                     │
//!   ┌────┬────┬──▼─┬────┬────┬────┬────▼────┬────┐      indices count up and wrap at 2^32;
//!   │    │    │ d0 │ d1 │ d2 │ d3 │    │    │    │      index & mask is the place in the array
//!   └────┴────┴────┴────┴────┴────┴─────────┴────┘
//! ```
//!
//! The producer writes descriptors, then stores its index with release; the consumer loads that index with acquire, reads the
//! descriptors, then stores its own with release, which the producer loads with acquire before it writes over them. Each side
//! keeps a copy of the other's index and looks again only when the copy says full or empty: the lines stay where they are.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::mapping::Mapping;

/// What stands in a ring: addresses (fill, completion) or descriptors (rx, tx).
pub(crate) trait Descriptor: Copy {}

impl Descriptor for u64 {}
impl Descriptor for libc::xdp_desc {}

/// Both ends' view of the shared memory.
#[derive(Debug)]
struct Shared<T> {
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    flags: *const AtomicU32,
    descriptors: *mut T,
    mask: u32,
    /// Keeps the memory that the pointers point into.
    _memory: Arc<Mapping>,
}

// SAFETY: the pointers point into `_memory`, which goes along; a ring's end is used by one thread at a time (`&mut self`).
unsafe impl<T: Descriptor> Send for Shared<T> {}

impl<T: Descriptor> Shared<T> {
    /// # Safety
    /// `memory` holds a ring of `depth` descriptors of type `T` at `offsets`, as the kernel lays it out.
    unsafe fn new(memory: Arc<Mapping>, offsets: &libc::xdp_ring_offset, depth: u32) -> io::Result<Shared<T>> {
        let end = offsets.desc + u64::from(depth) * size_of::<T>() as u64;
        let index_end = offsets.producer.max(offsets.consumer).max(offsets.flags) + 4;
        if end.max(index_end) > memory.bytes() as u64 || !depth.is_power_of_two() {
            return Err(io::Error::other("the kernel's ring offsets lie outside the ring's mapping"));
        }
        let base = memory.base().as_ptr();
        // SAFETY: all four offsets lie inside the mapping, as just checked.
        let at = |offset: u64| unsafe { base.add(offset as usize) };
        Ok(Shared {
            producer: at(offsets.producer).cast(),
            consumer: at(offsets.consumer).cast(),
            flags: at(offsets.flags).cast(),
            descriptors: at(offsets.desc).cast(),
            mask: depth - 1,
            _memory: memory,
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: inside `_memory`, aligned (the kernel puts each index on a cache line of its own), only ever accessed atomically.
        unsafe { &*self.producer }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as `producer`.
        unsafe { &*self.consumer }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as `producer`.
        unsafe { &*self.flags }
    }
}

/// Our end of a ring that we fill: fill and tx.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    shared: Shared<T>,
    /// Our index, ahead of the shared one until [`Producer::submit`].
    next: u32,
    /// The consumer's index as last loaded.
    consumer_seen: u32,
}

impl<T: Descriptor> Producer<T> {
    /// # Safety
    /// As [`Shared::new`]; and nobody else produces into this ring.
    pub unsafe fn new(memory: Arc<Mapping>, offsets: &libc::xdp_ring_offset, depth: u32) -> io::Result<Producer<T>> {
        // SAFETY: handed on to the caller.
        let shared = unsafe { Shared::new(memory, offsets, depth) }?;
        let next = shared.producer().load(Ordering::Relaxed);
        let consumer_seen = shared.consumer().load(Ordering::Acquire);
        Ok(Producer { shared, next, consumer_seen })
    }

    pub fn depth(&self) -> u32 {
        self.shared.mask + 1
    }

    /// Writes a descriptor that the consumer sees after the next [`Producer::submit`]. False if the ring is full.
    #[inline]
    pub fn push(&mut self, descriptor: T) -> bool {
        if self.next.wrapping_sub(self.consumer_seen) > self.shared.mask {
            self.consumer_seen = self.shared.consumer().load(Ordering::Acquire);
            if self.next.wrapping_sub(self.consumer_seen) > self.shared.mask {
                return false;
            }
        }
        // SAFETY: the mask keeps the index inside the array. The slot is ours: `next` is less than a ring's length ahead of the
        // consumer's index, which was loaded with acquire, so the consumer's reads of the slot are over.
        unsafe { self.shared.descriptors.add((self.next & self.shared.mask) as usize).write(descriptor) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Lets the consumer see what was pushed.
    #[inline]
    pub fn submit(&mut self) {
        self.shared.producer().store(self.next, Ordering::Release);
    }

    /// Descriptors that the consumer has not taken, as of now.
    #[inline]
    pub fn pending(&mut self) -> u32 {
        self.consumer_seen = self.shared.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.consumer_seen)
    }

    /// Whether the kernel wants a system call to go on. After [`Producer::submit`].
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        // Our index must be visible before the flag is read, while the kernel sets the flag before it looks at our index:
        // at least one of the two sees the other's store.
        fence(Ordering::SeqCst);
        self.shared.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// Our end of a ring that we empty: rx and completion.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    shared: Shared<T>,
    /// Our index, ahead of the shared one until [`Consumer::release`].
    next: u32,
    /// The producer's index as last loaded.
    producer_seen: u32,
}

impl<T: Descriptor> Consumer<T> {
    /// # Safety
    /// As [`Shared::new`]; and nobody else consumes from this ring.
    pub unsafe fn new(memory: Arc<Mapping>, offsets: &libc::xdp_ring_offset, depth: u32) -> io::Result<Consumer<T>> {
        // SAFETY: handed on to the caller.
        let shared = unsafe { Shared::new(memory, offsets, depth) }?;
        let next = shared.consumer().load(Ordering::Relaxed);
        let producer_seen = shared.producer().load(Ordering::Acquire);
        Ok(Consumer { shared, next, producer_seen })
    }

    /// Takes a descriptor; its slot is free for the producer after the next [`Consumer::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.producer_seen {
            self.producer_seen = self.shared.producer().load(Ordering::Acquire);
            if self.next == self.producer_seen {
                return None;
            }
        }
        // SAFETY: the mask keeps the index inside the array, and the producer's index, loaded with acquire, has passed this slot,
        // so the descriptor is written and stays until our own index passes it too.
        let descriptor = unsafe { self.shared.descriptors.add((self.next & self.shared.mask) as usize).read() };
        self.next = self.next.wrapping_add(1);
        Some(descriptor)
    }

    /// Gives the slots that were taken back to the producer.
    #[inline]
    pub fn release(&mut self) {
        self.shared.consumer().store(self.next, Ordering::Release);
    }

    /// Descriptors to take, as of now.
    #[inline]
    pub fn available(&mut self) -> u32 {
        self.producer_seen = self.shared.producer().load(Ordering::Acquire);
        self.producer_seen.wrapping_sub(self.next)
    }
}
