//! Refusals: what a client gets to whose packet nobody serves (contract §2, "reject or drop").

use etherparse::{SlicedPacket, TcpHeader, TransportSlice};
use ringway_engine::flow::Hook;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::{PodDelivery, Target};
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::{TCP, UDP};

use super::*;

/// Without a backend anywhere.
fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[]);
    bed.serve(80, UDP, &[]);
    bed
}

fn tcp_header(frame: &[u8]) -> TcpHeader {
    match SlicedPacket::from_ethernet(frame).expect("a well-formed frame").transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.to_header(),
        other => panic!("no TCP: {other:?}"),
    }
}

/// RFC 9293 §3.10.7.1: the reset takes its sequence number from the ACK, or acknowledges all of the segment.
#[test]
fn resets_have_the_right_sequence_numbers() {
    // The frames of `tcp` have sequence number 1000 and acknowledge 0.
    for (flags, payload, expected) in [
        (SYN, &b""[..], (0, Some(1001))),
        (SYN, b"fast open", (0, Some(1010))),
        (0, b"", (0, Some(1000))),
        (FIN, b"x", (0, Some(1002))),
        (SYN | FIN, b"", (0, Some(1002))),
        (ACK, b"data", (7, None)),
        (SYN | ACK, b"", (7, None)),
    ] {
        let mut bed = bed();
        let mut frame = tcp(CLIENT_END, WEB, flags, payload);
        if flags & ACK != 0 {
            frame[L4 + 8..][..4].copy_from_slice(&7u32.to_be_bytes());
        }
        let out = bed.receive(&frame);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)), "{flags:#x}");
        assert_eq!(read(&out.frame), Seen { src: WEB, dst: CLIENT_END, ttl: 64, payload: Vec::new() });
        let header = tcp_header(&out.frame);
        let acknowledged = header.ack.then_some(header.acknowledgment_number);
        assert_eq!((header.sequence_number, acknowledged), expected, "{flags:#x}");
        assert!(header.rst && !header.syn && !header.fin && header.window_size == 0, "{header:?}");
        assert_eq!(out.frame.len(), L4 + 20);
        assert!(bed.flows.is_empty());
        assert_eq!(bed.engine.counts().refused, 1);
    }
}

#[test]
fn a_reset_is_never_answered() {
    let mut bed = bed();
    for destination in [WEB, (CLUSTER_IP, 9)] {
        for flags in [RST, RST | ACK, RST | SYN] {
            assert_eq!(bed.receive(&tcp(CLIENT_END, destination, flags, b"")).verdict, Verdict::Drop(DropReason::NoFlow));
        }
    }
    assert_eq!(bed.engine.counts().refused, 0);
}

#[test]
fn tcp_options_are_left_out_of_the_reset() {
    let mut bed = bed();
    let mut frame = tcp(CLIENT_END, WEB, SYN, &[1; 12]);
    // What was payload becomes options.
    frame[L4 + 12] = 0x80;
    let out = bed.receive(&frame);
    assert_eq!(read(&out.frame).dst, CLIENT_END);
    assert_eq!((tcp_header(&out.frame).acknowledgment_number, out.frame.len()), (1001, L4 + 20));
}

/// Type and code of an error that comes from the VIP, and what it quotes.
fn error_to_client(frame: &[u8]) -> ((u8, u8), Vec<u8>) {
    let seen = read_icmp(frame);
    assert_eq!((seen.src, seen.dst, seen.ttl, seen.rest), (VIP, CLIENT, 64, [0; 4]));
    (seen.kind, seen.payload)
}

fn unreachable(frame: &[u8]) -> Vec<u8> {
    let (kind, quote) = error_to_client(frame);
    assert_eq!(kind, PORT_UNREACHABLE);
    quote
}

#[test]
fn datagrams_get_an_error_that_quotes_them() {
    // With nothing, a little, and as much as fits and more.
    let headers = L4 + 8 - ETHERNET_BYTES;
    for payload in [0, 1, QUOTED_MAX - headers, QUOTED_MAX - headers + 1, 1400] {
        let quoted = (headers + payload).min(QUOTED_MAX);
        let mut bed = bed();
        let frame = udp(CLIENT_END, WEB, &vec![7; payload]);
        let out = bed.receive(&frame);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)));
        let quote = unreachable(&out.frame);
        assert_eq!((quote.len(), &quote[..]), (quoted, &frame[ETHERNET_BYTES..ETHERNET_BYTES + quoted]), "{payload} bytes");
    }
}

