//! A datagram in any pieces and any order, some of them twice: all arrive, translated, and what comes once more does not.
#![no_main]

mod node;
pub use node::{Side, bed, frames, side};

use bed::v6::*;
use bed::*;
use etherparse::{Ipv4Header, Ipv6FragmentHeader, Ipv6Header};
use frames::*;
use libfuzzer_sys::fuzz_target;
use ringway_engine::divide::divide;
use ringway_engine::verdict::{DropReason, Verdict};

#[path = "../../tests/pipeline/v6/headers.rs"]
pub mod headers;

/// Offset of a fragment and its payload.
fn part(frame: &[u8]) -> (usize, Vec<u8>) {
    if frame[12..14] == ETHERTYPE {
        let (_, payload) = Ipv6Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv6");
        if frame[PROTOCOL] != headers::FRAGMENT {
            return (0, payload.to_vec());
        }
        let (header, payload) = Ipv6FragmentHeader::from_slice(payload).expect("a fragment header");
        return (usize::from(header.fragment_offset.value()) * 8, payload.to_vec());
    }
    let (header, payload) = Ipv4Header::from_slice(&frame[14..]).expect("IPv4");
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
    (usize::from(header.fragment_offset.value()) * 8, payload.to_vec())
}

fuzz_target!(|input: (bool, u16, Vec<u8>, Vec<u8>)| {
    let (is_direct, mtu, order, payload) = input;
    let mut node = node::node(is_direct);
    let port = if is_direct { 81 } else { 80 };
    let (is_v6, mtu) = (mtu & 0x8000 != 0, 28 + u32::from(mtu & 0x7fff) % 1_472);
    let side = side(is_v6);
    let mut request = udp(side.client, (side.vip, port), &payload[..payload.len().min(1_400)]);
    let mut pieces = Vec::new();
    if is_v6 {
        let step = mtu as usize / 8 * 8;
        let at: Vec<usize> = (step..request.len() - L4).step_by(step).collect();
        pieces = headers::cut(&request, 5, &at);
    } else {
        // It may be divided.
        request[20] = 0;
        divide(&request, mtu, |piece| {
            pieces.push(piece.to_vec());
            true
        });
    }
    if pieces.len() > 40 {
        return;
    }
    // Every piece, in the order that the input says, and those twice that it names twice.
    let mut queue: Vec<usize> = order.iter().take(64).map(|number| usize::from(*number) % pieces.len()).collect();
    queue.extend((0..pieces.len()).filter(|number| !order.iter().take(64).any(|named| usize::from(*named) % pieces.len() == *number)));
    let mut arrived = std::collections::BTreeMap::new();
    let mut waiting = Vec::new();
    for number in queue.into_iter().chain([usize::MAX]) {
        for number in std::mem::take(&mut waiting).into_iter().chain((number != usize::MAX).then_some(number)) {
            let out = node.receive(&pieces[number]);
            match out.verdict {
                Verdict::AwaitFirst => waiting.push(number),
                Verdict::Uplink { .. } | Verdict::Host => {
                    let (offset, payload) = part(&out.frame);
                    arrived.insert(offset, payload);
                }
                Verdict::Drop(DropReason::FragmentOverlap) => assert!(arrived.contains_key(&part(&pieces[number]).0), "it lies on nothing"),
                other => panic!("{other:?}"),
            }
        }
    }
    // A piece that comes once more after all have come waits for another first one.
    let expected: std::collections::BTreeMap<_, _> = pieces.iter().map(|piece| part(piece)).collect();
    assert_eq!(arrived.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(expected.iter().skip(1).all(|(offset, payload)| arrived[offset] == *payload), "a later piece was changed");
});
