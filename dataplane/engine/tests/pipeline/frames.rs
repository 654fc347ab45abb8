//! Frames of both families built by an independent library, and checks of what came out by the same.

use std::net::IpAddr;

use etherparse::{IpHeaders, IpNumber, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice};

use crate::bed::{ACK, Endpoint, FIN, ROUTER_MAC, RST, SYN, UPLINK_MAC};

/// From a client's router to the node, 64 hops to go.
fn ip(src: IpAddr, dst: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(ROUTER_MAC, UPLINK_MAC);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        other => panic!("addresses of both families: {other:?}"),
    }
}

pub fn tcp(src: Endpoint, dst: Endpoint, flags: u8, payload: &[u8]) -> Vec<u8> {
    segment(src, dst, flags, (1000, 0), payload)
}

/// A TCP segment with these sequence and acknowledgment numbers.
pub fn segment(src: Endpoint, dst: Endpoint, flags: u8, (sequence, acknowledged): (u32, u32), payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(src.1, dst.1, sequence, 64000);
    header.acknowledgment_number = acknowledged;
    (header.syn, header.ack, header.rst, header.fin) = (flags & SYN != 0, flags & ACK != 0, flags & RST != 0, flags & FIN != 0);
    let mut frame = Vec::new();
    ip(src.0, dst.0).tcp_header(header).write_to_vec(&mut frame, payload).expect("memory takes it");
    frame
}

pub fn udp(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(src.0, dst.0).udp(src.1, dst.1).write_to_vec(&mut frame, payload).expect("memory takes it");
    frame
}

/// An SCTP packet (RFC 9260 §3) with one chunk.
pub fn sctp(src: Endpoint, dst: Endpoint, chunk_type: u8, value: &[u8]) -> Vec<u8> {
    let mut packet = [&src.1.to_be_bytes()[..], &dst.1.to_be_bytes(), &[1, 2, 3, 4, 0, 0, 0, 0, chunk_type, 0]].concat();
    packet.extend((value.len() as u16 + 4).to_be_bytes());
    packet.extend(value);
    let check = crc32c::crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&check);
    let mut frame = Vec::new();
    ip(src.0, dst.0).write_to_vec(&mut frame, IpNumber::SCTP, &packet).expect("memory takes it");
    frame
}

/// What a receiver reads from a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub src: Endpoint,
    pub dst: Endpoint,
    /// TTL or hop limit.
    pub ttl: u8,
    pub payload: Vec<u8>,
}

/// What a receiver reads of the IP header.
struct SeenIp<'a> {
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    protocol: IpNumber,
    payload: &'a [u8],
}

/// Reads a frame and verifies the checksum of its IP header, if that has one.
fn read_ip<'a>(packet: &SlicedPacket<'a>) -> SeenIp<'a> {
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
            let (src, dst, payload) = (header.source.into(), header.destination.into(), ip.payload().payload);
            SeenIp { src, dst, ttl: header.time_to_live, protocol: header.protocol, payload }
        }
        Some(NetSlice::Ipv6(ip)) => {
            let (header, payload) = (ip.header().to_header(), ip.payload());
            let (src, dst) = (header.source.into(), header.destination.into());
            SeenIp { src, dst, ttl: header.hop_limit, protocol: payload.ip_number, payload: payload.payload }
        }
        other => panic!("no IP: {other:?}"),
    }
}

/// Reads a frame and verifies its IP and L4 checksums by computing them anew.
pub fn read(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let ip = read_ip(&packet);
    if ip.protocol == IpNumber::SCTP {
        let packet = ip.payload;
        let mut zeroed = packet.to_vec();
        zeroed[8..12].fill(0);
        assert_eq!(packet[8..12], crc32c::crc32c(&zeroed).to_le_bytes(), "SCTP checksum");
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        return Seen { src: (ip.src, port(0)), dst: (ip.dst, port(2)), ttl: ip.ttl, payload: packet[16..].to_vec() };
    }
    let (ports, payload) = match packet.transport.as_ref().expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let expected = match (ip.src, ip.dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => tcp.calc_checksum_ipv4(src.octets(), dst.octets()).expect("a checksum"),
                (IpAddr::V6(src), IpAddr::V6(dst)) => tcp.calc_checksum_ipv6(src.octets(), dst.octets()).expect("a checksum"),
                _ => unreachable!("a packet is of one family"),
            };
            assert_eq!(tcp.checksum(), expected, "TCP checksum");
            ((tcp.source_port(), tcp.destination_port()), tcp.payload().to_vec())
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let (expected, may_be_zero) = match (ip.src, ip.dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => (header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), udp.payload()), true),
                (IpAddr::V6(src), IpAddr::V6(dst)) => (header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), udp.payload()), false),
                _ => unreachable!("a packet is of one family"),
            };
            let expected = expected.expect("a checksum");
            let is_right = udp.checksum() == expected || may_be_zero && udp.checksum() == 0;
            assert!(is_right, "UDP checksum {:04x}, not {expected:04x}", udp.checksum());
            ((udp.source_port(), udp.destination_port()), udp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    };
    Seen { src: (ip.src, ports.0), dst: (ip.dst, ports.1), ttl: ip.ttl, payload }
}

/// Destination and source of the Ethernet header.
pub fn macs(frame: &[u8]) -> ([u8; 6], [u8; 6]) {
    let mac = |at: usize| frame[at..at + 6].try_into().expect("six bytes");
    (mac(0), mac(6))
}

/// An ICMP message of the addresses' family; `rest` is the second half of its header.
pub fn icmp(src: IpAddr, dst: IpAddr, (kind, code): (u8, u8), rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let written = match src {
        IpAddr::V4(_) => ip(src, dst).icmpv4_raw(kind, code, rest).write_to_vec(&mut frame, payload),
        IpAddr::V6(_) => ip(src, dst).icmpv6_raw(kind, code, rest).write_to_vec(&mut frame, payload),
    };
    written.expect("memory takes it");
    frame
}

/// What a receiver reads from an ICMP message.
#[derive(Debug, PartialEq, Eq)]
pub struct SeenIcmp {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub kind: (u8, u8),
    pub rest: [u8; 4],
    pub payload: Vec<u8>,
}

/// Reads an ICMP message and verifies its checksums.
pub fn read_icmp(frame: &[u8]) -> SeenIcmp {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let ip = read_ip(&packet);
    let (kind, rest, payload) = match (&packet.transport, ip.src, ip.dst) {
        (Some(TransportSlice::Icmpv4(icmp)), ..) => {
            assert_eq!(ringway_engine::checksum::sum(icmp.slice()), 0xffff, "ICMP checksum");
            ((icmp.type_u8(), icmp.code_u8()), icmp.bytes5to8(), icmp.payload())
        }
        (Some(TransportSlice::Icmpv6(icmp)), IpAddr::V6(src), IpAddr::V6(dst)) => {
            assert!(icmp.is_checksum_valid(src.octets(), dst.octets()), "ICMPv6 checksum");
            ((icmp.type_u8(), icmp.code_u8()), icmp.bytes5to8(), icmp.payload())
        }
        _ => panic!("no ICMP: {packet:?}"),
    };
    SeenIcmp { src: ip.src, dst: ip.dst, ttl: ip.ttl, kind, rest, payload: payload.to_vec() }
}
