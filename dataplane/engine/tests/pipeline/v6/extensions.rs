//! Extension headers (RFC 8200 §4): walked over, kept, and where they are none that we know, left alone.

use proptest::prelude::*;
use ringway_engine::flow::Hook;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::{SCTP, TCP};

use super::*;

const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;

fn served() -> Bed {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    bed.serve(80, SCTP, &[(REMOTE, 8080)]);
    bed
}

/// Kinds and sizes, at most as many as are walked over; options for every hop come first, and there is at most one fragment header.
fn chain() -> impl Strategy<Value = Vec<(u8, u8)>> {
    let kinds = prop::sample::select(vec![ROUTING, DESTINATION_OPTIONS]);
    let others = prop::collection::vec((kinds, 1u8..8), 0..=4);
    (others, any::<Option<prop::sample::Index>>(), prop::option::of(1u8..8)).prop_map(|(mut chain, atomic, hop_by_hop)| {
        if let Some(index) = atomic {
            chain.insert(index.index(chain.len() + 1), (FRAGMENT, 1));
        }
        hop_by_hop.map(|units| (HOP_BY_HOP, units)).into_iter().chain(chain).collect()
    })
}

/// All that stands between the IP header and the L4 header of a frame, which has these extension headers.
fn extensions<'a>(frame: &'a [u8], chain: &[(u8, u8)]) -> &'a [u8] {
    let bytes: usize = chain.iter().map(|(_, units)| usize::from(*units) * 8).sum();
    &frame[L4..L4 + bytes]
}

proptest! {
    /// Whatever stands in front of them: packets are translated and their answers, and errors about them.
    #[test]
    fn a_chain_of_headers_is_kept(chain in chain(), protocol in 0..3, payload in prop::collection::vec(any::<u8>(), 0..900)) {
        let mut bed = Bed::small();
        let protocols = [TCP, ringway_engine::wire::UDP, SCTP];
        bed.serve(80, protocols[protocol as usize], &[(REMOTE, 8080)]);
        let build = |src, dst| match protocol {
            0 => tcp(src, dst, ACK, &payload),
            1 => udp(src, dst, &payload),
            _ => sctp(src, dst, 0, &payload),
        };
        let request = extended(&build(CLIENT_END, WEB), &chain);
        let out = bed.receive(&request);
        prop_assert_eq!((out.verdict, extensions(&out.frame, &chain)), (Verdict::Uplink { uplink: 0 }, extensions(&request, &chain)));
        let there = read(&out.frame);
        prop_assert_eq!((there.src.0, there.dst, there.ttl, &there.payload), (NODE, (REMOTE, 8080), 63, &payload));
        let back = read(&bed.receive(&extended(&build(there.dst, there.src), &chain)).frame);
        prop_assert_eq!((back.src, back.dst, back.ttl, &back.payload), (WEB, CLIENT_END, 63, &payload));

        let error = bed.receive(&icmp(HOP, NODE, TOO_BIG, [0, 0, 5, 0], &out.frame[ETHERNET_BYTES..]));
        prop_assert_eq!(error.verdict, Verdict::Uplink { uplink: 0 });
        let (seen, mut expected) = (read_icmp(&error.frame), one_hop_on(&request));
        if protocol == 2 {
            // SCTP's checksum is left as it is, for who gets the error finds its association without.
            let at = L4 - ETHERNET_BYTES + extensions(&request, &chain).len() + 8;
            expected[at..at + 4].copy_from_slice(&seen.payload[at..at + 4]);
        }
        prop_assert_eq!((seen.src, seen.dst, seen.payload), (VIP, CLIENT, expected));
    }

    /// Wherever it is spoiled and cut, a packet gets a verdict.
    #[test]
    fn damaged_headers_get_a_verdict(chain in chain(), at in 0usize..200, value in any::<u8>(), cut in 0usize..100, is_error in any::<bool>()) {
        let mut bed = Bed::small();
        bed.serve(80, TCP, &[(REMOTE, 8080)]);
        let mut frame = extended(&tcp(CLIENT_END, WEB, ACK, b"request"), &chain);
        if is_error {
            let sent = bed.receive(&frame).frame;
            frame = extended(&icmp(HOP, NODE, TOO_BIG, [0; 4], &sent[ETHERNET_BYTES..]), &chain);
        }
        let len = frame.len();
        frame[L4 + at % (len - L4)] = value;
        frame.truncate(len - cut.min(len));
        let out = bed.receive(&frame);
        prop_assert!(out.frame.len() <= frame.len().max(ETHERNET_BYTES + 1280));
    }
}

#[test]
fn what_we_do_not_walk_over_is_not_ours() {
    let mut bed = served();
    let plain = tcp(CLIENT_END, WEB, SYN, b"");
    let mut segments_left = extended(&plain, &[(ROUTING, 1)]);
    segments_left[L4 + 3] = 1;
    let mut nothing = plain.clone();
    nothing[PROTOCOL] = NO_NEXT_HEADER;
    for (what, frame) in [
        ("seven headers", extended(&plain, &[(DESTINATION_OPTIONS, 1); 7])),
        ("two fragment headers", extended(&plain, &[(FRAGMENT, 1); 2])),
        ("authentication", extended(&plain, &[(AUTHENTICATION, 2)])),
        ("a router on the way", segments_left),
        ("nothing behind", nothing),
    ] {
        assert_eq!(bed.receive(&frame).verdict, Verdict::Drop(DropReason::NotForwarded), "{what}: the kernel would send it back");
        let out = bed.upcall(Hook::PodIn, POD_A, &frame);
        assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, POD_A)), "{what}");
        assert_eq!(out.frame[6..], frame[6..], "{what}");
    }
    assert!(bed.flows.is_empty());
}