#[test]
fn padding_and_what_stood_in_the_frame_before_are_not_quoted() {
    let mut bed = bed();
    let mut frame = udp(CLIENT_END, WEB, b"x");
    let quote = frame[ETHERNET_BYTES..].to_vec();
    frame.resize(frame.len().max(48) + 12, 0xee);
    assert_eq!(unreachable(&bed.receive(&frame).frame), quote);
}

#[test]
fn errors_are_limited_by_source_and_resets_are_not() {
    let mut bed = bed();
    let frame = udp(CLIENT_END, WEB, b"x");
    let mut verdicts: Vec<_> = (0..100).map(|_| bed.receive(&frame).verdict).collect();
    verdicts.dedup();
    assert_eq!(verdicts, [Verdict::Uplink { uplink: 0 }, Verdict::Drop(DropReason::RefusalLimited)]);
    assert_eq!(bed.receive(&udp((NODE2, 1), WEB, b"x")).verdict, Verdict::Uplink { uplink: 0 }, "another source");
    bed.now += 60;
    assert_eq!(bed.receive(&frame).verdict, Verdict::Uplink { uplink: 0 }, "a second later");
    for port in 1..200 {
        assert_eq!(bed.receive(&tcp((CLIENT, port), WEB, SYN, b"")).verdict, Verdict::Uplink { uplink: 0 });
    }
    // Pods of this node have a share each, though they are of one prefix.
    let mut told = |device, pod| {
        let datagram = udp((pod, 5), WEB, b"x");
        (0..100).filter(|_| bed.upcall(Hook::PodIn, device, &datagram).verdict == Verdict::Host).count()
    };
    assert_eq!((told(POD_A, A), told(POD_B, B)), (20, 20));
}

#[test]
fn frames_to_many_stations_are_not_answered() {
    let mut bed = bed();
    for at in [0, 6] {
        let mut frame = tcp(CLIENT_END, WEB, SYN, b"");
        frame[at] |= 1;
        assert_eq!(bed.receive(&frame).verdict, Verdict::Drop(DropReason::NoBackend));
    }
}

#[test]
fn vlan_tags_are_kept() {
    let mut bed = bed();
    let plain = tcp(CLIENT_END, WEB, SYN, b"");
    let frame = [&plain[..12], &[0x81, 0, 0x20, 7], &plain[12..]].concat();
    let out = bed.receive(&frame);
    assert_eq!(out.frame[12..16], [0x81, 0, 0x20, 7]);
    assert_eq!(read(&out.frame).dst, CLIENT_END);
}

#[test]
fn the_answer_goes_back_the_way_the_packet_came() {
    let mut bed = bed();
    for (device, pod) in [(POD_A, A), (PORT_C, C)] {
        let mut frame = tcp((pod, 5), WEB, SYN, b"");
        frame[6..12].copy_from_slice(&pod_mac(pod));
        let out = bed.upcall(Hook::PodIn, device, &frame);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Peer, device), pod_mac(pod))));
        assert_eq!((read(&out.frame).src, read(&out.frame).dst), (WEB, (pod, 5)));
    }
    let out = bed.upcall(Hook::NodeOut, RW1, &tcp((NODE, 5), WEB, SYN, b""));
    assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Received, RW1), RW1_MAC)));
    let out = bed.upcall(Hook::UplinkIn, UPLINK, &tcp(CLIENT_END, WEB, SYN, b""));
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Neigh, UPLINK)));
}

#[test]
fn an_undefined_port_of_a_cluster_ip_is_refused_from_everywhere() {
    let mut bed = bed();
    for destination in [(CLUSTER_IP, 9), (CLUSTER_IP, 80)] {
        let out = bed.receive(&tcp(CLIENT_END, destination, SYN, b""));
        assert_eq!((out.verdict, read(&out.frame).src), (Verdict::Uplink { uplink: 0 }, destination));
        let out = bed.upcall(Hook::PodIn, POD_A, &tcp((A, 5), destination, SYN, b""));
        assert_eq!((out.verdict, read(&out.frame).dst), (Verdict::Host, (A, 5)));
        let out = bed.upcall(Hook::NodeOut, RW1, &udp((NODE, 5), destination, b"x"));
        assert_eq!((out.verdict, out.frame[PROTOCOL]), (Verdict::Host, ICMP));
    }
    assert_eq!(bed.receive(&tcp((CLUSTER_IP, 9), (CLUSTER_IP, 9), SYN, b"")).verdict, Verdict::Drop(DropReason::LandAttack));
}

