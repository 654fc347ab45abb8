//! Publishing snapshots: one swap, read once per batch, freed on the control side.

use std::sync::Arc;
use std::time::Duration;

use ringway_engine::tables::Snapshot;

/// Publishes snapshots to all workers. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {}

impl Publisher {
    /// Makes `snapshot` the one that workers use from their next batch on, and wakes those that sleep.
    /// Sets and returns its generation. Snapshots that no worker uses any more are freed here, on the caller's thread.
    pub fn publish(&self, mut snapshot: Snapshot) -> u64 { todo!() }

    /// The snapshot published last.
    pub fn current(&self) -> Arc<Snapshot> { todo!() }

    /// The generation that every running worker acts on: no decision is based on an older one any more.
    pub fn acting_generation(&self) -> u64 { todo!() }

    /// Waits until [`Publisher::acting_generation`] reaches `generation`; false if that took longer than `patience`.
    /// Blocks the thread; asynchronous callers wait for [`crate::Notices`] and compare.
    pub fn wait_acting(&self, generation: u64, patience: Duration) -> bool { todo!() }
}
