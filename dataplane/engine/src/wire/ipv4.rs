//! IPv4 with TCP, UDP or SCTP (RFC 791, RFC 9293, RFC 768, RFC 9260).

use super::{Parsed, icmp, read_u16, read_word};
use crate::flow::Tuple;

/// IP protocol numbers.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// Without options.
pub(crate) const HEADER_BYTES: usize = 20;
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const SCTP_HEADER_BYTES: usize = 12;
/// Of the field of flags and fragment offset (RFC 791 §3.1).
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
pub(crate) const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

/// Which part of its datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// The first fragment, with the L4 header.
    First,
    /// A fragment without it: only the first one tells to which flow it belongs.
    Later,
}

/// Offsets and values of a TCP, UDP or SCTP packet or of a fragment of one; all offsets lie within the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Flow {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the L4 header; of what stands in its place in a later fragment.
    pub l4: usize,
    /// Offset of the byte behind the packet: what follows is padding.
    pub end: usize,
    pub protocol: u8,
    pub ttl: u8,
    /// Flags of the TCP header, and what means the same in SCTP; 0 for UDP and in a later fragment.
    pub tcp_flags: u8,
    pub part: Part,
    /// Identification (RFC 791 §3.1), the same in all fragments of a datagram.
    pub id: u16,
    /// Where in its datagram it is, in units of eight bytes, and whether more follow.
    pub offset: u16,
    pub has_more: bool,
    /// Without ports in a later fragment.
    pub tuple: Tuple,
}

impl Ipv4Flow {
    /// Offset of the L4 checksum.
    #[inline(always)]
    pub fn check_offset(&self) -> usize {
        self.l4
            + match self.protocol {
                TCP => 16,
                UDP => 6,
                _ => 8,
            }
    }

    /// The client opens a connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        const SYN_ACK: u8 = 0x12;
        self.protocol != UDP && self.tcp_flags & SYN_ACK == 0x02
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
        icmp::ICMP if part == Part::Whole => return icmp::parse(frame, l3, l4, end),
        _ => return Parsed::Other,
    }
    let (Some(saddr), Some(daddr)) = (read_word(frame, l3 + 12), read_word(frame, l3 + 16)) else { return Parsed::Malformed };
    let mut flow = Ipv4Flow {
        l3,
        l4,
        end,
        protocol,
        ttl: header[8],
        tcp_flags: 0,
        part,
        id: u16::from_be_bytes([header[4], header[5]]),
        offset,
        has_more,
        tuple: Tuple { saddr, daddr, ports: 0 },
    };
    if part == Part::Later {
        // One that overwrites the header of the first would lead past whoever judged that (RFC 1858 §4, RFC 3128).
        return if usize::from(offset) * 8 < header_bytes_of(protocol) { Parsed::Overlap } else { Parsed::Later(flow) };
    }
    let (Some(tcp_flags), Some(ports)) = (l4_flags(&frame[l4..end], protocol, part), read_word(frame, l4)) else {
        return Parsed::Malformed;
    };
    flow.tcp_flags = tcp_flags;
    flow.tuple.ports = ports;
    Parsed::Flow(flow)
}

/// Bytes of the L4 header without options.
fn header_bytes_of(protocol: u8) -> usize {
    if protocol == TCP { TCP_HEADER_BYTES } else { UDP_HEADER_BYTES }
}

/// TCP flags (0 for UDP) of a segment whose lengths are right. The first fragment has to hold the whole header.
#[inline(always)]
fn l4_flags(segment: &[u8], protocol: u8, part: Part) -> Option<u8> {
    if protocol == TCP {
        let data_offset = usize::from(segment.get(12)? >> 4) * 4;
        (segment.len() >= TCP_HEADER_BYTES && (TCP_HEADER_BYTES..=segment.len()).contains(&data_offset)).then(|| segment[13])
    } else if protocol == SCTP {
        (segment.len() >= SCTP_HEADER_BYTES).then(|| sctp_flags(segment.get(SCTP_HEADER_BYTES).copied()))
    } else {
        let length = usize::from(read_u16(segment, 4)?);
        // Of a fragment it is the length of the whole datagram.
        let fits = length <= segment.len() || part == Part::First;
        (segment.len() >= UDP_HEADER_BYTES && length >= UDP_HEADER_BYTES && fits).then_some(0)
    }
}

/// What the type of an SCTP packet's first chunk says of the association (RFC 9260 §3.2), as TCP's flags would; the same in `parse.h`.
#[cold]
fn sctp_flags(chunk: Option<u8>) -> u8 {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    match chunk {
        Some(1) => SYN,           // INIT
        Some(2) => SYN | ACK,     // INIT ACK
        Some(6) => RST,           // ABORT
        Some(7 | 8) => FIN | ACK, // SHUTDOWN, SHUTDOWN ACK
        _ => ACK,
    }
}
