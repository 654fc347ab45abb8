//! Any frame: what parsing says lies within it, and division does not lose a byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway_engine::divide::divide;
use ringway_engine::wire::{Parsed, parse};

fuzz_target!(|frame: &[u8]| {
    match parse(frame) {
        Parsed::Flow(flow) | Parsed::Later(flow) => {
            assert!(flow.l3 < flow.l4 && flow.l4 <= flow.end && flow.end <= frame.len());
            assert!(matches!(parse(frame), Parsed::Later(_)) || flow.check_offset() + 2 <= flow.end);
        }
        Parsed::Quote(quote) => {
            assert!(quote.l3 < quote.icmp && quote.icmp + 8 <= quote.quoted_l3 && quote.quoted_l3 + 20 <= quote.quoted_l4);
            assert!(quote.quoted_l4 + 4 <= quote.end && quote.end <= frame.len());
            assert!(quote.quoted_check.is_none_or(|at| at + 2 <= quote.end));
        }
        Parsed::Ping(ping) => assert!(ping.l3 + 28 <= ping.end && ping.end <= frame.len()),
        Parsed::Arp(l3) => assert!(l3 <= frame.len()),
        Parsed::Overlap | Parsed::Other | Parsed::Malformed => {}
    }
    let mtu = frame.last().map_or(0, |byte| u32::from(*byte) * 8);
    let (mut fragments, mut payload) = (0, 0);
    let is_whole = divide(frame, mtu, |fragment| {
        let (Parsed::Flow(flow) | Parsed::Later(flow)) = parse(fragment) else { return true };
        assert!(flow.bytes() <= mtu as usize);
        fragments += 1;
        payload += flow.end - flow.l4;
        true
    });
    if let (true, Parsed::Flow(flow)) = (is_whole && fragments > 1, parse(frame)) {
        assert!(payload <= flow.end - flow.l4);
    }
});
