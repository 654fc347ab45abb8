//! ICMP (RFC 792): errors, whose quoted packet tells which flow they are about, and pings.

use super::ipv4::{FRAGMENT_OFFSET_MASK, HEADER_BYTES, SCTP, TCP, UDP};
use super::{Parsed, read_u16, read_word};
use crate::flow::Tuple;

/// IP protocol number.
pub const ICMP: u8 = 1;
const ICMP_HEADER_BYTES: usize = 8;
const ECHO: u8 = 8;
const DESTINATION_UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// Offsets and values of an ICMP error about a TCP segment, UDP datagram or SCTP packet, as much of it as is quoted; all offsets lie within the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Offset of the IP header of the error itself.
    pub l3: usize,
    /// Offset of the ICMP header.
    pub icmp: usize,
    /// Offset of the byte behind the packet.
    pub end: usize,
    pub ttl: u8,
    /// Offset of the quoted IP header.
    pub quoted_l3: usize,
    /// Offset of the quoted ports.
    pub quoted_l4: usize,
    /// Offset of the quoted L4 checksum, unless it is cut off (RFC 792 asks for the first 8 bytes only) or SCTP's.
    pub quoted_check: Option<usize>,
    /// Of the quoted packet.
    pub protocol: u8,
    /// Of a packet that answers the quoted one: it comes from where the error comes from, and meets the same entry of the flow table.
    pub tuple: Tuple,
}

impl Quote {
    /// Bytes of the IP packet.
    pub fn bytes(&self) -> usize {
        self.end - self.l3
    }
}

/// An echo request without IP options; all offsets lie within the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the byte behind the packet.
    pub end: usize,
    /// Addresses; it has no ports.
    pub tuple: Tuple,
}

/// Reads the ICMP message at `icmp`, in a packet whose lengths were checked.
#[cold]
pub(super) fn parse(frame: &[u8], l3: usize, icmp: usize, end: usize) -> Parsed {
    let message = frame.get(..end).unwrap_or_default();
    let ping = || ping(message, l3, icmp).map(Parsed::Ping);
    quote(message, l3, icmp).map(Parsed::Quote).or_else(ping).unwrap_or(Parsed::Other)
}

fn ping(message: &[u8], l3: usize, icmp: usize) -> Option<Ping> {
    let &[ECHO, 0, ..] = message.get(icmp..icmp + ICMP_HEADER_BYTES)? else { return None };
    let tuple = Tuple { saddr: read_word(message, l3 + 12)?, daddr: read_word(message, l3 + 16)?, ports: 0 };
    (icmp == l3 + HEADER_BYTES).then_some(Ping { l3, end: message.len(), tuple })
}

/// Redirects are no errors of a flow: they are for the router of the quoted packet's sender, who is not who we would send them to.
fn quote(message: &[u8], l3: usize, icmp: usize) -> Option<Quote> {
    if !matches!(message.get(icmp)?, &(DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)) {
        return None;
    }
    let quoted_l3 = icmp + ICMP_HEADER_BYTES;
    let header = message.get(quoted_l3..quoted_l3 + HEADER_BYTES)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if header[0] >> 4 != 4 || header_bytes < HEADER_BYTES || fragment & FRAGMENT_OFFSET_MASK != 0 {
        return None;
    }
    let (protocol, quoted_l4) = (header[9], quoted_l3 + header_bytes);
    let quoted_check = match protocol {
        TCP => Some(quoted_l4 + 16),
        UDP => Some(quoted_l4 + 6),
        // Who gets the error finds its association by ports and tag; of the quoted packet there is seldom enough to check its sum.
        SCTP => None,
        _ => return None,
    };
    let (saddr, daddr) = (read_word(header, 12)?, read_word(header, 16)?);
    // It is for the sender of what it quotes, or somebody made it up.
    if read_word(message, l3 + 16)? != saddr {
        return None;
    }
    let ports = swap_ports(read_word(message, quoted_l4)?);
    Some(Quote {
        l3,
        icmp,
        end: message.len(),
        ttl: message[l3 + 8],
        quoted_l3,
        quoted_l4,
        quoted_check: quoted_check.filter(|&at| read_u16(message, at).is_some()),
        protocol,
        tuple: Tuple { saddr: daddr, daddr: saddr, ports },
    })
}

/// Source and destination port of a packet, as those of one that answers it.
#[inline]
pub fn swap_ports(ports: u32) -> u32 {
    ports.rotate_left(16)
}
