//! What a segment may say of a TCP connection: who does not know where its sequence numbers stand can neither end it nor take its place.
//!
//! Of each side an entry keeps the upper half of its farthest sequence number, its position: written each 64 KiB, so a busy flow's line stays
//! in all caches. Exact windows would have to follow every packet; what counts here is that of 2^32 numbers few are near. A segment that
//! is not near is forwarded all the same, for its receiver knows better (RFC 5961), but nothing is noted of it. A reset that is near
//! may still be one that its receiver drops: who goes on after it has not been reset, and who is silent is asked (`doubt`). Somebody who can
//! send in the name of both sides can answer his own SYN, and is believed: but a connection that was complete stays so, and both its
//! FINs are needed to end it. The same in `xdp-redirect/src/bpf/family/position.h`.

use std::sync::atomic::Ordering::Relaxed;

use super::entry::*;
use super::table::FlowTable;
use crate::family::Family;
use crate::wire::{IpFlow, Part, TCP, read_u32};

const SEEN_TCP: u32 = SEEN_FIN | SEEN_SYN | SEEN_RST | SEEN_ACK;
/// What is left of a reset that was taken back, and of the end of one connection in the next: nothing.
const SEEN_RESET: u32 = SEEN_RST | SEEN_CHALLENGED;
const SEEN_END: u32 = SEEN_RESET | SEEN_FIN;

/// In units of 64 KiB: a sender's next number is no farther from its farthest. What is lost before it comes here leaves a gap of less.
pub const REACH: u16 = 256;
/// An acknowledgment may lag behind what its receiver has sent by all that is under way. Linux: at most `tcp_rmem`, by default 32 MiB.
pub const LAG: u16 = 1_024;
/// Of a reset without an acknowledgment number, like [`REACH`]: it has one number to guess, not two. It stands where its receiver waits for
/// it, at once or after a challenge (RFC 5961 §3.2): near what was sent last, but for a sender that vanished with more under way.
pub const RESET_REACH: u16 = 16;

/// What a packet says of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// [`IpFlow::tcp_flags`].
    pub flags: u8,
    /// `None` where there are none: of other protocols than TCP, and of later fragments.
    pub numbers: Option<Numbers>,
}

/// Sequence numbers (RFC 9293 §3.1) of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    pub sequence: u32,
    /// Means something with the ACK flag only.
    pub acknowledged: u32,
}

impl Segment {
    /// That of a packet whose bytes are these.
    #[inline(always)]
    pub fn of<F: Family>(flow: &IpFlow<F>, bytes: &[u8]) -> Segment {
        let numbered = flow.protocol == TCP && flow.part != Part::Later;
        let read = || Some(Numbers { sequence: read_u32(bytes, flow.l4 + 4)?, acknowledged: read_u32(bytes, flow.l4 + 8)? });
        Segment { flags: flow.tcp_flags, numbers: if numbered { read() } else { None } }
    }

    /// One without numbers: its flags count.
    pub fn unnumbered(flags: u8) -> Segment {
        Segment { flags, numbers: None }
    }

    fn has(&self, flags: u32) -> bool {
        u32::from(self.flags) & flags == flags
    }

    /// The bits of `seen` that it sets if its numbers are right.
    #[inline(always)]
    fn bits(&self) -> u32 {
        SEEN_ANY | (u32::from(self.flags) & SEEN_TCP)
    }
}

impl Numbers {
    fn position(&self) -> u16 {
        upper_half(self.sequence)
    }

    /// It acknowledges a SYN with this position; a Fast Open's data, too, which may reach into the next unit (RFC 7413).
    fn answers(&self, asked: u16) -> bool {
        upper_half(self.acknowledged.wrapping_sub(1)).wrapping_sub(asked) <= 1
    }
}

fn upper_half(number: u32) -> u16 {
    (number >> POSITION_SHIFT) as u16
}

/// No more than so many units behind what is known or ahead of it. A position that is not known is near to all.
fn is_near(known: Option<u16>, position: u16, behind: u16, ahead: u16) -> bool {
    known.is_none_or(|known| position.wrapping_sub(known).wrapping_add(behind) <= behind + ahead)
}

/// What was repeated takes no position back, or what comes after it would be far.
fn farthest(known: Option<u16>, position: u16) -> u16 {
    known.filter(|known| (position.wrapping_sub(*known) as i16) < 0).unwrap_or(position)
}

impl<F: Family> FlowSlot<F> {
    /// Upper half of the last sequence number of this direction's sender; `None` if no segment told it.
    pub fn position(&self) -> Option<u16> {
        let seen = self.seen.load(Relaxed);
        (seen & SEEN_POSITION != 0).then_some(upper_half(seen))
    }

    /// The segment says nothing new. What most packets of a flow cost: one load and one comparison.
    #[inline(always)]
    pub(super) fn knows(&self, segment: &Segment) -> bool {
        let mut bits = segment.bits();
        let mut mask = bits;
        if let Some(numbers) = segment.numbers {
            // Each SYN, and what comes after it or after a reset, is looked at closely.
            let asks = if u32::from(segment.flags) & (SEEN_SYN | SEEN_ACK) == SEEN_SYN { SEEN_ASKED } else { 0 };
            bits |= SEEN_POSITION | asks | numbers.sequence & POSITION_MASK;
            mask |= SEEN_POSITION | SEEN_RST | SEEN_ASKED | POSITION_MASK;
        }
        // No reset is like another: it may answer a SYN that came between.
        self.seen.load(Relaxed) & mask == bits && !segment.has(SEEN_RST)
    }

