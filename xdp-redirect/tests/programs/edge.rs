//! What `edge` does to packets: rewrites with every checksum recomputed in full, upcalls, the loop guard.

use ringway_engine::flow::{FlowKey, FlowOp, FlowTable, Hook, Rewrite, SEEN_ACK, SEEN_ANY, SEEN_POSITION, Segment, TICK_SHIFT};
use ringway_engine::order::{Upcall, upcall_mac};
use ringway_engine::tables::FrontendKey;
use std::sync::atomic::Ordering;
use xdp_redirect::{AddressUse, FrontendUse, ProgramName, Programs, SkbContext, SkbResult, TcAction};

use crate::packet::{self, ACK, CLIENT_MAC, FIN, NODE_MAC, SYN, Seen, read, tcp, udp, udp_check};
use crate::scratch::{Addresses, End, FLOWS_MAX, NOW, Scratch, end, for_both_families, ip, one_way, table_of, to};

const LOOPBACK: u32 = 1;
const MARK: u32 = 0x5257_0001;
/// All of its ports are ours.
fn cluster_ip<F: Addresses>() -> F::Ip {
    ip::<F>("10.96.0.10")
}

fn vip<F: Addresses>() -> F::Ip {
    ip::<F>("203.0.113.10")
}

fn run(programs: &Programs, program: ProgramName, frame: &[u8], mark: u32) -> SkbResult {
    programs.test_run_tc(program, frame, SkbContext { mark, ..SkbContext::default() }).expect("a test run")
}

fn count(programs: &Programs, name: &str) -> u64 {
    programs.counters.get(name).expect("counters").expect("a counter of this name")
}

fn pod_key<F: Addresses>(src: End<F>, dst: End<F>, protocol: u8) -> FlowKey<F> {
    FlowKey::new(src, dst, LOOPBACK, Hook::PodIn, protocol)
}

fn a_hit_rewrites_addresses_ports_and_checksums<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let (pod, backend) = (end::<F>("10.1.0.4", 40000), end::<F>("10.1.200.77", 8080));
    for protocol in [6, 17] {
        table.insert(0, &one_way(pod_key(pod, (vip::<F>(), 80), protocol), to(pod, backend, FlowOp::Pass)), NOW).expect("room");
    }
    for (what, frame) in [
        ("TCP", tcp(pod, (vip::<F>(), 80), ACK)),
        ("UDP", udp(pod, (vip::<F>(), 80))),
        ("IP options", packet::with_ip_options(&tcp(pod, (vip::<F>(), 80), ACK), &[1; 8])),
        ("the most IP options", packet::with_ip_options(&udp(pod, (vip::<F>(), 80)), &[1; 40])),
    ] {
        let result = run(&programs, ProgramName::EdgePodIn, &frame, 0);
        assert_eq!(result.action, TcAction::Next, "{what}");
        assert_eq!(read::<F>(&result.frame), Seen { src: pod, dst: backend, ttl: 64 }, "{what}");
        assert_eq!(result.frame.len(), frame.len(), "{what}");
        assert_eq!(result.frame[..12], frame[..12], "{what}: MAC addresses stay");
    }
    assert_eq!(count(&programs, "pod_in_hit"), 4);
    // In IPv6 a checksum of 0 is none, which is not allowed.
    let mut no_checksum = udp(pod, (vip::<F>(), 80));
    no_checksum[udp_check::<F>()..][..2].fill(0);
    let result = run(&programs, ProgramName::EdgePodIn, &no_checksum, 0);
    assert_eq!(result.frame[udp_check::<F>()..][..2], [0, 0], "no checksum stays none");
    assert_eq!(result.frame == no_checksum, F::IS_V6);
}

/// Every tuple is found in bucket one, bucket two or an overflow bucket of the table that user space filled, and every difference is right.
fn many_random_flows_are_found_and_rewritten<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    // Far above the limit that so many slots are for, so that many entries overflow.
    let table = FlowTable::<F>::over(F::slots(&programs), 2 * FLOWS_MAX, 1, programs.seed(), NOW).0;
    let mut state = 42u64;
    let mut random_end = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (F::ip(((state >> 32) as u32).into()), (state >> 16) as u16)
    };
    for i in 0..1500 {
        let (src, dst, new_src, new_dst) = (random_end(), random_end(), random_end(), random_end());
        let protocol = if i % 2 == 0 { 6 } else { 17 };
        let flow = one_way(FlowKey::new(src, dst, 0, Hook::UplinkIn, protocol), to(new_src, new_dst, FlowOp::Pass));
        table.insert(0, &flow, NOW).expect("room, in an overflow bucket if need be");
        let frame = if protocol == 6 { tcp(src, dst, ACK) } else { udp(src, dst) };
        let result = run(&programs, ProgramName::EdgeUplinkIn, &frame, 0);
        let seen = read::<F>(&result.frame);
        assert_eq!((seen.src, seen.dst), (new_src, new_dst), "flow {i}");
    }
}

