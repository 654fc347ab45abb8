//! Limits: each is a number, reached here on purpose.

use std::sync::Arc;

use ringway_engine::flow::Hook;
use ringway_engine::tables::{Neighbors, NodeTables, PodDelivery, SnatAddress};
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::TCP;

use super::*;

#[test]
fn snat_ports_end_per_backend_and_come_back() {
    let mut bed = Bed::with(64, (10_000, 10_003), PodDelivery::Edge);
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    bed.serve(81, TCP, &[(REMOTE, 8081)]);
    for port in 0..4 {
        assert_eq!(bed.receive(&tcp((CLIENT, 1000 + port), (VIP, 80), SYN, b"")).verdict, Verdict::Uplink { uplink: 0 });
    }
    let fifth = tcp((CLIENT, 2000), (VIP, 80), SYN, b"");
    assert_eq!(bed.receive(&fifth).verdict, Verdict::Drop(DropReason::SnatPortsExhausted));
    assert_eq!(bed.receive(&tcp((CLIENT, 2000), (VIP, 81), SYN, b"")).verdict, Verdict::Uplink { uplink: 0 }, "another backend");
    // The first flow's client resets it; after the time-out its port is free.
    bed.receive(&tcp((CLIENT, 1000), (VIP, 80), RST, b""));
    bed.now += 60 * 60;
    bed.engine.sweep(bed.now, usize::MAX);
    bed.now += 120;
    assert_eq!(bed.receive(&fifth).verdict, Verdict::Uplink { uplink: 0 });
}

#[test]
fn a_second_snat_address_takes_over() {
    let mut bed = Bed::with(64, (10_000, 10_000), PodDelivery::Edge);
    let second = station(77);
    let mut node = NodeTables::clone(&bed.snapshot.node);
    node.snat.push(SnatAddress { address: second, ports: (1024, 1024) });
    bed.snapshot.node = Arc::new(node);
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let sources: Vec<_> = (0..3).map(|port| bed.receive(&tcp((CLIENT, port + 1), (VIP, 80), SYN, b""))).collect();
    assert_eq!(read(&sources[0].frame).src, (NODE, 10_000));
    assert_eq!(read(&sources[1].frame).src, (second, 1024));
    assert_eq!(sources[2].verdict, Verdict::Drop(DropReason::SnatPortsExhausted));
}

#[test]
fn a_full_flow_table_refuses_new_flows_and_keeps_the_old() {
    let mut bed = Bed::with(8, (10_000, 29_999), PodDelivery::Edge);
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let mut established = Vec::new();
    for port in 1..=100 {
        let end = (CLIENT, port);
        let out = bed.receive(&tcp(end, (VIP, 80), SYN, b""));
        if out.verdict == (Verdict::Uplink { uplink: 0 }) {
            let source = read(&out.frame).src;
            bed.receive(&tcp((REMOTE, 8080), source, SYN | ACK, b""));
            bed.receive(&tcp(end, (VIP, 80), ACK, b""));
            established.push(end);
        } else {
            assert_eq!(out.verdict, Verdict::Drop(DropReason::FlowTableFull));
        }
    }
    assert!((1..=8).contains(&established.len()), "{}", established.len());
    for end in established {
        assert_eq!(bed.receive(&tcp(end, (VIP, 80), ACK, b"data")).verdict, Verdict::Uplink { uplink: 0 });
    }
}

#[test]
fn an_unresolved_neighbor_holds_the_packet_untouched() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(station(99), 8080)]);
    let frame = tcp((CLIENT, 40_000), (VIP, 80), SYN, b"");
    let out = bed.receive(&frame);
    assert_eq!(out.verdict, Verdict::Hold { ifindex: UPLINK, address: station(99) });
    assert_eq!(out.frame, frame);
    let mut neighbors = Neighbors::clone(&bed.snapshot.neighbors);
    neighbors.by_address.insert((UPLINK, station(99)), [2, 0, 0, 0, 0, 99]);
    bed.snapshot.neighbors = Arc::new(neighbors);
    bed.snapshot.generation += 1;
    assert_eq!(bed.receive(&frame).verdict, Verdict::Uplink { uplink: 0 });
    assert_eq!(bed.flows.len(), 1);
}

#[test]
fn without_a_snat_address_remote_backends_are_refused() {
    let mut bed = Bed::new();
    let mut node = NodeTables::clone(&bed.snapshot.node);
    node.snat.clear();
    bed.snapshot.node = Arc::new(node);
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    assert_eq!(bed.receive(&tcp((CLIENT, 1), (VIP, 80), SYN, b"")).verdict, Verdict::Drop(DropReason::NoSnatAddress));
    // A pod keeps its own source.
    assert_eq!(bed.upcall(Hook::PodIn, POD_A, &tcp((A, 1), (VIP, 80), SYN, b"")).verdict, Verdict::Host);
}
