//! What is refused, and what is handed back because it is not ours.

use std::sync::Arc;

use ringway_engine::flow::Hook;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::Target;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::TCP;

use super::*;

fn serving() -> Bed {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    bed
}

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn what_is_not_ours_goes_back_as_it_came() {
    let mut bed = serving();
    let icmp = {
        let mut frame = tcp(CLIENT_END, WEB, SYN, b"");
        frame[PROTOCOL] = ICMP;
        frame
    };
    let to_node = tcp((REMOTE, 1), (NODE, 12_345), ACK, b"x");
    for frame in [tcp(CLIENT_END, (VIP, 81), SYN, b""), to_node.clone(), icmp] {
        let out = bed.receive(&frame);
        if frame == to_node {
            assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Received, UPLINK), ROUTER_MAC)));
            assert_eq!(out.frame[6..], frame[6..]);
        } else {
            assert_eq!(out.verdict, dropped(DropReason::NotForwarded), "the kernel would send it back into the network");
        }
        let out = bed.upcall(Hook::PodIn, POD_A, &frame);
        assert_eq!(macs(&out.frame).0, order_mac(Order::Received, POD_A));
    }
    assert_eq!(bed.upcall(Hook::NodeOut, RW1, &tcp((NODE, 1), (VIP, 81), SYN, b"")).verdict, dropped(DropReason::NotForwarded));
    assert!(bed.flows.is_empty());
}

#[test]
fn truncated_and_lying_headers_are_malformed() {
    let mut bed = serving();
    let frame = tcp(CLIENT_END, WEB, SYN, b"payload");
    for len in 0..frame.len() {
        assert_eq!(bed.receive(&frame[..len]).verdict, dropped(DropReason::Malformed), "cut at {len}");
    }
    let mut options = frame.clone();
    options[L4 + 12] = 0xf0;
    assert_eq!(bed.receive(&options).verdict, dropped(DropReason::Malformed));
    for length in [7u16, 16, 0xffff] {
        let mut datagram = udp(CLIENT_END, (VIP, 53), b"payload");
        datagram[L4 + 4..L4 + 6].copy_from_slice(&length.to_be_bytes());
        assert_eq!(bed.receive(&datagram).verdict, dropped(DropReason::Malformed), "UDP length {length}");
    }
    let mut version = frame;
    version[ETHERNET_BYTES] ^= 0x10;
    assert_eq!(bed.receive(&version).verdict, dropped(DropReason::Malformed));
    assert!(bed.flows.is_empty());
}

#[test]
fn impossible_sources_and_resets_begin_no_flow() {
    let mut bed = serving();
    for source in IMPOSSIBLE.map(ip).into_iter().chain([VIP]) {
        assert_eq!(bed.receive(&tcp((source, 80), WEB, SYN, b"")).verdict, dropped(DropReason::LandAttack), "{source}");
    }
    assert_eq!(bed.receive(&tcp(CLIENT_END, WEB, RST, b"")).verdict, dropped(DropReason::NoFlow));
    assert!(bed.flows.is_empty());
}

#[test]
fn policies_and_source_ranges_refuse() {
    let mut bed = serving();
    bed.publish(80, TCP, |frontend| frontend.source_ranges = Some(Arc::new([OTHER_CLIENTS.parse().expect("a prefix")])));
    assert_eq!(bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).verdict, dropped(DropReason::SourceRange));
    assert_eq!(bed.receive(&tcp((OTHER_CLIENT, 1), WEB, SYN, b"")).verdict, Verdict::Uplink { uplink: 0 });
    bed.publish(81, TCP, |frontend| frontend.outside = Target::PolicyLocal);
    assert_eq!(bed.receive(&tcp(CLIENT_END, (VIP, 81), SYN, b"")).verdict, dropped(DropReason::PolicyLocal));
    // Inside, the same address has no endpoint at all: that is told.
    assert_eq!(bed.upcall(Hook::PodIn, POD_A, &tcp((A, 1), (VIP, 81), SYN, b"")).verdict, Verdict::Host);
    assert_eq!(bed.engine.counts().refused, 1);
}

#[test]
fn upcalls_from_unknown_places_are_dropped() {
    let mut bed = serving();
    let frame = tcp((A, 1), WEB, SYN, b"");
    assert_eq!(bed.run(ringway_engine::engine::Origin::Host, &frame).verdict, dropped(DropReason::BadUpcall));
    let mut echo = frame.clone();
    echo[..3].copy_from_slice(&[0x02, 0x53, Order::Echo as u8]);
    assert_eq!(bed.run(ringway_engine::engine::Origin::Host, &echo).verdict, dropped(DropReason::Echo));
    assert_eq!(bed.upcall(Hook::PodIn, 999, &frame).verdict, dropped(DropReason::BadUpcall));
    assert_eq!(bed.upcall(Hook::PodIn, UPLINK, &frame).verdict, dropped(DropReason::BadUpcall));
}
