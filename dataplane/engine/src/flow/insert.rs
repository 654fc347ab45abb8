//! Making a flow: both directions or none.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::entry::{BUCKET_ENTRIES, FLOW_FORWARD, FLOW_SNAT, FlowKey, Rewrite, TICKS_PER_SECOND};
use super::expiry::FlowState;
use super::slot::elapsed;
use super::table::{FlowTable, SlotIndex};
use crate::family::{Family, V4};

/// A flow younger than this is not shed: its answer may be on the way.
const SHED_AGE_TICKS: u32 = TICKS_PER_SECOND;

/// Both directions of a new flow.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow<F: Family = V4> {
    pub forward: (FlowKey<F>, Rewrite<F>),
    pub reverse: (FlowKey<F>, Rewrite<F>),
    /// The flow holds a NAT binding ([`FLOW_SNAT`]).
    pub snat: bool,
}

/// Why a flow was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The forward key is there already, in this slot: use it.
    Exists(SlotIndex),
    /// The reverse key belongs to another flow, or is the forward key itself: choose another source port.
    ReverseTaken,
    /// No slot in any bucket of one of the keys; a closed or embryonic flow there was shed if there was one, for a later attempt.
    Full,
    /// The limit of flows is reached, and there was no closed or embryonic flow to shed in the buckets of the keys.
    Limit,
    /// Another worker is creating a flow of the same hash now.
    Contended,
}

impl<F: Family> FlowTable<F> {
    /// Inserts both directions (reverse first), from `worker` (its number). Returns the slot of the forward entry.
    ///
    /// `created` and `last` are `now`, `seen` is empty: [`FlowTable::touch`] the slot for the packet that made the flow.
    ///
    /// # Panics
    ///
    /// If the table has fewer workers.
    pub fn insert(&self, worker: usize, flow: &NewFlow<F>, now: u32) -> Result<SlotIndex, InsertError> {
        let now = self.latest_tick(now);
        let (forward, reverse) = (&flow.forward.0, &flow.reverse.0);
        let (forward_hash, reverse_hash) = (self.hash(forward), self.hash(reverse));
        // Whoever makes an entry of either key passes the same gates, so what lookup finds in here stays true until we are done.
        let _passage = self.gates.enter(forward_hash, reverse_hash).ok_or(InsertError::Contended)?;
        if let Some(index) = self.lookup(forward, forward_hash) {
            return Err(InsertError::Exists(index));
        }
        if forward == reverse || self.lookup(reverse, reverse_hash).is_some() {
            return Err(InsertError::ReverseTaken);
        }
        if !self.reserve(worker) {
            // What is shed counts no more at once, though its slots rest for a while: mostly there are others.
            let shed = self.shed(worker, forward_hash, now) || self.shed(worker, reverse_hash, now);
            if !(shed && self.reserve(worker)) {
                return Err(InsertError::Limit);
            }
        }
        let slots = self.claim_both(forward_hash, reverse_hash, now).map_err(|full_hash| {
            self.unreserve(worker);
            self.shed(worker, full_hash, now);
            InsertError::Full
        })?;
        self.publish_both(flow, slots, now);
        Ok(slots.0 as SlotIndex)
    }

    /// Counts a flow in advance. False at the limit, which is never exceeded.
    pub(super) fn reserve(&self, worker: usize) -> bool {
        self.shares[worker].flows.fetch_add(1, SeqCst);
        let fits = self.len() <= self.flows_max();
        if !fits {
            self.unreserve(worker);
        }
        fits
    }

    pub(super) fn unreserve(&self, worker: usize) {
        self.shares[worker].flows.fetch_sub(1, SeqCst);
    }

    /// Claims a slot for each hash, or none; the error is the hash without a slot.
    fn claim_both(&self, forward_hash: u64, reverse_hash: u64, now: u32) -> Result<(usize, usize), u64> {
        let forward = self.claim(forward_hash, now).ok_or(forward_hash)?;
        match self.claim(reverse_hash, now) {
            Some(reverse) => Ok((forward, reverse)),
            None => {
                self.note_gone(forward, forward_hash);
                self.ownership.release(forward);
                Err(reverse_hash)
            }
        }
    }

    /// Claims a slot in the first bucket of a hash while that is nearly empty, so that most lookups end there; else in the emptier one,
    /// or in the other one if other workers were faster. Where both are full, in one for the overflow.
    fn claim(&self, hash: u64, now: u32) -> Option<usize> {
        let usable = |bucket: usize| (bucket..bucket + BUCKET_ENTRIES).filter(|&slot| self.ownership.is_usable(slot, now)).count();
        let (a, b) = self.buckets(hash);
        let (first, second) = if usable(a) < BUCKET_ENTRIES - 1 && usable(b) > usable(a) { (b, a) } else { (a, b) };
        let mut slots = (first..first + BUCKET_ENTRIES).chain(second..second + BUCKET_ENTRIES);
        slots.find(|&slot| self.ownership.claim(slot, now)).or_else(|| self.claim_overflow(hash, now))
    }

    fn publish_both(&self, flow: &NewFlow<F>, (forward, reverse): (usize, usize), now: u32) {
        let snat = if flow.snat { FLOW_SNAT } else { 0 };
        let (forward_slot, reverse_slot) = (&self.slots[forward], &self.slots[reverse]);
        forward_slot.fill(&flow.forward.0, &flow.forward.1, FLOW_FORWARD | snat, reverse as SlotIndex, now);
        reverse_slot.fill(&flow.reverse.0, &flow.reverse.1, snat, forward as SlotIndex, now);
        // The reverse entry first: what the forward one lets through may be answered at once.
        reverse_slot.publish(&flow.reverse.0);
        forward_slot.publish(&flow.forward.0);
        // Only now may anyone remove it. The other way round, a worker that was descheduled in between would publish a removed flow.
        self.ownership.publish(reverse);
        self.ownership.publish(forward);
    }

    /// Removes the flow in the buckets of a hash that is missed least: a closed one, the oldest embryonic one, or one that is said to be
    /// reset. Never an established one. True if there was one.
    fn shed(&self, worker: usize, hash: u64, now: u32) -> bool {
        let (a, b) = self.buckets(hash);
        let victim = [a, b]
            .into_iter()
            .chain(self.overflow_buckets(hash))
            .flat_map(|bucket| bucket..bucket + BUCKET_ENTRIES)
            .filter(|&slot| self.ownership.is_live(slot))
            .filter_map(|slot| {
                let forward = self.forward_of(slot as SlotIndex);
                let age = elapsed(self.slot(forward).created.load(Relaxed), now);
                match self.state(forward) {
                    FlowState::Closed if self.idle(forward, now) < SHED_AGE_TICKS => None,
                    FlowState::Closed => Some((if self.is_doubtful(forward) { 0 } else { 2 }, age, forward)),
                    FlowState::Embryonic if age >= SHED_AGE_TICKS => Some((1, age, forward)),
                    _ => None,
                }
            })
            .max();
        victim.is_some_and(|(_, _, forward)| self.remove(worker, forward, now))
    }
}
