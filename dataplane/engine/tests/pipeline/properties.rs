//! Properties that hold for any packet.

use proptest::prelude::*;
use ringway_engine::engine::Origin;
use ringway_engine::flow::Hook;
use ringway_engine::order::{Upcall, upcall_mac};
use ringway_engine::verdict::Verdict;
use ringway_engine::wire::{TCP, UDP};

use super::*;

proptest! {
    /// Translating and reversing gives the client back what its peer sent, with right checksums on the way.
    #[test]
    fn translate_then_reverse_is_identity(
        client in any::<u32>().prop_map(client_of),
        port in 1u16..,
        target in 1u16..,
        is_udp in any::<bool>(),
        request in proptest::collection::vec(any::<u8>(), 0..1400),
        reply in proptest::collection::vec(any::<u8>(), 0..1400),
    ) {
        let mut bed = Bed::small();
        bed.serve(80, if is_udp { UDP } else { TCP }, &[(REMOTE, target)]);
        let build = |src, dst, payload: &[u8]| if is_udp { udp(src, dst, payload) } else { tcp(src, dst, ACK, payload) };
        let there = read(&bed.receive(&build((client, port), (VIP, 80), &request)).frame);
        prop_assert_eq!((there.src.0, there.dst, &there.payload), (NODE, (REMOTE, target), &request));
        let back = read(&bed.receive(&build(there.dst, there.src, &reply)).frame);
        prop_assert_eq!((back.src, back.dst, &back.payload), ((VIP, 80), (client, port), &reply));
    }

    /// Any bytes get a verdict and no panic; what is handed back is unchanged behind its destination MAC.
    #[test]
    fn any_bytes_get_a_verdict(bytes in proptest::collection::vec(any::<u8>(), 0..200), host in any::<bool>()) {
        let mut bed = Bed::small();
        bed.serve(80, TCP, &[(REMOTE, 8080), (A, 8080)]);
        let out = bed.run(if host { Origin::Host } else { Origin::Uplink(0) }, &bytes);
        if out.verdict == Verdict::Host {
            prop_assert!(bytes.len() >= 14);
        }
    }

    /// Likewise for packets that are almost right.
    #[test]
    fn damaged_packets_get_a_verdict(
        at in 0usize..80, value in any::<u8>(), cut in 0usize..80, hook in 0u8..6, ifindex in 0u32..40, is_udp in any::<bool>(),
    ) {
        let mut bed = Bed::small();
        bed.serve(80, TCP, &[(REMOTE, 8080), (A, 8080), (C, 8080), (NODE, 8080)]);
        bed.serve(80, UDP, &[(REMOTE, 8080), (A, 8080), (C, 8080), (NODE, 8080)]);
        let end = ((CLIENT, 40_000), (VIP, 80));
        let mut frame = if is_udp { udp(end.0, end.1, b"some payload") } else { tcp(end.0, end.1, SYN, b"some payload") };
        if let Some(hook) = Hook::from_u8(hook) {
            frame[..6].copy_from_slice(&upcall_mac(Upcall { hook, ifindex }));
        }
        let len = frame.len();
        frame[at % len] = value;
        frame.truncate(len - cut.min(len));
        for origin in [Origin::Uplink(0), Origin::Host, Origin::Uplink(3)] {
            let out = bed.run(origin, &frame);
            prop_assert!(out.frame.len() <= frame.len());
        }
    }
}