#[test]
fn a_policy_that_forbids_every_backend_is_silent() {
    let mut bed = bed();
    bed.publish(80, TCP, |frontend| frontend.outside = Target::PolicyLocal);
    assert_eq!(bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).verdict, Verdict::Drop(DropReason::PolicyLocal));
    assert_eq!(bed.engine.counts().refused, 0);
}

#[test]
fn an_established_flow_outlives_its_frontends_last_backend() {
    let mut bed = bed();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    assert_eq!(bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).verdict, Verdict::Uplink { uplink: 0 });
    bed.serve(80, TCP, &[]);
    let out = bed.receive(&tcp(CLIENT_END, WEB, ACK, b"x"));
    assert_eq!((out.verdict, read(&out.frame).dst), (Verdict::Uplink { uplink: 0 }, (REMOTE, 8080)));
    let out = bed.receive(&tcp((CLIENT, 41_000), WEB, SYN, b""));
    assert_eq!(read(&out.frame).dst, (CLIENT, 41_000), "a new one is refused");
}

/// The segment says where its reset has to stand in the sequence; a SYN is the first of another connection.
#[test]
fn a_segment_to_a_backend_that_is_gone_is_reset() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let there = read(&bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).frame);
    bed.receive(&tcp(there.dst, there.src, SYN | ACK, b""));
    bed.receive(&tcp(CLIENT_END, WEB, ACK, b""));
    bed.flows.stop(bed.flows.records(bed.now)[0].slot);
    let mut data = tcp(CLIENT_END, WEB, ACK, b"data");
    data[L4 + 8..L4 + 12].copy_from_slice(&7u32.to_be_bytes());
    for _ in 0..2 {
        let out = bed.receive(&data);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)));
        assert_eq!(read(&out.frame), Seen { src: WEB, dst: CLIENT_END, ttl: 64, payload: Vec::new() });
        let header = tcp_header(&out.frame);
        assert!(header.rst && header.sequence_number == 7, "{header:?}");
    }
    assert_eq!(bed.receive(&tcp(CLIENT_END, WEB, RST, b"")).verdict, Verdict::Drop(DropReason::NoBackend));
    assert_eq!(read(&bed.receive(&tcp(there.dst, there.src, ACK, b"late")).frame).dst, CLIENT_END, "what it still answers");
    bed.serve(80, TCP, &[(remote(6), 8080)]);
    assert_eq!(read(&bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).frame).dst, (remote(6), 8080));
    assert_eq!(bed.engine.counts().refused, 2);
}

/// As any router does, about the packet as it came: the sender knows nothing of the backend.
#[test]
fn a_packet_whose_ttl_ends_is_told_of() {
    for protocol in [TCP, UDP] {
        let mut bed = Bed::new();
        bed.serve(80, protocol, &[(REMOTE, 8080)]);
        let mut last_hop = if protocol == TCP { tcp(CLIENT_END, WEB, ACK, b"x") } else { udp(CLIENT_END, WEB, b"x") };
        last_hop[TTL] = 1;
        let out = bed.receive(&last_hop);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)));
        let (kind, quote) = error_to_client(&out.frame);
        assert_eq!((kind, &quote[..], bed.engine.counts().refused), (TIME_EXCEEDED, &last_hop[ETHERNET_BYTES..], 1));
        // To one source so many and no more.
        let verdicts: Vec<_> = (0..100).map(|_| bed.receive(&last_hop).verdict).collect();
        assert_eq!(verdicts.last(), Some(&Verdict::Drop(DropReason::TtlExpired)));
        last_hop[0] |= 1;
        bed.now += 600;
        assert_eq!(bed.receive(&last_hop).verdict, Verdict::Drop(DropReason::TtlExpired), "to many stations");
    }
}

