//! The end of a flow: states, time-outs, removal.

use std::sync::atomic::Ordering::Relaxed;

use super::doubt::DOUBT_TICKS;
use super::entry::*;
use super::table::{FlowTable, SlotIndex};
use crate::family::Family;

/// Without connections. SCTP has the same states as TCP, as far as they matter here (see `wire::flow`).
const UDP: u8 = 17;

/// A backend that stopped has answered what it got, or its clients have asked again: resolvers wait so long (resolv.conf(5), `timeout`).
/// Not longer: until then the flow takes up room.
const LAST_ANSWERS: u32 = 5 * TICKS_PER_SECOND;

/// So many sweeps of an empty table do the work of one.
const EMPTY_SWEEPS: usize = 64;

/// Idle time-outs in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_syn: u32,
    pub tcp_established: u32,
    /// One FIN was seen.
    pub tcp_close_wait: u32,
    /// Both FINs were seen, or a RST: but whoever can is asked before (`doubt`).
    pub tcp_closed: u32,
    /// No reply yet.
    pub udp_unreplied: u32,
    pub udp: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            // A client gives up on an unanswered SYN after seconds to two minutes, repeating it with growing pauses of at most 64 s;
            // a flow that ended too soon is made anew by the next one. Linux conntrack: SYN_RECV 60 s (nf_conntrack_proto_tcp.c).
            tcp_syn: 60 * TICKS_PER_SECOND,
            // Idle database connections live a day without keepalive. RFC 5382 demands at least 2 h 4 min; kube-proxy's default is 24 h.
            tcp_established: 24 * 3600 * TICKS_PER_SECOND,
            // Half-closed connections go on for as long as the other side sends. kube-proxy: tcpCloseWaitTimeout 1 h.
            tcp_close_wait: 3600 * TICKS_PER_SECOND,
            // Long enough for a repeated last FIN or a lost last ACK, short enough for the port's reuse. conntrack: CLOSE 10 s.
            tcp_closed: 10 * TICKS_PER_SECOND,
            // conntrack: nf_conntrack_udp_timeout 30 s (nf_conntrack_proto_udp.c).
            udp_unreplied: 30 * TICKS_PER_SECOND,
            // conntrack's stream time-out was 180 s before Linux 5.0 and is 120 s now; RFC 4787 REQ-5 asks for more than 2 min.
            udp: 180 * TICKS_PER_SECOND,
        }
    }
}

/// States of flows as far as flags tell, for time-outs and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// No reply seen; but for UDP, the handshake is not complete.
    Embryonic,
    Established,
    /// One side has closed.
    CloseWait,
    /// Both sides have closed, one has reset, or the backend stopped serving (UDP) or is gone (TCP).
    Closed,
}

impl Timeouts {
    /// Ticks after which an idle flow is removed.
    pub fn of(&self, protocol: u8, state: FlowState) -> u32 {
        match (protocol != UDP, state) {
            (true, FlowState::Embryonic) => self.tcp_syn,
            (true, FlowState::Established) => self.tcp_established,
            (true, FlowState::CloseWait) => self.tcp_close_wait,
            (true, FlowState::Closed) => self.tcp_closed,
            (false, FlowState::Embryonic) => self.udp_unreplied,
            (false, FlowState::Closed) => LAST_ANSWERS,
            (false, FlowState::Established | FlowState::CloseWait) => self.udp,
        }
    }

    fn shortest(&self) -> u32 {
        let Timeouts { tcp_syn, tcp_established, tcp_close_wait, tcp_closed, udp_unreplied, udp } = *self;
        tcp_syn.min(tcp_established).min(tcp_close_wait).min(tcp_closed).min(udp_unreplied).min(udp).min(LAST_ANSWERS).min(DOUBT_TICKS)
    }
}

impl FlowState {
    /// From the `seen` bits of both directions.
    fn of(protocol: u8, forward: u32, reverse: u32) -> FlowState {
        if forward & SEEN_STOPPED != 0 {
            return FlowState::Closed;
        }
        if protocol == UDP {
            return if reverse & SEEN_ANY != 0 { FlowState::Established } else { FlowState::Embryonic };
        }
        if is_ended(forward, reverse) {
            FlowState::Closed
        } else if !is_complete(forward, reverse) {
            // A FIN proves nothing then and must not buy a longer life.
            FlowState::Embryonic
        } else if (forward | reverse) & SEEN_FIN != 0 {
            FlowState::CloseWait
        } else {
            FlowState::Established
        }
    }
}

/// The handshake's end was seen, from the `seen` bits of both directions of a flow with connections. The client's ACK answers the backend's
/// SYN: a source that is not the sender's own never gets there, for the backend resets an ACK that fits nothing.
pub(super) fn is_complete(forward: u32, reverse: u32) -> bool {
    forward & SEEN_ACK != 0 && reverse & (SEEN_ACK | SEEN_SYN) != 0
}

/// From the `seen` bits of both directions of a flow with connections.
fn is_ended(one: u32, other: u32) -> bool {
    (one | other) & SEEN_RST != 0 || one & other & SEEN_FIN != 0
}

impl<F: Family> FlowTable<F> {
    /// Begins the flow of which `index` is either direction anew: the same key and rewrite for the client's next connection.
    pub fn reopen(&self, index: SlotIndex, now: u32) {
        let (slot, peer) = self.both(index);
        for slot in [slot, peer] {
            slot.seen.store(0, Relaxed);
            slot.last.store(now, Relaxed);
        }
    }

