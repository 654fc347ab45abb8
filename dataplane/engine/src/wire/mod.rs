//! Parsing of received frames: bytes become a view with offsets, or a reason why not.
//!
//! The limits are those of the `uplink` program in `xdp-redirect/src/bpf/parse.h`: both must agree on what is a flow's packet.

mod flow;
mod icmp;
mod ipv4;
mod ipv6;

use std::net::IpAddr;

use crate::family::{Family, V4, V6};

pub use flow::{IpFlow, Part, SCTP, TCP, UDP};
pub use icmp::{Ping, Quote, swap_ports};
pub(crate) use ipv4::{DONT_FRAGMENT, FRAGMENT_OFFSET_MASK, MORE_FRAGMENTS};

/// Ethernet header without tags.
pub const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// Tags that we look behind: one, or an outer and an inner one (IEEE 802.1ad).
const VLAN_TAGS_MAX: usize = 2;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    V4(Parsed<V4>),
    V6(Parsed<V6>),
    /// ARP; offset of its header.
    Arp(usize),
    Other,
    /// The Ethernet header is truncated.
    Malformed,
}

/// What an IP packet is to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<F: Family = V4> {
    /// A TCP segment, UDP datagram or SCTP packet, or the first fragment of a TCP segment or UDP datagram.
    Flow(IpFlow<F>),
    /// A later fragment.
    Later(IpFlow<F>),
    /// A later fragment that lies on the L4 header of the first one.
    Overlap,
    /// An ICMP error about one.
    Quote(Quote<F>),
    /// An ICMP echo request.
    Ping(Ping<F>),
    /// A neighbor solicitation (RFC 4861 §4.3), of IPv6 only: offsets of the IP header and of the byte behind the packet.
    Solicitation { l3: usize, end: usize },
    /// Well-formed as far as we look, and none of the above (another ICMP message or a fragment of one, an extension header that we do not
    /// know, …).
    Other,
    /// A header is truncated or lies about its length.
    Malformed,
}

/// Parses a frame from its Ethernet header on.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Frame {
    match find_l3(frame) {
        None => Frame::Malformed,
        Some((ETHERTYPE_IPV4, l3)) => Frame::V4(ipv4::parse(frame, l3)),
        Some((ETHERTYPE_IPV6, l3)) => Frame::V6(ipv6::parse(frame, l3)),
        Some((ETHERTYPE_ARP, l3)) => Frame::Arp(l3),
        Some(_) => Frame::Other,
    }
}

/// EtherType and offset of what stands behind the tags.
#[inline(always)]
fn find_l3(frame: &[u8]) -> Option<(u16, usize)> {
    let mut offset = ETHERNET_BYTES - 2;
    for _ in 0..VLAN_TAGS_MAX {
        match read_u16(frame, offset)? {
            ETHERTYPE_VLAN | ETHERTYPE_QINQ => offset += 4,
            ethertype => return Some((ethertype, offset + 2)),
        }
    }
    Some((read_u16(frame, offset)?, offset + 2))
}

/// Where the header of an IPv4 packet is, however malformed else.
pub(crate) fn ipv4_offset(frame: &[u8]) -> Option<usize> {
    match find_l3(frame)? {
        (ETHERTYPE_IPV4, l3) => Some(l3),
        _ => None,
    }
}

/// Destination of an IP packet, however malformed else.
#[cold]
pub(crate) fn destination(frame: &[u8]) -> Option<IpAddr> {
    match find_l3(frame)? {
        (ETHERTYPE_IPV4, l3) => Some(V4::to_ip(V4::read(frame, l3 + 16)?).into()),
        (ETHERTYPE_IPV6, l3) => Some(V6::to_ip(V6::read(frame, l3 + 24)?).into()),
        _ => None,
    }
}

/// Whether a frame ends where its IP packet says; true of frames of other protocols. False of what was put together wrongly.
#[cold]
pub fn ends_with_packet(frame: &[u8]) -> bool {
    let end = match find_l3(frame) {
        Some((ETHERTYPE_IPV4, l3)) => read_u16(frame, l3 + 2).map(|total| l3 + usize::from(total)),
        Some((ETHERTYPE_IPV6, l3)) => read_u16(frame, l3 + 4).map(|payload| l3 + V6::HEADER_BYTES + usize::from(payload)),
        Some(_) => return true,
        None => None,
    };
    end == Some(frame.len())
}

/// A big-endian `u16`, as values on the wire are.
#[inline(always)]
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([b[0], b[1]]))
}

/// A big-endian `u32`.
#[inline(always)]
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be(read_word(bytes, at)?))
}

/// Four bytes as they stand in memory: the form of addresses and port pairs in flow keys.
#[inline(always)]
pub(crate) fn read_word(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// The source MAC of a frame; zero if the frame is shorter than its header.
pub(crate) fn source_mac(frame: &[u8]) -> [u8; 6] {
    frame.get(6..12).and_then(|mac| mac.try_into().ok()).unwrap_or_default()
}

/// The destination MAC of a frame; zero if the frame is shorter than its header.
pub(crate) fn destination_mac(frame: &[u8]) -> [u8; 6] {
    frame.get(..6).and_then(|mac| mac.try_into().ok()).unwrap_or_default()
}
