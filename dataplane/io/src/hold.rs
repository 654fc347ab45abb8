//! Frames that wait: for a neighbor, another worker, or the first fragment of their datagram.

use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;
use ringway_engine::engine::BATCH_MAX;

use crate::config::Port;
use crate::shared::NeighborRequest;
use crate::umem::Frame;

/// Frames that wait for one neighbor. Linux keeps about as much per neighbor (`unres_qlen_bytes`) for small packets' sake: the
/// first packet of a few clients, not a flood.
const PER_NEIGHBOR: usize = 4;
/// Frames that wait in all: one batch, so that a new attempt is one call of the engine.
const HELD_MAX: usize = BATCH_MAX;
/// Fragments that wait: as many as the largest datagram has at an MTU of 1 500 bytes, 45. They leave room for frames that wait for others.
const FRAGMENTS_MAX: usize = HELD_MAX - 4 * PER_NEIGHBOR;
/// A neighbor that is there answers in milliseconds; the kernel gives up after three tries, a second apart. A client has repeated
/// its packet by then, and a later one finds the neighbor known.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Pause between two attempts while no new snapshot came.
pub(crate) const RETRY_NS: u64 = 50_000_000;
/// The same where a fragment waits: the first one was a little late.
const RETRY_FRAGMENTS_NS: u64 = 1_000_000;
/// The same neighbor is not asked for more often. Two attempts: a neighbor that was known a moment ago and was forgotten is asked
/// for again long before TCP repeats a SYN, after a second.
const ASK_AGAIN_NS: u64 = 2 * RETRY_NS;
/// Neighbors asked for lately, to know which not to ask for again.
const ASKED_MAX: usize = 64;

/// A frame that waits, untouched, with what is needed to hand it to the engine again.
#[derive(Debug)]
pub(crate) struct Held {
    pub frame: Frame,
    /// Where it was received.
    pub port: Port,
    pub neighbor: NeighborRequest,
    /// When it was held first.
    pub since_ns: u64,
}

/// The hold list of a worker.
#[derive(Debug, Default)]
pub(crate) struct HoldList {
    held: ArrayVec<Held, HELD_MAX>,
    asked: ArrayVec<(NeighborRequest, u64), ASKED_MAX>,
    /// Where the next entry of a full `asked` goes.
    asked_next: usize,
    /// When the next attempt is due.
    due_ns: u64,
}

impl HoldList {
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Keeps a frame, or gives it back if too many wait already.
    pub fn hold(&mut self, held: Held, now_ns: u64) -> Result<(), Frame> {
        let waiting = self.held.iter().filter(|other| other.neighbor == held.neighbor).count();
        let limit = if held.neighbor == FIRST_FRAGMENT { FRAGMENTS_MAX } else { PER_NEIGHBOR };
        if waiting >= limit || self.held.is_full() {
            return Err(held.frame);
        }
        let due_ns = now_ns + if held.neighbor == FIRST_FRAGMENT { RETRY_FRAGMENTS_NS } else { RETRY_NS };
        self.due_ns = if self.held.is_empty() { due_ns } else { self.due_ns.min(due_ns) };
        self.held.push(held);
        Ok(())
    }

    /// Keeps a frame for the next round.
    pub fn hold_briefly(&mut self, held: Held, now_ns: u64) -> Result<(), Frame> {
        self.hold(held, now_ns)?;
        self.due_ns = now_ns;
        Ok(())
    }

    /// Whether this neighbor is to be asked for, which is then noted.
    pub fn asks(&mut self, neighbor: NeighborRequest, now_ns: u64) -> bool {
        if let Some((_, asked_ns)) = self.asked.iter_mut().find(|(other, _)| *other == neighbor) {
            let again = now_ns.saturating_sub(*asked_ns) >= ASK_AGAIN_NS;
            if again {
                *asked_ns = now_ns;
            }
            return again;
        }
        if self.asked.is_full() {
            self.asked[self.asked_next] = (neighbor, now_ns);
            self.asked_next = (self.asked_next + 1) % ASKED_MAX;
        } else {
            self.asked.push((neighbor, now_ns));
        }
        true
    }

    /// Forgets a question that did not reach the control half.
    pub fn unask(&mut self, neighbor: NeighborRequest) {
        self.asked.retain(|(other, _)| *other != neighbor);
        self.asked_next = 0;
    }

    /// In how many nanoseconds it is time to try the held frames again without a new snapshot, if there are any.
    pub fn due_in(&self, now_ns: u64) -> Option<u64> {
        (!self.held.is_empty()).then(|| self.due_ns.saturating_sub(now_ns))
    }

    /// Takes all frames for an attempt: first those whose patience is over, by `expired`, then the rest as the return value.
    pub fn take(&mut self, now_ns: u64, mut expired: impl FnMut(Held)) -> ArrayVec<Held, HELD_MAX> {
        let mut waiting = ArrayVec::new();
        for held in self.held.drain(..) {
            if now_ns.saturating_sub(held.since_ns) >= PATIENCE_NS {
                expired(held);
            } else {
                waiting.push(held);
            }
        }
        waiting
    }
}

