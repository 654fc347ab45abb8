//! The four rings of one socket, and the frames that are in them.

use arrayvec::ArrayVec;
use ringway_engine::engine::BATCH_MAX;
use ringway_engine::verdict::VerdictCounts;

use crate::ring::{Consumer, Producer};
use crate::spanning::{Join, PIECES_MAX};
use crate::umem::{Frame, Pool, Umem};

/// Moves frames between a worker and the kernel. What it took and did not give back is counted, so no frame can hide here.
#[derive(Debug)]
pub(crate) struct Rings {
    fill: Producer<u64>,
    rx: Consumer<libc::xdp_desc>,
    tx: Producer<libc::xdp_desc>,
    completion: Consumer<u64>,
    /// Frames given to the kernel to receive into and not received: in the fill ring, in the driver, or in the rx ring.
    to_receive: u32,
    /// Frames given to the kernel to transmit and not completed: in the tx ring, in the driver, or in the completion ring.
    to_transmit: u32,
    /// As many frames as `to_receive` is to be.
    fill_target: u32,
    /// Pushed since the last [`Rings::submit`].
    unsubmitted: bool,
    /// The packet of which only some frames have been received.
    join: Join,
}

/// Of a descriptor: the packet goes on in the next one.
pub(crate) const CONTINUED: u32 = libc::XDP_PKT_CONTD;

impl Rings {
    pub fn new(fill: Producer<u64>, rx: Consumer<libc::xdp_desc>, tx: Producer<libc::xdp_desc>, completion: Consumer<u64>) -> Rings {
        let fill_target = fill.depth();
        Rings { fill, rx, tx, completion, to_receive: 0, to_transmit: 0, fill_target, unsubmitted: false, join: Join::default() }
    }

    /// From now on gives the kernel no more frames to receive into than the rx ring can hold: in copy mode more are of no use,
    /// and each further one makes it less likely that the next is in the cache.
    pub fn limit_fill(&mut self, rx_depth: u32) {
        self.fill_target = self.fill_target.min(rx_depth);
    }

    /// Gives free frames to the kernel until it has as many as it is to have. Returns how many the pool lacked.
    ///
    /// Counting what is outstanding, not what is free in the ring, bounds the frames of a socket: a kernel that moves them from
    /// the fill ring to the rx ring faster than we look gets no more of them.
    #[inline]
    pub fn refill(&mut self, pool: &mut Pool) -> u32 {
        let wanted = self.fill_target.saturating_sub(self.to_receive);
        if wanted == 0 {
            return 0;
        }
        let mut given = 0;
        while given < wanted {
            let Some(frame) = pool.take() else { break };
            if !self.fill.push(frame.address()) {
                pool.give(frame);
                break;
            }
            given += 1;
        }
        self.fill.submit();
        self.to_receive += given;
        wanted - given
    }

    /// Takes received packets until `frames` is full, one that spans several frames in a large one. Returns their bytes. What cannot be
    /// put together is counted in `counts`.
    #[inline]
    pub fn receive(&mut self, umem: &Umem, pool: &mut Pool, frames: &mut ArrayVec<Frame, BATCH_MAX>, counts: &mut VerdictCounts) -> u64 {
        let mut bytes = 0;
        let mut taken = false;
        while frames.remaining_capacity() > 0 {
            let Some(descriptor) = self.rx.pop() else { break };
            taken = true;
            // SAFETY: the kernel puts only frames into the rx ring that it took from this socket's fill ring, where only `refill`
            // puts tokens of this worker's UMEM; and each once.
            if let Some(mut frame) = unsafe { umem.take_back(descriptor.addr, descriptor.len) } {
                self.to_receive -= 1;
                let is_continued = descriptor.options & CONTINUED != 0;
                if is_continued || self.join.is_underway() {
                    let Some(whole) = self.join.add(umem, pool, frame, is_continued, counts) else { continue };
                    frame = whole;
                }
                bytes += u64::from(frame.len());
                umem.prefetch(&frame);
                frames.push(frame);
            }
        }
        if taken {
            self.rx.release();
        }
        bytes
    }

    /// Puts a frame into the tx ring; gives it back if the ring is full. The kernel sees it after [`Rings::submit`].
    #[inline]
    pub fn transmit(&mut self, frame: Frame) -> Result<(), Frame> {
        // The completion ring is as deep as the tx ring: with no more than that under way, each completion finds room.
        if self.to_transmit >= self.tx.depth() {
            return Err(frame);
        }
        if !self.tx.push(libc::xdp_desc { addr: frame.address(), len: frame.len(), options: 0 }) {
            return Err(frame);
        }
        self.to_transmit += 1;
        self.unsubmitted = true;
        Ok(())
    }

    /// Puts a packet that spans frames into the tx ring: all of them, or none if the ring has no room.
    pub fn transmit_all(&mut self, frames: &mut ArrayVec<Frame, PIECES_MAX>) -> bool {
        let room = self.tx.depth().saturating_sub(self.to_transmit.max(self.tx.pending()));
        if frames.len() > room as usize {
            return false;
        }
        let last = frames.len().saturating_sub(1);
        for (number, frame) in frames.drain(..).enumerate() {
            let options = if number < last { CONTINUED } else { 0 };
            let pushed = self.tx.push(libc::xdp_desc { addr: frame.address(), len: frame.len(), options });
            debug_assert!(pushed, "there is room for all");
        }
        self.to_transmit += last as u32 + 1;
        self.unsubmitted = true;
        true
    }

    /// Lets the kernel see what was put into the tx ring.
    #[inline]
    pub fn submit(&mut self) {
        if self.unsubmitted {
            self.tx.submit();
            self.unsubmitted = false;
        }
    }

    /// Takes back what was transmitted.
    #[inline]
    pub fn reap(&mut self, umem: &Umem, pool: &mut Pool) -> u32 {
        if self.to_transmit == 0 {
            return 0;
        }
        let mut reaped = 0;
        while let Some(address) = self.completion.pop() {
            // SAFETY: the kernel completes only frames that stood in this socket's tx ring, where only `transmit` puts tokens of
            // this worker's UMEM; and each once.
            if let Some(frame) = unsafe { umem.take_back(address, 0) } {
                self.to_transmit -= 1;
                pool.give(frame);
                reaped += 1;
            }
        }
        if reaped > 0 {
            self.completion.release();
        }
        reaped
    }

    /// Descriptors in the tx ring that the kernel has not taken.
    #[inline]
    pub fn tx_pending(&mut self) -> u32 {
        self.tx.pending()
    }

    #[inline]
    pub fn tx_needs_wakeup(&self) -> bool {
        self.tx.needs_wakeup()
    }

    #[inline]
    pub fn rx_needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    /// Frames given to the kernel to receive into and not received yet.
    #[inline]
    pub fn to_receive(&self) -> u32 {
        self.to_receive
    }

    /// Frames given to the kernel to transmit and not taken back yet.
    #[inline]
    pub fn to_transmit(&self) -> u32 {
        self.to_transmit
    }

    /// Received frames that wait in the rx ring.
    pub fn rx_available(&mut self) -> u32 {
        self.rx.available()
    }

    /// Large frames with the beginning of a packet.
    pub fn joining(&self) -> u32 {
        self.join.frames()
    }

    /// Transmitted frames that wait in the completion ring.
    pub fn completion_available(&mut self) -> u32 {
        self.completion.available()
    }
}
