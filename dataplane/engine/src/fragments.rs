//! What becomes of fragments (RFC 791 §3.2, RFC 8200 §4.5): of each fragmented datagram, what its first fragment met.
//!
//! Only the first fragment has ports. Those that follow go where it went; one that comes before it waits for it, for a bounded time. Nothing
//! is put together here: whoever gets the fragments does that. But receivers differ in what they make of fragments that lie on each other
//! (RFC 1858, RFC 5722): of such a datagram nothing more goes on.

mod pieces;

use crate::family::Family;
use crate::flow::{FlowKey, SlotIndex, TICKS_PER_SECOND, elapsed};
use crate::wire::IpFlow;
use pieces::{Pieces, Place};

/// Datagrams that a worker knows. A power of two. Their fragments leave a sender back to back, so few are under way at a time.
const DATAGRAMS: usize = 1024;
/// Places where a datagram may be.
const WAYS: usize = 4;
/// What was noted longer ago is of another datagram: identifications come round.
const NOTED_TICKS: u32 = 10 * TICKS_PER_SECOND;
/// A first fragment that comes so much later than one of the same identification begins another datagram, whatever became of that one:
/// a sender of 65 536 datagrams in this time is at the same identification again, and none sends the pieces of one so far apart.
const ANOTHER_TICKS: u32 = TICKS_PER_SECOND;
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
    /// It lies on what has come; or another one did, and with it all that follows is dropped.
    Overlap,
}

#[derive(Clone, Copy, Debug)]
struct Note<F: Family> {
    datagram: FlowKey<F>,
    fate: Fate<F>,
    since: u32,
    pieces: Pieces,
}

