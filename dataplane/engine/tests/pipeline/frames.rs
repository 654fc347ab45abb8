//! Frames built by an independent library, and checks of what came out by the same.

use std::net::Ipv4Addr;

use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};

use crate::bed::{ACK, FIN, ROUTER_MAC, RST, SYN, UPLINK_MAC};

pub type Endpoint = (Ipv4Addr, u16);

pub fn tcp(src: Endpoint, dst: Endpoint, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(src.1, dst.1, 1000, 64000);
    (header.syn, header.ack, header.rst, header.fin) = (flags & SYN != 0, flags & ACK != 0, flags & RST != 0, flags & FIN != 0);
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, UPLINK_MAC).ipv4(src.0.octets(), dst.0.octets(), 64).tcp_header(header);
    let mut frame = Vec::new();
    builder.write_to_vec(&mut frame, payload).expect("memory takes it");
    frame
}

pub fn udp(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, UPLINK_MAC).ipv4(src.0.octets(), dst.0.octets(), 64).udp(src.1, dst.1);
    let mut frame = Vec::new();
    builder.write_to_vec(&mut frame, payload).expect("memory takes it");
    frame
}

/// An SCTP packet (RFC 9260 §3) with one chunk.
pub fn sctp(src: Endpoint, dst: Endpoint, chunk_type: u8, value: &[u8]) -> Vec<u8> {
    let mut packet = [&src.1.to_be_bytes()[..], &dst.1.to_be_bytes(), &[1, 2, 3, 4, 0, 0, 0, 0, chunk_type, 0]].concat();
    packet.extend((value.len() as u16 + 4).to_be_bytes());
    packet.extend(value);
    let check = crc32c::crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&check);
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, UPLINK_MAC).ipv4(src.0.octets(), dst.0.octets(), 64);
    let mut frame = Vec::new();
    builder.write_to_vec(&mut frame, IpNumber::SCTP, &packet).expect("memory takes it");
    frame
}

/// What a receiver reads from a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub src: Endpoint,
    pub dst: Endpoint,
    pub ttl: u8,
    pub payload: Vec<u8>,
}

/// Reads a frame and verifies its IP and L4 checksums by computing them anew.
pub fn read(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4 in {frame:02x?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
    if header.protocol == IpNumber::SCTP {
        let packet = ip.payload().payload;
        let mut zeroed = packet.to_vec();
        zeroed[8..12].fill(0);
        assert_eq!(packet[8..12], crc32c::crc32c(&zeroed).to_le_bytes(), "SCTP checksum");
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let (src, dst) = ((header.source.into(), port(0)), (header.destination.into(), port(2)));
        return Seen { src, dst, ttl: header.time_to_live, payload: packet[16..].to_vec() };
    }
    let (ports, payload) = match packet.transport.as_ref().expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let expected = tcp.calc_checksum_ipv4(header.source, header.destination).expect("a checksum");
            assert_eq!(tcp.checksum(), expected, "TCP checksum");
            ((tcp.source_port(), tcp.destination_port()), tcp.payload().to_vec())
        }
        TransportSlice::Udp(udp) => {
            let expected = udp.to_header().calc_checksum_ipv4_raw(header.source, header.destination, udp.payload()).expect("a checksum");
            assert!(udp.checksum() == 0 || udp.checksum() == expected, "UDP checksum {:04x}, not {expected:04x}", udp.checksum());
            ((udp.source_port(), udp.destination_port()), udp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    };
    Seen { src: (header.source.into(), ports.0), dst: (header.destination.into(), ports.1), ttl: header.time_to_live, payload }
}

/// Destination and source of the Ethernet header.
pub fn macs(frame: &[u8]) -> ([u8; 6], [u8; 6]) {
    let mac = |at: usize| frame[at..at + 6].try_into().expect("six bytes");
    (mac(0), mac(6))
}

/// An ICMP message; `rest` is the second half of its header.
pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, (kind, code): (u8, u8), rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(ROUTER_MAC, UPLINK_MAC).ipv4(src.octets(), dst.octets(), 64).icmpv4_raw(kind, code, rest);
    let mut frame = Vec::new();
    builder.write_to_vec(&mut frame, payload).expect("memory takes it");
    frame
}

/// What a receiver reads from an ICMP message.
#[derive(Debug, PartialEq, Eq)]
pub struct SeenIcmp {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ttl: u8,
    pub kind: (u8, u8),
    pub rest: [u8; 4],
    pub payload: Vec<u8>,
}

/// Reads an ICMP message and verifies its checksums.
pub fn read_icmp(frame: &[u8]) -> SeenIcmp {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4 in {frame:02x?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("no ICMP: {packet:?}") };
    assert_eq!(ringway_engine::checksum::sum(icmp.slice()), 0xffff, "ICMP checksum");
    SeenIcmp {
        src: header.source.into(),
        dst: header.destination.into(),
        ttl: header.time_to_live,
        kind: (icmp.type_u8(), icmp.code_u8()),
        rest: icmp.bytes5to8(),
        payload: icmp.payload().to_vec(),
    }
}