/// A UDP checksum that becomes 0 is written as 0xffff: 0 would say that there is none.
fn a_udp_checksum_is_never_rewritten_to_none<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let pod = end::<F>("10.1.0.4", 40000);
    // Ports are summed too: find the one for which the sum comes out as all ones.
    let backend =
        (1..=65535).map(|port| (ip::<F>("10.1.200.77"), port)).find(|&dst| udp(pod, dst)[udp_check::<F>()..][..2] == [0xff, 0xff]);
    let backend = backend.expect("one port in 65535");
    table.insert(0, &one_way(pod_key(pod, (vip::<F>(), 80), 17), to(pod, backend, FlowOp::Pass)), NOW).expect("room");
    let result = run(&programs, ProgramName::EdgePodIn, &udp(pod, (vip::<F>(), 80)), 0);
    assert_eq!(result.frame[udp_check::<F>()..][..2], [0xff, 0xff]);
}

fn a_hit_tells_the_workers_that_the_flow_lives<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let (pod, backend) = (end::<F>("10.1.0.4", 40000), end::<F>("10.1.0.5", 8080));
    let slot = table.insert(0, &one_way(pod_key(pod, (vip::<F>(), 80), 6), to(pod, backend, FlowOp::Pass)), NOW).expect("room");
    let now = (monotonic_ns() >> TICK_SHIFT) as u32;
    table.slot(slot).last.store(now.wrapping_sub(100), Ordering::Relaxed);
    run(&programs, ProgramName::EdgePodIn, &tcp(pod, (vip::<F>(), 80), ACK), 0);
    let entry = table.slot(slot);
    assert_eq!(entry.seen.load(Ordering::Relaxed), SEEN_ANY | SEEN_ACK | SEEN_POSITION);
    // The coarse clock that the program reads may be a few milliseconds, and so one tick, behind.
    let last = entry.last.load(Ordering::Relaxed);
    assert!((last.wrapping_sub(now) as i32) >= -1, "last = {last} at {now}");

    entry.last.store(now.wrapping_sub(10), Ordering::Relaxed);
    run(&programs, ProgramName::EdgePodIn, &tcp(pod, (vip::<F>(), 80), FIN | ACK), 0);
    assert_eq!(entry.last.load(Ordering::Relaxed), now.wrapping_sub(10), "written at most once a second");
    assert_eq!(entry.seen.load(Ordering::Relaxed), SEEN_ANY | SEEN_ACK | SEEN_POSITION | u32::from(FIN));
}

fn monotonic_ns() -> u64 {
    // The clock of bpf_ktime_get_coarse_ns.
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a timespec that outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) }, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn the_first_packet_of_a_pod_to_a_frontend_is_an_upcall<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs
        .frontends
        .upsert(&FrontendKey { address: vip::<F>().into(), port: 80, protocol: 6 }, FrontendUse::default())
        .expect("a frontend");
    let frame = tcp(end::<F>("10.1.0.4", 40000), (vip::<F>(), 80), SYN);
    let result = run(&programs, ProgramName::EdgePodIn, &frame, 0);
    assert_upcall(&result, &frame);

    let returned = run(&programs, ProgramName::EdgePodIn, &frame, MARK);
    assert_eq!((returned.action, returned.mark), (TcAction::Next, 0), "not a second time, and the mark is gone");
    assert_eq!(returned.frame, frame);
    assert_eq!(count(&programs, "pod_in_loop_guard"), 1);

    for (what, frame) in [
        ("another port", tcp(end::<F>("10.1.0.4", 40000), (vip::<F>(), 81), SYN)),
        ("another protocol", udp(end::<F>("10.1.0.4", 40000), (vip::<F>(), 80))),
    ] {
        let result = run(&programs, ProgramName::EdgePodIn, &frame, 0);
        assert_eq!((result.action, result.frame), (TcAction::Next, frame), "{what}");
    }
    for program in [ProgramName::EdgePodOut, ProgramName::EdgeUplinkIn, ProgramName::EdgeUplinkOut] {
        assert_eq!(run(&programs, program, &frame, 0).action, TcAction::Next, "{program:?}: no upcall without a flow");
    }
}

