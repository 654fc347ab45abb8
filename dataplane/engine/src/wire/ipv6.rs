//! IPv6 and its extension headers (RFC 8200).

use super::{IpFlow, Parsed, Part, SCTP, TCP, UDP, icmp};
use crate::family::{Family, V6};
use crate::flow::Tuple;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// More than any station sends: RFC 8200 §4.1 recommends each kind once.
const EXTENSIONS_MAX: usize = 6;
const FRAGMENT_BYTES: usize = 8;

/// What stands behind the extension headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upper {
    pub protocol: u8,
    /// Offset of the upper-layer header.
    pub l4: usize,
    /// Fields of the fragment header, if there is one: identification, offset in units of eight bytes, more follow.
    pub fragment: Option<(u32, u16, bool)>,
}

/// Walks over the extension headers of the packet at `l3`. `None`: one that we do not know, or that is cut off, or too many of them, or a
/// router on the way has still something to do. With the header of a fragment the walk ends: behind a later one's stands no header, and in
/// front of all of them there are the same, so what begins with more headers would be a datagram of which nobody knows the protocol.
#[inline]
pub(super) fn upper(packet: &[u8], l3: usize) -> Option<Upper> {
    let (protocol, l4) = (*packet.get(l3 + 6)?, l3 + V6::HEADER_BYTES);
    if matches!(protocol, TCP | UDP | V6::ICMP | SCTP) {
        return Some(Upper { protocol, l4, fragment: None });
    }
    walk(packet, protocol, l4)
}

#[cold]
fn walk(packet: &[u8], mut protocol: u8, mut l4: usize) -> Option<Upper> {
    let mut fragment = None;
    for _ in 0..=EXTENSIONS_MAX {
        let (next, bytes) = match protocol {
            HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING => {
                let header = packet.get(l4..l4 + 8)?;
                if protocol == ROUTING && header[3] != 0 {
                    return None;
                }
                (header[0], (usize::from(header[1]) + 1) * 8)
            }
            FRAGMENT if fragment.is_none() => {
                let header = packet.get(l4..l4 + FRAGMENT_BYTES)?;
                let place = u16::from_be_bytes([header[2], header[3]]);
                let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                let (offset, has_more) = (place >> 3, place & 1 != 0);
                fragment = Some((id, offset, has_more));
                if offset != 0 || has_more {
                    return Some(Upper { protocol: header[0], l4: l4 + FRAGMENT_BYTES, fragment });
                }
                (header[0], FRAGMENT_BYTES)
            }
            TCP | UDP | V6::ICMP | SCTP => return Some(Upper { protocol, l4, fragment }),
            _ => return None,
        };
        (protocol, l4) = (next, l4 + bytes);
    }
    None
}

/// Parses the packet whose IP header stands at `l3`.
#[inline]
pub(super) fn parse(frame: &[u8], l3: usize) -> Parsed<V6> {
    let Some(header) = frame.get(l3..l3 + V6::HEADER_BYTES) else { return Parsed::Malformed };
    let end = l3 + V6::HEADER_BYTES + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || end > frame.len() {
        return Parsed::Malformed;
    }
    let packet = &frame[..end];
    let Some(Upper { protocol, l4, fragment }) = upper(packet, l3) else { return Parsed::Other };
    let (id, offset, has_more) = fragment.unwrap_or_default();
    let part = match (has_more, offset) {
        // With a fragment header, too (RFC 6946).
        (false, 0) => Part::Whole,
        (true, 0) => Part::First,
        _ => Part::Later,
    };
    match protocol {
        TCP | UDP => {}
        // As in IPv4.
        SCTP if part == Part::Whole => {}
        V6::ICMP if part == Part::Whole => return icmp::parse_v6(packet, l3, l4),
        _ => return Parsed::Other,
    }
    let (Some(saddr), Some(daddr)) = (V6::read(frame, l3 + 8), V6::read(frame, l3 + 24)) else { return Parsed::Malformed };
    let flow =
        IpFlow { l3, l4, end, protocol, ttl: header[7], tcp_flags: 0, part, id, offset, has_more, tuple: Tuple { saddr, daddr, ports: 0 } };
    flow.with_l4(frame)
}

#[cfg(test)]
mod tests;