#[test]
fn services_addresses_answer_pings() {
    let mut bed = bed();
    let payload: Vec<u8> = (0..57).collect();
    for (what, address) in [("a VIP", VIP), ("a ClusterIP", CLUSTER_IP)] {
        let ping = icmp(CLIENT, address, ECHO, [0x12, 0x34, 0, 7], &payload);
        let out = bed.receive(&ping);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)), "{what}");
        let pong = SeenIcmp { src: address, dst: CLIENT, ttl: 64, kind: ECHO_REPLY, rest: [0x12, 0x34, 0, 7], payload: payload.clone() };
        assert_eq!(read_icmp(&out.frame), pong, "{what}");
    }
    let out = bed.upcall(Hook::PodIn, POD_A, &icmp(A, CLUSTER_IP, ECHO, [0; 4], b""));
    assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Peer, POD_A), ROUTER_MAC)));
    let out = bed.upcall(Hook::NodeOut, RW1, &icmp(NODE, VIP, ECHO, [0; 4], b"x"));
    assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Received, RW1), RW1_MAC)));
    assert_eq!(read_icmp(&out.frame).dst, NODE);
    // A NIC pads short frames.
    let mut padded = icmp(CLIENT, VIP, ECHO, [0; 4], b"");
    padded.resize(L4 + 26, 0xee);
    assert_eq!(bed.receive(&padded).frame.len(), L4 + 8);
    assert_eq!((bed.engine.counts().pings, bed.engine.counts().refused), (5, 0));
}

#[test]
fn what_is_no_ping_to_a_service_is_not_answered() {
    let mut bed = bed();
    let ping = icmp(CLIENT, VIP, ECHO, [0; 4], b"payload");
    let ping_of = |bytes: usize| icmp(CLIENT, VIP, ECHO, [0; 4], &vec![0; bytes]);
    let mut to_all = ping.clone();
    to_all[0] = 0xff;
    for (what, frame) in [
        ("another address", icmp(CLIENT, NODE, ECHO, [0; 4], b"")),
        ("an unused address", icmp(CLIENT, UNUSED, ECHO, [0; 4], b"")),
        ("a reply", icmp(CLIENT, VIP, ECHO_REPLY, [0; 4], b"")),
        ("another code", icmp(CLIENT, VIP, (ECHO.0, 1), [0; 4], b"")),
        ("another request", icmp(CLIENT, VIP, OTHER_MESSAGE, [0; 4], &[0; 12])),
        ("a fragment", cut(&ping_of(16), 1, &[16])[0].clone()),
        ("a later fragment", cut(&ping_of(16), 1, &[16])[1].clone()),
        ("cut", ping_of(0)[..L4 + 4].to_vec()),
        ("broadcast", to_all),
    ] {
        let out = bed.receive(&frame);
        if out.verdict == Verdict::Host {
            assert!(what.ends_with("address"), "{what}: to a VIP nothing is handed back, for the kernel would send it into the network");
            assert_eq!((macs(&out.frame).0, &out.frame[6..]), (order_mac(Order::Received, UPLINK), &frame[6..]), "{what}");
        } else {
            assert!([DropReason::NotForwarded, DropReason::Malformed].map(Verdict::Drop).contains(&out.verdict), "{what}: {out:?}");
        }
    }
    for source in IMPOSSIBLE.map(ip).into_iter().chain([VIP]) {
        assert_eq!(bed.receive(&icmp(source, VIP, ECHO, [0; 4], b"")).verdict, Verdict::Drop(DropReason::LandAttack));
    }
    let node = ringway_engine::tables::NodeTables { answer_ping: false, ..(*bed.snapshot.node).clone() };
    bed.snapshot.node = std::sync::Arc::new(node);
    assert_eq!(bed.receive(&ping).verdict, Verdict::Drop(DropReason::NotForwarded), "switched off");
    assert_eq!(bed.receive(&icmp(CLIENT, CLUSTER_IP, ECHO, [0; 4], b"")).verdict, Verdict::Host, "switched off");
    assert_eq!(bed.engine.counts().pings, 0);
}

/// Answers as large as what they answer: often enough for a client in a loop, not for a flood of forged sources.
#[test]
fn resets_and_pongs_have_a_limit() {
    let mut bed = bed();
    let (segment, ping) = (tcp(CLIENT_END, WEB, SYN, b""), icmp(CLIENT, VIP, ECHO, [0; 4], b""));
    let mut answered = |frame: &[u8]| (0..5_000).filter(|_| matches!(bed.receive(frame).verdict, Verdict::Uplink { .. })).count();
    assert_eq!((answered(&segment), answered(&ping)), (2_000, 0), "a source's burst");
    assert_eq!(answered(&icmp(A, VIP, ECHO, [0; 4], b"")), 2_000, "another source's");
    assert_eq!(bed.receive(&segment).verdict, Verdict::Drop(DropReason::RefusalLimited));
    bed.now += ringway_engine::flow::TICKS_PER_SECOND;
    let mut answered = |frame: &[u8]| (0..5_000).filter(|_| matches!(bed.receive(frame).verdict, Verdict::Uplink { .. })).count();
    assert_eq!(answered(&segment), 1_000, "a second later");
}