fn a_packet_that_came_back_from_a_worker_is_translated<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (client, backend) = (end::<F>("198.51.100.7", 5000), end::<F>("10.1.0.5", 8080));
    let key = FlowKey::new(client, (vip::<F>(), 80), 0, Hook::UplinkIn, 6);
    table_of::<F>(&programs).insert(0, &one_way(key, to(client, backend, FlowOp::Pass)), NOW).expect("room");
    let result = run(&programs, ProgramName::EdgeUplinkIn, &tcp(client, (vip::<F>(), 80), SYN), MARK);
    assert_eq!((result.action, result.mark, read::<F>(&result.frame).dst), (TcAction::Next, 0, backend));
}

fn frames_flooded_to_an_uplink_are_left_alone<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (client, backend) = (end::<F>("198.51.100.7", 5000), end::<F>("10.1.0.5", 8080));
    let key = FlowKey::new(client, (vip::<F>(), 80), 0, Hook::UplinkIn, 6);
    table_of::<F>(&programs).insert(0, &one_way(key, to(client, backend, FlowOp::Pass)), NOW).expect("room");
    let mut flooded = tcp(client, (vip::<F>(), 80), ACK);
    flooded[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let result = run(&programs, ProgramName::EdgeUplinkIn, &flooded, 0);
    assert_eq!((result.action, result.frame), (TcAction::Next, flooded));
}

fn what_needs_a_worker_at_a_hit_is_an_upcall<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let (client, backend) = (end::<F>("198.51.100.7", 5000), end::<F>("10.1.0.5", 8080));
    let worker = FlowKey::new(client, (vip::<F>(), 80), 0, Hook::UplinkIn, 6);
    table.insert(0, &one_way(worker, to(client, backend, FlowOp::Worker)), NOW).expect("room");
    assert_eq!(run(&programs, ProgramName::EdgeUplinkIn, &tcp(client, (vip::<F>(), 80), ACK), 0).action, TcAction::Redirect, "op WORKER");

    let closed = FlowKey::new(client, (vip::<F>(), 81), LOOPBACK, Hook::PodIn, 6);
    let slot = table.insert(0, &one_way(closed, to(client, backend, FlowOp::Pass)), NOW).expect("room");
    table.touch(slot, Segment::unnumbered(FIN), NOW);
    let syn = tcp(client, (vip::<F>(), 81), SYN);
    assert_eq!(run(&programs, ProgramName::EdgePodIn, &syn, 0).action, TcAction::Next, "SYN on a half-closed flow");
    table.touch(table.slot(slot).peer.load(Ordering::Relaxed), Segment::unnumbered(FIN), NOW);
    assert_eq!(run(&programs, ProgramName::EdgePodIn, &syn, 0).action, TcAction::Redirect, "SYN on a flow that ended");
    assert_eq!(run(&programs, ProgramName::EdgePodIn, &syn, MARK).action, TcAction::Next);
}

fn ops_write_the_mac_redirect_and_decrement_the_ttl<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let (pod, dmac) = (end::<F>("10.1.0.4", 40000), [2, 7, 7, 7, 7, 7]);
    let insert = |port, op| {
        let rewrite = Rewrite { ifindex: LOOPBACK, dmac, ..to((vip::<F>(), 9), end::<F>("10.1.0.4", port), op) };
        table.insert(0, &one_way(pod_key(pod, (vip::<F>(), port), 6), rewrite), NOW).expect("room");
        tcp(pod, (vip::<F>(), port), ACK)
    };
    for (port, op, action, mac, ttl, mark) in [
        (1, FlowOp::Pass, TcAction::Next, NODE_MAC, 64, 0),
        (2, FlowOp::Bridge, TcAction::Next, dmac, 64, 0),
        (3, FlowOp::Peer, TcAction::Redirect, dmac, 64, 0),
        (4, FlowOp::Neigh, TcAction::Redirect, NODE_MAC, 63, 0),
        (5, FlowOp::Received, TcAction::Redirect, dmac, 64, MARK),
    ] {
        let frame = insert(port, op);
        let result = run(&programs, ProgramName::EdgePodIn, &frame, 0);
        assert_eq!((result.action, result.mark), (action, mark), "{op:?}");
        assert_eq!(result.frame[..6], mac, "{op:?}");
        assert_eq!(result.frame[6..12], CLIENT_MAC, "{op:?}");
        assert_eq!(read::<F>(&result.frame), Seen { src: (vip::<F>(), 9), dst: end::<F>("10.1.0.4", port), ttl }, "{op:?}");
    }
    // Its sender is told by a worker, and nobody if a worker says that it goes on.
    let last_hop = packet::with_ttl(&insert(6, FlowOp::Neigh), 1);
    assert_upcall(&run(&programs, ProgramName::EdgePodIn, &last_hop, 0), &last_hop);
    assert_eq!(run(&programs, ProgramName::EdgePodIn, &last_hop, MARK).action, TcAction::Drop);
    assert_eq!(count(&programs, "edge_drop_ttl"), 1);
    assert_eq!(run(&programs, ProgramName::EdgePodIn, &packet::with_ttl(&insert(7, FlowOp::Pass), 1), 0).action, TcAction::Next);
}