    fn note(&self, cleared: u32, bits: u32, position: u16) {
        let placed = SEEN_POSITION | u32::from(position) << POSITION_SHIFT;
        let noted = |seen: u32| seen & !(cleared | POSITION_MASK) | bits | placed;
        // Without a change nothing is written: an error that is none.
        let _ = self.seen.fetch_update(Relaxed, Relaxed, |seen| Some(noted(seen)).filter(|noted| *noted != seen));
    }

    fn add(&self, bits: u32) {
        if self.seen.load(Relaxed) & bits != bits {
            self.seen.fetch_or(bits, Relaxed);
        }
    }
}

impl<F: Family> FlowTable<F> {
    /// Notes of a segment that says something new what it proves. False if it does not even prove that the connection lives.
    #[cold]
    pub(super) fn judge(&self, slot: &FlowSlot<F>, segment: &Segment, now: u32) -> bool {
        let Some(numbers) = segment.numbers else {
            slot.add(segment.bits());
            return true;
        };
        let peer = self.slot(slot.peer.load(Relaxed));
        let (own, other) = (slot.position(), peer.position());
        let (position, acknowledged) = (numbers.position(), upper_half(numbers.acknowledged));
        let fits = |reach| is_near(own, position, reach, reach) && (!segment.has(SEEN_ACK) || is_near(other, acknowledged, LAG, REACH));
        let is_challenged = (slot.seen.load(Relaxed) | peer.seen.load(Relaxed)) & SEEN_CHALLENGED != 0;
        // The client's last SYN is answered, which also says what became of the connection that it is not of.
        let answers = segment.has(SEEN_ACK)
            && peer.is_forward()
            && peer.seen.load(Relaxed) & SEEN_ASKED != 0
            && numbers.answers(peer.asked.load(Relaxed));
        if segment.has(SEEN_RST) {
            // Its number may be 0, and is no position.
            let is_right = answers || fits(if segment.has(SEEN_ACK) { REACH } else { RESET_REACH });
            slot.add(SEEN_ANY);
            // Whoever is asked and does not know the connection does not lengthen the flow's life, nor does a backend that refuses each new
            // SYN of a client that was reset: else the client would never come to another one.
            let was_reset = (slot.seen.load(Relaxed) | peer.seen.load(Relaxed)) & SEEN_RST != 0;
            let is_use = !(is_challenged || answers && was_reset);
            if is_right {
                for side in [peer, slot] {
                    if is_use {
                        side.last.store(now, Relaxed);
                    }
                    // The next SYN is a new attempt.
                    side.seen.fetch_and(!SEEN_ASKED, Relaxed);
                    side.add(SEEN_RST);
                }
            }
            return is_use;
        }
        if segment.has(SEEN_SYN) {
            return judge_syn((slot, peer), segment, &numbers, answers);
        }
        // Each segment of a connection has an acknowledgment (RFC 9293 §3.10.7.4).
        let is_in_place = fits(REACH);
        if segment.has(SEEN_ACK) && (is_in_place || is_challenged) {
            // Whoever answers when asked may be the only one who knows where the connection stands.
            let known = |position: Option<u16>| position.filter(|_| is_in_place);
            let bits = if is_in_place { segment.bits() } else { segment.bits() & !SEEN_FIN };
            // What overtook a reset on the way is older than a second.
            let goes_on = slot.seen.load(Relaxed) & SEEN_RST != 0 && (is_challenged || slot.idle(now) >= TICKS_PER_SECOND);
            if goes_on {
                peer.note(SEEN_RESET, 0, farthest(known(other), acknowledged));
            }
            // With its ACK the client has taken the answer to its SYN; another one may have come before (RFC 4987 §3.6, cookies).
            let cleared = if goes_on { SEEN_ASKED | SEEN_RESET } else { SEEN_ASKED };
            slot.note(cleared, bits, farthest(known(own), position));
        } else {
            slot.add(SEEN_ANY);
        }
        true
    }
}

/// Of a SYN, with or without an ACK. The client may have forgotten the connection, or the SYN is forged: the backend knows, and only its
/// answer begins anew.
fn judge_syn<F: Family>((slot, peer): (&FlowSlot<F>, &FlowSlot<F>), segment: &Segment, numbers: &Numbers, answers: bool) -> bool {
    let position = numbers.position();
    let bits = segment.bits() & !SEEN_FIN;
    if answers && (slot.position() != Some(position) || slot.seen.load(Relaxed) & SEEN_RST != 0) {
        peer.note(SEEN_END, SEEN_SYN, peer.asked.load(Relaxed));
        slot.note(SEEN_END, bits, position);
        return true;
    }
    let is_first = slot.position().is_none_or(|own| own == position);
    let acknowledges = segment.has(SEEN_ACK);
    let mut asks = 0;
    if slot.is_forward() && !acknowledges {
        slot.asked.store(position, Relaxed);
        asks = SEEN_ASKED;
    }
    if is_first && (!acknowledges || is_near(peer.position(), upper_half(numbers.acknowledged), LAG, REACH)) {
        slot.note(0, bits | asks, position);
        return true;
    }
    slot.add(SEEN_ANY | asks);
    // Else SYNs would keep a client at a backend that is dead.
    acknowledges
}
