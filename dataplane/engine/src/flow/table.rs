//! The lock-free table of flows.

use super::entry::{FlowKey, FlowSlot, Rewrite};

/// Number of a slot in the table.
pub type SlotIndex = u32;

/// The flow table. One for all workers; `Sync`.
#[derive(Debug)]
pub struct FlowTable {
    slots: &'static [FlowSlot],
}

/// Both directions of a new flow.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    pub forward: (FlowKey, Rewrite),
    pub reverse: (FlowKey, Rewrite),
    /// The flow holds a NAT binding ([`super::FLOW_SNAT`]).
    pub snat: bool,
}

/// Why a flow was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The forward key is there already, in this slot: use it.
    Exists(SlotIndex),
    /// The reverse key belongs to another flow: choose another source port.
    ReverseTaken,
    /// No slot in either bucket of one of the keys; an embryonic flow there was shed if there was one.
    Full,
    /// The limit of flows is reached; likewise.
    Limit,
    /// Another worker is creating a flow of the same hash now.
    Contended,
}

/// Idle time-outs in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_syn: u32,
    pub tcp_established: u32,
    /// One FIN was seen.
    pub tcp_close_wait: u32,
    /// Both FINs or a RST were seen.
    pub tcp_closed: u32,
    /// No reply yet.
    pub udp_unreplied: u32,
    pub udp: u32,
}

/// TCP and UDP states as far as flags tell, for time-outs and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// No reply seen.
    Embryonic,
    Established,
    /// One side has closed.
    CloseWait,
    /// Both sides have closed, or one has reset.
    Closed,
}

/// A copy of a whole flow for people.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    pub slot: SlotIndex,
    pub forward: (FlowKey, Rewrite),
    pub reverse: (FlowKey, Rewrite),
    pub snat: bool,
    pub state: FlowState,
    /// Ticks since creation and since the last packet of either direction.
    pub age: u32,
    pub idle: u32,
}

impl FlowTable {
    /// A table in plain memory for tests and benches: at least `2 * 2 * flows_max` slots. The memory lives as long as the process.
    pub fn in_memory(flows_max: usize, workers: usize, seed: u64) -> FlowTable { todo!("{flows_max} {workers} {seed}") }

    /// A table over shared memory (a mapped BPF array): `slots.len()` is a power of two ≥ 8. Takes over what is in it:
    /// live pairs are kept and counted, halves whose other direction is missing are removed. Returns the table and how many flows were kept.
    pub fn over(slots: &'static [FlowSlot], flows_max: usize, workers: usize, seed: u64, now: u32) -> (FlowTable, usize) { todo!("{} {flows_max} {workers} {seed} {now}", slots.len()) }

    /// Slots that a table of `flows_max` flows needs: two entries per flow at load ≤ 0.5, rounded up to a power of two.
    pub fn slots_for(flows_max: usize) -> usize { (flows_max.max(2) * 4).next_power_of_two() }

    pub fn seed(&self) -> u64 { todo!() }
    pub fn flows_max(&self) -> usize { todo!() }
    /// Flows (pairs) that are live now, over all workers.
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { self.len() == 0 }

    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 { super::flow_hash(self.seed(), key) }
    /// Starts the loads of both buckets, so that a later lookup of a batch finds them in the cache.
    #[inline]
    pub fn prefetch(&self, hash: u64) { todo!("{hash} {}", self.slots.len()) }
    #[inline]
    pub fn lookup(&self, key: &FlowKey, hash: u64) -> Option<SlotIndex> { todo!("{key:?} {hash}") }

    /// The slot itself: read rewrite, flags, seen.
    #[inline]
    pub fn slot(&self, index: SlotIndex) -> &FlowSlot { &self.slots[index as usize] }
    pub fn key_of(&self, index: SlotIndex) -> FlowKey { todo!("{index}") }
    pub fn rewrite_of(&self, index: SlotIndex) -> Rewrite { todo!("{index}") }

    /// Notes a packet: `seen |= SEEN_ANY | tcp_flags & (FIN|SYN|RST|ACK)`, `last = now`, each written only if it changes (`last` at 1 s resolution).
    #[inline]
    pub fn touch(&self, index: SlotIndex, tcp_flags: u8, now: u32) { todo!("{index} {tcp_flags} {now}") }

    /// Inserts both directions (reverse first), from `worker` (its number). Returns the slot of the forward entry.
    pub fn insert(&self, worker: usize, flow: &NewFlow, now: u32) -> Result<SlotIndex, InsertError> { todo!("{worker} {flow:?} {now}") }

    /// Removes the flow of which `index` is either direction. False if another worker did it before.
    pub fn remove(&self, worker: usize, index: SlotIndex, now: u32) -> bool { todo!("{worker} {index} {now}") }

    /// State of the flow of which `index` is the forward entry.
    pub fn state(&self, index: SlotIndex) -> FlowState { todo!("{index}") }

    /// Visits at most `budget` slots of this worker's share, going round; removes flows that were idle too long. Returns how many were removed.
    pub fn sweep(&self, worker: usize, budget: usize, timeouts: &Timeouts, now: u32) -> usize { todo!("{worker} {budget} {timeouts:?} {now}") }

    /// Copies of all flows that are live, in slot order. For the control thread.
    pub fn records(&self, now: u32) -> Vec<FlowRecord> { todo!("{now}") }
}
