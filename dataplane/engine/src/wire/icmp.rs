//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors, whose quoted packet tells which flow they are about, and pings.

use super::ipv4::FRAGMENT_OFFSET_MASK;
use super::ipv6::{self, Upper};
use super::{Parsed, SCTP, TCP, UDP, read_u16, read_word};
use crate::family::{Family, V4, V6};
use crate::flow::Tuple;

pub(super) const HEADER_BYTES: usize = 8;
const ECHO: u8 = 8;
const DESTINATION_UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// Of ICMPv6: destination unreachable, packet too big, time exceeded, parameter problem. (RFC 4443 §2.1: 0 to 127 are errors.)
const ERRORS_V6: std::ops::RangeInclusive<u8> = 1..=4;
const ECHO_V6: u8 = 128;
const NEIGHBOR_SOLICITATION: u8 = 135;

/// Offsets and values of an ICMP error about a TCP segment, UDP datagram or SCTP packet, as much of it as is quoted; all offsets lie within the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote<F: Family = V4> {
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
    pub tuple: Tuple<F>,
}

impl<F: Family> Quote<F> {
    /// Bytes of the IP packet.
    pub fn bytes(&self) -> usize {
        self.end - self.l3
    }
}

/// An echo request without IP options; all offsets lie within the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping<F: Family = V4> {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the byte behind the packet.
    pub end: usize,
    /// Addresses; it has no ports.
    pub tuple: Tuple<F>,
}

/// Reads the ICMP message at `icmp`, in a packet whose lengths were checked.
#[cold]
pub(super) fn parse(frame: &[u8], l3: usize, icmp: usize, end: usize) -> Parsed<V4> {
    let message = frame.get(..end).unwrap_or_default();
    let ping = || ping(message, l3, icmp, ECHO).map(Parsed::Ping);
    quote(message, l3, icmp).map(Parsed::Quote).or_else(ping).unwrap_or(Parsed::Other)
}

/// Likewise the ICMPv6 message at `icmp` of a packet that ends with `packet`.
#[cold]
pub(super) fn parse_v6(packet: &[u8], l3: usize, icmp: usize) -> Parsed<V6> {
    if icmp == l3 + V6::HEADER_BYTES && packet.get(icmp) == Some(&NEIGHBOR_SOLICITATION) {
        return Parsed::Solicitation { l3, end: packet.len() };
    }
    let ping = || ping(packet, l3, icmp, ECHO_V6).map(Parsed::Ping);
    quote_v6(packet, l3, icmp).map(Parsed::Quote).or_else(ping).unwrap_or(Parsed::Other)
}

/// Source and destination of the IP header at `l3`.
fn addresses<F: Family>(packet: &[u8], l3: usize) -> Option<(F::Address, F::Address)> {
    Some((F::read(packet, l3 + F::ADDRESSES)?, F::read(packet, l3 + F::ADDRESSES + F::ADDRESS_BYTES)?))
}

fn ping<F: Family>(message: &[u8], l3: usize, icmp: usize, echo: u8) -> Option<Ping<F>> {
    let &[kind, 0, ..] = message.get(icmp..icmp + HEADER_BYTES)? else { return None };
    let (saddr, daddr) = addresses::<F>(message, l3)?;
    let is_ping = kind == echo && icmp == l3 + F::HEADER_BYTES;
    is_ping.then_some(Ping { l3, end: message.len(), tuple: Tuple { saddr, daddr, ports: 0 } })
}

/// Redirects are no errors of a flow: they are for the router of the quoted packet's sender, who is not who we would send them to.
fn quote(message: &[u8], l3: usize, icmp: usize) -> Option<Quote<V4>> {
    if !matches!(message.get(icmp)?, &(DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)) {
        return None;
    }
    let quoted_l3 = icmp + HEADER_BYTES;
    let header = message.get(quoted_l3..quoted_l3 + V4::HEADER_BYTES)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if header[0] >> 4 != 4 || header_bytes < V4::HEADER_BYTES || fragment & FRAGMENT_OFFSET_MASK != 0 {
        return None;
    }
    let ttl = *message.get(l3 + 8)?;
    quoted(message, Quoted { l3, icmp, ttl, quoted_l3, quoted_l4: quoted_l3 + header_bytes, protocol: header[9] })
}

fn quote_v6(message: &[u8], l3: usize, icmp: usize) -> Option<Quote<V6>> {
    if !ERRORS_V6.contains(message.get(icmp)?) {
        return None;
    }
    let quoted_l3 = icmp + HEADER_BYTES;
    let header = message.get(quoted_l3..quoted_l3 + V6::HEADER_BYTES)?;
    let Upper { protocol, l4, fragment } = ipv6::upper(message, quoted_l3)?;
    if header[0] >> 4 != 6 || fragment.is_some_and(|(_, offset, _)| offset != 0) {
        return None;
    }
    let ttl = *message.get(l3 + 7)?;
    quoted(message, Quoted { l3, icmp, ttl, quoted_l3, quoted_l4: l4, protocol })
}

/// Where the parts of an error stand.
struct Quoted {
    l3: usize,
    icmp: usize,
    ttl: u8,
    quoted_l3: usize,
    quoted_l4: usize,
    protocol: u8,
}

fn quoted<F: Family>(message: &[u8], at: Quoted) -> Option<Quote<F>> {
    let Quoted { l3, icmp, ttl, quoted_l3, quoted_l4, protocol } = at;
    let quoted_check = match protocol {
        TCP => Some(quoted_l4 + 16),
        UDP => Some(quoted_l4 + 6),
        // Who gets the error finds its association by ports and tag; of the quoted packet there is seldom enough to check its sum.
        SCTP => None,
        _ => return None,
    };
    let (saddr, daddr) = addresses::<F>(message, quoted_l3)?;
    // It is for the sender of what it quotes, or somebody made it up.
    if addresses::<F>(message, l3)?.1 != saddr {
        return None;
    }
    let ports = swap_ports(read_word(message, quoted_l4)?);
    Some(Quote {
        l3,
        icmp,
        end: message.len(),
        ttl,
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
