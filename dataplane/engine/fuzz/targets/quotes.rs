//! ICMP errors about translated packets: whoever gets one reads what it sent, however much of it is quoted; spoiled ones are survived.
#![no_main]

mod node;
pub use node::{Side, bed, frames, side};

use bed::*;
use frames::*;
use libfuzzer_sys::fuzz_target;
use ringway_engine::verdict::Verdict;

fuzz_target!(|input: (u8, u8, u16, u8, Vec<u8>, Vec<(u8, u8)>)| {
    let (protocol, kind, quoted, code, payload, spoiled) = input;
    let mut node = node::node(false);
    let Side { client, vip, node: own, hop, errors, ttl, l4, .. } = side(protocol & 0x80 != 0);
    let (protocol, web, payload) = (protocol % 3, (vip, 80), &payload[..payload.len().min(1_200)]);
    let request = match protocol {
        0 => tcp(client, web, SYN, payload),
        1 => udp(client, web, payload),
        _ => sctp(client, web, 1, payload),
    };
    let sent = node.receive(&request);
    assert_eq!(sent.verdict, Verdict::Uplink { uplink: 0 });
    let l4 = l4 - ETHERNET_BYTES;
    let quoted = usize::from(quoted).clamp(l4 + 8, sent.frame.len() - ETHERNET_BYTES);
    let (kind, _) = errors[usize::from(kind) % errors.len()];
    let mut error = icmp(hop, own, (kind, code), [0, 0, 5, 0], &sent.frame[ETHERNET_BYTES..ETHERNET_BYTES + quoted]);
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
    assert_eq!((seen.src, seen.dst, seen.kind, seen.payload.len()), (vip, client.0, (kind, code), quoted));
    // One hop on its way: TTL and, of IPv4, IP checksum. A checksum that is cut off is not translated, nor is SCTP's.
    let request = &request[ETHERNET_BYTES..];
    let is_hops = |at: usize| at == ttl - ETHERNET_BYTES || client.0.is_ipv4() && matches!(at, 10 | 11);
    let is_cut = |at: usize| protocol == 0 && at == l4 + 16 && quoted == l4 + 17;
    let skipped = |at: usize| is_hops(at) || protocol == 2 && (l4 + 8..l4 + 12).contains(&at) || is_cut(at);
    assert!((0..quoted).all(|at| skipped(at) || seen.payload[at] == request[at]), "{:02x?}, not {:02x?}", seen.payload, &request[..quoted]);
});
