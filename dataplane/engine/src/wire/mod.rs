//! Parsing of received frames: bytes become a view with offsets, or a reason why not.
//!
//! The limits are those of the `uplink` program in `xdp-redirect/src/bpf/parse.h`: both must agree on what is a flow's packet.

mod icmp;
mod ipv4;

pub use icmp::{ICMP, Ping, Quote, swap_ports};
pub(crate) use ipv4::{DONT_FRAGMENT, FRAGMENT_OFFSET_MASK, HEADER_BYTES, MORE_FRAGMENTS};
pub use ipv4::{Ipv4Flow, Part, SCTP, TCP, UDP};

/// Ethernet header without tags.
pub const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// Tags that we look behind: one, or an outer and an inner one (IEEE 802.1ad).
const VLAN_TAGS_MAX: usize = 2;

/// What a frame is to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A TCP segment, UDP datagram or SCTP packet over IPv4, or the first fragment of a TCP segment or UDP datagram.
    Flow(Ipv4Flow),
    /// A later fragment.
    Later(Ipv4Flow),
    /// A later fragment that lies on the L4 header of the first one.
    Overlap,
    /// An ICMP error about one.
    Quote(Quote),
    /// An ICMP echo request.
    Ping(Ping),
    /// ARP; offset of its header.
    Arp(usize),
    /// Well-formed as far as we look, and none of the above (another ICMP message or a fragment of one, IPv6, …).
    Other,
    /// A header is truncated or lies about its length.
    Malformed,
}

/// Parses a frame from its Ethernet header on.
#[inline]
pub fn parse(frame: &[u8]) -> Parsed {
    match find_l3(frame) {
        None => Parsed::Malformed,
        Some((ETHERTYPE_IPV4, l3)) => ipv4::parse(frame, l3),
        Some((ETHERTYPE_ARP, l3)) => Parsed::Arp(l3),
        Some(_) => Parsed::Other,
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

/// Destination of an IPv4 packet, however malformed else.
#[cold]
pub(crate) fn ipv4_destination(frame: &[u8]) -> Option<u32> {
    read_word(frame, ipv4_offset(frame)? + 16)
}

/// A big-endian `u16`, as values on the wire are.
#[inline(always)]
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([b[0], b[1]]))
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
