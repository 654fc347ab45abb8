//! Traffic classes: who is translated where (first rows of the design's table).

use std::sync::Arc;

use ringway_engine::engine::{Engine, EngineConfig, Origin};
use ringway_engine::flow::{FlowOp, Hook};
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::Verdict;
use ringway_engine::wire::{TCP, UDP};

use super::*;

#[test]
fn client_to_remote_backend_is_translated_both_ways() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let out = bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
    assert_eq!(out.verdict, Verdict::Uplink { uplink: 0 });
    assert_eq!(macs(&out.frame), (NODE2_MAC, UPLINK_MAC));
    let seen = read(&out.frame);
    assert_eq!((seen.src.0, seen.dst, seen.ttl), (NODE, (REMOTE, 8080), 63));
    assert!((10_000..=29_999).contains(&seen.src.1));

    let back = bed.receive(&tcp((REMOTE, 8080), seen.src, SYN | ACK, b""));
    assert_eq!(back.verdict, Verdict::Uplink { uplink: 0 });
    assert_eq!(macs(&back.frame), (ROUTER_MAC, UPLINK_MAC));
    let reply = read(&back.frame);
    assert_eq!((reply.src, reply.dst, reply.ttl), (WEB, CLIENT_END, 63));

    let next = bed.receive(&tcp(CLIENT_END, WEB, ACK, b"GET /"));
    assert_eq!(read(&next.frame), Seen { src: seen.src, dst: (REMOTE, 8080), ttl: 63, payload: b"GET /".to_vec() });
    assert_eq!(bed.flows.len(), 1);
}

#[test]
fn unfinished_checksums_are_completed() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let whole = tcp(CLIENT_END, WEB, SYN, b"odd");
    let mut frame = whole.clone();
    // What the kernel leaves in the field: the sum of both addresses, the protocol and the length.
    let bytes = (whole.len() - L4) as u32;
    let pseudo = [&whole[SOURCE..L4], &bytes.to_be_bytes(), &[0, 0, 0, TCP]].concat();
    frame[L4 + 16..L4 + 18].copy_from_slice(&ringway_engine::checksum::sum(&pseudo).to_ne_bytes());
    read(&bed.receive(&frame).frame);
    // A wrong checksum stays wrong: the receiver is to notice.
    let mut corrupt = whole;
    corrupt[L4 + 16] ^= 0x40;
    let out = bed.receive(&corrupt);
    assert!(std::panic::catch_unwind(|| read(&out.frame)).is_err());
}

#[test]
fn client_to_pod_here_goes_back_to_edge_untranslated() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(A, 8080)]);
    let frame = tcp(CLIENT_END, WEB, SYN, b"");
    let out = bed.receive(&frame);
    assert_eq!(out.verdict, Verdict::Host);
    assert_eq!(macs(&out.frame), (order_mac(Order::Received, UPLINK), ROUTER_MAC));
    assert_eq!(out.frame[12..], frame[12..]);
    let record = &bed.flows.records(bed.now)[0];
    assert_eq!((record.forward.0.hook(), record.forward.1.op), (Some(Hook::UplinkIn), FlowOp::Pass));
    assert_eq!(ends(record.forward.1.tuple), (CLIENT_END, (A, 8080)));
    assert_eq!((record.reverse.0.hook(), ends(record.reverse.0.tuple()).0), (Some(Hook::UplinkOut), (A, 8080)));
    assert_eq!(ends(record.reverse.1.tuple), (WEB, CLIENT_END));
    assert!(!record.snat);
}

#[test]
fn host_network_backend_here_is_edges_in_both_deliveries() {
    for delivery in [PodDelivery::Edge, PodDelivery::Direct] {
        let mut bed = Bed::with(64, (10_000, 10_010), delivery);
        bed.serve(80, TCP, &[(NODE, 6443)]);
        assert_eq!(bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).verdict, Verdict::Host);
        assert_eq!(bed.flows.records(bed.now)[0].forward.1.op, FlowOp::Pass);
    }
}

