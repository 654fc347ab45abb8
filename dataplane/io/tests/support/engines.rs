//! Engines that decide by a closure.

use arrayvec::ArrayVec;
use ringway_engine::engine::{BATCH_MAX, Packet};
use ringway_engine::tables::Snapshot;
use ringway_engine::verdict::{Verdict, VerdictCounts};
use ringway_io::PacketEngine;

/// Asks `decide` for each packet.
pub struct EachPacket<F> {
    decide: F,
    counts: VerdictCounts,
}

impl<F> EachPacket<F>
where
    F: FnMut(&Snapshot, &mut Packet<'_>) -> Verdict + Send,
{
    pub fn new(decide: F) -> EachPacket<F> {
        EachPacket { decide, counts: VerdictCounts::default() }
    }
}

impl<F> PacketEngine for EachPacket<F>
where
    F: FnMut(&Snapshot, &mut Packet<'_>) -> Verdict + Send,
{
    fn process(&mut self, snapshot: &Snapshot, _now: u32, packets: &mut [Packet<'_>], verdicts: &mut ArrayVec<Verdict, BATCH_MAX>) {
        for packet in packets {
            let verdict = (self.decide)(snapshot, packet);
            self.counts.count(verdict);
            verdicts.push(verdict);
        }
    }

    fn sweep(&mut self, _now: u32, _budget: usize) -> usize {
        0
    }

    fn counts(&self) -> &VerdictCounts {
        &self.counts
    }
}
