use etherparse::{IpNumber, Ipv6Header, PacketBuilder, TcpHeader};

use super::*;
use crate::wire::{Frame, Ping};

const L3: usize = 14;
const SOURCE: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DESTINATION: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const NO_NEXT_HEADER: u8 = 59;

/// An extension header: kind, and all bytes but the first.
type Extension = (u8, Vec<u8>);

/// An L4 header and payload of a kind, by an independent library.
fn segment(protocol: u8) -> Vec<u8> {
    let builder = PacketBuilder::ipv6(SOURCE, DESTINATION, 64);
    let mut packet = Vec::new();
    let written = match protocol {
        TCP => builder.tcp_header(TcpHeader { syn: true, ..TcpHeader::new(40_000, 80, 1, 2) }).write(&mut packet, b"payload!"),
        UDP => builder.udp(40_000, 80).write(&mut packet, b"payload!"),
        _ => builder.icmpv6_echo_request(1, 2).write(&mut packet, b"payload!"),
    };
    written.expect("memory takes it");
    packet.split_off(V6::HEADER_BYTES)
}

/// A frame whose IPv6 header has these extension headers behind it, then `rest` of a protocol.
fn frame(extensions: &[Extension], protocol: u8, rest: &[u8]) -> Vec<u8> {
    let kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).chain([protocol]).collect();
    let mut payload = Vec::new();
    for ((_, bytes), next) in extensions.iter().zip(&kinds[1..]) {
        payload.push(*next);
        payload.extend_from_slice(bytes);
    }
    payload.extend_from_slice(rest);
    let header = Ipv6Header {
        payload_length: payload.len() as u16,
        next_header: IpNumber(kinds[0]),
        hop_limit: 64,
        source: SOURCE,
        destination: DESTINATION,
        ..Ipv6Header::default()
    };
    let mut frame = vec![0; L3 - 2];
    frame.extend_from_slice(&[0x86, 0xdd]);
    header.write(&mut frame).expect("memory takes it");
    [frame, payload].concat()
}

/// Options that are padding, or a routing header with as many segments left, in so many units of eight bytes.
fn options(kind: u8, units: u8, segments_left: u8) -> Extension {
    let mut bytes = vec![0; usize::from(units) * 8 - 1];
    bytes[0] = units - 1;
    bytes[2] = segments_left;
    (kind, bytes)
}

fn fragment(offset: u16, has_more: bool, id: u32) -> Extension {
    (FRAGMENT, [&[0][..], &(offset << 3 | u16::from(has_more)).to_be_bytes(), &id.to_be_bytes()].concat())
}

fn parsed(frame: &[u8]) -> Parsed<V6> {
    match crate::wire::parse(frame) {
        Frame::V6(parsed) => parsed,
        other => panic!("{other:?}"),
    }
}

fn flow(frame: &[u8]) -> IpFlow<V6> {
    match parsed(frame) {
        Parsed::Flow(flow) | Parsed::Later(flow) => flow,
        other => panic!("{other:?}"),
    }
}

#[test]
fn extension_headers_are_walked_over() {
    let chains: [Vec<Extension>; 7] = [
        vec![],
        vec![options(HOP_BY_HOP, 1, 0)],
        vec![options(DESTINATION_OPTIONS, 3, 9)],
        vec![options(ROUTING, 2, 0)],
        vec![options(HOP_BY_HOP, 1, 0), options(DESTINATION_OPTIONS, 1, 0), options(ROUTING, 4, 0), options(DESTINATION_OPTIONS, 1, 0)],
        vec![options(DESTINATION_OPTIONS, 255, 0)],
        (0..EXTENSIONS_MAX).map(|_| options(DESTINATION_OPTIONS, 1, 0)).collect(),
    ];
    for extensions in chains {
        let bytes: usize = extensions.iter().map(|(_, bytes)| bytes.len() + 1).sum();
        for (protocol, tcp_flags) in [(TCP, 0x02), (UDP, 0)] {
            let frame = frame(&extensions, protocol, &segment(protocol));
            let flow = flow(&frame);
            let l4 = L3 + V6::HEADER_BYTES + bytes;
            assert_eq!((flow.l3, flow.l4, flow.end, flow.protocol), (L3, l4, frame.len(), protocol), "{extensions:?}");
            assert_eq!((flow.tuple.src(), flow.tuple.dst()), ((SOURCE.into(), 40_000), (DESTINATION.into(), 80)));
            assert_eq!((flow.part, flow.ttl, flow.tcp_flags), (Part::Whole, 64, tcp_flags));
        }
        let ping = parsed(&frame(&extensions, V6::ICMP, &segment(V6::ICMP)));
        assert_eq!(matches!(ping, Parsed::Ping(Ping { l3: L3, .. })), extensions.is_empty(), "{ping:?}");
    }
}

