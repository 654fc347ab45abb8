//! Fragments: whoever puts them together gets the datagram as a whole one would have arrived.

use proptest::prelude::*;
use ringway_engine::flow::Hook;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::UDP;

use super::*;

#[test]
fn later_fragments_go_where_the_first_one_went() {
    for (what, request) in [("UDP", udp(CLIENT_END, WEB, &[7; 300])), ("TCP", tcp(CLIENT_END, WEB, SYN, &[7; 300]))] {
        let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
        let outcomes = bed.receive_all(&cut(&request, 5, &[64, 128, 256]));
        for out in &outcomes {
            assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (NODE2_MAC, UPLINK_MAC)), "{what}");
        }
        let there = read_all(&outcomes.iter().map(|out| out.frame.clone()).collect::<Vec<_>>());
        assert_eq!((there.src.0, there.dst, there.ttl, there.payload), (NODE, (REMOTE, 8080), 63, vec![7; 300]), "{what}");
        // And the answer.
        let answer = if what == "UDP" { udp(there.dst, there.src, &[8; 200]) } else { tcp(there.dst, there.src, ACK, &[8; 200]) };
        let back: Vec<_> = bed.receive_all(&cut(&answer, 9, &[40])).into_iter().map(|out| out.frame).collect();
        assert_eq!(read_all(&back), Seen { src: WEB, dst: CLIENT_END, ttl: 63, payload: vec![8; 200] }, "{what}");
        assert_eq!(macs(&back[1]), (ROUTER_MAC, UPLINK_MAC));
    }
}

#[test]
fn they_go_straight_into_a_pod() {
    let mut bed = Bed::served((A, 8080), PodDelivery::Direct);
    let outcomes = bed.receive_all(&cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64, 128]));
    for out in &outcomes {
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Peer, POD_A), pod_mac(A))));
    }
    let there = read_all(&outcomes.into_iter().map(|out| out.frame).collect::<Vec<_>>());
    assert_eq!((there.src, there.dst), (CLIENT_END, (A, 8080)));
}

#[test]
fn what_edge_executes_is_given_back_in_order() {
    let mut bed = Bed::served((A, 8080), PodDelivery::Edge);
    let fragments = cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64, 128]);
    for fragment in &fragments {
        let out = bed.receive(fragment);
        assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, UPLINK)));
        assert_eq!(out.frame[6..], fragment[6..], "untouched");
    }
    // A pod's, by its device.
    for fragment in cut(&udp((B, 5000), WEB, &[7; 300]), 5, &[64, 128]) {
        let out = bed.upcall(Hook::PodIn, POD_B, &fragment);
        assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, POD_B)));
    }
    // The node's own are executed by whoever gets the first one.
    let outcomes: Vec<_> =
        cut(&udp((NODE, 5000), WEB, &[7; 300]), 5, &[64]).iter().map(|fragment| bed.upcall(Hook::NodeOut, RW1, fragment)).collect();
    assert!(outcomes.iter().all(|out| out.verdict == Verdict::Host), "{outcomes:?}");
    assert_eq!(macs(&outcomes[0].frame).0, macs(&outcomes[1].frame).0);
    assert_eq!(read_all(&outcomes.into_iter().map(|out| out.frame).collect::<Vec<_>>()).dst, (A, 8080));
}

#[test]
fn one_whose_first_does_not_come_waits_and_goes_back() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let fragments = cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64, 128]);
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::AwaitFirst);
    bed.now += 1;
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::AwaitFirst);
    bed.now += 1;
    let out = bed.receive(&fragments[1]);
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, UPLINK)), "`edge` may know");
    assert_eq!(bed.receive(&fragments[2]).verdict, Verdict::Host, "the next does not wait once more");
}