/// RFC 8200 §8.1.
#[test]
fn datagrams_without_a_checksum_are_not_ours() {
    let mut bed = served();
    let mut frame = udp(CLIENT_END, WEB, b"question");
    frame[L4 + 6..L4 + 8].fill(0);
    assert_eq!(bed.receive(&frame).verdict, Verdict::Drop(DropReason::NotForwarded));
    assert!(bed.flows.is_empty());
}

#[test]
fn refusals_have_no_extension_headers() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[]);
    let out = bed.receive(&extended(&tcp(CLIENT_END, WEB, SYN, b"x"), &[(HOP_BY_HOP, 1), (ROUTING, 2)]));
    assert_eq!((read(&out.frame).dst, out.frame[PROTOCOL], out.frame.len()), (CLIENT_END, TCP, L4 + 20));
    let ping = extended(&icmp(CLIENT, VIP, ECHO, [0; 4], b"payload"), &[(DESTINATION_OPTIONS, 1)]);
    assert_eq!(bed.receive(&ping).verdict, Verdict::Drop(DropReason::NotForwarded), "a ping with any is not answered");
}

/// RFC 8200 §4.5: what routers on the way look at stands in front of the fragment header, in every fragment.
#[test]
fn headers_of_routers_stand_in_every_fragment() {
    let mut bed = served();
    let chain = [(HOP_BY_HOP, 1), (ROUTING, 3)];
    let fragments: Vec<_> = cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64, 128]).iter().map(|part| extended(part, &chain)).collect();
    let order = [1, 0, 2].map(|number: usize| fragments[number].clone());
    let outcomes = bed.receive_all(&order);
    assert!(outcomes.iter().all(|out| out.verdict == Verdict::Uplink { uplink: 0 }), "{outcomes:?}");
    let without: Vec<_> = outcomes
        .into_iter()
        .map(|out| {
            assert_eq!((out.frame[PROTOCOL], extensions(&out.frame, &chain)), (HOP_BY_HOP, extensions(&fragments[0], &chain)));
            let mut frame = out.frame;
            frame[PROTOCOL] = FRAGMENT;
            frame.drain(L4..L4 + 32);
            let payload = frame.len() - L4;
            set_payload_bytes(&mut frame, payload);
            frame
        })
        .collect();
    let there = read_all(&without);
    assert_eq!((there.src.0, there.dst, there.payload), (NODE, (REMOTE, 8080), vec![7; 300]));
}

/// What follows does not tell which protocol it is, and half a datagram is of no use to anybody.
#[test]
fn fragments_that_begin_with_more_headers_are_not_ours() {
    let mut bed = served();
    let datagram = extended(&udp(CLIENT_END, WEB, &[7; 300]), &[(DESTINATION_OPTIONS, 1)]);
    for fragment in cut(&datagram, 5, &[64, 128]) {
        assert_eq!(bed.receive(&fragment).verdict, Verdict::Drop(DropReason::NotForwarded));
        assert_eq!(bed.upcall(Hook::PodIn, POD_A, &fragment).verdict, Verdict::Host);
    }
    assert!(bed.flows.is_empty());
}

#[test]
fn identifications_have_32_bits() {
    let mut bed = served();
    let fragments = |id, port| cut(&udp((CLIENT, port), WEB, &[7; 300]), id, &[64]);
    let (one, other) = (fragments(0x0001_0005, 1), fragments(0x0002_0005, 2));
    assert_eq!(bed.receive(&one[0]).verdict, Verdict::Uplink { uplink: 0 });
    assert_eq!(bed.receive(&other[1]).verdict, Verdict::AwaitFirst, "another datagram");
    assert_eq!(bed.receive(&one[1]).verdict, Verdict::Uplink { uplink: 0 });
}

/// RFC 6946: it belongs to no datagram, whatever its identification.
#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let mut bed = served();
    let mut atomic = extended(&udp(CLIENT_END, WEB, b"alone"), &[(FRAGMENT, 1)]);
    atomic[L4 + 4..L4 + 8].copy_from_slice(&5u32.to_be_bytes());
    let fragments = cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64]);
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::AwaitFirst);
    let out = bed.receive(&atomic);
    assert_eq!((out.verdict, read(&out.frame).payload), (Verdict::Uplink { uplink: 0 }, b"alone".to_vec()));
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::AwaitFirst, "it was not the first one");
    assert_eq!(bed.receive(&fragments[0]).verdict, Verdict::Uplink { uplink: 0 });
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Uplink { uplink: 0 });
}

#[test]
fn errors_about_fragments_are_about_the_first() {
    let mut bed = served();
    let fragments = cut(&udp(CLIENT_END, WEB, &[7; 300]), 5, &[64]);
    let sent: Vec<_> = fragments.iter().map(|fragment| bed.receive(fragment).frame).collect();
    let out = bed.receive(&icmp(HOP, NODE, TIME_EXCEEDED, [0; 4], &sent[0][ETHERNET_BYTES..]));
    let seen = read_icmp(&out.frame);
    assert_eq!((seen.src, seen.dst, seen.payload), (VIP, CLIENT, one_hop_on(&fragments[0])));
    // What stands in the place of its ports may look like them.
    let mut quoted = sent[0][ETHERNET_BYTES..].to_vec();
    quoted[L4 - ETHERNET_BYTES + 3] = 8;
    for quoted in [&quoted, &sent[1][ETHERNET_BYTES..]] {
        let later = icmp(HOP, NODE, TIME_EXCEEDED, [0; 4], quoted);
        let out = bed.receive(&later);
        assert_eq!((out.verdict, &out.frame[6..]), (Verdict::Host, &later[6..]), "nobody can tell of which flow it is");
    }
}
