//! Which parts of a datagram have come, so that none comes over another (RFC 5722, RFC 8200 §4.5).

use crate::family::Family;
use crate::wire::IpFlow;

/// Ranges that are known of a datagram. In any order, the largest in pieces of 1 280 bytes: 54, of which every other one may come first.
/// The same in `fragments.h`.
const RANGES: usize = 28;

/// What a piece is to those that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where nothing was.
    Free,
    /// Wholly on what has come: a duplicate, or as good as one.
    Taken,
    /// Partly on what has come; or it contradicts others about where the datagram ends; or there are more gaps than we remember.
    Contradiction,
}

/// In units of eight bytes, behind the IP headers. One that is empty is not in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Range {
    first: u16,
    behind: u16,
}

/// The parts of a datagram. A range is what came without a gap, in no order among them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pieces {
    ranges: [Range; RANGES],
    /// Bytes behind the IP headers, once the last fragment has come.
    end: Option<u16>,
}

/// Of one fragment.
#[derive(Clone, Copy)]
struct Piece {
    range: Range,
    end: u16,
    is_last: bool,
}

impl Piece {
    /// `None` of one that is empty, or that ends within a unit though others follow. Parsing saw to it that no datagram is too large.
    fn of<F: Family>(flow: &IpFlow<F>) -> Option<Piece> {
        let bytes = u16::try_from(flow.end - flow.l4).ok()?;
        let end = flow.offset.checked_mul(8)?.checked_add(bytes)?;
        let is_piece = bytes > 0 && (!flow.has_more || bytes.is_multiple_of(8));
        let range = Range { first: flow.offset, behind: end.div_ceil(8) };
        is_piece.then_some(Piece { range, end, is_last: !flow.has_more })
    }
}

impl Pieces {
    /// As the kernel's `inet_frag_queue_insert` and `ip_frag_queue` have it (net/ipv4/inet_fragment.c, ip_fragment.c), which drop the
    /// second of two duplicates, and all of a datagram with a contradiction.
    pub fn place<F: Family>(&self, flow: &IpFlow<F>) -> Place {
        let Some(piece) = Piece::of(flow) else { return Place::Contradiction };
        let Range { first, behind } = piece.range;
        if self.end.is_some_and(|end| piece.end > end || piece.is_last && piece.end != end)
            || piece.is_last && self.ranges.iter().any(|range| range.behind > behind)
        {
            return Place::Contradiction;
        }
        if let Some(range) = self.ranges.iter().find(|range| first < range.behind && range.first < behind) {
            return if range.first <= first && behind <= range.behind { Place::Taken } else { Place::Contradiction };
        }
        let has_room = self.ranges.iter().any(|range| range.behind == 0 || range.behind == first || range.first == behind);
        if has_room { Place::Free } else { Place::Contradiction }
    }

    /// Notes a piece that is free to come; of others nothing.
    pub fn add<F: Family>(&mut self, flow: &IpFlow<F>) {
        let (Place::Free, Some(mut piece)) = (self.place(flow), Piece::of(flow)) else { return };
        if piece.is_last {
            self.end = Some(piece.end);
        }
        for range in self.ranges.iter_mut().filter(|range| range.behind > 0) {
            if range.behind == piece.range.first {
                piece.range.first = std::mem::take(range).first;
            } else if range.first == piece.range.behind {
                piece.range.behind = std::mem::take(range).behind;
            }
        }
        if let Some(range) = self.ranges.iter_mut().find(|range| range.behind == 0) {
            *range = piece.range;
        }
    }

    /// Whether nothing has come.
    pub fn is_empty(&self) -> bool {
        self.ranges.iter().all(|range| range.behind == 0)
    }

    /// Whether all has come.
    pub fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.ranges.contains(&Range { first: 0, behind: end.div_ceil(8) }))
    }
}

#[cfg(test)]
mod tests;
