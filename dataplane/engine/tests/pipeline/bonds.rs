//! The uplink is a bond of three members, of which the worker has queues on the first two.

use std::sync::Arc;

use ringway_engine::engine::{Engine, EngineConfig, Origin};
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::{Bonds, NodeTables};
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::TCP;

use super::*;

fn bonded(carriers: &[u8]) -> Bed {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let config = EngineConfig { transmits_on: vec![false, true, true, false], ..node::config() };
    bed.engine = Engine::new(config, bed.flow_tables.clone(), Arc::clone(&bed.affinity));
    carry(&mut bed, carriers);
    bed
}

fn carry(bed: &mut Bed, carriers: &[u8]) {
    let bonds = Bonds { members: vec![0; 3], carriers: vec![Some(carriers.to_vec())] };
    bed.snapshot.node = Arc::new(NodeTables { bonds, ..NodeTables::clone(&bed.snapshot.node) });
    bed.snapshot.generation += 1;
}

const FROM_FIRST: Origin = Origin::Uplink(1);

#[test]
fn the_next_packet_takes_the_member_that_transmits() {
    let mut bed = bonded(&[1]);
    let syn = bed.run(FROM_FIRST, &tcp(CLIENT_END, WEB, SYN, b""));
    assert_eq!((syn.verdict, macs(&syn.frame)), (Verdict::Uplink { uplink: 1 }, (NODE2_MAC, UPLINK_MAC)), "with the bond's own address");
    carry(&mut bed, &[2]);
    assert_eq!(bed.run(FROM_FIRST, &tcp(CLIENT_END, WEB, ACK, b"")).verdict, Verdict::Uplink { uplink: 2 }, "one flow, whoever receives");
    assert_eq!(bed.flows.len(), 1);
}

#[test]
fn a_flow_keeps_its_member_and_flows_are_spread() {
    let mut bed = bonded(&[1, 2]);
    let mut taken = std::collections::BTreeSet::new();
    for port in 1_000..1_064 {
        let first = bed.run(FROM_FIRST, &tcp((CLIENT, port), WEB, SYN, b"")).verdict;
        let second = bed.run(Origin::Uplink(2), &tcp((CLIENT, port), WEB, ACK, b"")).verdict;
        assert_eq!(first, second);
        let Verdict::Uplink { uplink } = first else { panic!("{first:?}") };
        taken.insert(uplink);
    }
    assert_eq!(taken.into_iter().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn where_the_worker_has_no_queue_or_nobody_transmits_the_kernel_sends() {
    for carriers in [&[3][..], &[]] {
        let out = bonded(carriers).run(FROM_FIRST, &tcp(CLIENT_END, WEB, SYN, b""));
        assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Neigh, UPLINK)), "{carriers:?}");
    }
}

#[test]
fn answers_return_by_the_member_they_came_by() {
    let nobody = || tcp(CLIENT_END, (VIP, 80), SYN, b"");
    for (carriers, expected) in [(&[1, 2][..], 2), (&[1], 1)] {
        let mut bed = bonded(carriers);
        bed.serve(80, TCP, &[]);
        let out = bed.run(Origin::Uplink(2), &nobody());
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: expected }, (ROUTER_MAC, UPLINK_MAC)));
        assert_eq!(bed.run(Origin::Uplink(2), &who_has(VIP)).verdict, Verdict::Uplink { uplink: expected });
    }
    let mut bed = bonded(&[]);
    bed.serve(80, TCP, &[]);
    let out = bed.run(Origin::Uplink(2), &nobody());
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Neigh, UPLINK)));
    assert_eq!(bed.run(Origin::Uplink(2), &who_has(VIP)).verdict, Verdict::Drop(DropReason::NoMember));
}
