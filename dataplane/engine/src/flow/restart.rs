//! Taking over the flows that an earlier process left in shared memory.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::entry::{BUCKET_ENTRIES, SEEN_CHALLENGED};
use super::table::FlowTable;
use crate::family::Family;

impl<F: Family> FlowTable<F> {
    /// Rebuilds ownership and count from the slots; returns how many flows were kept.
    ///
    /// The earlier process may have died between any two of its stores. Then a direction stands without the other one; it goes.
    /// Empty slots can be used at once: see [`FlowTable::over`].
    pub(super) fn take_over(&self, now: u32) -> usize {
        let now = self.latest_tick(now);
        self.count_all_overflowed();
        let mut flows = 0;
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.meta.load(Relaxed) == 0 {
                continue;
            }
            if self.is_linked(index) {
                self.ownership.publish(index);
                flows += usize::from(slot.is_forward());
                // Whom that one meant to ask it may not have asked.
                slot.seen.fetch_and(!SEEN_CHALLENGED, Relaxed);
            } else {
                let hash = self.hash(&slot.key());
                slot.clear();
                self.note_gone(index, hash);
                self.ownership.retire(index, now);
            }
        }
        self.shares[0].flows.store(flows as isize, SeqCst);
        flows
    }

    /// The entry and its other direction are whole, and each names the other.
    fn is_linked(&self, index: usize) -> bool {
        let slot = &self.slots[index];
        let peer_index = slot.peer.load(Relaxed) as usize;
        self.slots.get(peer_index).is_some_and(|peer| {
            peer.peer.load(Relaxed) as usize == index
                && peer.is_forward() != slot.is_forward()
                && self.is_sound(index)
                && self.is_sound(peer_index)
        })
    }

    /// The entry is live, has a known hook and op, and lies where lookup searches it.
    fn is_sound(&self, index: usize) -> bool {
        let slot = &self.slots[index];
        let key = slot.key();
        let hash = self.hash(&key);
        let (a, b) = self.buckets(hash);
        let bucket = index / BUCKET_ENTRIES * BUCKET_ENTRIES;
        let is_found = bucket == a || bucket == b || self.overflow_buckets(hash).any(|overflow| overflow == bucket);
        key.meta != 0 && key.hook().is_some() && slot.rewrite().is_some() && is_found
    }
}