#[test]
fn direct_delivery_goes_straight_into_the_pod() {
    for (backend, device) in [(A, POD_A), (C, PORT_C)] {
        let mut bed = Bed::with(64, (10_000, 10_010), PodDelivery::Direct);
        bed.serve(80, TCP, &[(backend, 8080)]);
        let out = bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
        assert_eq!(out.verdict, Verdict::Host);
        assert_eq!(macs(&out.frame), (order_mac(Order::Peer, device), pod_mac(backend)));
        let seen = read(&out.frame);
        assert_eq!((seen.src, seen.dst, seen.ttl), (CLIENT_END, (backend, 8080), 63));
        let reverse = &bed.flows.records(bed.now)[0].reverse;
        assert_eq!((reverse.0.hook(), reverse.0.zone()), (Some(Hook::PodIn), device));
        assert_eq!((reverse.1.op, reverse.1.ifindex), (FlowOp::Neigh, UPLINK));
    }
}

/// What `edge` sends a worker because it has no way to answer: the rest it executes itself.
#[test]
fn an_answer_that_edge_cannot_send_on_is_told_of_or_divided() {
    let mut bed = Bed::served((A, 8080), PodDelivery::Direct);
    bed.receive(&udp(CLIENT_END, WEB, b"request"));
    let mtu = bed.snapshot.devices.by_index[&UPLINK].mtu as usize;
    let of_bytes = |bytes: usize| {
        let empty = udp((A, 8080), CLIENT_END, b"");
        udp((A, 8080), CLIENT_END, &vec![7; bytes + ETHERNET_BYTES - empty.len()])
    };
    let back = |out: &Outcome| out.verdict == Verdict::Host && macs(&out.frame).0 == order_mac(Order::Received, POD_A);
    assert!(back(&bed.upcall(Hook::PodIn, POD_A, &of_bytes(mtu))), "the device takes that");
    let mut last_hop = of_bytes(100);
    last_hop[TTL] = 1;
    for (frame, kind) in [(of_bytes(mtu + 1), TOO_BIG), (last_hop, TIME_EXCEEDED)] {
        let out = bed.upcall(Hook::PodIn, POD_A, &frame);
        let seen = read_icmp(&out.frame);
        assert_eq!((out.verdict, seen.kind, seen.dst), (Verdict::Host, kind, A));
        assert_eq!(seen.payload[..28], frame[ETHERNET_BYTES..][..28], "as the pod sent it");
    }
    assert_eq!(bed.flows.records(bed.now)[0].reverse.1.op, FlowOp::Neigh, "the entry stays edge's");
}

#[test]
fn pod_client_is_handed_back_and_edge_knows_both_ways() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let frame = tcp((A, 5000), WEB, SYN, b"");
    let out = bed.upcall(Hook::PodIn, POD_A, &frame);
    assert_eq!(out.verdict, Verdict::Host);
    assert_eq!(macs(&out.frame).0, order_mac(Order::Received, POD_A));
    assert_eq!(out.frame[6..], frame[6..]);
    let record = &bed.flows.records(bed.now)[0];
    assert_eq!((record.forward.0.hook(), record.forward.0.zone()), (Some(Hook::PodIn), POD_A));
    assert_eq!((ends(record.forward.1.tuple).0, record.forward.1.op), ((A, 5000), FlowOp::Pass));
    assert_eq!((record.reverse.0.hook(), record.reverse.0.zone()), (Some(Hook::PodOut), POD_A));
    assert_eq!(ends(record.reverse.1.tuple).0, WEB);
}

#[test]
fn pods_of_one_bridge_are_switched() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(D, 8080)]);
    bed.upcall(Hook::PodIn, PORT_C, &tcp((C, 5000), WEB, SYN, b""));
    let forward = bed.flows.records(bed.now)[0].forward.1;
    assert_eq!((forward.op, forward.dmac), (FlowOp::Bridge, pod_mac(D)));
    // A routed pod's request to the bridge is routed.
    bed.upcall(Hook::PodIn, POD_A, &tcp((A, 5000), WEB, SYN, b""));
    assert!(bed.flows.records(bed.now).iter().any(|record| record.forward.1.op == FlowOp::Pass));
}

