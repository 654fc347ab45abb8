//! TCP, UDP and SCTP packets of either family (RFC 9293, RFC 768, RFC 9260).

use super::{Parsed, read_u16, read_word};
use crate::family::{Family, V4};
use crate::flow::Tuple;

/// IP protocol numbers.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const SCTP_HEADER_BYTES: usize = 12;
/// A fragment that would make its datagram larger is none ("ping of death"; RFC 8200 §4.5).
const DATAGRAM_BYTES_MAX: usize = 65_535;

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
pub struct IpFlow<F: Family = V4> {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the L4 header; of what stands in its place in a later fragment.
    pub l4: usize,
    /// Offset of the byte behind the packet: what follows is padding.
    pub end: usize,
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Flags of the TCP header, and what means the same in SCTP; 0 for UDP and in a later fragment.
    pub tcp_flags: u8,
    pub part: Part,
    /// Identification (RFC 791 §3.1, RFC 8200 §4.5), the same in all fragments of a datagram.
    pub id: u32,
    /// Where in its datagram it is, in units of eight bytes, and whether more follow.
    pub offset: u16,
    pub has_more: bool,
    /// Without ports in a later fragment.
    pub tuple: Tuple<F>,
}

impl<F: Family> IpFlow<F> {
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

    /// Completes a packet whose IP headers were read with what its L4 header says. `frame` holds the packet up to `end`.
    #[inline(always)]
    pub(super) fn with_l4(mut self, frame: &[u8]) -> Parsed<F> {
        if self.part == Part::Later {
            let offset_bytes = usize::from(self.offset) * 8;
            if offset_bytes + (self.end - self.l4) > DATAGRAM_BYTES_MAX {
                return Parsed::Malformed;
            }
            // One that overwrites the header of the first would lead past whoever judged that (RFC 1858 §4, RFC 3128).
            let header_bytes = if self.protocol == TCP { TCP_HEADER_BYTES } else { UDP_HEADER_BYTES };
            return if offset_bytes < header_bytes { Parsed::Overlap } else { Parsed::Later(self) };
        }
        let Some(segment) = frame.get(self.l4..self.end) else { return Parsed::Malformed };
        let (Some(tcp_flags), Some(ports)) = (l4_flags(segment, self.protocol, self.part), read_word(segment, 0)) else {
            return Parsed::Malformed;
        };
        if F::IS_V6 && self.protocol == UDP && segment[6..8] == [0; 2] {
            // RFC 8200 §8.1: a receiver discards it. It is not for us to say so.
            return Parsed::Other;
        }
        self.tcp_flags = tcp_flags;
        self.tuple.ports = ports;
        Parsed::Flow(self)
    }
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
