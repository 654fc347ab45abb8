//! ICMP errors about flows: they reach who sent the packet that they quote, and quote it as that one sent it.

use std::net::Ipv4Addr;

use etherparse::Ipv4Header;
use proptest::prelude::*;
use ringway_engine::flow::Hook;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::{TCP, UDP};

use crate::bed::*;
use crate::frames::*;

const CLIENT_END: Endpoint = (CLIENT, 40_000);
const WEB: Endpoint = (VIP, 80);
/// Some router on the way.
const HOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
/// Its MTU field: 1400.
const MTU: [u8; 4] = [0, 0, 0x05, 0x78];
const ETHERNET_BYTES: usize = 14;

/// The IP packet of a frame.
fn packet(frame: &[u8]) -> &[u8] {
    &frame[ETHERNET_BYTES..]
}

/// A packet after its first hop, as later hops quote it.
fn one_hop_on(frame: &[u8]) -> Vec<u8> {
    let (mut ip, payload) = Ipv4Header::from_slice(packet(frame)).expect("IPv4");
    ip.time_to_live -= 1;
    ip.header_checksum = ip.calc_header_checksum();
    let mut bytes = Vec::new();
    ip.write_raw(&mut bytes).expect("memory takes it");
    [&bytes[..], payload].concat()
}

fn served(backend: Endpoint, pod_delivery: PodDelivery) -> Bed {
    let mut bed = Bed::with(4096, (10_000, 29_999), pod_delivery);
    bed.serve(80, TCP, &[backend]);
    bed.serve(80, UDP, &[backend]);
    bed
}

#[test]
fn an_error_about_a_request_reaches_the_client_from_the_vip() {
    for (what, request) in [("TCP", tcp(CLIENT_END, WEB, ACK, b"request")), ("UDP", udp(CLIENT_END, WEB, b"request"))] {
        let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
        let sent = bed.receive(&request).frame;
        for (from, kind, rest) in
            [(HOP, FRAGMENTATION_NEEDED, MTU), (REMOTE, (3, 3), [0; 4]), (HOP, (11, 0), [0; 4]), (HOP, (12, 0), [20, 0, 0, 0])]
        {
            let out = bed.receive(&icmp(from, NODE, kind, rest, packet(&sent)));
            assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)), "{what}");
            let expected = SeenIcmp { src: VIP, dst: CLIENT, ttl: 63, kind, rest, payload: one_hop_on(&request) };
            assert_eq!(read_icmp(&out.frame), expected, "{what}");
        }
        assert_eq!(bed.engine.counts().icmp_errors, 4);
    }
}

#[test]
fn an_error_about_an_answer_reaches_the_backend() {
    let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
    let there = read(&bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).frame);
    let answer = tcp(there.dst, there.src, ACK, b"answer");
    let back = bed.receive(&answer).frame;
    let out = bed.receive(&icmp(HOP, VIP, FRAGMENTATION_NEEDED, MTU, packet(&back)));
    assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (NODE2_MAC, UPLINK_MAC)));
    // From the address that the backend takes for its client.
    let expected = SeenIcmp { src: NODE, dst: REMOTE, ttl: 63, kind: FRAGMENTATION_NEEDED, rest: MTU, payload: one_hop_on(&answer) };
    assert_eq!(read_icmp(&out.frame), expected);
}

#[test]
fn an_error_about_an_answer_goes_straight_into_the_pod() {
    let mut bed = served((A, 8080), PodDelivery::Direct);
    bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
    let quoted = tcp(WEB, CLIENT_END, ACK, b"answer");
    let out = bed.receive(&icmp(HOP, VIP, FRAGMENTATION_NEEDED, MTU, packet(&quoted)));
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Peer, POD_A)));
    let quoted = packet(&tcp((A, 8080), CLIENT_END, ACK, b"answer")).to_vec();
    assert_eq!(read_icmp(&out.frame), SeenIcmp { src: HOP, dst: A, ttl: 63, kind: FRAGMENTATION_NEEDED, rest: MTU, payload: quoted });
}

#[test]
fn an_error_about_a_flow_of_edge_is_handed_back() {
    let mut bed = served((A, 8080), PodDelivery::Edge);
    bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
    let error = icmp(HOP, VIP, FRAGMENTATION_NEEDED, MTU, packet(&tcp(WEB, CLIENT_END, ACK, b"answer")));
    let out = bed.receive(&error);
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, UPLINK)));
    assert_eq!(out.frame[6..], error[6..]);
}

