//! IPv4 (RFC 791).

use super::{IpFlow, Parsed, Part, SCTP, TCP, UDP, icmp};
use crate::family::{Family, V4};
use crate::flow::Tuple;

/// Of the field of flags and fragment offset (RFC 791 §3.1).
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
pub(crate) const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

/// Parses the packet whose IP header stands at `l3`.
#[inline(always)]
pub(super) fn parse(frame: &[u8], l3: usize) -> Parsed<V4> {
    let Some(header) = frame.get(l3..l3 + V4::HEADER_BYTES) else { return Parsed::Malformed };
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let total_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_bytes < V4::HEADER_BYTES || total_bytes < header_bytes || l3 + total_bytes > frame.len() {
        return Parsed::Malformed;
    }
    let (protocol, fragment) = (header[9], u16::from_be_bytes([header[6], header[7]]));
    let (l4, end) = (l3 + header_bytes, l3 + total_bytes);
    let (has_more, offset) = (fragment & MORE_FRAGMENTS != 0, fragment & FRAGMENT_OFFSET_MASK);
    let part = match (has_more, offset) {
        (false, 0) => Part::Whole,
        (true, 0) => Part::First,
        _ => Part::Later,
    };
    match protocol {
        TCP | UDP => {}
        // Its checksum covers the whole packet, which a fragment alone cannot tell: it is not for us.
        SCTP if part == Part::Whole => {}
        V4::ICMP if part == Part::Whole => return icmp::parse(frame, l3, l4, end),
        _ => return Parsed::Other,
    }
    let (Some(saddr), Some(daddr)) = (V4::read(frame, l3 + 12), V4::read(frame, l3 + 16)) else { return Parsed::Malformed };
    let flow = IpFlow {
        l3,
        l4,
        end,
        protocol,
        ttl: header[8],
        tcp_flags: 0,
        part,
        id: u16::from_be_bytes([header[4], header[5]]).into(),
        offset,
        has_more,
        tuple: Tuple { saddr, daddr, ports: 0 },
    };
    flow.with_l4(frame)
}
