//! Frames made and checked with etherparse: another implementation than ours.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use etherparse::{
    Ethernet2Header, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket,
    TransportSlice,
};

use crate::extension;
use crate::scratch::{Addresses, End};

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// That of the loopback device, on which the kernel runs programs in tests: what is for another MAC is another host's.
pub const NODE_MAC: [u8; 6] = [0; 6];

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

const ETHERNET_BYTES: usize = 14;

fn ip(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> PacketBuilderStep<IpHeaders> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, NODE_MAC);
    match (src.into(), dst.into()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        (src, dst) => panic!("{src} and {dst} are of two families"),
    }
}

/// A TCP segment with some payload.
pub fn tcp(src: (impl Into<IpAddr>, u16), dst: (impl Into<IpAddr>, u16), flags: u8) -> Vec<u8> {
    segment(src, dst, flags, (7, 9))
}

/// The same with these sequence and acknowledgment numbers.
pub fn segment(src: (impl Into<IpAddr>, u16), dst: (impl Into<IpAddr>, u16), flags: u8, (sequence, acknowledged): (u32, u32)) -> Vec<u8> {
    let builder = ip(src.0, dst.0).tcp(src.1, dst.1, sequence, 1000);
    let builder = if flags & FIN != 0 { builder.fin() } else { builder };
    let builder = if flags & SYN != 0 { builder.syn() } else { builder };
    let builder = if flags & RST != 0 { builder.rst() } else { builder };
    let builder = if flags & ACK != 0 { builder.ack(acknowledged) } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"odd payload").expect("a frame");
    frame
}

pub fn udp(src: (impl Into<IpAddr>, u16), dst: (impl Into<IpAddr>, u16)) -> Vec<u8> {
    datagram(src, dst, b"odd payload")
}

pub fn datagram(src: (impl Into<IpAddr>, u16), dst: (impl Into<IpAddr>, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(src.0, dst.0).udp(src.1, dst.1).write(&mut frame, payload).expect("a frame");
    frame
}

/// Where the UDP checksum of a frame without options stands.
pub fn udp_check<F: Addresses>() -> usize {
    ETHERNET_BYTES + F::HEADER_BYTES + 6
}

/// An SCTP packet (RFC 9260 §3) with one chunk of this type, whose value has so many bytes.
pub fn sctp(src: (impl Into<IpAddr>, u16), dst: (impl Into<IpAddr>, u16), chunk_type: u8, bytes: usize) -> Vec<u8> {
    let mut packet = [&src.1.to_be_bytes()[..], &dst.1.to_be_bytes(), &[1, 2, 3, 4, 0, 0, 0, 0, chunk_type, 0]].concat();
    packet.extend(((bytes + 4) as u16).to_be_bytes());
    packet.extend((0..bytes).map(|number| number as u8));
    let check = crc32c::crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&check);
    let mut frame = Vec::new();
    ip(src.0, dst.0).write(&mut frame, IpNumber::SCTP, &packet).expect("a frame");
    frame
}

fn is_v6(frame: &[u8]) -> bool {
    frame[ETHERNET_BYTES] >> 4 == 6
}

/// The same packet with `options` in its IP header (a multiple of four bytes); of IPv6, with as many in a header of their own.
pub fn with_ip_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    match is_v6(frame) {
        true if options.is_empty() => frame.to_vec(),
        true => extension::with(frame, extension::DESTINATION_OPTIONS, &extension::padding(options.len())),
        false => change_ip(frame, |ip| ip.options = options.try_into().expect("options of a multiple of four bytes")),
    }
}

/// The same packet as a fragment: `offset` in units of eight bytes.
pub fn as_fragment(frame: &[u8], offset: u16, more: bool) -> Vec<u8> {
    fragment(frame, 0, offset, more)
}

fn fragment(frame: &[u8], id: u16, offset: u16, more: bool) -> Vec<u8> {
    if is_v6(frame) {
        return extension::with_fragment(frame, id.into(), offset, more);
    }
    change_ip(frame, |ip| {
        ip.identification = id;
        ip.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
        ip.more_fragments = more;
    })
}

/// The packet cut off behind so many bytes of its frame, with the lengths of the rest.
pub fn cut(frame: &[u8], bytes: usize) -> Vec<u8> {
    let mut cut = frame[..bytes].to_vec();
    if !is_v6(frame) {
        return change_ip(&cut, |_| ());
    }
    extension::set_length(&mut cut);
    cut
}

/// Where the IP headers of a frame end.
pub fn headers_end(frame: &[u8]) -> usize {
    if is_v6(frame) { extension::end(frame) } else { ETHERNET_BYTES + usize::from(frame[ETHERNET_BYTES] & 0xf) * 4 }
}

