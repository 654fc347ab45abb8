//! Refusals: what a client gets to whose packet nobody serves (contract §2, "reject or drop").

use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
use etherparse::{Icmpv4Type, IpNumber, NetSlice, SlicedPacket, TcpHeader, TransportSlice};
use ringway_engine::flow::Hook;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::Target;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::{TCP, UDP};

use crate::bed::*;
use crate::frames::*;

const CLIENT_END: Endpoint = (CLIENT, 40_000);
/// Frontends without a backend anywhere.
const EMPTY: Endpoint = (VIP, 80);

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
        let mut frame = tcp(CLIENT_END, EMPTY, flags, payload);
        if flags & ACK != 0 {
            frame[14 + 20 + 8..][..4].copy_from_slice(&7u32.to_be_bytes());
        }
        let out = bed.receive(&frame);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)), "{flags:#x}");
        assert_eq!(read(&out.frame), Seen { src: EMPTY, dst: CLIENT_END, ttl: 64, payload: Vec::new() });
        let header = tcp_header(&out.frame);
        let acknowledged = header.ack.then_some(header.acknowledgment_number);
        assert_eq!((header.sequence_number, acknowledged), expected, "{flags:#x}");
        assert!(header.rst && !header.syn && !header.fin && header.window_size == 0, "{header:?}");
        assert_eq!(out.frame.len(), 14 + 40);
        assert!(bed.flows.is_empty());
        assert_eq!(bed.engine.counts().refused, 1);
    }
}

#[test]
fn a_reset_is_never_answered() {
    let mut bed = bed();
    for destination in [EMPTY, (CLUSTER_IP, 9)] {
        for flags in [RST, RST | ACK, RST | SYN] {
            assert_eq!(bed.receive(&tcp(CLIENT_END, destination, flags, b"")).verdict, Verdict::Drop(DropReason::NoFlow));
        }
    }
    assert_eq!(bed.engine.counts().refused, 0);
}

#[test]
fn ip_and_tcp_options_are_left_out_of_the_reset() {
    let mut bed = bed();
    let plain = tcp(CLIENT_END, EMPTY, SYN, &[1; 12]);
    // Four bytes of IP options, and what was payload becomes TCP options.
    let mut frame = [&plain[..34], &[1; 4], &plain[34..]].concat();
    frame[14] = 0x46;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[38 + 12] = 0x80;
    let out = bed.receive(&frame);
    assert_eq!(read(&out.frame).dst, CLIENT_END);
    assert_eq!((tcp_header(&out.frame).acknowledgment_number, out.frame.len()), (1001, 54));
}

/// The type of an error that comes from the VIP, and what it quotes.
fn error_to_client(frame: &[u8]) -> (Icmpv4Type, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!((header.header_checksum, header.protocol), (header.calc_header_checksum(), IpNumber::ICMP));
    assert_eq!((header.source, header.destination), (VIP.octets(), CLIENT.octets()));
    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("no ICMP") };
    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
    (icmp.icmp_type(), icmp.payload().to_vec())
}

fn unreachable(frame: &[u8]) -> Vec<u8> {
    let (kind, quote) = error_to_client(frame);
    assert_eq!(kind, Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port));
    quote
}

#[test]
fn datagrams_get_an_error_that_quotes_them() {
    // With nothing, a little, and as much as fits into 576 bytes and more.
    for (payload, quoted) in [(0, 28), (1, 29), (520, 548), (521, 548), (1400, 548)] {
        let mut bed = bed();
        let frame = udp(CLIENT_END, EMPTY, &vec![7; payload]);
        let out = bed.receive(&frame);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)));
        let quote = unreachable(&out.frame);
        assert_eq!((quote.len(), &quote[..]), (quoted, &frame[14..14 + quoted]), "{payload} bytes");
    }
}

#[test]
fn padding_and_what_stood_in_the_frame_before_are_not_quoted() {
    let mut bed = bed();
    let mut frame = udp(CLIENT_END, EMPTY, b"x");
    let quote = frame[14..].to_vec();
    frame.resize(60, 0xee);
    assert_eq!(unreachable(&bed.receive(&frame).frame), quote);
}

