//! ICMP errors about flows: they reach who sent the packet that they quote, and quote it as that one sent it.

use proptest::prelude::*;
use ringway_engine::flow::Hook;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::{TCP, UDP};

use super::*;

/// The MTU field of "too big": 1400.
const MTU: [u8; 4] = [0, 0, 0x05, 0x78];

/// The IP packet of a frame.
fn packet(frame: &[u8]) -> &[u8] {
    &frame[ETHERNET_BYTES..]
}

#[test]
fn an_error_about_a_request_reaches_the_client_from_the_vip() {
    for (what, request) in [("TCP", tcp(CLIENT_END, WEB, ACK, b"request")), ("UDP", udp(CLIENT_END, WEB, b"request"))] {
        let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
        let sent = bed.receive(&request).frame;
        for (from, kind, rest) in
            [(HOP, TOO_BIG, MTU), (REMOTE, PORT_UNREACHABLE, [0; 4]), (HOP, TIME_EXCEEDED, [0; 4]), (HOP, PARAMETER_PROBLEM, [20, 0, 0, 0])]
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
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let there = read(&bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).frame);
    let answer = tcp(there.dst, there.src, ACK, b"answer");
    let back = bed.receive(&answer).frame;
    let out = bed.receive(&icmp(HOP, VIP, TOO_BIG, MTU, packet(&back)));
    assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (NODE2_MAC, UPLINK_MAC)));
    // From the address that the backend takes for its client.
    let expected = SeenIcmp { src: NODE, dst: REMOTE, ttl: 63, kind: TOO_BIG, rest: MTU, payload: one_hop_on(&answer) };
    assert_eq!(read_icmp(&out.frame), expected);
}

#[test]
fn an_error_about_an_answer_goes_straight_into_the_pod() {
    let mut bed = Bed::served((A, 8080), PodDelivery::Direct);
    bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
    let quoted = tcp(WEB, CLIENT_END, ACK, b"answer");
    let out = bed.receive(&icmp(HOP, VIP, TOO_BIG, MTU, packet(&quoted)));
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Peer, POD_A)));
    let quoted = packet(&tcp((A, 8080), CLIENT_END, ACK, b"answer")).to_vec();
    assert_eq!(read_icmp(&out.frame), SeenIcmp { src: HOP, dst: A, ttl: 63, kind: TOO_BIG, rest: MTU, payload: quoted });
}

#[test]
fn an_error_about_a_flow_of_edge_is_handed_back() {
    let mut bed = Bed::served((A, 8080), PodDelivery::Edge);
    bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
    let error = icmp(HOP, VIP, TOO_BIG, MTU, packet(&tcp(WEB, CLIENT_END, ACK, b"answer")));
    let out = bed.receive(&error);
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, UPLINK)));
    assert_eq!(out.frame[6..], error[6..]);
}

#[test]
fn what_belongs_to_no_flow_is_handed_back() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let sent = bed.receive(&tcp(CLIENT_END, WEB, ACK, b"request")).frame;
    let quoted = packet(&sent).to_vec();
    let changed = |at: usize, byte: u8| {
        let mut quoted = quoted.clone();
        quoted[at] = byte;
        quoted
    };
    for (what, error) in [
        ("another port", icmp(HOP, NODE, TOO_BIG, MTU, &changed(L4 - ETHERNET_BYTES + 1, 0))),
        ("another protocol", icmp(HOP, NODE, TOO_BIG, MTU, &changed(PROTOCOL - ETHERNET_BYTES, 132))),
        ("the other family", icmp(HOP, NODE, TOO_BIG, MTU, &changed(0, quoted[0] ^ 0x20))),
        ("not to who sent the quoted packet", icmp(HOP, NODE2, TOO_BIG, MTU, &quoted)),
        ("a redirect", icmp(HOP, NODE, REDIRECT, [0; 4], &quoted)),
        ("an echo", icmp(HOP, NODE, ECHO, [0; 4], &quoted)),
        ("ports cut off", icmp(HOP, NODE, TOO_BIG, MTU, &quoted[..L4 - ETHERNET_BYTES + 3])),
        ("nothing quoted", icmp(HOP, NODE, TOO_BIG, MTU, b"")),
        ("from the wrong side", icmp(HOP, NODE, TOO_BIG, MTU, packet(&tcp((NODE, 10_000), CLIENT_END, ACK, b"")))),
    ] {
        let out = bed.receive(&error);
        assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, UPLINK)), "{what}");
        assert_eq!(out.frame[6..], error[6..], "{what}");
    }
    // The kernel would send it back into the network.
    let to_vip = icmp(HOP, VIP, TOO_BIG, MTU, &quoted);
    assert_eq!(bed.receive(&to_vip).verdict, Verdict::Drop(DropReason::NotForwarded), "not to who sent the quoted packet");
    for source in IMPOSSIBLE.map(ip).into_iter().chain([NODE]) {
        let error = icmp(source, NODE, TOO_BIG, MTU, &quoted);
        assert_eq!(bed.receive(&error).verdict, Verdict::Drop(DropReason::LandAttack), "{source} cannot say so");
    }
    assert_eq!(bed.engine.counts().icmp_errors, 0);
}