    /// Notes that the backend of the flow with this forward entry stopped serving ([`SEEN_STOPPED`]), while what it still answers reaches
    /// the client. The flow counts as used just now: it lives on for the time-out of its new state.
    pub fn stop(&self, index: SlotIndex) {
        let slot = self.slot(index);
        slot.last.store(self.latest_tick(slot.last.load(Relaxed)), Relaxed);
        // What was reset before says nothing of what its clients answer.
        slot.seen.fetch_and(!SEEN_RST, Relaxed);
        slot.seen.fetch_or(SEEN_STOPPED, Relaxed);
    }

    /// Removes the flow of which `index` is either direction. False if another worker did it before.
    ///
    /// `worker` counts it; any number that the table has will do.
    ///
    /// # Panics
    ///
    /// If the table has fewer workers.
    pub fn remove(&self, worker: usize, index: SlotIndex, now: u32) -> bool {
        let forward = self.forward_of(index) as usize;
        // Everyone takes the forward slot, so exactly one worker goes on.
        if !self.ownership.take(forward) {
            return false;
        }
        let reverse = self.slots[forward].peer.load(Relaxed) as usize;
        for slot in [forward, reverse] {
            let hash = self.hash(&self.slots[slot].key());
            self.slots[slot].clear();
            self.note_gone(slot, hash);
        }
        // Read after the clearing: see `latest_tick`.
        let since = self.latest_tick(now);
        self.ownership.retire(reverse, since);
        self.ownership.retire(forward, since);
        self.unreserve(worker);
        true
    }

    /// The flow with this forward entry is over: both sides have closed it, or one has reset it. A SYN is then the first of another
    /// connection, whatever its number: the client may have chosen it at random, and conntrack asks for none (nf_conntrack_proto_tcp.c).
    /// Not if it repeats one that went to the backend after the reset.
    pub fn has_ended(&self, forward: SlotIndex) -> bool {
        let (slot, reverse) = self.both(forward);
        let (own, other) = (slot.seen.load(Relaxed), reverse.seen.load(Relaxed));
        own & other & SEEN_FIN != 0 || (own | other) & SEEN_RST != 0 && own & SEEN_ASKED == 0
    }

    /// State of the flow of which `index` is the forward entry.
    pub fn state(&self, index: SlotIndex) -> FlowState {
        let (forward, reverse) = self.both(index);
        FlowState::of(forward.key().protocol(), forward.seen.load(Relaxed), reverse.seen.load(Relaxed))
    }

    /// Visits at most `budget` slots of this worker's share, going round; removes flows that were idle too long. Returns how many were removed.
    ///
    /// # Panics
    ///
    /// If the table has fewer workers.
    pub fn sweep(&self, worker: usize, budget: usize, timeouts: &Timeouts, now: u32) -> usize {
        let now = self.latest_tick(now);
        // Where no flow is, only slots that rest have to be found in time, and who uses one of the families pays nothing for the other.
        let budget = if self.is_empty() { budget / EMPTY_SWEEPS } else { budget };
        // Every worker has each `workers`-th bucket, counted from its own number.
        let workers = self.shares.len();
        let share = (self.slots.len() / BUCKET_ENTRIES).saturating_sub(worker).div_ceil(workers) * BUCKET_ENTRIES;
        let visits = budget.min(share);
        let cursor = &self.shares[worker].cursor;
        let start = cursor.load(Relaxed);
        let shortest = timeouts.shortest();
        let mut removed = 0;
        for visit in start..start + visits {
            let visit = if visit < share { visit } else { visit - share };
            let index = (worker + visit / BUCKET_ENTRIES * workers) * BUCKET_ENTRIES + visit % BUCKET_ENTRIES;
            removed += usize::from(self.is_expired(index, shortest, timeouts, now) && self.remove(worker, index as SlotIndex, now));
        }
        if share > 0 {
            cursor.store((start + visits) % share, Relaxed);
        }
        removed
    }

    /// A flow's forward entry is in the slot, and was idle too long; of one that is said to be reset the ends are asked before. Frees the
    /// slot instead if it rested long enough.
    fn is_expired(&self, index: usize, shortest: u32, timeouts: &Timeouts, now: u32) -> bool {
        if !self.ownership.is_live(index) {
            self.ownership.ripen(index, now);
            return false;
        }
        // A busy flow is spared the look at the other direction.
        let slot = &self.slots[index];
        if !slot.is_forward() || slot.idle(now) < shortest {
            return false;
        }
        let index = index as SlotIndex;
        let (idle, is_doubtful) = (self.idle(index, now), self.is_doubtful(index));
        if is_doubtful && slot.seen.load(Relaxed) & SEEN_CHALLENGED != 0 {
            return idle >= DOUBT_TICKS;
        }
        if is_doubtful && idle >= DOUBT_TICKS.min(timeouts.tcp_closed) && self.doubt(index, now) {
            return false;
        }
        idle >= timeouts.of(slot.key().protocol(), self.state(index))
    }

    /// Ticks since the last packet of either direction of the flow with this forward entry.
    pub(super) fn idle(&self, forward: SlotIndex, now: u32) -> u32 {
        let (forward, reverse) = self.both(forward);
        forward.idle(now).min(reverse.idle(now))
    }

    /// The forward entry of the flow of which `index` is either direction.
    pub(super) fn forward_of(&self, index: SlotIndex) -> SlotIndex {
        let slot = self.slot(index);
        if slot.is_forward() { index } else { slot.peer.load(Relaxed) }
    }
}