/// Stands for "no neighbor" of frames that wait for another worker.
pub(crate) const NO_NEIGHBOR: NeighborRequest = NeighborRequest { ifindex: 0, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED) };

/// Stands for "no neighbor" of fragments that wait for the first of their datagram.
pub(crate) const FIRST_FRAGMENT: NeighborRequest = NeighborRequest { ifindex: 0, address: IpAddr::V4(Ipv4Addr::BROADCAST) };

/// A request for the neighbor of a `Hold` verdict.
pub(crate) fn neighbor(ifindex: u32, address: IpAddr) -> NeighborRequest {
    NeighborRequest { ifindex, address }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::umem::{Pool, Umem};

    const SECOND: u64 = 1_000_000_000;

    fn held(pool: &mut Pool, last_octet: u8, since_ns: u64) -> Held {
        let frame = pool.take().expect("enough frames");
        Held { frame, port: Port::Uplink(0), neighbor: neighbor(3, Ipv4Addr::new(10, 0, 0, last_octet).into()), since_ns }
    }

    #[test]
    fn four_wait_per_neighbor_and_a_batch_in_all() {
        let (_umem, mut pool) = Umem::new(128, 2048, 0).expect("memory");
        let mut list = HoldList::default();
        for _ in 0..PER_NEIGHBOR {
            assert!(list.hold(held(&mut pool, 1, 0), 0).is_ok());
        }
        assert!(list.hold(held(&mut pool, 1, 0), 0).is_err());
        for i in 0..HELD_MAX - PER_NEIGHBOR {
            assert!(list.hold(held(&mut pool, 2 + i as u8, 0), 0).is_ok());
        }
        assert!(list.hold(held(&mut pool, 200, 0), 0).is_err());
        assert_eq!(list.len(), HELD_MAX);
    }

    #[test]
    fn patience_ends_after_a_second() {
        let (_umem, mut pool) = Umem::new(4, 2048, 0).expect("memory");
        let mut list = HoldList::default();
        assert!(list.hold(held(&mut pool, 1, 0), 0).is_ok());
        assert!(list.hold(held(&mut pool, 2, SECOND / 2), SECOND / 2).is_ok());
        assert_eq!(list.due_in(RETRY_NS - 1), Some(1));
        assert_eq!(list.due_in(RETRY_NS), Some(0));
        let mut expired = 0;
        let waiting = list.take(SECOND, |held| {
            pool.give(held.frame);
            expired += 1;
        });
        assert_eq!((expired, waiting.len()), (1, 1));
        assert_eq!(waiting[0].since_ns, SECOND / 2);
        assert_eq!(list.len(), 0);
    }

    #[test]
    fn a_frame_held_again_waits_for_the_next_attempt() {
        let (_umem, mut pool) = Umem::new(1, 2048, 0).expect("memory");
        let mut list = HoldList::default();
        assert!(list.hold(held(&mut pool, 1, 0), 0).is_ok());
        let waiting = list.take(RETRY_NS, |held| pool.give(held.frame));
        for held in waiting {
            assert!(list.hold(held, RETRY_NS).is_ok());
        }
        assert_eq!(list.due_in(RETRY_NS + 1), Some(RETRY_NS - 1));
        assert_eq!(list.due_in(2 * RETRY_NS), Some(0));
    }

    #[test]
    fn a_frame_held_briefly_is_due_in_the_next_round() {
        let (_umem, mut pool) = Umem::new(4, 2048, 0).expect("memory");
        let mut list = HoldList::default();
        assert!(list.hold(held(&mut pool, 1, SECOND), SECOND).is_ok());
        assert_ne!(list.due_in(SECOND + 1), Some(0));
        let fragment = Held { neighbor: FIRST_FRAGMENT, ..held(&mut pool, 3, SECOND) };
        assert!(list.hold(fragment, SECOND).is_ok());
        assert_eq!(list.due_in(SECOND), Some(RETRY_FRAGMENTS_NS));
        assert!(list.hold_briefly(Held { neighbor: NO_NEIGHBOR, ..held(&mut pool, 2, SECOND) }, SECOND).is_ok());
        assert_eq!(list.due_in(SECOND + 1), Some(0));
        for held in list.take(SECOND + 1, |held| pool.give(held.frame)) {
            pool.give(held.frame);
        }
    }

    #[test]
    fn the_same_neighbor_is_asked_for_once_in_a_while() {
        let mut list = HoldList::default();
        let one = neighbor(3, Ipv4Addr::new(10, 0, 0, 1).into());
        assert!(list.asks(one, 0));
        assert!(!list.asks(one, ASK_AGAIN_NS - 1));
        assert!(list.asks(one, ASK_AGAIN_NS));
        list.unask(one);
        assert!(list.asks(one, ASK_AGAIN_NS + 1), "the queue was full: ask again");
        for i in 0..=255 {
            list.asks(neighbor(4, Ipv4Addr::new(10, 0, 1, i).into()), SECOND);
        }
        assert_eq!(list.asked.len(), ASKED_MAX);
    }
}
