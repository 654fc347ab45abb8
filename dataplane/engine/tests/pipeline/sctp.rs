//! SCTP (RFC 9260): its checksum covers the whole packet and no address, its chunks tell its state.

use proptest::prelude::*;
use ringway_engine::engine::Origin;
use ringway_engine::flow::{FlowState, Hook};
use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::SCTP;

use super::*;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const CHECKSUM: std::ops::Range<usize> = L4 + 8..L4 + 12;

fn served() -> Bed {
    let mut bed = Bed::new();
    bed.serve(80, SCTP, &[(REMOTE, 8080)]);
    bed
}

#[test]
fn an_association_lives_and_ends() {
    let mut bed = served();
    let state = |bed: &Bed| bed.flows.records(bed.now)[0].state;
    let mut there = None;
    for (chunk, from_client, expected) in [
        (INIT, true, FlowState::Embryonic),
        (INIT_ACK, false, FlowState::Embryonic),
        (COOKIE_ECHO, true, FlowState::Established),
        (COOKIE_ACK, false, FlowState::Established),
        (DATA, true, FlowState::Established),
        (SHUTDOWN, true, FlowState::CloseWait),
        (SHUTDOWN_ACK, false, FlowState::Closed),
    ] {
        let (src, dst) = if from_client { (CLIENT_END, WEB) } else { there.expect("the client begins") };
        let out = bed.receive(&sctp(src, dst, chunk, b"value"));
        assert_eq!(out.verdict, Verdict::Uplink { uplink: 0 }, "chunk {chunk}");
        let seen = read(&out.frame);
        if from_client {
            assert_eq!((seen.src.0, seen.dst), (NODE, (REMOTE, 8080)), "chunk {chunk}");
            there = Some((seen.dst, seen.src));
        } else {
            assert_eq!((seen.src, seen.dst), (WEB, CLIENT_END), "chunk {chunk}");
        }
        assert_eq!((seen.payload, state(&bed)), (b"value".to_vec(), expected), "chunk {chunk}");
    }
    // The client begins anew from the same port.
    bed.now += 600;
    assert_eq!(bed.receive(&sctp(CLIENT_END, WEB, INIT, b"")).verdict, Verdict::Uplink { uplink: 0 });
    assert_eq!((bed.flows.len(), state(&bed)), (1, FlowState::Embryonic));
    bed.receive(&sctp(CLIENT_END, WEB, ABORT, b""));
    assert_eq!(state(&bed), FlowState::Closed);
}

#[test]
fn what_nobody_serves_is_told_of() {
    let mut bed = served();
    bed.serve(81, SCTP, &[]);
    let out = bed.receive(&sctp(CLIENT_END, (VIP, 81), INIT, &[0; 16]));
    assert_eq!((read_icmp(&out.frame).kind, read_icmp(&out.frame).dst), (PORT_UNREACHABLE, CLIENT));
    assert_eq!(bed.receive(&sctp(CLIENT_END, (VIP, 80), ABORT, b"")).verdict, Verdict::Drop(DropReason::NoFlow));
    for fragment in cut(&sctp(CLIENT_END, WEB, INIT, &[0; 16]), 1, &[16]) {
        assert_eq!(bed.receive(&fragment).verdict, Verdict::Drop(DropReason::NotForwarded), "a part of a packet cannot be translated");
    }
    let mut short = sctp(CLIENT_END, WEB, INIT, b"");
    set_payload_bytes(&mut short, 11);
    assert_eq!(bed.receive(&short).verdict, Verdict::Drop(DropReason::Malformed));
}

#[test]
fn pods_and_the_node_are_clients_too() {
    let mut bed = Bed::with(4096, (10_000, 29_999), PodDelivery::Edge);
    bed.serve(80, SCTP, &[(A, 8080)]);
    assert_eq!(bed.upcall(Hook::PodIn, POD_B, &sctp((B, 5000), WEB, INIT, b"")).verdict, Verdict::Host);
    let out = bed.upcall(Hook::NodeOut, RW1, &sctp((NODE, 5000), WEB, INIT, b""));
    assert_eq!((out.verdict, read(&out.frame).dst), (Verdict::Host, (A, 8080)));
}

#[test]
fn unfinished_sums_are_completed_and_wrong_ones_stay_wrong() {
    let mut bed = served();
    let good = sctp(CLIENT_END, WEB, INIT, b"value");
    let right = bed.receive(&good).frame;
    let mut unfinished = good.clone();
    unfinished[CHECKSUM].fill(0);
    assert_eq!(bed.run(Origin::Uplink(0), &unfinished).frame, right);
    let mut wrong = good;
    wrong[CHECKSUM.start] ^= 1;
    let wrong = bed.receive(&wrong).frame;
    assert_eq!((wrong[CHECKSUM.start] ^ 1, &wrong[CHECKSUM.start + 1..]), (right[CHECKSUM.start], &right[CHECKSUM.start + 1..]));
}

proptest! {
    #[test]
    fn translate_then_reverse_is_identity(port in 1u16.., target in 1u16.., value in proptest::collection::vec(any::<u8>(), 0..1400)) {
        let mut bed = Bed::small();
        bed.serve(80, SCTP, &[(REMOTE, target)]);
        let there = read(&bed.receive(&sctp((CLIENT, port), WEB, INIT, &value)).frame);
        prop_assert_eq!((there.src.0, there.dst, &there.payload), (NODE, (REMOTE, target), &value));
        let back = read(&bed.receive(&sctp(there.dst, there.src, INIT_ACK, &value)).frame);
        prop_assert_eq!((back.src, back.dst, &back.payload), (WEB, (CLIENT, port), &value));
    }
}
