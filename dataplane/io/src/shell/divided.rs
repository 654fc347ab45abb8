//! Packets that are larger than the MTU of their next hop.

use arrayvec::ArrayVec;
use ringway_engine::divide::divide;
use ringway_engine::engine::BATCH_MAX;
use ringway_engine::tables::Snapshot;
use ringway_engine::verdict::DropReason;

use super::{Clock, Shell};
use crate::config::Port;
use crate::packet_engine::PacketEngine;
use crate::socket::Socket;
use crate::umem::Frame;

impl<S: Socket> Shell<S> {
    /// Divides the packet of a frame, of `len` bytes and received on `port`, into fragments of at most `mtu` bytes, and has those decided.
    #[cold]
    pub(super) fn divide<E: PacketEngine>(
        &mut self,
        engine: &mut E,
        snapshot: &Snapshot,
        clock: Clock,
        (mut frame, len, port): (Frame, usize, Port),
        mtu: u32,
    ) {
        let mut frames = ArrayVec::<Frame, BATCH_MAX>::new();
        let (umem, pool) = (&self.umem, &mut self.pool);
        let bytes = umem.room_mut(&mut frame).0;
        let is_whole = divide(bytes.get(..len).unwrap_or_default(), mtu, |piece| {
            let taken = if frames.is_full() { None } else { pool.take_with(umem, piece) };
            taken.is_some_and(|frame| frames.try_push(frame).is_ok())
        });
        if !is_whole {
            frames.drain(..).for_each(|frame| self.pool.give(frame));
            return self.drop_frame(frame, DropReason::TooBig);
        }
        self.pool.give(frame);
        let verdicts = self.decide(engine, snapshot, clock, &mut frames, |_| port);
        for (frame, verdict) in frames.into_iter().zip(verdicts) {
            self.carry_out(frame, verdict, port, clock.ns, clock);
        }
    }
}
