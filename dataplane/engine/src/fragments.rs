//! What becomes of fragments (RFC 791 §3.2, RFC 8200 §4.5): of each fragmented datagram, what its first fragment met.
//!
//! Only the first fragment has ports. Those that follow go where it went; one that comes before it waits for it, for a bounded time. Nothing
//! is put together here: whoever gets the fragments does that.

use crate::family::Family;
use crate::flow::{FlowKey, SlotIndex, TICKS_PER_SECOND, elapsed};
use crate::wire::IpFlow;

/// Datagrams that a worker knows. A power of two. Their fragments leave a sender back to back, so few are under way at a time.
const DATAGRAMS: usize = 1024;
/// Places where a datagram may be.
const WAYS: usize = 4;
/// What was noted longer ago is of another datagram: identifications come round.
const NOTED_TICKS: u32 = 10 * TICKS_PER_SECOND;
/// A fragment waits so long, in ticks, for the first one: 17 to 34 ms. Networks that send packets over several paths reorder them by
/// less than one.
const PATIENCE_TICKS: u32 = 2;
/// And so long for one that waits itself; `ringway-io` keeps it no longer.
const HELD_TICKS: u32 = TICKS_PER_SECOND + 1;

/// What a later fragment of a datagram has to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<F: Family> {
    /// The first fragment may still come: keep the packet.
    Await,
    /// The first fragment has come and waits itself, for a neighbor: keep the packet.
    AwaitHeld,
    /// Executed here, by this entry of the flow table; its key is that of the first fragment.
    Execute {
        slot: SlotIndex,
        key: FlowKey<F>,
    },
    /// Not executed here.
    GiveBack,
    Drop,
}

#[derive(Clone, Copy, Debug)]
struct Note<F: Family> {
    datagram: FlowKey<F>,
    fate: Fate<F>,
    since: u32,
    pieces: Pieces,
}

/// Which part of a datagram has come.
#[derive(Clone, Copy, Debug, Default)]
struct Pieces {
    /// A bit for each fragment but the last, so that a duplicate does not count twice. Where two have the same, the datagram counts as
    /// incomplete.
    seen: u64,
    /// Behind the IP headers: of the fragments that have come, and of all if the last one has.
    bytes: u32,
    total: Option<u32>,
}

impl Pieces {
    fn add<F: Family>(&mut self, flow: &IpFlow<F>) {
        let (offset, bytes) = (u32::from(flow.offset) * 8, (flow.end - flow.l4) as u32);
        if flow.has_more {
            // They are mostly of one size: this is its place among them.
            let bit = 1 << (offset.checked_div(bytes).unwrap_or(0) % u64::BITS);
            self.bytes += if self.seen & bit == 0 { bytes } else { 0 };
            self.seen |= bit;
        } else if self.total.is_none() {
            self.total = Some(offset + bytes);
            self.bytes += bytes;
        }
    }

    fn is_complete(&self) -> bool {
        self.total == Some(self.bytes)
    }
}

/// The datagrams of one worker.
#[derive(Debug)]
pub struct Fragments<F: Family> {
    notes: Box<[[Option<Note<F>>; WAYS]]>,
    seed: u64,
}

impl<F: Family> Fragments<F> {
    pub fn new(seed: u64) -> Fragments<F> {
        Fragments { notes: vec![[None; WAYS]; DATAGRAMS / WAYS].into_boxed_slice(), seed }
    }

    /// Notes what became of a datagram's first fragment. The key has the identification in place of the ports.
    pub fn note(&mut self, datagram: &FlowKey<F>, first: &IpFlow<F>, fate: Fate<F>, now: u32) {
        let mut pieces = Pieces::default();
        pieces.add(first);
        self.put(Note { datagram: *datagram, fate, since: now, pieces });
    }

    /// What becomes of a later fragment. If nothing is known of the datagram, its wait begins here; in the end it is given back.
    pub fn fate(&mut self, datagram: &FlowKey<F>, now: u32) -> Fate<F> {
        let awaited = Note { datagram: *datagram, fate: Fate::Await, since: now, pieces: Pieces::default() };
        let Some(note) = self.find(datagram).and_then(Option::as_mut) else {
            self.put(awaited);
            return Fate::Await;
        };
        match (note.fate, elapsed(note.since, now)) {
            (_, NOTED_TICKS..) => *note = awaited,
            (Fate::Await, PATIENCE_TICKS..) | (Fate::AwaitHeld, HELD_TICKS..) => note.fate = Fate::GiveBack,
            _ => {}
        }
        note.fate
    }

    /// A later fragment has met its fate. With the last one that was missing the datagram is forgotten: the next of the same
    /// identification may come in another order.
    pub fn passed(&mut self, datagram: &FlowKey<F>, later: &IpFlow<F>) {
        let Some(place) = self.find(datagram) else { return };
        if let Some(note) = place {
            note.pieces.add(later);
            if note.pieces.is_complete() {
                *place = None;
            }
        }
    }

    /// In the place of the same datagram, or of the one that is missed least: one of which the first fragment is not known, then the one
    /// that is longest known.
    fn put(&mut self, note: Note<F>) {
        let notes = self.notes_of(&note.datagram);
        let is_same = |other: &Option<Note<F>>| other.is_some_and(|other| other.datagram == note.datagram);
        let rank = |other: &Option<Note<F>>| {
            other.map_or((true, u32::MAX), |other| (matches!(other.fate, Fate::Await | Fate::GiveBack), elapsed(other.since, note.since)))
        };
        let place = notes.iter().position(is_same).or_else(|| (0..WAYS).max_by_key(|&way| rank(&notes[way])));
        if let Some(place) = place {
            notes[place] = Some(note);
        }
    }