#[test]
fn hairpin_takes_the_vip_as_source() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(A, 8080)]);
    let mut frame = tcp((A, 5000), WEB, SYN, b"");
    frame[6..12].copy_from_slice(&pod_mac(A));
    bed.upcall(Hook::PodIn, POD_A, &frame);
    let record = &bed.flows.records(bed.now)[0];
    assert_eq!(ends(record.forward.1.tuple), ((VIP, 5000), (A, 8080)));
    assert_eq!((record.forward.1.op, record.forward.1.ifindex, record.forward.1.dmac), (FlowOp::Peer, POD_A, pod_mac(A)));
    assert_eq!(ends(record.reverse.0.tuple()), ((A, 8080), (VIP, 5000)));
    assert_eq!(ends(record.reverse.1.tuple), (WEB, (A, 5000)));
}

#[test]
fn the_nodes_own_sockets_reach_pods_remote_and_itself() {
    let cases =
        [(A, Order::Neigh, POD_A, Hook::PodIn), (C, Order::Neigh, BRIDGE, Hook::PodIn), (REMOTE, Order::Neigh, UPLINK, Hook::UplinkIn)];
    for (backend, order, ifindex, hook) in cases {
        let mut bed = Bed::new();
        bed.serve(80, TCP, &[(backend, 8080)]);
        let out = bed.upcall(Hook::NodeOut, RW1, &tcp((NODE, 40_000), WEB, SYN, b""));
        assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(order, ifindex)));
        let seen = read(&out.frame);
        assert_eq!((seen.src.0, seen.dst, seen.ttl), (NODE, (backend, 8080), 64));
        assert!((10_000..=29_999).contains(&seen.src.1), "a port that the node's own connections never have");
        let reverse = &bed.flows.records(bed.now)[0].reverse;
        assert_eq!((reverse.0.hook(), reverse.1.op, reverse.1.ifindex, reverse.1.dmac), (Some(hook), FlowOp::Received, RW1, RW1_MAC));
        assert_eq!(ends(reverse.1.tuple), (WEB, (NODE, 40_000)));
    }
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(NODE, 6443)]);
    let out = bed.upcall(Hook::NodeOut, RW1, &tcp((NODE, 40_000), WEB, SYN, b""));
    assert_eq!(macs(&out.frame).0, order_mac(Order::Received, RW1));
    assert_eq!((read(&out.frame).src, read(&out.frame).dst), ((VIP, 40_000), (NODE, 6443)));
}

#[test]
fn overlapping_target_ports_get_different_source_ports() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(A, 8080)]);
    bed.serve(81, TCP, &[(A, 8080)]);
    bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
    bed.receive(&tcp(CLIENT_END, (VIP, 81), SYN, b""));
    let records = bed.flows.records(bed.now);
    assert_eq!(records.len(), 2);
    assert_ne!(records[0].forward.1.tuple, records[1].forward.1.tuple);
    for record in records {
        assert_eq!(record.reverse.0.tuple(), record.forward.1.tuple.reversed());
        assert_eq!(record.reverse.1.tuple, record.forward.0.tuple().reversed());
    }
}

#[test]
fn a_new_syn_on_an_ended_flow_begins_a_new_one() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let first = read(&bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).frame);
    let repeated = read(&bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).frame);
    assert_eq!(first.src, repeated.src, "a repeated SYN is the same flow");
    bed.receive(&tcp(first.dst, first.src, SYN | ACK, b""));
    bed.receive(&tcp(CLIENT_END, WEB, FIN | ACK, b""));
    bed.receive(&tcp(first.dst, first.src, FIN | ACK, b""));
    bed.now += 3 * ringway_engine::flow::TICKS_PER_SECOND;
    let second = read(&bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).frame);
    assert_ne!(first.src, second.src);
    assert_eq!(bed.flows.len(), 1);
}

