//! ICMP errors about translated packets: whoever gets one reads what it sent, however much of it is quoted; spoiled ones are survived.
#![no_main]

mod node;
pub use node::{bed, frames};

use std::net::Ipv4Addr;

use bed::*;
use frames::*;
use libfuzzer_sys::fuzz_target;
use ringway_engine::verdict::Verdict;

const HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

fuzz_target!(|input: (u8, u8, u16, u8, Vec<u8>, Vec<(u8, u8)>)| {
    let (protocol, kind, quoted, code, payload, spoiled) = input;
    let mut node = node::node(false);
    let (client, web, payload) = ((CLIENT, 40_000), (VIP, 80), &payload[..payload.len().min(1_400)]);
    let request = match protocol % 3 {
        0 => tcp(client, web, SYN, payload),
        1 => udp(client, web, payload),
        _ => sctp(client, web, 1, payload),
    };
    let sent = node.receive(&request);
    assert_eq!(sent.verdict, Verdict::Uplink { uplink: 0 });
    let quoted = usize::from(quoted).clamp(28, sent.frame.len() - 14);
    let kind = [3, 11, 12][usize::from(kind % 3)];
    let mut error = icmp(HOP, NODE, (kind, code), [0, 0, 5, 0], &sent.frame[14..14 + quoted]);
    if !spoiled.is_empty() {
        let bytes = error.len();
        for (at, value) in spoiled {
            error[usize::from(at) % bytes] = value;
        }
        node.receive(&error);
        return;
    }
    let out = node.receive(&error);
    assert_eq!(out.verdict, Verdict::Uplink { uplink: 0 });
    let seen = read_icmp(&out.frame);
    assert_eq!((seen.src, seen.dst, seen.kind, seen.payload.len()), (VIP, CLIENT, (kind, code), quoted));
    // One hop on its way: TTL and IP checksum. A checksum that is cut off is not translated, nor is SCTP's.
    let is_same = |at: usize| seen.payload[at] == request[14 + at];
    let is_cut = |at: usize| protocol % 3 == 0 && at == 36 && quoted == 37;
    let skipped = |at: usize| matches!(at, 8 | 10 | 11) || protocol % 3 == 2 && (28..32).contains(&at) || is_cut(at);
    assert!((0..quoted).all(|at| skipped(at) || is_same(at)), "{:02x?}, not {:02x?}", seen.payload, &request[14..14 + quoted]);
});