/// As the pod's packet came, but for the address of a worker.
fn assert_upcall(result: &SkbResult, frame: &[u8]) {
    assert_eq!(result.action, TcAction::Redirect);
    assert_eq!(result.frame[..6], upcall_mac(Upcall { hook: Hook::PodIn, ifindex: LOOPBACK }));
    assert_eq!(result.frame[6..], frame[6..]);
}

fn what_the_device_does_not_take_goes_to_a_worker<F: Addresses>() {
    crate::namespace::in_namespace(|| {
        crate::namespace::ip("link set lo mtu 1400 up");
        let scratch = Scratch::new();
        let (programs, _) = scratch.load();
        let table = table_of::<F>(&programs);
        let pod = end::<F>("10.1.0.4", 40000);
        let flow = |port, op| {
            let rewrite = Rewrite { ifindex: LOOPBACK, ..to((vip::<F>(), 9), end::<F>("10.1.0.4", port), op) };
            table.insert(0, &one_way(pod_key(pod, (vip::<F>(), port), 17), rewrite), NOW).expect("room");
        };
        flow(1, FlowOp::Neigh);
        flow(2, FlowOp::Pass);
        let of_bytes = |port, bytes: usize| packet::datagram(pod, (vip::<F>(), port), &vec![7; bytes - F::HEADER_BYTES - 8]);
        for (port, bytes, mark, goes_up) in [(1, 1400, 0, false), (1, 1401, 0, true), (1, 1401, MARK, false), (2, 1401, 0, false)] {
            let frame = of_bytes(port, bytes);
            let result = run(&programs, ProgramName::EdgePodIn, &frame, mark);
            match goes_up {
                true => assert_upcall(&result, &frame),
                false => assert_eq!(read::<F>(&result.frame).src, (vip::<F>(), 9), "{bytes} bytes to port {port}"),
            }
        }
    });
}

fn a_pods_flow_is_its_devices_own<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (pod, backend) = (end::<F>("10.1.0.4", 40000), end::<F>("10.1.0.5", 8080));
    let elsewhere = FlowKey::new(pod, (vip::<F>(), 80), LOOPBACK + 1, Hook::PodIn, 6);
    table_of::<F>(&programs).insert(0, &one_way(elsewhere, to(pod, backend, FlowOp::Pass)), NOW).expect("room");
    let frame = tcp(pod, (vip::<F>(), 80), ACK);
    assert_eq!(run(&programs, ProgramName::EdgePodIn, &frame, 0).frame, frame);
}

fn an_inner_vlan_tag_is_skipped<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (client, backend) = (end::<F>("198.51.100.7", 5000), end::<F>("10.1.0.5", 8080));
    let key = FlowKey::new(client, (vip::<F>(), 80), 0, Hook::UplinkIn, 6);
    table_of::<F>(&programs).insert(0, &one_way(key, to(client, backend, FlowOp::Pass)), NOW).expect("room");
    let frame = packet::with_vlans(&tcp(client, (vip::<F>(), 80), ACK), &[7]);
    let result = run(&programs, ProgramName::EdgeUplinkIn, &frame, 0);
    assert_eq!(read::<F>(&result.frame).dst, backend);
    assert_eq!(result.frame[12..16], frame[12..16], "the tag stays");
}

