//! IPv4 headers, taken to pieces and put together by an independent library.

use etherparse::{IpFragOffset, Ipv4Header};

use super::*;

/// The packet of a frame in fragments, cut at these offsets (in bytes, multiples of eight).
pub fn cut(frame: &[u8], id: u32, at: &[usize]) -> Vec<Vec<u8>> {
    let (ip, payload) = Ipv4Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv4");
    let starts = std::iter::once(0).chain(at.iter().copied());
    let ends = at.iter().copied().chain([payload.len()]);
    let fragment = |(start, end): (usize, usize)| {
        let mut ip = ip.clone();
        ip.identification = id as u16;
        ip.dont_fragment = false;
        ip.more_fragments = end < payload.len();
        ip.fragment_offset = IpFragOffset::try_new((start / 8) as u16).expect("13 bits");
        ip.set_payload_len(end - start).expect("a short payload");
        ip.header_checksum = ip.calc_header_checksum();
        let mut out = frame[..ETHERNET_BYTES].to_vec();
        ip.write(&mut out).expect("memory takes it");
        out.extend_from_slice(&payload[start..end]);
        out
    };
    starts.zip(ends).map(fragment).collect()
}

/// Where a fragment lies, in units of eight bytes: the first, and the one behind.
pub fn place(frame: &[u8]) -> (usize, usize) {
    let (ip, payload) = Ipv4Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv4");
    let first = usize::from(ip.fragment_offset.value());
    (first, first + payload.len().div_ceil(8))
}

/// What a receiver reads from fragments, in any order.
pub fn read_all(fragments: &[Vec<u8>]) -> Seen {
    let mut parts: Vec<(Ipv4Header, &[u8])> = fragments
        .iter()
        .map(|frame| {
            let (ip, payload) = Ipv4Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv4");
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
            (ip, payload)
        })
        .collect();
    parts.sort_by_key(|(ip, _)| ip.fragment_offset.value());
    let first = &parts[0].0;
    let mut datagram = Vec::new();
    for (ip, payload) in &parts {
        assert_eq!((ip.source, ip.destination, ip.identification), (first.source, first.destination, first.identification));
        assert_eq!((ip.time_to_live, usize::from(ip.fragment_offset.value()) * 8), (first.time_to_live, datagram.len()));
        datagram.extend_from_slice(payload);
    }
    let mut whole = first.clone();
    whole.more_fragments = false;
    whole.set_payload_len(datagram.len()).expect("a datagram");
    whole.header_checksum = whole.calc_header_checksum();
    let mut frame = fragments[0][..ETHERNET_BYTES].to_vec();
    whole.write(&mut frame).expect("memory takes it");
    read(&[frame, datagram].concat())
}

/// A packet after its first hop, as later hops quote it.
pub fn one_hop_on(frame: &[u8]) -> Vec<u8> {
    let (mut ip, payload) = Ipv4Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv4");
    ip.time_to_live -= 1;
    ip.header_checksum = ip.calc_header_checksum();
    let mut bytes = Vec::new();
    ip.write_raw(&mut bytes).expect("memory takes it");
    [&bytes[..], payload].concat()
}
