//! Any sequence of frames from anywhere, answers to what was sent among them: a verdict for each, and no IP header that was right
//! leaves wrong.
#![no_main]

mod node;
pub use node::{bed, frames};

use bed::*;
use etherparse::{Ipv4Header, Ipv4HeaderSlice};
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

/// Where an untagged frame's IPv4 header is, if it is right.
fn right_header(frame: &[u8]) -> Option<Ipv4Header> {
    if frame.get(12..14) != Some(&[8, 0]) {
        return None;
    }
    let header = Ipv4HeaderSlice::from_slice(frame.get(14..)?).ok()?.to_header();
    (header.header_checksum == header.calc_header_checksum()).then_some(header)
}

/// The same packet from where it went to where it came from.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let header = right_header(frame)?;
    let mut answer = frame.to_vec();
    answer[26..30].copy_from_slice(&header.destination);
    answer[30..34].copy_from_slice(&header.source);
    let l4 = 14 + header.header_len();
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
