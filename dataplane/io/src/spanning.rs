//! Packets that span frames: put together when they are received, cut when they are transmitted.
//!
//! The kernel marks each descriptor but the last of such a packet. Its bytes are copied into a large frame, where they are decided
//! on like those of any other packet; the frames that they came in are free at once, so there are as many to transmit it in.

use ringway_engine::verdict::{DropReason, Verdict, VerdictCounts};
use ringway_engine::wire;

use crate::umem::{Frame, LARGE_FRAME_BYTES, Pool, Umem};

/// Frames that a packet spans at most, in the smallest ones.
pub(crate) const PIECES_MAX: usize = LARGE_FRAME_BYTES / 2048;

/// The packet of a socket of which the last frame has not been received. The kernel makes the descriptors of one visible together, but a
/// batch may end between them.
#[derive(Debug, Default)]
pub(crate) enum Join {
    #[default]
    Nothing,
    /// Its beginning, in a large frame.
    Beginning(Frame),
    /// There was no room for it: the rest of it is dropped too.
    Dropped,
}

impl Join {
    #[inline]
    pub fn is_underway(&self) -> bool {
        !matches!(self, Join::Nothing)
    }

    /// Large frames that are in use here.
    pub fn frames(&self) -> u32 {
        matches!(self, Join::Beginning(_)).into()
    }

    /// Adds the next frame of the packet and gives it back to the pool. Returns the whole packet with its last frame.
    #[cold]
    pub fn add(&mut self, umem: &Umem, pool: &mut Pool, mut piece: Frame, is_continued: bool, counts: &mut VerdictCounts) -> Option<Frame> {
        let mut whole = match std::mem::take(self) {
            Join::Nothing => pool.take_large(),
            Join::Beginning(frame) => Some(frame),
            Join::Dropped => None,
        };
        if let Some(mut frame) = whole.take() {
            if umem.append(&mut frame, umem.bytes_mut(&mut piece)) {
                whole = Some(frame);
            } else {
                pool.give(frame);
            }
        }
        pool.give(piece);
        match (whole, is_continued) {
            (Some(frame), true) => *self = Join::Beginning(frame),
            (None, true) => *self = Join::Dropped,
            (None, false) => counts.count(Verdict::Drop(DropReason::NoFrames)),
            (Some(mut frame), false) => {
                // Where the rx ring is full, older kernels leave out the rest of a packet that was received zero-copy: then this is the
                // beginning of one and all of another. A packet that spans frames is too long to have been padded.
                if wire::ends_with_packet(umem.bytes_mut(&mut frame)) {
                    return Some(frame);
                }
                pool.give(frame);
                counts.count(Verdict::Drop(DropReason::Malformed));
            }
        }
        None
    }
}