#[test]
fn those_of_a_packet_that_is_dropped_are_dropped() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    bed.publish(81, UDP, |frontend| frontend.outside = ringway_engine::tables::Target::PolicyLocal);
    let fragments = cut(&udp(CLIENT_END, (VIP, 81), &[7; 300]), 5, &[64]);
    assert_eq!(bed.receive(&fragments[0]).verdict, Verdict::Drop(DropReason::PolicyLocal));
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Drop(DropReason::FragmentAlone));
    // An error is told of the first one only, and the rest is not answered.
    let mut expired = udp(CLIENT_END, WEB, &[7; 300]);
    expired[TTL] = 1;
    let fragments = cut(&expired, 6, &[64]);
    assert_eq!(read_icmp(&bed.receive(&fragments[0]).frame).kind, TIME_EXCEEDED);
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Drop(DropReason::FragmentAlone));
}

#[test]
fn a_flow_that_ended_between_two_fragments_takes_the_later_one_with_it() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let fragments = cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64, 128]);
    bed.receive(&fragments[0]);
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Uplink { uplink: 0 });
    let slot = bed.flows.records(bed.now)[0].slot;
    bed.flows.remove(0, slot, bed.now);
    assert_eq!(bed.receive(&fragments[2]).verdict, Verdict::Drop(DropReason::FragmentAlone));
}

/// RFC 1858, RFC 3128.
#[test]
fn one_that_lies_on_the_header_is_dropped() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let overlapping = |frame: &[u8], at| cut(frame, 5, &[at]).remove(1);
    let segment = tcp(CLIENT_END, WEB, SYN, &[7; 300]);
    for at in [8, 16] {
        assert_eq!(bed.receive(&overlapping(&segment, at)).verdict, Verdict::Drop(DropReason::FragmentOverlap));
    }
    assert_eq!(bed.receive(&overlapping(&segment, 24)).verdict, Verdict::AwaitFirst);
    assert_eq!(bed.receive(&overlapping(&udp(CLIENT_END, WEB, &[7; 300]), 8)).verdict, Verdict::AwaitFirst);
    // And a first one that does not hold the header.
    assert_eq!(bed.receive(&cut(&segment, 6, &[16])[0]).verdict, Verdict::Drop(DropReason::Malformed));
}

#[test]
fn fragments_wait_with_a_first_one_that_waits_for_a_neighbor() {
    let mut bed = Bed::served((station(77), 8080), PodDelivery::Edge);
    let fragments = cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64]);
    for _ in 0..10 {
        assert!(matches!(bed.receive(&fragments[0]).verdict, Verdict::Hold { .. }));
        assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::AwaitFirst);
        bed.now += 3;
    }
}

#[test]
fn those_of_a_refused_packet_go_nowhere() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    bed.serve(82, UDP, &[]);
    let fragments = cut(&udp(CLIENT_END, (VIP, 82), &[7; 300]), 5, &[64]);
    assert_eq!(read_icmp(&bed.receive(&fragments[0]).frame).kind, PORT_UNREACHABLE);
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Drop(DropReason::FragmentAlone));
}

proptest! {
    /// However a datagram is cut, in whatever order its fragments come: it arrives like a whole one.
    #[test]
    fn fragments_arrive_like_the_whole(
        payload in proptest::collection::vec(any::<u8>(), 100..1400),
        cuts in proptest::collection::btree_set(3usize..170, 1..20),
        shuffle in any::<u64>(),
        is_udp in any::<bool>(),
    ) {
        let build = |src, dst, payload: &[u8]| if is_udp { udp(src, dst, payload) } else { tcp(src, dst, ACK, payload) };
        let request = build(CLIENT_END, WEB, &payload);
        let at: Vec<usize> = cuts.iter().map(|cut| cut * 8).filter(|&cut| cut < payload.len()).collect();
        let mut fragments = cut(&request, 77, &at);
        let mut state = shuffle | 1;
        fragments.sort_by_cached_key(|_| { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state });
        let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
        let arrived: Vec<_> = bed.receive_all(&fragments).into_iter().map(|out| out.frame).collect();
        let there = read_all(&arrived);
        prop_assert_eq!((there.src.0, there.dst, there.ttl, there.payload), (NODE, (REMOTE, 8080), 63, payload));
    }
}