#[test]
fn tags_stay_on_the_wire_and_go_where_the_kernel_sends() {
    let tagged = |frame: Vec<u8>| [&frame[..12], &[0x81, 0x00, 0x00, 0x2a], &frame[12..]].concat();
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let out = bed.receive(&tagged(tcp(CLIENT_END, WEB, SYN, b"")));
    assert_eq!(out.frame[12..16], [0x81, 0x00, 0x00, 0x2a]);
    assert_eq!(read(&out.frame).dst, (REMOTE, 8080));

    let mut direct = Bed::with(64, (10_000, 10_010), PodDelivery::Direct);
    direct.serve(80, TCP, &[(A, 8080)]);
    let out = direct.receive(&tagged(tcp(CLIENT_END, WEB, SYN, b"tail")));
    assert_eq!(out.frame[12..14], ETHERTYPE);
    assert_eq!((read(&out.frame).dst, read(&out.frame).payload), ((A, 8080), b"tail".to_vec()));
}

#[test]
fn padding_is_trimmed() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let mut frame = tcp(CLIENT_END, WEB, SYN, b"");
    let len = frame.len();
    frame.resize(len + 10, 0xee);
    assert_eq!(bed.receive(&frame).frame.len(), len);
}

#[test]
fn without_a_queue_on_the_uplink_the_kernel_sends() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    let config = EngineConfig { transmits_on: vec![false], ..node::config() };
    bed.engine = Engine::new(config, bed.flow_tables.clone(), Arc::clone(&bed.affinity));
    let out = bed.run(Origin::Uplink(0), &tcp(CLIENT_END, WEB, SYN, b""));
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Neigh, UPLINK)));
}

#[test]
fn a_changed_next_hop_acts_on_the_next_packet() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
    let moved = [2, 0, 0, 0, 1, 0x22];
    let mut neighbors = ringway_engine::tables::Neighbors::clone(&bed.snapshot.neighbors);
    neighbors.by_address.insert((UPLINK, NODE2), moved);
    bed.snapshot.neighbors = Arc::new(neighbors);
    bed.snapshot.generation += 1;
    assert_eq!(macs(&bed.receive(&tcp(CLIENT_END, WEB, ACK, b"")).frame).0, moved);
}

#[test]
fn one_port_serves_many_short_connections() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080), (A, 8080)]);
    for _ in 0..100 {
        let verdict = bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).verdict;
        assert!(!matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
        let record = &bed.flows.records(bed.now)[0];
        assert_eq!((record.state, bed.flows.len()), (ringway_engine::flow::FlowState::Embryonic, 1));
        bed.receive(&tcp(CLIENT_END, WEB, RST, b""));
        bed.now += 5;
    }
}

#[test]
fn a_flow_does_not_begin_anew_towards_a_backend_that_left() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[(REMOTE, 8080)]);
    bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
    bed.receive(&tcp(CLIENT_END, WEB, RST, b""));
    bed.serve(80, TCP, &[(A, 8080)]);
    assert_eq!(bed.receive(&tcp(CLIENT_END, WEB, SYN, b"")).verdict, Verdict::Host);
    assert_eq!(ends(bed.flows.records(bed.now)[0].forward.1.tuple).1, (A, 8080));
}

