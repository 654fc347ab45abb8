//! Fragments: whoever puts them together gets the datagram as a whole one would have arrived.

use proptest::prelude::*;
use ringway_engine::flow::{Hook, TICKS_PER_SECOND};
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

/// RFC 5722: who has put a piece over another may have shown one datagram to a filter and another one to its receiver.
#[test]
fn one_that_lies_on_another_ends_its_datagram() {
    let request = udp(CLIENT_END, WEB, &[7; 300]);
    let fragments = cut(&request, 5, &[64, 128, 192]);
    let of_other_cut = |at: &[usize], number: usize| cut(&request, 5, at).remove(number);
    for (what, stray) in [
        ("begins too early", of_other_cut(&[120, 136], 1)),
        ("ends too late", of_other_cut(&[64, 136], 1)),
        ("over what has come, and more", of_other_cut(&[64], 1)),
        ("a longer first one", of_other_cut(&[136], 0)),
        ("behind the end", of_other_cut(&[192], 1)),
    ] {
        for (backend, delivery) in [(REMOTE, PodDelivery::Edge), (A, PodDelivery::Direct), (A, PodDelivery::Edge)] {
            let mut bed = Bed::served((backend, 8080), delivery);
            bed.receive_all(&fragments[..2]);
            if what == "behind the end" {
                bed.receive(&cut(&udp(CLIENT_END, WEB, &[7; 200]), 5, &[192]).remove(1));
            }
            for late in [&stray, &stray, &fragments[2], &fragments[3], &fragments[1], &fragments[0]] {
                assert_eq!(bed.receive(late).verdict, Verdict::Drop(DropReason::FragmentOverlap), "{what}, {delivery:?}");
            }
            // Another datagram, and later one of the same identification.
            assert!(bed.receive_all(&cut(&request, 6, &[64, 128])).iter().all(|out| !matches!(out.verdict, Verdict::Drop(_))));
            bed.now += TICKS_PER_SECOND;
            assert!(bed.receive_all(&cut(&request, 5, &[64, 128])).iter().all(|out| !matches!(out.verdict, Verdict::Drop(_))));
        }
    }
}

/// The kernel drops it, too, and keeps what came first. One whose content is another's as well ("teardrop").
#[test]
fn one_that_lies_within_another_is_dropped_alone() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let request = udp(CLIENT_END, WEB, &[7; 300]);
    let fragments = cut(&request, 5, &[64, 128]);
    let within = cut(&udp(CLIENT_END, WEB, &[8; 300]), 5, &[72, 104]).remove(1);
    let mut arrived: Vec<_> = bed.receive_all(&fragments[..2]).into_iter().map(|out| out.frame).collect();
    for stray in [&within, &fragments[1], &fragments[0]] {
        assert_eq!(bed.receive(stray).verdict, Verdict::Drop(DropReason::FragmentOverlap));
    }
    arrived.push(bed.receive(&fragments[2]).frame);
    assert_eq!(read_all(&arrived).payload, vec![7; 300]);
    // All have come: what comes now is of another one.
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::AwaitFirst);
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

/// In an order of its own for each `seed`.
fn shuffled(mut frames: Vec<Vec<u8>>, seed: u64) -> Vec<Vec<u8>> {
    let mut state = seed | 1;
    frames.sort_by_cached_key(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    frames
}

proptest! {
    /// However a datagram is cut, in whatever order its fragments come, and some of them twice: it arrives like a whole one.
    #[test]
    fn fragments_arrive_like_the_whole(
        payload in proptest::collection::vec(any::<u8>(), 100..1400),
        cuts in proptest::collection::btree_set(3usize..170, 1..20),
        shuffle in any::<u64>(),
        twice in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        is_udp in any::<bool>(),
    ) {
        let build = |src, dst, payload: &[u8]| if is_udp { udp(src, dst, payload) } else { tcp(src, dst, ACK, payload) };
        let request = build(CLIENT_END, WEB, &payload);
        let at: Vec<usize> = cuts.iter().map(|cut| cut * 8).filter(|&cut| cut < payload.len()).collect();
        let fragments = cut(&request, 77, &at);
        let copies: Vec<_> = twice.iter().map(|index| index.get(&fragments).clone()).collect();
        let (mut bed, count) = (Bed::served((REMOTE, 8080), PodDelivery::Edge), fragments.len());
        let outcomes = bed.receive_all(&shuffled([fragments, copies].concat(), shuffle));
        // A copy that comes when all have come is of another datagram, and waits for another first one.
        let is_known = |verdict| matches!(verdict, Verdict::Uplink { .. } | Verdict::AwaitFirst | Verdict::Drop(DropReason::FragmentOverlap));
        prop_assert!(outcomes.iter().all(|out| is_known(out.verdict)), "{:?}", outcomes);
        let arrived = outcomes.into_iter().filter(|out| matches!(out.verdict, Verdict::Uplink { .. })).map(|out| out.frame);
        let arrived: Vec<_> = arrived.take(count).collect();
        let there = read_all(&arrived);
        prop_assert_eq!((there.src.0, there.dst, there.ttl, there.payload), (NODE, (REMOTE, 8080), 63, payload));
    }

    /// Whatever order they come in: once two lie on each other in part, nothing more arrives, and what did has no overlaps.
    #[test]
    fn nothing_arrives_over_another(
        cuts in proptest::collection::btree_set(1usize..170, 2..20),
        others in proptest::collection::btree_set(1usize..170, 2..20),
        shuffle in any::<u64>(),
    ) {
        let request = udp(CLIENT_END, WEB, &[7; 1_400]);
        let of = |cuts: &std::collections::BTreeSet<usize>| cut(&request, 77, &cuts.iter().map(|cut| cut * 8).collect::<Vec<_>>());
        let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
        let frames = shuffled([of(&cuts), of(&others)].concat(), shuffle);
        let (mut waiting, mut units, mut is_over) = (Vec::new(), vec![false; 176], false);
        for frame in frames {
            for frame in std::mem::take(&mut waiting).into_iter().chain([frame]) {
                let (first, behind) = place(&frame);
                match bed.receive(&frame).verdict {
                    Verdict::AwaitFirst => waiting.push(frame),
                    Verdict::Drop(DropReason::FragmentOverlap) => {
                        prop_assert!(is_over || units[first..behind].contains(&true));
                        is_over |= units[first..behind].contains(&false);
                    }
                    verdict => {
                        prop_assert!(!is_over && matches!(verdict, Verdict::Uplink { .. }), "{:?}", verdict);
                        prop_assert!(!units[first..behind].contains(&true));
                        units[first..behind].fill(true);
                    }
                }
                // All have come: what comes now, or has waited, is of another datagram.
                if units.iter().all(|unit| *unit) {
                    return Ok(());
                }
            }
        }
    }
}
