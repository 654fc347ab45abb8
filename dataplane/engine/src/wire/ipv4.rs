//! IPv4 with TCP or UDP (RFC 791, RFC 9293, RFC 768).

use super::{Parsed, icmp, read_u16, read_word};
use crate::flow::Tuple;

/// IP protocol numbers.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub(super) const HEADER_BYTES: usize = 20;
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
/// More-fragments bit and fragment offset.
const FRAGMENT_MASK: u16 = 0x3fff;

/// Offsets and values of a TCP or UDP packet; all offsets lie within the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Flow {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the TCP or UDP header.
    pub l4: usize,
    /// Offset of the byte behind the packet: what follows is padding.
    pub end: usize,
    pub protocol: u8,
    pub ttl: u8,
    /// Flags of the TCP header, 0 for UDP.
    pub tcp_flags: u8,
    pub tuple: Tuple,
}

impl Ipv4Flow {
    /// Offset of the L4 checksum.
    #[inline(always)]
    pub fn check_offset(&self) -> usize {
        self.l4 + if self.protocol == TCP { 16 } else { 6 }
    }

    /// The client opens a connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        const SYN_ACK: u8 = 0x12;
        self.protocol == TCP && self.tcp_flags & SYN_ACK == 0x02
    }

    /// Bytes of the IP packet.
    #[inline(always)]
    pub fn bytes(&self) -> usize {
        self.end - self.l3
    }
}

/// Parses the packet whose IP header stands at `l3`.
#[inline]
pub(super) fn parse(frame: &[u8], l3: usize) -> Parsed {
    let Some(header) = frame.get(l3..l3 + HEADER_BYTES) else { return Parsed::Malformed };
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let total_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_bytes < HEADER_BYTES || total_bytes < header_bytes || l3 + total_bytes > frame.len() {
        return Parsed::Malformed;
    }
    let (protocol, fragment) = (header[9], u16::from_be_bytes([header[6], header[7]]));
    let (l4, end) = (l3 + header_bytes, l3 + total_bytes);
    if fragment & FRAGMENT_MASK != 0 {
        return Parsed::Other;
    }
    match protocol {
        TCP | UDP => {}
        icmp::ICMP => return icmp::parse(frame, l3, l4, end),
        _ => return Parsed::Other,
    }
    let Some(tcp_flags) = l4_flags(&frame[l4..end], protocol) else { return Parsed::Malformed };
    let (Some(saddr), Some(daddr), Some(ports)) = (read_word(frame, l3 + 12), read_word(frame, l3 + 16), read_word(frame, l4)) else {
        return Parsed::Malformed;
    };
    Parsed::Flow(Ipv4Flow { l3, l4, end, protocol, ttl: header[8], tcp_flags, tuple: Tuple { saddr, daddr, ports } })
}

/// TCP flags (0 for UDP) of a segment whose lengths are right.
#[inline(always)]
fn l4_flags(segment: &[u8], protocol: u8) -> Option<u8> {
    if protocol == TCP {
        let data_offset = usize::from(segment.get(12)? >> 4) * 4;
        (segment.len() >= TCP_HEADER_BYTES && (TCP_HEADER_BYTES..=segment.len()).contains(&data_offset)).then(|| segment[13])
    } else {
        let length = usize::from(read_u16(segment, 4)?);
        (UDP_HEADER_BYTES..=segment.len()).contains(&length).then_some(0)
    }
}
