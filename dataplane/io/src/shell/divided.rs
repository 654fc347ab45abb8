//! Packets that are larger than the MTU of their next hop.

use arrayvec::ArrayVec;
use ringway_engine::divide::divide;
use ringway_engine::engine::BATCH_MAX;
use ringway_engine::verdict::DropReason;

use super::Shell;
use crate::socket::Socket;
use crate::umem::Frame;

impl<S: Socket> Shell<S> {
    /// Transmits the packet of a frame, of `len` bytes, in fragments of at most `mtu` bytes: all, or none if there are not enough frames.
    #[cold]
    pub(super) fn divide(&mut self, mut frame: Frame, len: usize, mtu: u32, to: Option<usize>) {
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
        for frame in frames {
            self.transmit(frame, to);
        }
    }
}
