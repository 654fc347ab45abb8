//! What a worker asks of the engine it drives.

use arrayvec::ArrayVec;
use ringway_engine::engine::{BATCH_MAX, Engine, Packet};
use ringway_engine::tables::Snapshot;
use ringway_engine::verdict::{Verdict, VerdictCounts};

/// Decides about packets. A worker is generic over it, so the calls are static; tests and the empty forward bring engines of their own.
pub trait PacketEngine: Send {
    /// Decides and rewrites a batch: `verdicts[i]` is for `packets[i]`, exactly one per packet. `now` in ticks (ns >> `TICK_SHIFT`).
    fn process(&mut self, snapshot: &Snapshot, now: u32, packets: &mut [Packet<'_>], verdicts: &mut ArrayVec<Verdict, BATCH_MAX>);

    /// Bounded work between batches; `budget` in slots of the flow table. Returns how many flows it removed.
    fn sweep(&mut self, now: u32, budget: usize) -> usize;

    /// Verdicts so far; the worker publishes them once per round.
    fn counts(&self) -> &VerdictCounts;
}

impl PacketEngine for Engine {
    #[inline]
    fn process(&mut self, snapshot: &Snapshot, now: u32, packets: &mut [Packet<'_>], verdicts: &mut ArrayVec<Verdict, BATCH_MAX>) {
        Engine::process(self, snapshot, now, packets, verdicts);
    }

    #[inline]
    fn sweep(&mut self, now: u32, budget: usize) -> usize {
        Engine::sweep(self, now, budget)
    }

    #[inline]
    fn counts(&self) -> &VerdictCounts {
        Engine::counts(self)
    }
}
