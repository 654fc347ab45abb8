//! Connections that are said to be reset: before such a flow ends, its ends are asked.
//!
//! A reset that is near enough to be noted may still be one that its receiver drops (see `position`). Whoever goes on has not been reset;
//! those that are silent the sweep puts into a queue, and the control half sends the client a segment of long ago (`crate::nudge`), then
//! the backend. Who has the connection answers by an ACK (RFC 9293 §3.10.7.4), which takes the reset back, whoever had sent that.

use std::sync::atomic::Ordering::Relaxed;

use super::entry::*;
use super::expiry::is_complete;
use super::position::Numbers;
use super::table::{FlowTable, SlotIndex};
use crate::family::{Family, V4};
use crate::wire::TCP;

/// So many flows wait for their clients to be asked at most: more than the control half asks in a second.
pub const DOUBTED_MAX: usize = 1_024;

/// Ticks that a connection was silent since its reset when its client is asked, and since then when the flow ends.
pub(super) const DOUBT_TICKS: u32 = 5 * TICKS_PER_SECOND;

/// So far behind is a segment of long ago, in bytes: no window is larger (RFC 7323 §2.3). Ahead would do for its receiver, but connection
/// trackers on the way hold that for invalid and do not translate it, as little as a SYN. What is old, Linux' does since 6.1.
const LONG_AGO: u32 = 1 << 30;

/// A flow whose ends are to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubted<F: Family = V4> {
    /// Of the forward entry, with its key.
    pub slot: SlotIndex,
    pub key: FlowKey<F>,
    /// Of the segment that asks the client.
    pub numbers: Numbers,
}

impl<F: Family> FlowTable<F> {
    /// The connection of the flow with this forward entry was complete, and its only end is a reset that nobody has taken back yet.
    pub fn is_doubtful(&self, forward: SlotIndex) -> bool {
        let (slot, reverse) = self.both(forward);
        let (own, other) = (slot.seen.load(Relaxed), reverse.seen.load(Relaxed));
        let is_reset_only = (own | other) & SEEN_RST != 0 && own & other & SEEN_FIN == 0 && own & SEEN_STOPPED == 0;
        is_reset_only && is_complete(own, other) && slot.key().protocol() == TCP
    }

    /// Has the ends of a doubtful flow asked, who have five seconds from now on. False if too many wait.
    pub(super) fn doubt(&self, forward: SlotIndex, now: u32) -> bool {
        let (slot, reverse) = self.both(forward);
        if self.doubted.is_full() {
            return false;
        }
        // Both entries may have lost a part of the reset where several CPUs noted at a time. Marked before anybody asks: the answer
        // takes the mark back.
        reverse.seen.fetch_or(SEEN_RST, Relaxed);
        slot.last.store(now, Relaxed);
        slot.seen.fetch_or(SEEN_RST | SEEN_CHALLENGED, Relaxed);
        let doubted = Doubted { slot: forward, key: slot.key(), numbers: self.numbers_of_long_ago(forward) };
        if self.doubted.push(doubted).is_err() {
            slot.seen.fetch_and(!SEEN_CHALLENGED, Relaxed);
        }
        true
    }

    /// The next flow whose client is to be asked.
    pub fn next_doubted(&self) -> Option<Doubted<F>> {
        self.doubted.pop()
    }

    /// The flow is still there, and neither of its ends was heard since it was put into the queue.
    pub fn is_unanswered(&self, doubted: &Doubted<F>) -> bool {
        self.key_of(doubted.slot) == doubted.key && self.slot(doubted.slot).seen.load(Relaxed) & SEEN_CHALLENGED != 0
    }

    /// Of a segment of the backend of the flow with this forward entry, out of the client's window.
    pub fn numbers_of_long_ago(&self, forward: SlotIndex) -> Numbers {
        let (slot, reverse) = self.both(forward);
        let number = |side: &FlowSlot<F>| (u32::from(side.position().unwrap_or(0)) << POSITION_SHIFT).wrapping_sub(LONG_AGO);
        Numbers { sequence: number(reverse), acknowledged: number(slot) }
    }
}
