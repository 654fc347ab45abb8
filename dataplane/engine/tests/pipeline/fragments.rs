//! Fragments: whoever puts them together gets the datagram as a whole one would have arrived.

use etherparse::{IpFragOffset, Ipv4Header};
use proptest::prelude::*;
use ringway_engine::divide::divide;
use ringway_engine::flow::Hook;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::{SCTP, TCP, UDP};

use crate::bed::*;
use crate::frames::*;

const CLIENT_END: Endpoint = (CLIENT, 40_000);
const WEB: Endpoint = (VIP, 80);
const ETHERNET_BYTES: usize = 14;

fn ipv4(text: &str) -> std::net::Ipv4Addr {
    text.parse().expect("an address")
}

/// The packet of a frame in fragments, cut at these offsets (in bytes, multiples of eight).
fn cut(frame: &[u8], id: u16, at: &[usize]) -> Vec<Vec<u8>> {
    let (ip, payload) = Ipv4Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv4");
    let starts = std::iter::once(0).chain(at.iter().copied());
    let ends = at.iter().copied().chain([payload.len()]);
    let fragment = |(start, end): (usize, usize)| {
        let mut ip = ip.clone();
        ip.identification = id;
        ip.dont_fragment = false;
        ip.more_fragments = end < payload.len();
        ip.fragment_offset = IpFragOffset::try_new((start / 8) as u16).expect("13 bits");
        ip.set_payload_len(end - start).expect("a short payload");
        ip.header_checksum = ip.calc_header_checksum();
        let mut out = frame[..ETHERNET_BYTES].to_vec();
        ip.write(&mut out).expect("memory takes it");
        out.extend_from_slice(&payload[start..end]);
        out
    };
    starts.zip(ends).map(fragment).collect()
}

/// What a receiver reads from fragments, in any order.
fn read_all(fragments: &[Vec<u8>]) -> Seen {
    let mut parts: Vec<(Ipv4Header, &[u8])> = fragments
        .iter()
        .map(|frame| {
            let (ip, payload) = Ipv4Header::from_slice(&frame[ETHERNET_BYTES..]).expect("IPv4");
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
            (ip, payload)
        })
        .collect();
    parts.sort_by_key(|(ip, _)| ip.fragment_offset.value());
    let first = &parts[0].0;
    let mut datagram = Vec::new();
    for (ip, payload) in &parts {
        assert_eq!((ip.source, ip.destination, ip.identification), (first.source, first.destination, first.identification));
        assert_eq!((ip.time_to_live, usize::from(ip.fragment_offset.value()) * 8), (first.time_to_live, datagram.len()));
        datagram.extend_from_slice(payload);
    }
    let mut whole = first.clone();
    whole.more_fragments = false;
    whole.set_payload_len(datagram.len()).expect("a datagram");
    whole.header_checksum = whole.calc_header_checksum();
    let mut frame = fragments[0][..ETHERNET_BYTES].to_vec();
    whole.write(&mut frame).expect("memory takes it");
    read(&[frame, datagram].concat())
}

fn served(backend: Endpoint, pod_delivery: PodDelivery) -> Bed {
    let mut bed = Bed::with(4096, (10_000, 29_999), pod_delivery);
    bed.serve(80, TCP, &[backend]);
    bed.serve(80, UDP, &[backend]);
    bed
}

/// Receives frames as the shell does: those that have to wait come again after each of the others.
fn receive_all(bed: &mut Bed, frames: &[Vec<u8>]) -> Vec<Outcome> {
    let (mut outcomes, mut waiting) = (Vec::new(), Vec::<Vec<u8>>::new());
    for frame in frames {
        for frame in std::mem::take(&mut waiting).into_iter().chain([frame.clone()]) {
            let out = bed.receive(&frame);
            if out.verdict == Verdict::AwaitFirst {
                assert_eq!(out.frame, frame, "untouched");
                waiting.push(frame);
            } else {
                outcomes.push(out);
            }
        }
    }
    for frame in waiting {
        outcomes.push(bed.receive(&frame));
    }
    outcomes
}