/// The packet in fragments of so many bytes (a multiple of eight) behind the IP header.
pub fn fragments(frame: &[u8], id: u16, bytes: usize) -> Vec<Vec<u8>> {
    let (head, payload) = frame.split_at(headers_end(frame));
    let pieces = payload.chunks(bytes).enumerate().map(|(number, piece)| {
        let is_last = (number + 1) * bytes >= payload.len();
        fragment(&[head, piece].concat(), id, (number * bytes / 8) as u16, !is_last)
    });
    pieces.collect()
}

/// These bytes of a frame's datagram, whatever they are behind its UDP header, as a fragment.
pub fn piece(frame: &[u8], id: u16, bytes: Range<usize>, has_more: bool) -> Vec<u8> {
    let l4 = headers_end(frame);
    let mut piece = [&frame[..l4], &vec![7; bytes.len()]].concat();
    if bytes.start == 0 {
        piece[l4..l4 + 8].copy_from_slice(&frame[l4..l4 + 8]);
    }
    fragment(&piece, id, (bytes.start / 8) as u16, has_more)
}

/// What a receiver reads of fragments that come in order.
///
/// # Panics
/// Like [`read`].
pub fn reassembled<F: Addresses>(fragments: &[Vec<u8>]) -> Seen<F> {
    let header = |frame: &[u8]| match is_v6(frame) {
        true => (frame[21], frame[22..54].to_vec()),
        false => {
            let (ip, _) = Ipv4Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv4");
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
            (ip.time_to_live, [ip.source, ip.destination].concat())
        }
    };
    let mut whole = fragments[0].clone();
    for fragment in &fragments[1..] {
        assert_eq!(header(fragment), header(&whole), "hop limit and addresses");
        whole.extend(&fragment[headers_end(fragment)..]);
    }
    if is_v6(&whole) {
        let whole = extension::without_fragment(&whole);
        return read(&whole);
    }
    read(&as_fragment(&whole, 0, false))
}

pub fn with_ttl(frame: &[u8], ttl: u8) -> Vec<u8> {
    if !is_v6(frame) {
        return change_ip(frame, |ip| ip.time_to_live = ttl);
    }
    let mut frame = frame.to_vec();
    frame[ETHERNET_BYTES + 7] = ttl;
    frame
}

fn change_ip(frame: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (eth, rest) = Ethernet2Header::from_slice(frame).expect("Ethernet");
    let (mut ip, payload) = Ipv4Header::from_slice(rest).expect("IPv4");
    change(&mut ip);
    ip.set_payload_len(payload.len()).expect("a short payload");
    ip.header_checksum = ip.calc_header_checksum();
    let mut out = Vec::new();
    eth.write(&mut out).expect("Ethernet");
    ip.write(&mut out).expect("IPv4");
    out.extend_from_slice(payload);
    out
}

/// The same frame behind VLAN tags, outermost first.
pub fn with_vlans(frame: &[u8], ids: &[u16]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for id in ids {
        out.extend_from_slice(&[0x81, 0x00]);
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(&frame[12..]);
    out
}

/// Who has this address? ARP or a neighbor solicitation.
pub fn who_has(target: impl Into<IpAddr>) -> Vec<u8> {
    match target.into() {
        IpAddr::V4(target) => arp_request(target),
        IpAddr::V6(target) => {
            let asked = target.octets();
            let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
            group[13..].copy_from_slice(&asked[13..]);
            let body = [&asked[..], &[1, 1], &CLIENT_MAC].concat();
            let builder = PacketBuilder::ethernet2(CLIENT_MAC, [0x33, 0x33, 0xff, asked[13], asked[14], asked[15]]);
            let source = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
            let mut frame = Vec::new();
            builder.ipv6(source, group, 255).icmpv6_raw(135, 0, [0; 4]).write(&mut frame, &body).expect("a frame");
            frame
        }
    }
}

fn arp_request(target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6], &CLIENT_MAC[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &CLIENT_MAC, &[10, 0, 0, 9], &[0; 6]].concat();
    frame.extend_from_slice(&target.octets());
    frame
}

/// What a test wants to know of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<F: Addresses> {
    pub src: End<F>,
    pub dst: End<F>,
    pub ttl: u8,
}

/// Reads a frame and recomputes its checksums in full.
///
/// # Panics
/// If it is no TCP, UDP or SCTP over IP of this family, or a checksum is wrong.
pub fn read<F: Addresses>(frame: &[u8]) -> Seen<F> {
    let packet = SlicedPacket::from_ethernet(frame).expect("a whole frame");
    let net = packet.net.as_ref().expect("an IP header");
    let (src, dst, ttl) = ends(net);
    let payload = net.ip_payload_ref().expect("a payload");
    let (sport, dport) = if payload.ip_number == IpNumber::SCTP {
        read_sctp(payload.payload)
    } else {
        read_ports(net, packet.transport.expect("a transport header"))
    };
    let ip = |address| F::ip_of(address).expect("an address of this family");
    Seen { src: (ip(src), sport), dst: (ip(dst), dport), ttl }
}