#[test]
fn errors_are_limited_by_source_and_resets_are_not() {
    let mut bed = bed();
    let frame = udp(CLIENT_END, EMPTY, b"x");
    let mut verdicts: Vec<_> = (0..100).map(|_| bed.receive(&frame).verdict).collect();
    verdicts.dedup();
    assert_eq!(verdicts, [Verdict::Uplink { uplink: 0 }, Verdict::Drop(DropReason::RefusalLimited)]);
    assert_eq!(bed.receive(&udp((ROUTER, 1), EMPTY, b"x")).verdict, Verdict::Uplink { uplink: 0 }, "another source");
    bed.now += 60;
    assert_eq!(bed.receive(&frame).verdict, Verdict::Uplink { uplink: 0 }, "a second later");
    for port in 1..200 {
        assert_eq!(bed.receive(&tcp((CLIENT, port), EMPTY, SYN, b"")).verdict, Verdict::Uplink { uplink: 0 });
    }
}

#[test]
fn frames_to_many_stations_are_not_answered() {
    let mut bed = bed();
    for at in [0, 6] {
        let mut frame = tcp(CLIENT_END, EMPTY, SYN, b"");
        frame[at] |= 1;
        assert_eq!(bed.receive(&frame).verdict, Verdict::Drop(DropReason::NoBackend));
    }
}

#[test]
fn vlan_tags_are_kept() {
    let mut bed = bed();
    let plain = tcp(CLIENT_END, EMPTY, SYN, b"");
    let frame = [&plain[..12], &[0x81, 0, 0x20, 7], &plain[12..]].concat();
    let out = bed.receive(&frame);
    assert_eq!(out.frame[12..16], [0x81, 0, 0x20, 7]);
    assert_eq!(read(&out.frame).dst, CLIENT_END);
}

#[test]
fn the_answer_goes_back_the_way_the_packet_came() {
    let mut bed = bed();
    for (device, pod) in [(POD_A, A), (PORT_C, C)] {
        let mut frame = tcp((pod, 5), EMPTY, SYN, b"");
        frame[6..12].copy_from_slice(&pod_mac(pod));
        let out = bed.upcall(Hook::PodIn, device, &frame);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Peer, device), pod_mac(pod))));
        assert_eq!((read(&out.frame).src, read(&out.frame).dst), (EMPTY, (pod, 5)));
    }
    let out = bed.upcall(Hook::NodeOut, RW1, &tcp((NODE, 5), EMPTY, SYN, b""));
    assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Received, RW1), RW1_MAC)));
    let out = bed.upcall(Hook::UplinkIn, UPLINK, &tcp(CLIENT_END, EMPTY, SYN, b""));
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
        assert_eq!((out.verdict, out.frame[23]), (Verdict::Host, 1));
    }
    assert_eq!(bed.receive(&tcp((CLUSTER_IP, 9), (CLUSTER_IP, 9), SYN, b"")).verdict, Verdict::Drop(DropReason::LandAttack));
}

#[test]
fn a_policy_that_forbids_every_backend_is_silent() {
    let mut bed = bed();
    bed.publish(80, TCP, |frontend| frontend.outside = Target::PolicyLocal);
    assert_eq!(bed.receive(&tcp(CLIENT_END, EMPTY, SYN, b"")).verdict, Verdict::Drop(DropReason::PolicyLocal));
    assert_eq!(bed.engine.counts().refused, 0);
}

#[test]
fn an_established_flow_outlives_its_frontends_last_backend() {
    let mut bed = bed();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    assert_eq!(bed.receive(&tcp(CLIENT_END, EMPTY, SYN, b"")).verdict, Verdict::Uplink { uplink: 0 });
    bed.serve(80, TCP, &[]);
    let out = bed.receive(&tcp(CLIENT_END, EMPTY, ACK, b"x"));
    assert_eq!((out.verdict, read(&out.frame).dst), (Verdict::Uplink { uplink: 0 }, (REMOTE, 8080)));
    let out = bed.receive(&tcp((CLIENT, 41_000), EMPTY, SYN, b""));
    assert_eq!(read(&out.frame).dst, (CLIENT, 41_000), "a new one is refused");
}