#[test]
fn what_belongs_to_no_flow_is_handed_back() {
    let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
    let sent = bed.receive(&tcp(CLIENT_END, WEB, ACK, b"request")).frame;
    let quoted = packet(&sent).to_vec();
    let changed = |at: usize, byte: u8| {
        let mut quoted = quoted.clone();
        quoted[at] = byte;
        quoted
    };
    for (what, error) in [
        ("another port", icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, &changed(21, 0))),
        ("another protocol", icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, &changed(9, 132))),
        ("not the first fragment", icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, &changed(7, 1))),
        ("IPv6", icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, &changed(0, 0x65))),
        ("too short a header", icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, &changed(0, 0x44))),
        ("not to who sent the quoted packet", icmp(HOP, NODE2, FRAGMENTATION_NEEDED, MTU, &quoted)),
        ("a redirect", icmp(HOP, NODE, (5, 1), [10, 0, 0, 254], &quoted)),
        ("an echo", icmp(HOP, NODE, (8, 0), [0; 4], &quoted)),
        ("ports cut off", icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, &quoted[..23])),
        ("nothing quoted", icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, b"")),
        ("from the wrong side", icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, packet(&tcp((NODE, 10_000), CLIENT_END, ACK, b"")))),
    ] {
        let out = bed.receive(&error);
        assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, UPLINK)), "{what}");
        assert_eq!(out.frame[6..], error[6..], "{what}");
    }
    // The kernel would send it back into the network.
    let to_vip = icmp(HOP, VIP, FRAGMENTATION_NEEDED, MTU, &quoted);
    assert_eq!(bed.receive(&to_vip).verdict, Verdict::Drop(DropReason::NotForwarded), "not to who sent the quoted packet");
    for source in ["127.0.0.1", "224.0.0.1", "10.0.0.1"] {
        let error = icmp(source.parse().expect("an address"), NODE, FRAGMENTATION_NEEDED, MTU, &quoted);
        assert_eq!(bed.receive(&error).verdict, Verdict::Drop(DropReason::LandAttack), "{source} cannot say so");
    }
    assert_eq!(bed.engine.counts().icmp_errors, 0);
}

/// RFC 1812 §4.3.2.7.
#[test]
fn no_error_is_answered_by_an_error() {
    let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
    let sent = bed.receive(&udp(CLIENT_END, WEB, b"request")).frame;
    let mut error = icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, packet(&sent));
    for ttl in [1, 0] {
        error[ETHERNET_BYTES + 8] = ttl;
        assert_eq!(bed.receive(&error).verdict, Verdict::Drop(DropReason::TtlExpired));
    }
    // Larger than the next hop's MTU.
    let error = icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, &[packet(&sent), &[0; 1_500]].concat());
    assert_eq!(bed.receive(&error).verdict, Verdict::Drop(DropReason::TooBig));
    assert_eq!(bed.engine.counts().refused, 0);
}

/// A flow of the node or of a pod is executed at its device; should such an error come up, it is not translated twice.
#[test]
fn an_upcall_of_an_error_is_handed_back() {
    let mut bed = served((REMOTE, 8080), PodDelivery::Edge);
    bed.upcall(Hook::PodIn, POD_A, &udp((A, 40_000), WEB, b"request"));
    let error = icmp(A, VIP, (3, 3), [0; 4], packet(&udp(WEB, (A, 40_000), b"answer")));
    let out = bed.upcall(Hook::PodIn, POD_A, &error);
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, POD_A)));
    assert_eq!(out.frame[6..], error[6..]);
}

proptest! {
    /// Whatever is quoted, and however much of it (but half a checksum): the client reads the beginning of what it sent, with every checksum right.
    #[test]
    fn the_client_reads_what_it_sent(
        port in 1u16.., target in 1u16.., is_udp in any::<bool>(), has_checksum in any::<bool>(), words in 12usize..700,
        payload in proptest::collection::vec(any::<u8>(), 0..1200), kind in prop::sample::select(vec![(3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)]),
    ) {
        let mut bed = Bed::small();
        bed.serve(80, if is_udp { UDP } else { TCP }, &[(REMOTE, target)]);
        let client = (CLIENT, port);
        let mut request = if is_udp { udp(client, WEB, &payload) } else { tcp(client, WEB, ACK, &payload) };
        if is_udp && !has_checksum {
            request[40..42].fill(0);
        }
        let sent = bed.receive(&request).frame;
        let quoted = &packet(&sent)[..(2 * words).min(packet(&sent).len())];
        let out = bed.receive(&icmp(HOP, NODE, kind, MTU, quoted));
        prop_assert_eq!(out.verdict, Verdict::Uplink { uplink: 0 });
        let seen = read_icmp(&out.frame);
        prop_assert_eq!((seen.src, seen.dst, &seen.payload[..]), (VIP, CLIENT, &one_hop_on(&request)[..quoted.len()]));
    }

    /// Errors that are spoiled anywhere get a verdict, and frames keep their length.
    #[test]
    fn damaged_errors_get_a_verdict(at in 0usize..100, value in any::<u8>(), cut in 0usize..100, is_udp in any::<bool>()) {
        let mut bed = Bed::small();
        bed.serve(80, if is_udp { UDP } else { TCP }, &[(REMOTE, 8080)]);
        let request = if is_udp { udp(CLIENT_END, WEB, b"request") } else { tcp(CLIENT_END, WEB, ACK, b"request") };
        let sent = bed.receive(&request).frame;
        let mut error = icmp(HOP, NODE, FRAGMENTATION_NEEDED, MTU, packet(&sent));
        let len = error.len();
        error[at % len] = value;
        error.truncate(len - cut.min(len));
        let out = bed.receive(&error);
        prop_assert!(out.frame.len() <= error.len());
    }
}