impl<F: Family> Note<F> {
    /// Whether a piece lies on none that has come. If it does in part, no more will be admitted.
    fn admits(&mut self, piece: &IpFlow<F>) -> bool {
        let place = self.pieces.place(piece);
        if place == Place::Contradiction {
            self.fate = Fate::Overlap;
        }
        place == Place::Free && self.fate != Fate::Overlap
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

    /// Whether a first fragment lies on nothing that has come of its datagram. If it does in part, all that follows is dropped.
    pub fn may_begin(&mut self, datagram: &FlowKey<F>, first: &IpFlow<F>, now: u32) -> bool {
        match self.find(datagram) {
            Some(Some(note)) if elapsed(note.since, now) < ANOTHER_TICKS => note.admits(first),
            _ => Pieces::default().place(first) == Place::Free,
        }
    }

    /// Notes what became of a datagram's first fragment, which was allowed to begin it. The key has the identification in place of the
    /// ports.
    pub fn note(&mut self, datagram: &FlowKey<F>, first: &IpFlow<F>, fate: Fate<F>, now: u32) {
        let mut pieces = Pieces::default();
        // One that waits comes again.
        if fate != Fate::AwaitHeld {
            pieces.add(first);
        }
        self.put(Note { datagram: *datagram, fate, since: now, pieces });
    }

    /// What becomes of a later fragment. If nothing is known of the datagram, its wait begins here; in the end it is given back.
    pub fn fate(&mut self, datagram: &FlowKey<F>, later: &IpFlow<F>, now: u32) -> Fate<F> {
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
        // One that waits comes again, and is looked at then.
        if matches!(note.fate, Fate::Await | Fate::AwaitHeld) || note.admits(later) { note.fate } else { Fate::Overlap }
    }

    /// A later fragment has met its fate. With the last one that was missing the datagram is forgotten: the next of the same
    /// identification may come in another order.
    pub fn passed(&mut self, datagram: &FlowKey<F>, later: &IpFlow<F>) {
        let Some(place) = self.find(datagram) else { return };
        // Those that were given back for want of a first one have not come to where it may go.
        if let Some(note) = place.as_mut().filter(|note| !note.pieces.is_empty()) {
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
        let is_same = |other: &Option<Note<F>>| other.as_ref().is_some_and(|other| other.datagram == note.datagram);
        let rank = |other: &Option<Note<F>>| {
            other
                .as_ref()
                .map_or((true, u32::MAX), |other| (matches!(other.fate, Fate::Await | Fate::GiveBack), elapsed(other.since, note.since)))
        };
        let place = notes.iter().position(is_same).or_else(|| (0..WAYS).max_by_key(|&way| rank(&notes[way])));
        if let Some(place) = place {
            notes[place] = Some(note);
        }
    }

    fn find(&mut self, datagram: &FlowKey<F>) -> Option<&mut Option<Note<F>>> {
        self.notes_of(datagram).iter_mut().find(|note| note.as_ref().is_some_and(|note| note.datagram == *datagram))
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
        IpFlow { end: 34 + bytes, offset, has_more, ..LATER }
    }

    const LATER: IpFlow = IpFlow {
        l3: 14,
        l4: 34,
        end: 98,
        protocol: UDP,
        ttl: 64,
        tcp_flags: 0,
        part: Part::Later,
        id: 0,
        offset: 8,
        has_more: true,
        tuple: Tuple { saddr: 1, daddr: 2, ports: 0 },
    };

    const EXECUTE: Fate<V4> = Fate::Execute { slot: 7, key: FlowKey { saddr: 1, daddr: 2, ports: 9, meta: 17 } };

    #[test]
    fn later_fragments_share_the_fate_of_the_first() {
        let mut fragments = Fragments::new(1);
        let first = piece(0, 64, true);
        for (id, fate) in [(1, EXECUTE), (2, Fate::GiveBack), (3, Fate::Drop)] {
            fragments.note(&datagram(id), &first, fate, u32::MAX);
            assert_eq!(fragments.fate(&datagram(id), &LATER, NOTED_TICKS - 2), fate);
        }
        assert_eq!(fragments.fate(&datagram(1), &LATER, NOTED_TICKS - 1), Fate::Await, "an identification that came round");
        for (now, is_another) in [(ANOTHER_TICKS - 2, false), (ANOTHER_TICKS - 1, true)] {
            assert_eq!(fragments.may_begin(&datagram(2), &first, now), is_another, "a duplicate, and another datagram");
        }
        fragments.note(&datagram(2), &first, EXECUTE, ANOTHER_TICKS - 1);
        assert_eq!(fragments.fate(&datagram(2), &LATER, ANOTHER_TICKS - 1), EXECUTE);
    }

    /// Whichever of the two comes first.
    #[test]
    fn what_lies_on_another_ends_the_datagram() {
        let (first, longer) = (piece(0, 64, true), piece(0, 72, true));
        for fate in [EXECUTE, Fate::GiveBack, Fate::Drop] {
            let mut fragments = Fragments::new(1);
            fragments.note(&datagram(1), &first, fate, 0);
            assert_eq!(fragments.fate(&datagram(1), &piece(7, 64, true), 0), Fate::Overlap);
            assert_eq!(fragments.fate(&datagram(1), &LATER, 1), Fate::Overlap, "the rest of it");
            assert!(!fragments.may_begin(&datagram(1), &piece(0, 8, true), ANOTHER_TICKS - 1));
            assert_eq!(fragments.fate(&datagram(1), &LATER, NOTED_TICKS - 1), Fate::Overlap);
            assert!(fragments.may_begin(&datagram(1), &first, NOTED_TICKS - 1), "another datagram");
            fragments.note(&datagram(1), &first, fate, NOTED_TICKS - 1);
            assert_eq!(fragments.fate(&datagram(1), &LATER, NOTED_TICKS - 1), fate);
        }
        // What waited for it.
        let mut fragments = Fragments::new(1);
        assert_eq!(fragments.fate(&datagram(2), &LATER, 0), Fate::Await);
        assert!(fragments.may_begin(&datagram(2), &longer, 0));
        fragments.note(&datagram(2), &longer, EXECUTE, 0);
        assert_eq!(fragments.fate(&datagram(2), &LATER, 0), Fate::Overlap);
    }

    /// One that waits for a neighbor is the same each time that it comes.
    #[test]
    fn a_first_one_that_waits_does_not_lie_on_itself() {
        let mut fragments = Fragments::new(1);
        let first = piece(0, 64, true);
        assert!(!fragments.may_begin(&datagram(1), &piece(0, 60, true), 0), "it ends within a unit");
        for fate in [Fate::AwaitHeld, Fate::AwaitHeld, EXECUTE] {
            assert!(fragments.may_begin(&datagram(1), &first, 0));
            fragments.note(&datagram(1), &first, fate, 0);
        }
        assert!(!fragments.may_begin(&datagram(1), &first, 0));
    }

    /// A copy that comes behind all of its datagram is no part of the next one.
    #[test]
    fn what_is_given_back_has_not_come() {
        let mut fragments = Fragments::new(1);
        let (first, copy) = (piece(0, 64, true), piece(4, 64, true));
        assert_eq!(fragments.fate(&datagram(1), &copy, 0), Fate::Await);
        assert_eq!(fragments.fate(&datagram(1), &copy, PATIENCE_TICKS), Fate::GiveBack);
        fragments.passed(&datagram(1), &copy);
        assert!(fragments.may_begin(&datagram(1), &first, PATIENCE_TICKS));
        fragments.note(&datagram(1), &first, EXECUTE, PATIENCE_TICKS);
        assert_eq!(fragments.fate(&datagram(1), &LATER, PATIENCE_TICKS), EXECUTE);
    }

    #[test]
    fn one_that_comes_first_waits_a_while() {
        let mut fragments = Fragments::new(1);
        let first = piece(0, 64, true);
        for now in 100..100 + PATIENCE_TICKS {
            assert_eq!(fragments.fate(&datagram(1), &LATER, now), Fate::Await);
            assert_eq!(fragments.fate(&datagram(2), &LATER, now), Fate::Await);
        }
        fragments.note(&datagram(1), &first, EXECUTE, 101);
        assert_eq!(fragments.fate(&datagram(1), &LATER, 102), EXECUTE);
        assert_eq!(fragments.fate(&datagram(2), &LATER, 102), Fate::GiveBack);
        fragments.note(&datagram(2), &first, EXECUTE, 103);
        assert_eq!(fragments.fate(&datagram(2), &LATER, 103), EXECUTE, "better late than never");
    }

    /// Whatever the size of the fragments: with the last one that was missing, and not before.
    #[test]
    fn a_complete_datagram_is_forgotten() {
        for (bytes, count) in [(8, 3), (16, 20), (1424, 46), (1472, 44), (1480, 44), (8952, 7)] {
            let mut fragments = Fragments::new(1);
            let piece = |number: usize| piece((number * bytes / 8) as u16, bytes, number + 1 < count);
            fragments.note(&datagram(1), &piece(0), EXECUTE, 0);
            for number in (1..count).rev() {
                assert_eq!(fragments.fate(&datagram(1), &piece(number), 0), EXECUTE, "{bytes} bytes");
                fragments.passed(&datagram(1), &piece(number));
                if number > 1 {
                    assert_eq!(fragments.fate(&datagram(1), &piece(number), 0), Fate::Overlap, "a duplicate");
                }
            }
            assert_eq!(fragments.fate(&datagram(1), &LATER, 0), Fate::Await, "{bytes} bytes");
        }
    }

    #[test]
    fn those_of_a_first_one_that_waits_itself_wait_with_it() {
        let mut fragments = Fragments::new(1);
        fragments.note(&datagram(1), &piece(0, 64, true), Fate::AwaitHeld, 100);
        assert_eq!(fragments.fate(&datagram(1), &LATER, 100 + TICKS_PER_SECOND), Fate::AwaitHeld);
        assert_eq!(fragments.fate(&datagram(1), &LATER, 100 + HELD_TICKS), Fate::GiveBack);
    }

    #[test]
    fn fragments_without_a_first_one_push_nobody_out() {
        let mut fragments = Fragments::new(1);
        for id in 0..40 {
            fragments.note(&datagram(id), &piece(0, 64, true), EXECUTE, 0);
        }
        for id in 1_000..100_000 {
            fragments.fate(&datagram(id), &LATER, 1);
        }
        assert!((0..40).all(|id| fragments.fate(&datagram(id), &LATER, 1) == EXECUTE));
    }

    #[test]
    fn under_a_flood_the_oldest_are_forgotten() {
        let mut fragments = Fragments::new(1);
        for id in 0..100_000 {
            fragments.note(&datagram(id), &piece(0, 64, true), EXECUTE, id / 1000);
            assert_eq!(fragments.fate(&datagram(id), &LATER, id / 1000), EXECUTE);
        }
        let known = (0..100_000).filter(|&id| fragments.fate(&datagram(id), &LATER, 100) == EXECUTE).count();
        assert!(known < DATAGRAMS, "{known}");
    }
}
