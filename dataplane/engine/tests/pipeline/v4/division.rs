//! Packets that are larger than their next hop takes: divided, or told of (RFC 791 §3.2, RFC 1191).

use proptest::prelude::*;
use ringway_engine::divide::divide;
use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::Verdict;
use ringway_engine::wire::SCTP;

use super::*;

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
        let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
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
        let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
        let fragments = cut(&request, 9, &[1_600]);
        let outcomes = bed.receive_all(&order.map(|number: usize| fragments[number].clone()));
        assert!(outcomes.iter().all(|out| out.verdict == DIVIDE), "{outcomes:?}");
        let pieces: Vec<_> = outcomes.iter().flat_map(|out| divided(&out.frame, 1_500).expect("it may be divided")).collect();
        assert_eq!(read_all(&pieces).payload, vec![7; 3_300]);
    }
}

/// RFC 1191, for senders that look for the path's MTU.
#[test]
fn who_forbids_division_is_told() {
    const DONT_FRAGMENT: u8 = 0x40;
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let segment = |payload: usize, flags: u8| {
        let mut frame = tcp(CLIENT_END, WEB, ACK, &vec![0; payload]);
        frame[20] = flags;
        frame
    };
    assert_eq!(bed.receive(&segment(1460, DONT_FRAGMENT)).verdict, Verdict::Uplink { uplink: 0 });
    let mut datagram = udp(CLIENT_END, WEB, &[0; 1473]);
    datagram[20] = DONT_FRAGMENT;
    for too_big in std::iter::repeat_n([segment(1461, DONT_FRAGMENT), datagram.clone()], 50).flatten() {
        let seen = read_icmp(&bed.receive(&too_big).frame);
        let quote = too_big[ETHERNET_BYTES..ETHERNET_BYTES + QUOTED_MAX].to_vec();
        assert_eq!(seen, SeenIcmp { src: VIP, dst: CLIENT, ttl: 64, kind: TOO_BIG, rest: 1500u32.to_be_bytes(), payload: quote });
    }
    assert_eq!(bed.engine.counts().refused, 100, "whoever asks has to know");
    datagram[20] = 0;
    for frame in [segment(1461, 0), datagram] {
        let out = bed.receive(&frame);
        assert_eq!((out.verdict, out.frame.len()), (Verdict::Divide { mtu: 1500, uplink: Some(0) }, frame.len()));
    }
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
}