    fn find(&mut self, datagram: &FlowKey<F>) -> Option<&mut Option<Note<F>>> {
        self.notes_of(datagram).iter_mut().find(|note| note.is_some_and(|note| note.datagram == *datagram))
    }

    fn notes_of(&mut self, datagram: &FlowKey<F>) -> &mut [Option<Note<F>>; WAYS] {
        let hash = crate::flow::flow_hash(self.seed, datagram) as usize;
        &mut self.notes[hash % (DATAGRAMS / WAYS)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::V4;
    use crate::flow::Tuple;
    use crate::wire::{Part, UDP};

    fn datagram(id: u32) -> FlowKey {
        FlowKey { saddr: 1, daddr: 2, ports: id, meta: 17 }
    }

    /// A fragment of so many bytes at an offset of so many units of eight.
    fn piece(offset: u16, bytes: usize, has_more: bool) -> IpFlow {
        let tuple = Tuple { saddr: 1, daddr: 2, ports: 0 };
        IpFlow { l3: 14, l4: 34, end: 34 + bytes, protocol: UDP, ttl: 64, tcp_flags: 0, part: Part::Later, id: 0, offset, has_more, tuple }
    }

    const EXECUTE: Fate<V4> = Fate::Execute { slot: 7, key: FlowKey { saddr: 1, daddr: 2, ports: 9, meta: 17 } };

    #[test]
    fn later_fragments_share_the_fate_of_the_first() {
        let mut fragments = Fragments::new(1);
        let first = piece(0, 64, true);
        for (id, fate) in [(1, EXECUTE), (2, Fate::GiveBack), (3, Fate::Drop)] {
            fragments.note(&datagram(id), &first, fate, u32::MAX);
            assert_eq!(fragments.fate(&datagram(id), NOTED_TICKS - 2), fate);
        }
        assert_eq!(fragments.fate(&datagram(1), NOTED_TICKS - 1), Fate::Await, "an identification that came round");
        fragments.note(&datagram(2), &first, EXECUTE, 5);
        assert_eq!(fragments.fate(&datagram(2), 5), EXECUTE, "another datagram of the same identification");
    }

    #[test]
    fn one_that_comes_first_waits_a_while() {
        let mut fragments = Fragments::new(1);
        let first = piece(0, 64, true);
        for now in 100..100 + PATIENCE_TICKS {
            assert_eq!(fragments.fate(&datagram(1), now), Fate::Await);
            assert_eq!(fragments.fate(&datagram(2), now), Fate::Await);
        }
        fragments.note(&datagram(1), &first, EXECUTE, 101);
        assert_eq!(fragments.fate(&datagram(1), 102), EXECUTE);
        assert_eq!(fragments.fate(&datagram(2), 102), Fate::GiveBack);
        fragments.note(&datagram(2), &first, EXECUTE, 103);
        assert_eq!(fragments.fate(&datagram(2), 103), EXECUTE, "better late than never");
    }

    /// Whatever the size of the fragments: with the last one that was missing, and not before.
    #[test]
    fn a_complete_datagram_is_forgotten() {
        for (bytes, count) in [(8, 3), (16, 20), (1424, 46), (1472, 44), (1480, 44), (8952, 7)] {
            let mut fragments = Fragments::new(1);
            let piece = |number: usize| piece((number * bytes / 8) as u16, bytes, number + 1 < count);
            fragments.note(&datagram(1), &piece(0), EXECUTE, 0);
            for number in (1..count).rev() {
                assert_eq!(fragments.fate(&datagram(1), 0), EXECUTE, "{bytes} bytes");
                fragments.passed(&datagram(1), &piece(number));
                if number > 1 {
                    // A duplicate.
                    fragments.passed(&datagram(1), &piece(number));
                }
            }
            assert_eq!(fragments.fate(&datagram(1), 0), Fate::Await, "{bytes} bytes");
        }
    }

    #[test]
    fn those_of_a_first_one_that_waits_itself_wait_with_it() {
        let mut fragments = Fragments::new(1);
        fragments.note(&datagram(1), &piece(0, 64, true), Fate::AwaitHeld, 100);
        assert_eq!(fragments.fate(&datagram(1), 100 + TICKS_PER_SECOND), Fate::AwaitHeld);
        assert_eq!(fragments.fate(&datagram(1), 100 + HELD_TICKS), Fate::GiveBack);
    }

    #[test]
    fn fragments_without_a_first_one_push_nobody_out() {
        let mut fragments = Fragments::new(1);
        for id in 0..40 {
            fragments.note(&datagram(id), &piece(0, 64, true), EXECUTE, 0);
        }
        for id in 1_000..100_000 {
            fragments.fate(&datagram(id), 1);
        }
        assert!((0..40).all(|id| fragments.fate(&datagram(id), 1) == EXECUTE));
    }

    #[test]
    fn under_a_flood_the_oldest_are_forgotten() {
        let mut fragments = Fragments::new(1);
        for id in 0..100_000 {
            fragments.note(&datagram(id), &piece(0, 64, true), EXECUTE, id / 1000);
            assert_eq!(fragments.fate(&datagram(id), id / 1000), EXECUTE);
        }
        let known = (0..100_000).filter(|&id| fragments.fate(&datagram(id), 100) == EXECUTE).count();
        assert!(known < DATAGRAMS, "{known}");
    }
}
