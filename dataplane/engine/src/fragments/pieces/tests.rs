use proptest::prelude::*;

use super::*;
use crate::flow::Tuple;
use crate::wire::{Part, UDP};

/// Bytes `from..to` of a datagram.
fn piece(from: usize, to: usize, has_more: bool) -> IpFlow {
    let (l4, offset) = (34, (from / 8) as u16);
    let (part, tuple) = (Part::Later, Tuple { saddr: 1, daddr: 2, ports: 0 });
    IpFlow { l3: 14, l4, end: l4 + to - from, protocol: UDP, ttl: 64, tcp_flags: 0, part, id: 0, offset, has_more, tuple }
}

fn with(pieces: &[IpFlow]) -> Pieces {
    let mut known = Pieces::default();
    for piece in pieces {
        assert_eq!(known.place(piece), Place::Free, "{piece:?}");
        known.add(piece);
    }
    known
}

#[test]
fn a_piece_lies_on_others_or_does_not() {
    let known = with(&[piece(64, 128, true), piece(128, 160, true), piece(200, 240, true)]);
    for (from, to, place) in [
        (0, 64, Place::Free),
        (160, 200, Place::Free),
        (240, 248, Place::Free),
        (64, 128, Place::Taken),
        (72, 80, Place::Taken),
        (64, 160, Place::Taken),
        (200, 240, Place::Taken),
        (56, 72, Place::Contradiction),
        (152, 168, Place::Contradiction),
        (152, 208, Place::Contradiction),
        (0, 400, Place::Contradiction),
        // Empty, or not of whole units.
        (0, 0, Place::Contradiction),
        (0, 60, Place::Contradiction),
    ] {
        assert_eq!(known.place(&piece(from, to, true)), place, "{from}..{to}");
    }
}

/// `ip_frag_queue` looks at this first.
#[test]
fn there_is_one_end() {
    let known = with(&[piece(0, 64, true), piece(64, 100, false)]);
    for (from, to, has_more) in [(104, 112, true), (96, 104, true), (64, 99, false), (64, 101, false), (32, 64, false), (104, 105, false)] {
        assert_eq!(known.place(&piece(from, to, has_more)), Place::Contradiction, "{from}..{to}");
    }
    assert_eq!(known.place(&piece(64, 100, false)), Place::Taken);
    let known = with(&[piece(64, 128, true)]);
    assert_eq!(known.place(&piece(0, 60, false)), Place::Contradiction, "it ends before what has come");
    assert_eq!(known.place(&piece(128, 129, false)), Place::Free);
    // As large as can be, and larger.
    assert_eq!(with(&[piece(65_528, 65_535, false)]).place(&piece(0, 65_528, true)), Place::Free);
    assert_eq!(known.place(&piece(65_528, 65_536, false)), Place::Contradiction);
}

#[test]
fn more_gaps_than_are_remembered_are_too_many() {
    let mut known = with(&(0..RANGES).map(|number| piece(number * 16, number * 16 + 8, true)).collect::<Vec<_>>());
    assert_eq!(known.place(&piece(RANGES * 16, RANGES * 16 + 8, true)), Place::Contradiction);
    assert_eq!(known.place(&piece(8, 16, true)), Place::Free);
    known.add(&piece(8, 16, true));
    assert_eq!(known.place(&piece(RANGES * 16, RANGES * 16 + 8, true)), Place::Free, "there is room again");
}

proptest! {
    /// As a set of units has it. Honest pieces are free in any order, and then taken; with the last of them all has come.
    #[test]
    fn pieces_are_placed_as_in_a_set(
        total in 9usize..65_536,
        unit in 160usize..1_200,
        dice in proptest::collection::vec(any::<u64>(), 60),
        strays in proptest::collection::vec((0usize..8_192, 1usize..400), 0..8),
    ) {
        let unit = unit * 8;
        let mut honest: Vec<_> =
            (0..total).step_by(unit).map(|from| piece(from, total.min(from + unit), from + unit < total)).collect();
        honest.sort_by_key(|piece| dice[usize::from(piece.offset) * 8 / unit]);
        let mut known = Pieces::default();
        let mut set = vec![false; 8_192];
        for (number, piece) in honest.iter().enumerate() {
            prop_assert!(!known.is_complete());
            prop_assert_eq!(known.place(piece), Place::Free);
            known.add(piece);
            prop_assert_eq!(known.place(piece), Place::Taken);
            let first = usize::from(piece.offset);
            set[first..first + (piece.end - piece.l4).div_ceil(8)].fill(true);
            for &(first, units) in &strays {
                let behind = (first + units).min(8_191);
                if first >= behind || number + 1 == honest.len() {
                    continue;
                }
                let stray = self::piece(first * 8, behind * 8, true);
                let (on, off) = (set[first..behind].iter().any(|on| *on), set[first..behind].iter().any(|on| !*on));
                let end = known.end.map_or(65_536, usize::from);
                let place = match (behind * 8 > end, on, off) {
                    (true, ..) | (_, true, true) => Place::Contradiction,
                    (_, true, false) => Place::Taken,
                    _ => Place::Free,
                };
                prop_assert_eq!(known.place(&stray), place, "{}..{}", first, behind);
            }
        }
        prop_assert!(known.is_complete());
    }
}