/// Addresses and TTL or hop limit.
fn ends(net: &NetSlice<'_>) -> (IpAddr, IpAddr, u8) {
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
            (header.source.into(), header.destination.into(), header.time_to_live)
        }
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.header().hop_limit()),
        other => panic!("no IP: {other:?}"),
    }
}

fn read_ports(net: &NetSlice<'_>, transport: TransportSlice<'_>) -> (u16, u16) {
    match transport {
        TransportSlice::Tcp(tcp) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let wanted = match net {
                NetSlice::Ipv4(ip) => header.calc_checksum_ipv4(&ip.header().to_header(), payload),
                NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), payload),
                _ => unreachable!("read as IP"),
            };
            assert_eq!(tcp.checksum(), wanted.expect("a short payload"), "TCP checksum");
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let (wanted, may_lack) = match net {
                NetSlice::Ipv4(ip) => (header.calc_checksum_ipv4(&ip.header().to_header(), payload), true),
                NetSlice::Ipv6(ip) => (header.calc_checksum_ipv6(&ip.header().to_header(), payload), false),
                _ => unreachable!("read as IP"),
            };
            let wanted = wanted.expect("a short payload");
            assert!(udp.checksum() == wanted || (may_lack && udp.checksum() == 0), "UDP checksum {:#x}, not {wanted:#x}", udp.checksum());
            (udp.source_port(), udp.destination_port())
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    }
}

fn read_sctp(packet: &[u8]) -> (u16, u16) {
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    assert_eq!(packet[8..12], crc32c::crc32c(&zeroed).to_le_bytes(), "SCTP checksum");
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (port(0), port(2))
}

/// Type and code of ICMP and what means the same in ICMPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    PortUnreachable,
    /// Of a packet larger than what follows can take.
    TooBig,
    Redirect,
    Ping,
    /// The answer to one.
    Pong,
    /// An echo request with a code, which has no meaning.
    OddPing,
}

/// An ICMP message; of an error, `payload` is the IP packet that it quotes, or the beginning of one.
pub fn icmp(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, kind: Icmp, payload: &[u8]) -> Vec<u8> {
    let mtu = [0, 0, 5, 0x78];
    let (src, dst) = (src.into(), dst.into());
    let builder = ip(src, dst);
    let (kind, code, rest) = match (src.is_ipv6(), kind) {
        (false, Icmp::PortUnreachable) => (3, 3, [0; 4]),
        (false, Icmp::TooBig) => (3, 4, mtu),
        (false, Icmp::Redirect) => (5, 1, [0; 4]),
        (false, Icmp::Ping) => (8, 0, [0; 4]),
        (false, Icmp::Pong) => (0, 0, [0; 4]),
        (false, Icmp::OddPing) => (8, 1, [0; 4]),
        (true, Icmp::PortUnreachable) => (1, 4, [0; 4]),
        (true, Icmp::TooBig) => (2, 0, mtu),
        (true, Icmp::Redirect) => (137, 0, [0; 4]),
        (true, Icmp::Ping) => (128, 0, [0; 4]),
        (true, Icmp::Pong) => (129, 0, [0; 4]),
        (true, Icmp::OddPing) => (128, 1, [0; 4]),
    };
    let mut frame = Vec::new();
    let written = match src {
        IpAddr::V4(_) => builder.icmpv4_raw(kind, code, rest).write(&mut frame, payload),
        IpAddr::V6(_) => builder.icmpv6_raw(kind, code, rest).write(&mut frame, payload),
    };
    written.expect("a frame");
    frame
}

/// Source, destination, TTL and payload of an ICMP message.
///
/// # Panics
/// If it is none, or a checksum is wrong.
pub fn read_icmp<F: Addresses>(frame: &[u8]) -> (F::Ip, F::Ip, u8, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a whole frame");
    let net = packet.net.as_ref().expect("an IP header");
    let (src, dst, ttl) = ends(net);
    let payload = match (packet.transport.as_ref(), net) {
        (Some(TransportSlice::Icmpv4(icmp)), _) => {
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()), "ICMP checksum");
            icmp.payload()
        }
        (Some(TransportSlice::Icmpv6(icmp)), NetSlice::Ipv6(ip)) => {
            let Ipv6Header { source, destination, .. } = ip.header().to_header();
            let wanted = icmp.icmp_type().calc_checksum(source, destination, icmp.payload()).expect("a short payload");
            assert_eq!(icmp.checksum(), wanted, "ICMPv6 checksum");
            icmp.payload()
        }
        other => panic!("no ICMP: {other:?}"),
    };
    let ip = |address| F::ip_of(address).expect("an address of this family");
    (ip(src), ip(dst), ttl, payload.to_vec())
}
