//! Any frame: what parsing says lies within it, and division does not lose a byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway_engine::divide::divide;
use ringway_engine::family::Family;
use ringway_engine::wire::{Frame, Parsed, parse};

fn check<F: Family>(frame: &[u8], parsed: Parsed<F>) {
    match parsed {
        Parsed::Flow(flow) | Parsed::Later(flow) => {
            assert!(flow.l3 + F::HEADER_BYTES <= flow.l4 && flow.l4 <= flow.end && flow.end <= frame.len());
            assert!(matches!(parsed, Parsed::Later(_)) || flow.check_offset() + 2 <= flow.end);
            // In its header the packet has the addresses, and nobody else.
            assert_eq!(F::read(frame, flow.l3 + F::ADDRESSES), Some(flow.tuple.saddr));
        }
        Parsed::Quote(quote) => {
            assert!(quote.l3 + F::HEADER_BYTES <= quote.icmp && quote.icmp + 8 <= quote.quoted_l3);
            assert!(quote.quoted_l3 + F::HEADER_BYTES <= quote.quoted_l4);
            assert!(quote.quoted_l4 + 4 <= quote.end && quote.end <= frame.len());
            assert!(quote.quoted_check.is_none_or(|at| at + 2 <= quote.end));
        }
        Parsed::Ping(ping) => assert!(ping.l3 + F::HEADER_BYTES + 8 <= ping.end && ping.end <= frame.len()),
        Parsed::Solicitation { l3, end } => assert!(F::IS_V6 && l3 + F::HEADER_BYTES < end && end <= frame.len()),
        Parsed::Overlap | Parsed::Other | Parsed::Malformed => {}
    }
}

fuzz_target!(|frame: &[u8]| {
    match parse(frame) {
        Frame::V4(parsed) => check(frame, parsed),
        Frame::V6(parsed) => check(frame, parsed),
        Frame::Arp(l3) => assert!(l3 <= frame.len()),
        Frame::Other | Frame::Malformed => {}
    }
    let mtu = frame.last().map_or(0, |byte| u32::from(*byte) * 8);
    let (mut fragments, mut payload) = (0, 0);
    let is_whole = divide(frame, mtu, |fragment| {
        let Frame::V4(Parsed::Flow(flow) | Parsed::Later(flow)) = parse(fragment) else { return true };
        assert!(flow.bytes() <= mtu as usize);
        fragments += 1;
        payload += flow.end - flow.l4;
        true
    });
    if let (true, Frame::V4(Parsed::Flow(flow))) = (is_whole && fragments > 1, parse(frame)) {
        assert!(payload <= flow.end - flow.l4);
    }
    assert!(!is_whole || matches!(parse(frame), Frame::V4(_)), "only IPv4 is divided");
});
