//! IPv6 headers, taken to pieces and put together by an independent library.

use etherparse::{IpFragOffset, IpNumber, Ipv6FragmentHeader, Ipv6Header};

use super::*;

/// Kinds of extension headers.
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;

/// The packet of a frame in fragments, cut at these offsets (in bytes, multiples of eight). Extension headers that it has are cut with
/// the rest of it.
pub fn cut(frame: &[u8], id: u32, at: &[usize]) -> Vec<Vec<u8>> {
    let (ip, payload) = Ipv6Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv6");
    let starts = std::iter::once(0).chain(at.iter().copied());
    let ends = at.iter().copied().chain([payload.len()]);
    let fragment = |(start, end): (usize, usize)| {
        let mut outer = ip.clone();
        outer.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
        outer.set_payload_length(Ipv6FragmentHeader::LEN + end - start).expect("a short payload");
        let offset = IpFragOffset::try_new((start / 8) as u16).expect("13 bits");
        let header = Ipv6FragmentHeader::new(ip.next_header, offset, end < payload.len(), id);
        let mut out = frame[..ETHERNET_BYTES].to_vec();
        outer.write(&mut out).expect("memory takes it");
        header.write(&mut out).expect("memory takes it");
        out.extend_from_slice(&payload[start..end]);
        out
    };
    starts.zip(ends).map(fragment).collect()
}

/// Where a fragment lies, in units of eight bytes: the first, and the one behind.
pub fn place(frame: &[u8]) -> (usize, usize) {
    let (_, payload) = Ipv6Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv6");
    let (header, payload) = Ipv6FragmentHeader::from_slice(payload).expect("a fragment");
    let first = usize::from(header.fragment_offset.value());
    (first, first + payload.len().div_ceil(8))
}

/// What a receiver reads from fragments, in any order.
pub fn read_all(fragments: &[Vec<u8>]) -> Seen {
    let mut parts: Vec<(Ipv6Header, Ipv6FragmentHeader, &[u8])> = fragments
        .iter()
        .map(|frame| {
            let (ip, payload) = Ipv6Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv6");
            assert_eq!(ip.next_header, IpNumber::IPV6_FRAGMENTATION_HEADER);
            let (header, payload) = Ipv6FragmentHeader::from_slice(payload).expect("a fragment");
            assert_eq!(usize::from(ip.payload_length), Ipv6FragmentHeader::LEN + payload.len());
            (ip, header, payload)
        })
        .collect();
    parts.sort_by_key(|(_, header, _)| header.fragment_offset.value());
    let (first_ip, first) = (&parts[0].0, &parts[0].1);
    let mut datagram = Vec::new();
    for (number, (ip, header, payload)) in parts.iter().enumerate() {
        assert_eq!((ip.source, ip.destination, ip.hop_limit), (first_ip.source, first_ip.destination, first_ip.hop_limit));
        assert_eq!((header.next_header, header.identification), (first.next_header, first.identification));
        assert_eq!((usize::from(header.fragment_offset.value()) * 8, header.more_fragments), (datagram.len(), number + 1 < parts.len()));
        datagram.extend_from_slice(payload);
    }
    let mut whole = first_ip.clone();
    whole.next_header = first.next_header;
    whole.set_payload_length(datagram.len()).expect("a datagram");
    let mut frame = fragments[0][..ETHERNET_BYTES].to_vec();
    whole.write(&mut frame).expect("memory takes it");
    read(&[frame, datagram].concat())
}

/// A packet after its first hop, as later hops quote it.
pub fn one_hop_on(frame: &[u8]) -> Vec<u8> {
    let mut packet = frame[ETHERNET_BYTES..].to_vec();
    packet[TTL - ETHERNET_BYTES] -= 1;
    packet
}

/// The frame with extension headers of these kinds in front of what it has, each of so many units of eight bytes: options that are
/// padding, a way that is behind it, an atomic fragment (RFC 8200 §4).
pub fn extended(frame: &[u8], extensions: &[(u8, u8)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for &(kind, units) in extensions.iter().rev() {
        let mut header = vec![0; usize::from(units) * 8];
        (header[0], header[1]) = (frame[PROTOCOL], if kind == FRAGMENT { 0 } else { units - 1 });
        frame[PROTOCOL] = kind;
        frame.splice(L4..L4, header);
    }
    let payload = frame.len() - L4;
    set_payload_bytes(&mut frame, payload);
    frame
}
