//! Frames made and checked with etherparse: another implementation than ours.

use std::net::Ipv4Addr;

use etherparse::{EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, PacketBuilder, SlicedPacket, TransportSlice};

use crate::scratch::End;

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// That of the loopback device, on which the kernel runs programs in tests: what is for another MAC is another host's.
pub const NODE_MAC: [u8; 6] = [0; 6];

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A TCP segment with some payload.
pub fn tcp(src: End, dst: End, flags: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, NODE_MAC).ipv4(src.0.octets(), dst.0.octets(), 64).tcp(src.1, dst.1, 7, 1000);
    let builder = if flags & FIN != 0 { builder.fin() } else { builder };
    let builder = if flags & SYN != 0 { builder.syn() } else { builder };
    let builder = if flags & RST != 0 { builder.rst() } else { builder };
    let builder = if flags & ACK != 0 { builder.ack(9) } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"odd payload").expect("a frame");
    frame
}

pub fn udp(src: End, dst: End) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, NODE_MAC).ipv4(src.0.octets(), dst.0.octets(), 64).udp(src.1, dst.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"odd payload").expect("a frame");
    frame
}

/// An SCTP packet (RFC 9260 §3) with one chunk of this type, whose value has so many bytes.
pub fn sctp(src: End, dst: End, chunk_type: u8, bytes: usize) -> Vec<u8> {
    let mut packet = [&src.1.to_be_bytes()[..], &dst.1.to_be_bytes(), &[1, 2, 3, 4, 0, 0, 0, 0, chunk_type, 0]].concat();
    packet.extend(((bytes + 4) as u16).to_be_bytes());
    packet.extend((0..bytes).map(|number| number as u8));
    let check = crc32c::crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&check);
    let mut frame = Vec::new();
    Ethernet2Header { source: CLIENT_MAC, destination: NODE_MAC, ether_type: EtherType::IPV4 }.write(&mut frame).expect("Ethernet");
    Ipv4Header::new(packet.len() as u16, 64, IpNumber::SCTP, src.0.octets(), dst.0.octets())
        .expect("a short payload")
        .write(&mut frame)
        .expect("IPv4");
    [frame, packet].concat()
}

/// The same packet with `options` in its IP header (a multiple of four bytes).
pub fn with_ip_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    change_ip(frame, |ip| ip.options = options.try_into().expect("options of a multiple of four bytes"))
}

/// The same packet as a fragment: `offset` in units of eight bytes.
pub fn as_fragment(frame: &[u8], offset: u16, more: bool) -> Vec<u8> {
    change_ip(frame, |ip| {
        ip.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
        ip.more_fragments = more;
    })
}

/// The packet in fragments of so many bytes (a multiple of eight) behind the IP header.
pub fn fragments(frame: &[u8], id: u16, bytes: usize) -> Vec<Vec<u8>> {
    let header = usize::from(frame[14] & 0xf) * 4;
    let (head, payload) = frame.split_at(14 + header);
    let pieces = payload.chunks(bytes).enumerate().map(|(number, piece)| {
        let is_last = (number + 1) * bytes >= payload.len();
        change_ip(&[head, piece].concat(), |ip| {
            ip.identification = id;
            ip.fragment_offset = IpFragOffset::try_new((number * bytes / 8) as u16).expect("13 bits");
            ip.more_fragments = !is_last;
        })
    });
    pieces.collect()
}

/// What a receiver reads of fragments that come in order.
///
/// # Panics
/// Like [`read`].
pub fn reassembled(fragments: &[Vec<u8>]) -> Seen {
    let split = |frame: &[u8]| {
        let (ip, payload) = Ipv4Header::from_slice(&frame[14..]).expect("IPv4");
        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
        (ip, payload.to_vec())
    };
    let first = split(&fragments[0]).0;
    let mut whole = fragments[0].clone();
    for fragment in &fragments[1..] {
        let (ip, payload) = split(fragment);
        assert_eq!((ip.source, ip.destination, ip.time_to_live), (first.source, first.destination, first.time_to_live));
        whole.extend(payload);
    }
    read(&as_fragment(&whole, 0, false))
}

pub fn with_ttl(frame: &[u8], ttl: u8) -> Vec<u8> {
    change_ip(frame, |ip| ip.time_to_live = ttl)
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

pub fn arp_request(target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6], &CLIENT_MAC[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &CLIENT_MAC, &[10, 0, 0, 9], &[0; 6]].concat();
    frame.extend_from_slice(&target.octets());
    frame
}

/// What a test wants to know of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub src: End,
    pub dst: End,
    pub ttl: u8,
}

/// Reads a frame and recomputes its checksums in full.
///
/// # Panics
/// If it is no TCP, UDP or SCTP over IPv4, or a checksum is wrong.
pub fn read(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).expect("a whole frame");
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4 in {packet:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
    if header.protocol == IpNumber::SCTP {
        return read_sctp(&header, ip.payload().payload);
    }
    let (sport, dport) = match packet.transport.expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let wanted = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).expect("a short payload");
            assert_eq!(tcp.checksum(), wanted, "TCP checksum");
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            let wanted = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("a short payload");
            assert!(udp.checksum() == 0 || udp.checksum() == wanted, "UDP checksum {:#x}, not {wanted:#x}", udp.checksum());
            (udp.source_port(), udp.destination_port())
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    };
    let ip = ip.header();
    Seen { src: (ip.source_addr(), sport), dst: (ip.destination_addr(), dport), ttl: ip.ttl() }
}

fn read_sctp(ip: &Ipv4Header, packet: &[u8]) -> Seen {
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    assert_eq!(packet[8..12], crc32c::crc32c(&zeroed).to_le_bytes(), "SCTP checksum");
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    Seen { src: (ip.source.into(), port(0)), dst: (ip.destination.into(), port(2)), ttl: ip.time_to_live }
}

/// An ICMP message; of an error, `payload` is the IP packet that it quotes, or the beginning of one.
pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, (kind, code): (u8, u8), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, NODE_MAC).ipv4(src.octets(), dst.octets(), 64);
    let mut frame = Vec::new();
    // With the next hop's MTU where it belongs.
    let rest = if (kind, code) == (3, 4) { [0, 0, 5, 0x78] } else { [0; 4] };
    builder.icmpv4_raw(kind, code, rest).write(&mut frame, payload).expect("a frame");
    frame
}

/// Source, destination, TTL and payload of an ICMP message.
///
/// # Panics
/// If it is none, or a checksum is wrong.
pub fn read_icmp(frame: &[u8]) -> (Ipv4Addr, Ipv4Addr, u8, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a whole frame");
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4 in {packet:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
    let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("no ICMP in {packet:?}") };
    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()), "ICMP checksum");
    (header.source.into(), header.destination.into(), header.time_to_live, icmp.payload().to_vec())
}