/// As any router does, about the packet as it came: the sender knows nothing of the backend.
#[test]
fn a_packet_whose_ttl_ends_is_told_of() {
    for protocol in [TCP, UDP] {
        let mut bed = Bed::new();
        bed.serve(80, protocol, &[(REMOTE, 8080)]);
        let mut last_hop = if protocol == TCP { tcp(CLIENT_END, EMPTY, ACK, b"x") } else { udp(CLIENT_END, EMPTY, b"x") };
        last_hop[22] = 1;
        let out = bed.receive(&last_hop);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)));
        let (kind, quote) = error_to_client(&out.frame);
        assert_eq!(kind, Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit));
        assert_eq!((&quote[..], bed.engine.counts().refused), (&last_hop[14..], 1));
        // To one source so many and no more.
        let verdicts: Vec<_> = (0..100).map(|_| bed.receive(&last_hop).verdict).collect();
        assert_eq!(verdicts.last(), Some(&Verdict::Drop(DropReason::TtlExpired)));
        last_hop[0] |= 1;
        bed.now += 600;
        assert_eq!(bed.receive(&last_hop).verdict, Verdict::Drop(DropReason::TtlExpired), "to many stations");
    }
}

/// RFC 1191, for senders that look for the path's MTU.
#[test]
fn a_packet_that_is_too_large_is_told_of() {
    const DONT_FRAGMENT: u8 = 0x40;
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    bed.serve(80, UDP, &[(REMOTE, 8080)]);
    let segment = |payload: usize, flags: u8| {
        let mut frame = tcp(CLIENT_END, EMPTY, ACK, &vec![0; payload]);
        frame[20] = flags;
        frame
    };
    assert_eq!(bed.receive(&segment(1460, DONT_FRAGMENT)).verdict, Verdict::Uplink { uplink: 0 });
    let mut datagram = udp(CLIENT_END, EMPTY, &[0; 1473]);
    datagram[20] = DONT_FRAGMENT;
    for too_big in std::iter::repeat_n([segment(1461, DONT_FRAGMENT), datagram.clone()], 50).flatten() {
        let (kind, quote) = error_to_client(&bed.receive(&too_big).frame);
        let expected = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1500 };
        assert_eq!((kind, &quote[..]), (Icmpv4Type::DestinationUnreachable(expected), &too_big[14..14 + 548]));
    }
    assert_eq!(bed.engine.counts().refused, 100, "whoever asks has to know");
    datagram[20] = 0;
    for frame in [segment(1461, 0), datagram] {
        let out = bed.receive(&frame);
        assert_eq!((out.verdict, out.frame.len()), (Verdict::Divide { mtu: 1500, uplink: Some(0) }, frame.len()));
    }
}

#[test]
fn services_addresses_answer_pings() {
    let mut bed = bed();
    let payload: Vec<u8> = (0..57).collect();
    for (what, address) in [("a VIP", VIP), ("a ClusterIP", CLUSTER_IP)] {
        let ping = icmp(CLIENT, address, (8, 0), [0x12, 0x34, 0, 7], &payload);
        let out = bed.receive(&ping);
        assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)), "{what}");
        let pong = SeenIcmp { src: address, dst: CLIENT, ttl: 64, kind: (0, 0), rest: [0x12, 0x34, 0, 7], payload: payload.clone() };
        assert_eq!(read_icmp(&out.frame), pong, "{what}");
    }
    let out = bed.upcall(Hook::PodIn, POD_A, &icmp(A, CLUSTER_IP, (8, 0), [0; 4], b""));
    assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Peer, POD_A), ROUTER_MAC)));
    let out = bed.upcall(Hook::NodeOut, RW1, &icmp(NODE, VIP, (8, 0), [0; 4], b"x"));
    assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Host, (order_mac(Order::Received, RW1), RW1_MAC)));
    assert_eq!(read_icmp(&out.frame).dst, NODE);
    // A NIC pads to 60 bytes.
    let mut padded = icmp(CLIENT, VIP, (8, 0), [0; 4], b"");
    padded.resize(60, 0xee);
    assert_eq!(bed.receive(&padded).frame.len(), 14 + 28);
    assert_eq!((bed.engine.counts().pings, bed.engine.counts().refused), (5, 0));
}