#[test]
fn a_backend_behind_an_overlay_sees_the_overlays_own_address() {
    let mut bed = Bed::new();
    let backend = (OVERLAID, 8080);
    bed.serve(80, TCP, &[backend]);
    let out = bed.receive(&tcp(CLIENT_END, WEB, SYN, b""));
    assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Neigh, OVERLAY)));
    let seen = read(&out.frame);
    assert_eq!((seen.src.0, seen.dst, seen.ttl), (OVERLAY_ADDRESS, backend, 63));

    let back = bed.upcall(Hook::UplinkIn, OVERLAY, &tcp(backend, seen.src, SYN | ACK, b""));
    assert_eq!(back.verdict, Verdict::Uplink { uplink: 0 });
    assert_eq!((read(&back.frame).src, read(&back.frame).dst), (WEB, CLIENT_END));

    // The node itself: out of the overlay device by `edge`, back as if received at rw1.
    let own = bed.upcall(Hook::NodeOut, RW1, &tcp((NODE, 50_000), WEB, SYN, b""));
    assert_eq!((own.verdict, macs(&own.frame).0), (Verdict::Host, order_mac(Order::Neigh, OVERLAY)));
    assert_eq!(read(&own.frame).src.0, OVERLAY_ADDRESS);
}

/// A backend that stops serving gets no further datagram; what it answers still arrives, and if it is back in time, the flow goes on.
#[test]
fn a_datagram_to_a_backend_that_stopped_begins_a_new_flow() {
    let other = remote(6);
    let request = udp((CLIENT, 40_000), (VIP, 80), b"request");
    let begin = || {
        let mut bed = Bed::new();
        bed.serve(80, UDP, &[(REMOTE, 8080)]);
        let sent = read(&bed.receive(&request).frame);
        let slot = bed.flows.records(bed.now)[0].slot;
        (bed, sent, slot)
    };
    let answered = |bed: &mut Bed, sent: &Seen| {
        let out = bed.receive(&udp(sent.dst, sent.src, b"answer"));
        (out.verdict, read(&out.frame).src, read(&out.frame).dst) == (Verdict::Uplink { uplink: 0 }, (VIP, 80), (CLIENT, 40_000))
    };

    let (mut bed, sent, slot) = begin();
    bed.now += 600;
    bed.serve(80, UDP, &[(other, 8080)]);
    assert_eq!(read(&bed.receive(&request).frame).dst, sent.dst, "not told yet");
    bed.flows.stop(slot);
    assert!(answered(&mut bed, &sent), "a late answer");
    let again = read(&bed.receive(&request).frame);
    assert_eq!(again.dst, (other, 8080));
    assert!(answered(&mut bed, &again));
    assert_eq!(bed.flows.len(), 1);

    // The only backend is back: the same one, by the same port.
    let (mut bed, sent, slot) = begin();
    bed.now += 600;
    bed.flows.stop(slot);
    assert_eq!(read(&bed.receive(&request).frame), sent);
    assert!(answered(&mut bed, &sent));
    assert_eq!(read(&bed.receive(&request).frame), sent);

    // Nobody serves any more.
    let (mut bed, sent, slot) = begin();
    bed.serve(80, UDP, &[]);
    bed.flows.stop(slot);
    assert!(answered(&mut bed, &sent));
    bed.receive(&request);
    assert_eq!((bed.engine.counts().refused, bed.flows.len()), (1, 0));
}

/// Likewise for those that `edge` executes: of a pod and of the node.
#[test]
fn a_datagram_of_edge_to_a_backend_that_stopped_begins_a_new_flow() {
    for (hook, ifindex, client) in [(Hook::PodIn, POD_A, (A, 40_000)), (Hook::NodeOut, RW1, (NODE, 40_000))] {
        let mut bed = Bed::new();
        bed.serve(80, UDP, &[(REMOTE, 8080)]);
        let request = udp(client, (VIP, 80), b"request");
        bed.upcall(hook, ifindex, &request);
        for back in [true, false] {
            let before = bed.flows.records(bed.now)[0].clone();
            bed.now += 600;
            if !back {
                bed.serve(80, UDP, &[(B, 8080)]);
            }
            bed.flows.stop(before.slot);
            let out = bed.upcall(hook, ifindex, &request);
            assert_eq!(out.verdict, Verdict::Host, "{hook:?}");
            let after = bed.flows.records(bed.now);
            assert_eq!((after.len(), after[0].forward.1 == before.forward.1), (1, back), "{hook:?}");
        }
    }
}
