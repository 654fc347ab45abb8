//! Reading and filling one slot.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::entry::*;
use crate::checksum;
use crate::family::Family;

impl<F: Family> FlowSlot<F> {
    /// The key; `meta` is 0 if the slot is empty.
    pub fn key(&self) -> FlowKey<F> {
        // Meta first and with acquire: what is loaded after it belongs to it.
        let meta = self.meta.load(Acquire);
        FlowKey { saddr: F::load(&self.saddr), daddr: F::load(&self.daddr), ports: self.ports.load(Relaxed), meta }
    }

    #[inline(always)]
    pub(super) fn matches(&self, key: &FlowKey<F>) -> bool {
        self.meta.load(Acquire) == key.meta
            && self.ports.load(Relaxed) == key.ports
            && F::load(&self.saddr) == key.saddr
            && F::load(&self.daddr) == key.daddr
    }

    /// What the entry does. `None` if its op is unknown: written by a later version of Ringway.
    pub fn rewrite(&self) -> Option<Rewrite<F>> {
        let op = FlowOp::from_flags(self.flags.load(Relaxed))?;
        let tuple = Tuple { saddr: F::load(&self.new_saddr), daddr: F::load(&self.new_daddr), ports: self.new_ports.load(Relaxed) };
        let mut dmac = [0; 6];
        for (bytes, word) in dmac.chunks_exact_mut(2).zip(&self.dmac) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        Some(Rewrite { tuple, op, ifindex: self.ifindex.load(Relaxed), dmac })
    }

    /// This entry matches client → frontend.
    pub fn is_forward(&self) -> bool {
        self.flags.load(Relaxed) & FLOW_FORWARD != 0
    }

    /// Ticks since a packet hit the entry.
    pub fn idle(&self, now: u32) -> u32 {
        elapsed(self.last.load(Relaxed), now)
    }

    /// Writes all but `meta`, and `overflowed`, which is the bucket's. The caller has claimed the slot; no reader looks at it while `meta` is 0.
    pub(super) fn fill(&self, key: &FlowKey<F>, rewrite: &Rewrite<F>, flow_flags: u16, peer: u32, now: u32) {
        let (old, new) = (key.tuple(), rewrite.tuple);
        F::store(&self.saddr, key.saddr);
        F::store(&self.daddr, key.daddr);
        self.ports.store(key.ports, Relaxed);
        F::store(&self.new_saddr, new.saddr);
        F::store(&self.new_daddr, new.daddr);
        self.new_ports.store(new.ports, Relaxed);
        self.flags.store(rewrite.op as u16 | flow_flags, Relaxed);
        self.asked.store(0, Relaxed);
        self.addr_diff.store(F::diff([old.saddr, old.daddr], [new.saddr, new.daddr]), Relaxed);
        self.port_diff.store(checksum::diff(&[old.ports], &[new.ports]), Relaxed);
        self.ifindex.store(rewrite.ifindex, Relaxed);
        for (bytes, word) in rewrite.dmac.chunks_exact(2).zip(&self.dmac) {
            word.store(u16::from_ne_bytes([bytes[0], bytes[1]]), Relaxed);
        }
        self.seen.store(0, Relaxed);
        self.last.store(now, Relaxed);
        self.created.store(now, Relaxed);
        self.peer.store(peer, Relaxed);
    }

    /// Makes a filled slot visible to readers.
    pub(super) fn publish(&self, key: &FlowKey<F>) {
        self.meta.store(key.meta, Release);
    }

    /// Hides the entry from new readers.
    pub(super) fn clear(&self) {
        self.meta.store(0, Release);
    }

    #[inline]
    pub(super) fn refresh(&self, now: u32) {
        if elapsed(self.last.load(Relaxed), now) >= TICKS_PER_SECOND {
            self.last.store(now, Relaxed);
        }
    }
}

/// Ticks from `then` to `now`; 0 if `then` is ahead: CPUs do not read the clock at the same time. Right over the wrap of the
/// counter (2.3 years) for anything younger than 1.1 years.
pub(crate) fn elapsed(then: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(then);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}
