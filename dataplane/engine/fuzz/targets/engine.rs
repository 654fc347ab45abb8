//! Any sequence of frames of both families from anywhere, answers to what was sent among them: a verdict for each, and no IP header that was right
//! leaves wrong.
#![no_main]

mod node;
pub use node::{Side, bed, frames, side};

use bed::*;
use etherparse::{Ipv4HeaderSlice, Ipv6Header};
use libfuzzer_sys::fuzz_target;
use ringway_engine::engine::Origin;
use ringway_engine::flow::Hook;
use ringway_engine::verdict::Verdict;

/// Takes so many bytes off the front, or what is left.
fn take<'a>(input: &mut &'a [u8], bytes: usize) -> &'a [u8] {
    let (front, rest) = input.split_at(bytes.min(input.len()));
    *input = rest;
    front
}

/// Source and destination of an untagged frame whose IP header is right, and where that ends.
fn right_header(frame: &[u8]) -> Option<(Vec<u8>, Vec<u8>, usize)> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    match &frame[12..ETHERNET_BYTES] {
        [8, 0] => {
            let header = Ipv4HeaderSlice::from_slice(packet).ok()?.to_header();
            let is_right = header.header_checksum == header.calc_header_checksum();
            is_right.then(|| (header.source.to_vec(), header.destination.to_vec(), ETHERNET_BYTES + header.header_len()))
        }
        [0x86, 0xdd] => {
            let (header, payload) = Ipv6Header::from_slice(packet).ok()?;
            let is_right = usize::from(header.payload_length) <= payload.len();
            is_right.then(|| (header.source.to_vec(), header.destination.to_vec(), v6::L4))
        }
        _ => None,
    }
}

/// The same packet from where it went to where it came from.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let (source, destination, l4) = right_header(frame)?;
    let mut answer = frame.to_vec();
    let at = side(source.len() == 16).source;
    answer[at..at + 2 * source.len()].copy_from_slice(&[destination, source].concat());
    let ports: [u8; 4] = answer.get(l4..l4 + 4)?.try_into().ok()?;
    answer[l4..l4 + 4].copy_from_slice(&[ports[2], ports[3], ports[0], ports[1]]);
    Some(answer)
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let mut node = node::node(take(&mut input, 1).first().is_some_and(|byte| byte & 1 != 0));
    let mut last: Option<Vec<u8>> = None;
    while let [kind, bytes, ..] = *take(&mut input, 2) {
        let frame = match kind & 0x80 {
            0 => take(&mut input, usize::from(bytes)).to_vec(),
            _ => last.as_deref().and_then(answer).unwrap_or_default(),
        };
        let out = match kind & 7 {
            0 | 1 => node.receive(&frame),
            2 if frame.len() > 6 => node.upcall(Hook::PodIn, POD_B, &frame),
            3 if frame.len() > 6 => node.upcall(Hook::PodIn, PORT_C, &frame),
            4 if frame.len() > 6 => node.upcall(Hook::NodeOut, RW1, &frame),
            5 if frame.len() > 6 => node.upcall(Hook::UplinkIn, OVERLAY, &frame),
            6 => {
                node.now += u32::from(bytes);
                node.engine.sweep(node.now, 64);
                continue;
            }
            _ => node.run(Origin::Host, &frame),
        };
        if matches!(out.verdict, Verdict::Uplink { .. } | Verdict::Host) {
            assert!(out.frame.len() >= 14);
            assert!(right_header(&frame).is_none() || right_header(&out.frame).is_some(), "{frame:02x?} became {:02x?}", out.frame);
            last = Some(out.frame);
        }
    }
});
