//! The engine: packets, a snapshot, the flow table and time in; one verdict per packet out.

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::flow::{FlowTable, Timeouts};
use crate::tables::Snapshot;
use crate::verdict::{Verdict, VerdictCounts};

/// Packets handled together: enough to hide the flow table's cache misses (performance grows little beyond it).
pub const BATCH_MAX: usize = 64;

/// Where a frame was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the uplink of this index in `NodeTables::uplinks`.
    Uplink(u8),
    /// On `rw0`: an upcall.
    Host,
}

/// One received frame, lent to the engine for a batch.
#[derive(Debug)]
pub struct Packet<'a> {
    pub origin: Origin,
    /// From the Ethernet header on.
    pub bytes: &'a mut [u8],
    /// Bytes of `bytes` to transmit; the engine shortens it where a NIC padded.
    pub len: usize,
}

/// What is fixed for one worker's engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Number of this worker, and of all.
    pub worker: usize,
    pub workers: usize,
    /// By index of the uplink: this worker has a transmit queue there. Elsewhere packets leave by the hostlink (`Order::Neigh`).
    pub transmits_on: Vec<bool>,
    pub timeouts: Timeouts,
    /// Seed of this engine's random choices.
    pub seed: u64,
}

/// The packet engine of one worker.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    flows: Arc<FlowTable>,
    counts: VerdictCounts,
}

impl Engine {
    pub fn new(config: EngineConfig, flows: Arc<FlowTable>) -> Engine {
        Engine { config, flows, counts: VerdictCounts::default() }
    }

    /// Decides and rewrites a batch: `verdicts[i]` is for `packets[i]`. `now` in ticks.
    pub fn process(&mut self, snapshot: &Snapshot, now: u32, packets: &mut [Packet<'_>], verdicts: &mut ArrayVec<Verdict, BATCH_MAX>) {
        let _ = (snapshot, now, packets, verdicts);
        todo!()
    }

    /// Bounded work between batches: expiry. `budget` in slots.
    pub fn sweep(&mut self, now: u32, budget: usize) -> usize {
        self.flows.sweep(self.config.worker, budget, &self.config.timeouts, now)
    }

    pub fn counts(&self) -> &VerdictCounts {
        &self.counts
    }
}
