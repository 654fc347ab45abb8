//! Where an entry lies that found no slot in its two buckets.
//!
//! Two choices of four slots do not fill evenly: some entries find both buckets full long before the table is. More buckets for each lookup
//! would cost every packet that is not ours; so the first bucket counts the entries that overflowed from it, and a lookup goes on only
//! where there are any.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::entry::{BUCKET_ENTRIES, FlowKey};
use super::hash::{OVERFLOW_BUCKETS, overflow_bucket_of};
use super::table::{FlowTable, SlotIndex};
use crate::family::Family;

impl<F: Family> FlowTable<F> {
    /// Goes on with a lookup that failed in both buckets, `first` being the first slot of the first.
    #[inline(always)]
    pub(super) fn lookup_overflowed(&self, first: usize, key: &FlowKey<F>, hash: u64) -> Option<SlotIndex> {
        if self.slots[first].overflowed.load(Acquire) == 0 {
            return None;
        }
        self.overflow_buckets(hash).find_map(|bucket| self.lookup_in(bucket, key))
    }

    /// Claims a slot for the overflow of a hash, and counts it.
    pub(super) fn claim_overflow(&self, hash: u64, now: u32) -> Option<usize> {
        let mut slots = self.overflow_buckets(hash).flat_map(|bucket| bucket..bucket + BUCKET_ENTRIES);
        let slot = slots.find(|&slot| self.ownership.claim(slot, now))?;
        if self.has_overflowed(slot, hash) && !self.count_overflowed(hash, 1) {
            self.ownership.release(slot);
            return None;
        }
        Some(slot)
    }

    /// Counts an entry of this hash no more that was hidden from readers, or was never published, if it overflowed.
    pub(super) fn note_gone(&self, slot: usize, hash: u64) {
        if self.has_overflowed(slot, hash) {
            self.count_overflowed(hash, -1);
        }
    }

    /// Counts from nothing what is in the table: an earlier process may have died between an entry and its count.
    pub(super) fn count_all_overflowed(&self) {
        let mut counts = vec![0u16; self.slots.len() / BUCKET_ENTRIES];
        for (index, slot) in self.slots.iter().enumerate() {
            let key = slot.key();
            let hash = self.hash(&key);
            if key.meta != 0 && self.has_overflowed(index, hash) {
                let count = &mut counts[self.buckets(hash).0 / BUCKET_ENTRIES];
                *count = count.saturating_add(1);
            }
        }
        // At once, and only where it differs: BPF programs look things up all the while.
        for (bucket, count) in self.slots.chunks_exact(BUCKET_ENTRIES).zip(counts) {
            if bucket[0].overflowed.load(Relaxed) != count {
                bucket[0].overflowed.store(count, Release);
            }
        }
    }

    /// How many entries overflowed, as the buckets count them.
    #[cfg(test)]
    pub(super) fn overflowed(&self) -> usize {
        self.slots.iter().step_by(BUCKET_ENTRIES).map(|first| usize::from(first.overflowed.load(Relaxed))).sum()
    }

    /// First slots of the buckets for the overflow of a hash.
    #[inline(always)]
    pub(super) fn overflow_buckets(&self, hash: u64) -> impl Iterator<Item = usize> {
        let bits = self.bucket_bits;
        (0..OVERFLOW_BUCKETS).map(move |number| overflow_bucket_of(hash, number, bits) * BUCKET_ENTRIES)
    }

    /// The slot is in neither of the two buckets of the hash. (One for the overflow may by chance be one of them.)
    fn has_overflowed(&self, slot: usize, hash: u64) -> bool {
        let (a, b) = self.buckets(hash);
        let bucket = slot / BUCKET_ENTRIES * BUCKET_ENTRIES;
        bucket != a && bucket != b
    }

    /// False if the count would leave its range: then nothing is counted.
    fn count_overflowed(&self, hash: u64, change: i16) -> bool {
        let (first, _) = self.buckets(hash);
        self.slots[first].overflowed.fetch_update(AcqRel, Relaxed, |count| count.checked_add_signed(change)).is_ok()
    }
}