fn rw1_lets_out_only_what_is_for_a_worker<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs
        .frontends
        .upsert(&FrontendKey { address: vip::<F>().into(), port: 80, protocol: 6 }, FrontendUse::default())
        .expect("a frontend");
    let node = end::<F>("10.0.0.1", 33000);
    let to_neighbor = |mut frame: Vec<u8>, hook| {
        frame[..6].copy_from_slice(&upcall_mac(Upcall { hook, ifindex: LOOPBACK }));
        frame
    };
    let own = to_neighbor(tcp(node, (vip::<F>(), 80), SYN), Hook::NodeOut);
    let stray = to_neighbor(tcp(node, (vip::<F>(), 81), SYN), Hook::NodeOut);
    programs.addresses.upsert(cluster_ip::<F>().into(), AddressUse { closed: true, ..AddressUse::default() }).expect("a ClusterIP");
    let closed = to_neighbor(tcp(node, (cluster_ip::<F>(), 9), ACK), Hook::NodeOut);
    let another = to_neighbor(tcp(node, (vip::<F>(), 81), SYN), Hook::PodIn);
    for (what, frame, ingress_ifindex, action, counter) in [
        ("the node's own to a frontend", &own, 0, TcAction::Next, "node_out_upcall"),
        ("the node's own to none", &stray, 0, TcAction::Drop, "node_out_drop_miss"),
        ("the node's own to a port that nobody defined", &closed, 0, TcAction::Next, "node_out_upcall"),
        ("a forwarded one to such a port", &closed, LOOPBACK, TcAction::Next, "node_out_upcall"),
        ("a forwarded one", &own, LOOPBACK, TcAction::Drop, "node_out_drop_forwarded"),
        ("an upcall of another hook", &another, LOOPBACK, TcAction::Next, "node_out_own_upcall"),
        ("a stray frame", &tcp(node, (vip::<F>(), 80), SYN), 0, TcAction::Drop, "node_out_drop_foreign"),
    ] {
        let context = SkbContext { ingress_ifindex, ..SkbContext::default() };
        let before = count(&programs, counter);
        let result = programs.test_run_tc(ProgramName::EdgeNodeOut, frame, context).expect("a test run");
        assert_eq!(result.action, action, "{what}");
        assert_eq!(&result.frame, frame, "{what}");
        assert_eq!(count(&programs, counter), before + 1, "{what}");
    }
}

/// Segments in the middle of a connection are spared a lookup: the kernel routes them to rw1.
fn a_pods_first_packet_to_a_closed_port_is_an_upcall<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.addresses.upsert(cluster_ip::<F>().into(), AddressUse { closed: true, ..AddressUse::default() }).expect("a ClusterIP");
    programs.addresses.upsert(vip::<F>().into(), AddressUse { vip: true, ..AddressUse::default() }).expect("a VIP");
    let (pod, closed) = (end::<F>("10.1.0.4", 40000), (cluster_ip::<F>(), 9));
    for (what, frame, mark, action) in [
        ("a SYN", tcp(pod, closed, SYN), 0, TcAction::Redirect),
        ("a datagram", udp(pod, closed), 0, TcAction::Redirect),
        ("a SYN that a worker handed back", tcp(pod, closed, SYN), MARK, TcAction::Next),
        ("a segment", tcp(pod, closed, ACK), 0, TcAction::Next),
        ("a SYN to a VIP that is no ClusterIP", tcp(pod, (vip::<F>(), 9), SYN), 0, TcAction::Next),
    ] {
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &frame, mark).action, action, "{what}");
    }
}

fn the_nodes_own_flow_is_executed_at_rw1_with_its_ttl_kept<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (node, snat, backend) = (end::<F>("10.0.0.1", 33000), end::<F>("10.0.0.1", 10007), end::<F>("10.1.0.5", 8080));
    let rewrite = Rewrite { ifindex: LOOPBACK, ..to(snat, backend, FlowOp::Neigh) };
    let key = FlowKey::new(node, (vip::<F>(), 80), 0, Hook::NodeOut, 6);
    table_of::<F>(&programs).insert(0, &one_way(key, rewrite), NOW).expect("room");
    let mut frame = tcp(node, (vip::<F>(), 80), ACK);
    frame[..6].copy_from_slice(&upcall_mac(Upcall { hook: Hook::NodeOut, ifindex: LOOPBACK }));
    let result = run(&programs, ProgramName::EdgeNodeOut, &frame, 0);
    assert_eq!(result.action, TcAction::Redirect);
    assert_eq!(read::<F>(&result.frame), Seen { src: snat, dst: backend, ttl: 64 });
}

for_both_families! {
    a_hit_rewrites_addresses_ports_and_checksums
    many_random_flows_are_found_and_rewritten
    a_udp_checksum_is_never_rewritten_to_none
    a_hit_tells_the_workers_that_the_flow_lives
    the_first_packet_of_a_pod_to_a_frontend_is_an_upcall
    a_packet_that_came_back_from_a_worker_is_translated
    frames_flooded_to_an_uplink_are_left_alone
    what_needs_a_worker_at_a_hit_is_an_upcall
    ops_write_the_mac_redirect_and_decrement_the_ttl
    what_the_device_does_not_take_goes_to_a_worker
    a_pods_flow_is_its_devices_own
    an_inner_vlan_tag_is_skipped
    rw1_lets_out_only_what_is_for_a_worker
    a_pods_first_packet_to_a_closed_port_is_an_upcall
    the_nodes_own_flow_is_executed_at_rw1_with_its_ttl_kept
}