#[test]
fn later_fragments_go_where_the_first_one_went() {
    for (what, request) in [("UDP", udp(CLIENT_END, WEB, &[7; 300])), ("TCP", tcp(CLIENT_END, WEB, SYN, &[7; 300]))] {
        let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
        let outcomes = receive_all(&mut bed, &cut(&request, 5, &[64, 128, 256]));
        for out in &outcomes {
            assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (NODE2_MAC, UPLINK_MAC)), "{what}");
        }
        let there = read_all(&outcomes.iter().map(|out| out.frame.clone()).collect::<Vec<_>>());
        assert_eq!((there.src.0, there.dst, there.ttl, there.payload), (NODE, (REMOTE, 8080), 63, vec![7; 300]), "{what}");
        // And the answer.
        let answer = if what == "UDP" { udp(there.dst, there.src, &[8; 200]) } else { tcp(there.dst, there.src, ACK, &[8; 200]) };
        let back: Vec<_> = receive_all(&mut bed, &cut(&answer, 9, &[40])).into_iter().map(|out| out.frame).collect();
        assert_eq!(read_all(&back), Seen { src: WEB, dst: CLIENT_END, ttl: 63, payload: vec![8; 200] }, "{what}");
        assert_eq!(macs(&back[1]), (ROUTER_MAC, UPLINK_MAC));
    }
}

#[test]
fn they_go_straight_into_a_pod() {
    let mut bed = served((A, 8080), PodDelivery::Direct);
    let outcomes = receive_all(&mut bed, &cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64, 128]));
    for out in &outcomes {
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Peer, POD_A), pod_mac(A))));
    }
    let there = read_all(&outcomes.into_iter().map(|out| out.frame).collect::<Vec<_>>());
    assert_eq!((there.src, there.dst), (CLIENT_END, (A, 8080)));
}

#[test]
fn what_edge_executes_is_given_back_in_order() {
    let mut bed = served((A, 8080), PodDelivery::Edge);
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
    let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
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
    let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
    bed.publish(81, UDP, |frontend| frontend.outside = ringway_engine::tables::Target::PolicyLocal);
    let fragments = cut(&udp(CLIENT_END, (VIP, 81), &[7; 300]), 5, &[64]);
    assert_eq!(bed.receive(&fragments[0]).verdict, Verdict::Drop(DropReason::PolicyLocal));
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Drop(DropReason::FragmentAlone));
    // An error is told of the first one only, and the rest is not answered.
    let mut expired = udp(CLIENT_END, WEB, &[7; 300]);
    expired[ETHERNET_BYTES + 8] = 1;
    let fragments = cut(&expired, 6, &[64]);
    assert_eq!(read_icmp(&bed.receive(&fragments[0]).frame).kind, (11, 0));
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Drop(DropReason::FragmentAlone));
}

#[test]
fn a_flow_that_ended_between_two_fragments_takes_the_later_one_with_it() {
    let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
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
    let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
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

/// The fragments of a frame's packet for an MTU.
fn divided(frame: &[u8], mtu: u32) -> Option<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    let complete = divide(frame, mtu, |piece| {
        pieces.push(piece.to_vec());
        true
    });
    complete.then_some(pieces)
}

#[test]
fn what_is_larger_than_its_next_hop_takes_is_divided() {
    const DIVIDE: Verdict = Verdict::Divide { mtu: 1_500, uplink: Some(0) };
    for (what, mut request) in [
        ("UDP", udp(CLIENT_END, WEB, &[7; 1_600])),
        ("TCP", tcp(CLIENT_END, WEB, SYN, &[7; 1_600])),
        ("SCTP", sctp(CLIENT_END, WEB, 1, &[7; 1_600])),
    ] {
        let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
        bed.serve(80, SCTP, &[(REMOTE, 8080)]);
        request[20] = 0;
        let out = bed.receive(&request);
        assert_eq!((out.verdict, macs(&out.frame)), (DIVIDE, (NODE2_MAC, UPLINK_MAC)), "{what}");
        let pieces = divided(&out.frame, 1_500).expect("it may be divided");
        let there = read_all(&pieces);
        assert_eq!((pieces.len(), there.src.0, there.dst, there.payload), (2, NODE, (REMOTE, 8080), vec![7; 1_600]), "{what}");
    }
    // Fragments too, whichever comes first: the whole is forgotten when all have gone.
    let mut request = udp(CLIENT_END, WEB, &[7; 3_300]);
    request[20] = 0;
    for order in [[0, 1], [1, 0]] {
        let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
        let fragments = cut(&request, 9, &[1_600]);
        let outcomes = receive_all(&mut bed, &order.map(|number: usize| fragments[number].clone()));
        assert!(outcomes.iter().all(|out| out.verdict == DIVIDE), "{outcomes:?}");
        let pieces: Vec<_> = outcomes.iter().flat_map(|out| divided(&out.frame, 1_500).expect("it may be divided")).collect();
        assert_eq!(read_all(&pieces).payload, vec![7; 3_300]);
    }
}

