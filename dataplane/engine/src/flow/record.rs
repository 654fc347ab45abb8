//! Flows for people.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::entry::{FLOW_SNAT, FlowKey, Rewrite, Tuple};
use super::expiry::FlowState;
use super::slot::elapsed;
use super::table::{FlowTable, SlotIndex};
use crate::family::{Family, V4};

/// A copy of a whole flow for people.
#[derive(Clone, Debug)]
pub struct FlowRecord<F: Family = V4> {
    pub slot: SlotIndex,
    pub forward: (FlowKey<F>, Rewrite<F>),
    pub reverse: (FlowKey<F>, Rewrite<F>),
    pub snat: bool,
    pub state: FlowState,
    /// Ticks since creation and since the last packet of either direction.
    pub age: u32,
    pub idle: u32,
}

impl<F: Family> FlowTable<F> {
    /// Copies of all flows that are live, in slot order. For the control thread.
    pub fn records(&self, now: u32) -> Vec<FlowRecord<F>> {
        (0..self.slots.len()).filter_map(|index| self.record(index, now)).collect()
    }

    /// Calls `visit` with protocol and tuple of each live flow that was given a source, as its backend sees it. For the control half: it
    /// reads the whole table, but allocates nothing.
    pub fn visit_snat(&self, mut visit: impl FnMut(u8, Tuple<F>)) {
        for (index, slot) in self.slots.iter().enumerate() {
            if self.ownership.is_live(index)
                && slot.is_forward()
                && slot.flags.load(Relaxed) & FLOW_SNAT != 0
                && let Some(rewrite) = slot.rewrite()
            {
                visit(slot.key().protocol(), rewrite.tuple);
            }
        }
    }

    /// Where clients are, what they address and where that leads in all live flows, in slot order. For the control thread; cheaper than
    /// records.
    pub fn forward_entries(&self) -> impl Iterator<Item = (SlotIndex, FlowKey<F>, Rewrite<F>)> {
        let live = (0..self.slots.len()).filter(|&index| self.ownership.is_live(index));
        live.filter_map(|index| {
            let slot = &self.slots[index];
            let (key, rewrite) = (slot.key(), slot.rewrite()?);
            // One that was removed while we copied is none.
            std::sync::atomic::fence(Acquire);
            (slot.is_forward() && key.meta != 0 && slot.key() == key).then_some((index as SlotIndex, key, rewrite))
        })
    }

    /// What clients address in all live flows, in slot order, once for each flow. For the control thread.
    pub fn forward_keys(&self) -> impl Iterator<Item = FlowKey<F>> {
        self.forward_entries().map(|(_, key, _)| key)
    }

    fn record(&self, index: usize, now: u32) -> Option<FlowRecord<F>> {
        if !self.ownership.is_live(index) || !self.slots[index].is_forward() {
            return None;
        }
        let forward = &self.slots[index];
        let reverse = self.slots.get(forward.peer.load(Relaxed) as usize)?;
        let record = FlowRecord {
            slot: index as SlotIndex,
            forward: (forward.key(), forward.rewrite()?),
            reverse: (reverse.key(), reverse.rewrite()?),
            snat: forward.flags.load(Relaxed) & FLOW_SNAT != 0,
            state: self.state(index as SlotIndex),
            age: elapsed(forward.created.load(Relaxed), now),
            idle: self.idle(index as SlotIndex, now),
        };
        // A flow that was removed while we copied is none; so is one that was removed and replaced while we slept.
        std::sync::atomic::fence(Acquire);
        let unchanged = forward.key() == record.forward.0 && reverse.key() == record.reverse.0;
        (unchanged && record.forward.0.meta != 0 && record.reverse.0.meta != 0).then_some(record)
    }
}