#[test]
fn what_we_do_not_know_is_not_ours() {
    let one = |kind| vec![options(kind, 1, 0)];
    let many = (0..=EXTENSIONS_MAX).map(|_| options(DESTINATION_OPTIONS, 1, 0)).collect();
    let cases: [(&str, Vec<Extension>, u8); 11] = [
        ("too many", many, TCP),
        ("segments left", vec![options(ROUTING, 1, 1)], TCP),
        ("authentication", one(51), TCP),
        ("encapsulated", one(50), TCP),
        ("mobility", one(135), TCP),
        ("HIP", one(139), TCP),
        ("two fragment headers", vec![fragment(0, false, 1), fragment(0, false, 1)], TCP),
        ("the first fragment begins with options", vec![fragment(0, true, 1), options(DESTINATION_OPTIONS, 1, 0)], UDP),
        ("a later one's did", vec![fragment(4, false, 1)], DESTINATION_OPTIONS),
        ("a fragment of SCTP", vec![fragment(0, true, 1)], SCTP),
        ("nothing", vec![], NO_NEXT_HEADER),
    ];
    for (what, extensions, protocol) in cases {
        assert_eq!(parsed(&frame(&extensions, protocol, &segment(TCP))), Parsed::Other, "{what}");
    }
    for part in [fragment(0, true, 1), fragment(4, false, 1)] {
        assert_eq!(parsed(&frame(&[part], V6::ICMP, &segment(V6::ICMP))), Parsed::Other, "of a ping");
    }
}

#[test]
fn fragments_tell_their_place() {
    let id = 0xdead_beef;
    for (offset, has_more, part) in [(0, false, Part::Whole), (0, true, Part::First), (5, true, Part::Later), (0x1ff0, false, Part::Later)]
    {
        for before in [vec![], vec![options(HOP_BY_HOP, 1, 0), options(ROUTING, 1, 0)]] {
            let extensions = [before.clone(), vec![fragment(offset, has_more, id)]].concat();
            let flow = flow(&frame(&extensions, UDP, &segment(UDP)));
            assert_eq!((flow.part, flow.id, flow.offset, flow.has_more), (part, id, offset, has_more));
            assert_eq!((flow.l4, flow.protocol), (L3 + V6::HEADER_BYTES + 8 + 16 * usize::from(!before.is_empty()), UDP));
            assert_eq!(flow.tuple.ports == 0, part == Part::Later);
        }
    }
    // An atomic fragment may have options behind the header, for there is nothing to put together.
    let atomic = flow(&frame(&[fragment(0, false, id), options(DESTINATION_OPTIONS, 1, 0)], TCP, &segment(TCP)));
    assert_eq!((atomic.part, atomic.l4), (Part::Whole, L3 + V6::HEADER_BYTES + 16));
    for (protocol, least) in [(UDP, 1), (TCP, 3)] {
        let at = |offset| parsed(&frame(&[fragment(offset, false, id)], protocol, &[0; 64]));
        assert!(matches!(at(least), Parsed::Later(_)), "{protocol}");
        assert_eq!((1..least).map(at).find(|parsed| *parsed != Parsed::Overlap), None, "{protocol}");
        assert!(matches!(at(0x1ff7), Parsed::Later(_)), "{protocol}");
        assert_eq!(at(0x1ff8), Parsed::Malformed, "its datagram would have 65 536 bytes, {protocol}");
    }
}

#[test]
fn what_is_cut_or_lies_is_not_read() {
    let extensions = [options(HOP_BY_HOP, 2, 0), options(ROUTING, 1, 0), fragment(0, false, 1), options(DESTINATION_OPTIONS, 1, 0)];
    for protocol in [TCP, UDP, V6::ICMP] {
        let whole = frame(&extensions, protocol, &segment(protocol));
        for len in 0..whole.len() {
            let cut = crate::wire::parse(&whole[..len]);
            assert!(matches!(cut, Frame::Malformed | Frame::V6(Parsed::Malformed)), "cut at {len}: {cut:?}");
            // And if the header knows of it.
            let mut short = whole[..len].to_vec();
            if let Some(payload) = len.checked_sub(L3 + V6::HEADER_BYTES) {
                short[L3 + 4..L3 + 6].copy_from_slice(&(payload as u16).to_be_bytes());
                let short = parsed(&short);
                let tcp_payload_cut = protocol == TCP && payload >= 40 + 20;
                assert!(matches!(short, Parsed::Malformed | Parsed::Other) != tcp_payload_cut, "short at {len}: {short:?}");
            }
        }
    }
    let mut version = frame(&[], TCP, &segment(TCP));
    version[L3] = 0x45;
    assert_eq!(parsed(&version), Parsed::Malformed);
    let long = frame(&[(DESTINATION_OPTIONS, [&[255][..], &[0; 6]].concat())], TCP, &segment(TCP));
    assert_eq!(parsed(&long), Parsed::Malformed, "options that end behind the packet");
}

/// RFC 8200 §8.1.
#[test]
fn udp_without_a_checksum_is_not_ours() {
    let mut datagram = segment(UDP);
    datagram[6..8].fill(0);
    assert_eq!(parsed(&frame(&[], UDP, &datagram)), Parsed::Other);
    assert_eq!(parsed(&frame(&[fragment(0, true, 1)], UDP, &datagram)), Parsed::Other);
}

#[test]
fn padding_is_not_of_the_packet() {
    let mut padded = frame(&[], UDP, &segment(UDP));
    let end = padded.len();
    padded.resize(end + 30, 0xee);
    assert_eq!(flow(&padded).end, end);
    // Nor are extension headers that would stand in it.
    let mut extended = frame(&[options(HOP_BY_HOP, 1, 0)], UDP, &segment(UDP));
    extended[L3 + 4..L3 + 6].copy_from_slice(&4u16.to_be_bytes());
    assert_eq!(parsed(&extended), Parsed::Other);
}