#[test]
fn fragments_wait_with_a_first_one_that_waits_for_a_neighbor() {
    let mut bed = served((ipv4("10.0.0.77"), 8080), PodDelivery::Edge);
    let fragments = cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64]);
    for _ in 0..10 {
        assert!(matches!(bed.receive(&fragments[0]).verdict, Verdict::Hold { .. }));
        assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::AwaitFirst);
        bed.now += 3;
    }
}

#[test]
fn those_of_a_refused_packet_go_nowhere() {
    let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
    bed.serve(82, UDP, &[]);
    let fragments = cut(&udp(CLIENT_END, (VIP, 82), &[7; 300]), 5, &[64]);
    assert_eq!(read_icmp(&bed.receive(&fragments[0]).frame).kind, (3, 3));
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Drop(DropReason::FragmentAlone));
}

#[test]
fn what_may_not_be_divided_is_not() {
    let mut request = udp(CLIENT_END, WEB, &[7; 100]);
    assert_eq!(divided(&request, 100), None, "don't fragment");
    request[20] = 0;
    assert!(divided(&request, 28).is_some_and(|pieces| pieces.len() == 14));
    for mtu in [0, 19, 20, 27] {
        assert_eq!(divided(&request, mtu), None, "no room");
    }
    let mut stopped = 0;
    assert!(
        !divide(&request, 60, |_| {
            stopped += 1;
            stopped < 2
        }),
        "nobody takes more"
    );
    assert_eq!(divided(&[0; 60], 60), None);
    let mut of_death = request.clone();
    of_death[20..22].copy_from_slice(&0x1fff_u16.to_be_bytes());
    assert_eq!(divided(&of_death, 60), None, "it ends behind the largest datagram");
    for len in 0..request.len() {
        assert_eq!(divided(&request[..len], 60), None, "cut off");
    }
}

/// RFC 791 §3.1: some options stand in the first fragment only, in the others there is nothing in their place.
#[test]
fn options_that_are_not_copied_become_no_operations() {
    let mut request = udp(CLIENT_END, WEB, &[7; 100]);
    request[20] = 0;
    // Record route (not copied), no operation, loose source route (copied), end.
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 131, 3, 4, 0];
    request.splice(34..34, options);
    request[14] = 0x48;
    request[17] += 12;
    let pieces = divided(&request, 92).expect("it may be divided");
    assert_eq!(pieces[0][34..46], options);
    for piece in &pieces[1..] {
        assert_eq!(piece[34..46], [1, 1, 1, 1, 1, 1, 1, 1, 131, 3, 4, 0]);
    }
}

proptest! {
    /// Also if it is divided once more on its way.
    #[test]
    fn a_divided_packet_is_whole_again(
        payload in proptest::collection::vec(any::<u8>(), 1..3_000), first in 68u32..1_600, second in 68u32..1_600,
    ) {
        let mut request = udp(CLIENT_END, WEB, &payload);
        request[20] = 0;
        let pieces = divided(&request, first).expect("it may be divided");
        let pieces: Vec<_> = pieces.iter().flat_map(|piece| divided(piece, second).expect("so may they")).collect();
        prop_assert!(pieces.iter().all(|piece| piece.len() - ETHERNET_BYTES <= first.min(second) as usize));
        let seen = read_all(&pieces);
        prop_assert_eq!((seen.src, seen.dst, seen.payload), (CLIENT_END, WEB, payload));
    }

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
        let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
        let arrived: Vec<_> = receive_all(&mut bed, &fragments).into_iter().map(|out| out.frame).collect();
        let there = read_all(&arrived);
        prop_assert_eq!((there.src.0, there.dst, there.ttl, there.payload), (NODE, (REMOTE, 8080), 63, payload));
    }
}
