//! Packets that were decided on in a large frame.

use arrayvec::ArrayVec;
use ringway_engine::verdict::DropReason;

use super::Shell;
use crate::socket::Socket;
use crate::spanning::PIECES_MAX;
use crate::umem::Frame;

impl<S: Socket> Shell<S> {
    /// Transmits the packet of a large frame in as many frames as it needs: all, or none if the tx ring has no room.
    #[cold]
    pub(super) fn transmit_large(&mut self, mut large: Frame, to: Option<usize>) {
        let sent = self.transmit_pieces(&mut large, to);
        self.pool.give(large);
        if let Err(reason) = sent {
            self.stats.verdicts.drops[reason as usize] += 1;
        }
    }

    fn transmit_pieces(&mut self, large: &mut Frame, to: Option<usize>) -> Result<(), DropReason> {
        let Some(state) = to.and_then(|to| self.ports.get_mut(to)).filter(|state| !state.failed) else {
            return Err(DropReason::TxRingFull);
        };
        let (umem, pool) = (&self.umem, &mut self.pool);
        let bytes = umem.bytes_mut(large);
        let mut pieces = ArrayVec::<Frame, PIECES_MAX>::new();
        for piece in bytes.chunks(umem.frame_bytes() as usize) {
            let Some(frame) = pool.take_with(umem, piece) else { break };
            pieces.push(frame);
        }
        let held: u32 = pieces.iter().map(Frame::len).sum();
        let sent = if (held as usize) < bytes.len() {
            Err(DropReason::NoFrames)
        } else if pieces.len() > 1 && !state.socket.is_multi_buffer() {
            // The device's MTU has shrunk since the packet was measured: its driver would take each frame for a packet.
            Err(DropReason::TooBig)
        } else if pieces.is_empty() || !state.rings.transmit_all(&mut pieces) {
            Err(DropReason::TxRingFull)
        } else {
            state.counters.tx_packets += 1;
            state.counters.tx_bytes += u64::from(held);
            Ok(())
        };
        pieces.into_iter().for_each(|frame| pool.give(frame));
        sent
    }
}