#[test]
fn what_is_no_ping_to_a_service_is_not_answered() {
    let mut bed = bed();
    let ping = icmp(CLIENT, VIP, (8, 0), [0; 4], b"payload");
    let changed = |at: usize, byte: u8| {
        let mut ping = ping.clone();
        ping[at] = byte;
        ping
    };
    for (what, frame) in [
        ("another address", icmp(CLIENT, NODE, (8, 0), [0; 4], b"")),
        ("an unused address", icmp(CLIENT, "192.0.2.11".parse().expect("an address"), (8, 0), [0; 4], b"")),
        ("a reply", icmp(CLIENT, VIP, (0, 0), [0; 4], b"")),
        ("another code", icmp(CLIENT, VIP, (8, 1), [0; 4], b"")),
        ("a timestamp request", icmp(CLIENT, VIP, (13, 0), [0; 4], &[0; 12])),
        ("a fragment", changed(14 + 6, 0x20)),
        ("IP options", changed(14, 0x46)),
        ("cut", icmp(CLIENT, VIP, (8, 0), [0; 4], b"")[..14 + 24].to_vec()),
        ("broadcast", changed(0, 0xff)),
    ] {
        let out = bed.receive(&frame);
        if out.verdict == Verdict::Host {
            assert!(what.ends_with("address"), "{what}: to a VIP nothing is handed back, for the kernel would send it into the network");
            assert_eq!((macs(&out.frame).0, &out.frame[6..]), (order_mac(Order::Received, UPLINK), &frame[6..]), "{what}");
        } else {
            assert!([DropReason::NotForwarded, DropReason::Malformed].map(Verdict::Drop).contains(&out.verdict), "{what}: {out:?}");
        }
    }
    for source in [VIP, "127.0.0.1".parse().expect("an address"), "255.255.255.255".parse().expect("an address")] {
        assert_eq!(bed.receive(&icmp(source, VIP, (8, 0), [0; 4], b"")).verdict, Verdict::Drop(DropReason::LandAttack));
    }
    let node = ringway_engine::tables::NodeTables { answer_ping: false, ..(*bed.snapshot.node).clone() };
    bed.snapshot.node = std::sync::Arc::new(node);
    assert_eq!(bed.receive(&ping).verdict, Verdict::Drop(DropReason::NotForwarded), "switched off");
    assert_eq!(bed.receive(&icmp(CLIENT, CLUSTER_IP, (8, 0), [0; 4], b"")).verdict, Verdict::Host, "switched off");
    assert_eq!(bed.engine.counts().pings, 0);
}

/// Answers as large as what they answer: often enough for a client in a loop, not for a flood of forged sources.
#[test]
fn resets_and_pongs_have_a_limit() {
    let mut bed = bed();
    let (segment, ping) = (tcp(CLIENT_END, EMPTY, SYN, b""), icmp(CLIENT, VIP, (8, 0), [0; 4], b""));
    let mut answered = |frame: &[u8]| (0..5_000).filter(|_| matches!(bed.receive(frame).verdict, Verdict::Uplink { .. })).count();
    assert_eq!((answered(&segment), answered(&ping)), (2_000, 0), "a source's burst");
    assert_eq!(answered(&icmp(A, VIP, (8, 0), [0; 4], b"")), 2_000, "another source's");
    assert_eq!(bed.receive(&segment).verdict, Verdict::Drop(DropReason::RefusalLimited));
    bed.now += ringway_engine::flow::TICKS_PER_SECOND;
    let mut answered = |frame: &[u8]| (0..5_000).filter(|_| matches!(bed.receive(frame).verdict, Verdict::Uplink { .. })).count();
    assert_eq!(answered(&segment), 1_000, "a second later");
}