/// RFC 1812 §4.3.2.7.
#[test]
fn no_error_is_answered_by_an_error() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let sent = bed.receive(&udp(CLIENT_END, WEB, b"request")).frame;
    let mut error = icmp(HOP, NODE, TOO_BIG, MTU, packet(&sent));
    for ttl in [1, 0] {
        error[TTL] = ttl;
        assert_eq!(bed.receive(&error).verdict, Verdict::Drop(DropReason::TtlExpired));
    }
    // Larger than the next hop's MTU.
    let error = icmp(HOP, NODE, TOO_BIG, MTU, &[packet(&sent), &[0; 1_500]].concat());
    assert_eq!(bed.receive(&error).verdict, Verdict::Drop(DropReason::TooBig));
    assert_eq!(bed.engine.counts().refused, 0);
}

/// A flow of the node or of a pod is executed at its device; should such an error come up, it is not translated twice.
#[test]
fn an_upcall_of_an_error_is_handed_back() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    bed.upcall(Hook::PodIn, POD_A, &udp((A, 40_000), WEB, b"request"));
    let error = icmp(A, VIP, PORT_UNREACHABLE, [0; 4], packet(&udp(WEB, (A, 40_000), b"answer")));
    let out = bed.upcall(Hook::PodIn, POD_A, &error);
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, POD_A)));
    assert_eq!(out.frame[6..], error[6..]);
}

/// Ports are enough to find the socket, and RFC 792 asks for no more than what follows them.
#[test]
fn as_little_as_the_ports_may_be_quoted() {
    for quoted in [L4 - ETHERNET_BYTES + 4, L4 - ETHERNET_BYTES + 8] {
        for request in [tcp(CLIENT_END, WEB, ACK, b""), udp(CLIENT_END, WEB, b"")] {
            let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
            let sent = bed.receive(&request).frame;
            let out = bed.receive(&icmp(HOP, NODE, PORT_UNREACHABLE, [0; 4], &packet(&sent)[..quoted]));
            let seen = read_icmp(&out.frame);
            assert_eq!((seen.src, seen.dst, &seen.payload[..]), (VIP, CLIENT, &one_hop_on(&request)[..quoted]));
        }
    }
}

proptest! {
    /// Whatever is quoted, and however much of it (but half a checksum): the client reads the beginning of what it sent, with every checksum right.
    #[test]
    fn the_client_reads_what_it_sent(
        port in 1u16.., target in 1u16.., is_udp in any::<bool>(), has_checksum in any::<bool>(), words in (L4 - ETHERNET_BYTES + 4) / 2..700,
        payload in proptest::collection::vec(any::<u8>(), 0..1200), kind in prop::sample::select(ERRORS.to_vec()),
    ) {
        let mut bed = Bed::small();
        bed.serve(80, if is_udp { UDP } else { TCP }, &[(REMOTE, target)]);
        let client = (CLIENT, port);
        let mut request = if is_udp { udp(client, WEB, &payload) } else { tcp(client, WEB, ACK, &payload) };
        if is_udp && !has_checksum && UDP_MAY_LACK_CHECKSUM {
            request[L4 + 6..L4 + 8].fill(0);
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
    fn damaged_errors_get_a_verdict(at in 0usize..130, value in any::<u8>(), cut in 0usize..130, is_udp in any::<bool>()) {
        let mut bed = Bed::small();
        bed.serve(80, if is_udp { UDP } else { TCP }, &[(REMOTE, 8080)]);
        let request = if is_udp { udp(CLIENT_END, WEB, b"request") } else { tcp(CLIENT_END, WEB, ACK, b"request") };
        let sent = bed.receive(&request).frame;
        let mut error = icmp(HOP, NODE, TOO_BIG, MTU, packet(&sent));
        let len = error.len();
        error[at % len] = value;
        error.truncate(len - cut.min(len));
        let out = bed.receive(&error);
        prop_assert!(out.frame.len() <= error.len());
    }
}
