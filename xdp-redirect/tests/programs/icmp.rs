//! ICMP, as `uplink` and `edge` treat it: whoever gets an error about a flow reads what it sent itself; pings go up.

use std::net::Ipv4Addr;

use ringway_engine::flow::{FlowKey, FlowOp, Hook, Rewrite};
use ringway_engine::order::{Upcall, upcall_mac};
use ringway_engine::tables::FrontendKey;
use std::sync::atomic::Ordering;
use xdp_redirect::{AddressUse, FrontendUse, ProgramName, Programs, SkbContext, SkbResult, TcAction, UplinkUse, XdpAction};

use crate::packet::{self, ACK, icmp, read_icmp, tcp, udp};
use crate::scratch::{End, NOW, Scratch, end, one_way, table_of, to, uplink_use};

const LOOPBACK: u32 = 1;
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const HOP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const PORT_UNREACHABLE: (u8, u8) = (3, 3);

fn run(programs: &Programs, program: ProgramName, frame: &[u8]) -> SkbResult {
    programs.test_run_tc(program, frame, SkbContext::default()).expect("a test run")
}

fn quoted(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// Both directions of a pod's flow to a VIP, TCP and UDP.
fn pods_flows(programs: &Programs, pod: End, backend: End) {
    let table = table_of(programs);
    for protocol in [6, 17] {
        let forward = FlowKey::new(pod, (VIP, 80), LOOPBACK, Hook::PodIn, protocol);
        let reverse = FlowKey::new(backend, pod, LOOPBACK, Hook::PodOut, protocol);
        table.insert(0, &one_way(forward, to(pod, backend, FlowOp::Pass)), NOW).expect("room");
        table.insert(0, &one_way(reverse, to((VIP, 80), pod, FlowOp::Pass)), NOW).expect("room");
    }
}

#[test]
fn who_is_told_reads_what_it_sent() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (pod, backend) = (end("10.1.0.4", 40000), end("10.1.200.77", 8080));
    pods_flows(&programs, pod, backend);
    let mut no_checksum = udp(pod, (VIP, 80));
    no_checksum[14 + 20 + 6..][..2].fill(0);
    let options = packet::with_ip_options(&tcp(pod, (VIP, 80), ACK), &[1; 40]);
    for (what, sent) in
        [("TCP", tcp(pod, (VIP, 80), ACK)), ("UDP", udp(pod, (VIP, 80))), ("no checksum", no_checksum), ("IP options", options)]
    {
        let translated = run(&programs, ProgramName::EdgePodIn, &sent).frame;
        let header = usize::from(sent[14] & 0xf) * 4;
        for len in [header + 4, header + 6, header + 8, header + 16, header + 18, quoted(&sent).len()] {
            let len = len.min(quoted(&sent).len());
            for from in [HOP, backend.0] {
                // To the pod, about what it sent.
                let error = icmp(from, pod.0, PORT_UNREACHABLE, &quoted(&translated)[..len]);
                let result = run(&programs, ProgramName::EdgePodOut, &error);
                assert_eq!((result.action, result.frame.len()), (TcAction::Next, error.len()), "{what}, {len} bytes");
                assert_eq!(read_icmp(&result.frame), (VIP, pod.0, 64, quoted(&sent)[..len].to_vec()), "{what}, {len} bytes");
            }
        }
    }
    // From the pod, about an answer that it did not want.
    for (answer, as_sent) in [(udp((VIP, 80), pod), udp(backend, pod)), (tcp((VIP, 80), pod, ACK), tcp(backend, pod, ACK))] {
        let result = run(&programs, ProgramName::EdgePodIn, &icmp(pod.0, VIP, PORT_UNREACHABLE, quoted(&answer)));
        assert_eq!(result.action, TcAction::Next);
        assert_eq!(read_icmp(&result.frame), (pod.0, backend.0, 64, quoted(&as_sent).to_vec()));
    }
}

#[test]
fn an_error_goes_the_way_of_an_answer() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of(&programs);
    let (backend, node, dmac) = (end("10.1.0.4", 8080), Ipv4Addr::new(10, 0, 0, 1), [2, 7, 7, 7, 7, 7]);
    for (port, op, action, ttl) in [
        (1, FlowOp::Received, TcAction::Redirect, 64),
        (2, FlowOp::Peer, TcAction::Redirect, 64),
        (3, FlowOp::Neigh, TcAction::Redirect, 63),
        (4, FlowOp::Bridge, TcAction::Next, 64),
    ] {
        let key = FlowKey::new(backend, (node, port), LOOPBACK, Hook::PodIn, 17);
        let rewrite = Rewrite { ifindex: LOOPBACK, dmac, ..to((VIP, 80), (node, 40000 + port), op) };
        let slot = table.insert(0, &one_way(key, rewrite), NOW).expect("room");
        let error = icmp(backend.0, node, PORT_UNREACHABLE, quoted(&udp((node, port), backend)));
        let result = run(&programs, ProgramName::EdgePodIn, &error);
        assert_eq!(result.action, action, "{op:?}");
        assert_eq!(read_icmp(&result.frame), (VIP, node, ttl, quoted(&udp((node, 40000 + port), (VIP, 80))).to_vec()), "{op:?}");
        assert_eq!(result.frame[..6] == dmac, op != FlowOp::Neigh, "{op:?}");
        assert_eq!(table.slot(slot).seen.load(Ordering::Relaxed), 0, "an error does not keep the flow alive");
        let last = packet::with_ttl(&error, 1);
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &last).action == TcAction::Drop, op == FlowOp::Neigh, "{op:?}");
    }
}

#[test]
fn the_filter_finds_the_flow_of_an_error() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.uplinks.set(&[UplinkUse { mac: packet::NODE_MAC, ..uplink_use(LOOPBACK) }]).expect("an uplink");
    let table = table_of(&programs);
    let (client, backend) = (end("198.51.100.7", 5000), end("10.1.0.5", 8080));
    for (port, op) in [(80, FlowOp::Worker), (81, FlowOp::Pass)] {
        let key = FlowKey::new(client, (VIP, port), 0, Hook::UplinkIn, 6);
        table.insert(0, &one_way(key, to(client, backend, op)), NOW).expect("room");
    }
    let action = |frame: &[u8]| programs.test_run_uplink(frame, LOOPBACK).expect("a test run");
    let about = |port| icmp(HOP, VIP, (3, 4), quoted(&tcp((VIP, port), client, ACK)));
    assert_eq!(action(&about(80)), XdpAction::Redirect);
    assert_eq!(action(&packet::with_vlans(&about(80), &[7, 8])), XdpAction::Redirect);
    assert_eq!(action(&about(81)), XdpAction::Pass, "edge translates it");
    assert_eq!(action(&about(82)), XdpAction::Pass, "not ours");
    for error in [
        icmp(HOP, VIP, (5, 1), quoted(&tcp((VIP, 80), client, ACK))),
        icmp(HOP, VIP, (8, 0), quoted(&tcp((VIP, 80), client, ACK))),
        icmp(HOP, client.0, (3, 4), quoted(&tcp((VIP, 80), client, ACK))),
        icmp(HOP, VIP, (3, 4), &quoted(&tcp((VIP, 80), client, ACK))[..23]),
        icmp(HOP, VIP, (3, 4), quoted(&packet::as_fragment(&tcp((VIP, 80), client, ACK), 1, false))),
    ] {
        assert_eq!(action(&error), XdpAction::Pass);
    }
    let first_fragment = icmp(HOP, VIP, (3, 4), quoted(&packet::as_fragment(&tcp((VIP, 80), client, ACK), 0, true)));
    assert_eq!(action(&first_fragment), XdpAction::Redirect);
}

/// A worker executes the flow, but the error came by a device that only `edge` sees.
#[test]
fn an_error_about_a_workers_flow_goes_up() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (backend, node) = (end("10.3.0.4", 8080), end("10.0.0.1", 10_000));
    let key = FlowKey::new(backend, node, 0, Hook::UplinkIn, 17);
    table_of(&programs).insert(0, &one_way(key, to((VIP, 80), end("198.51.100.7", 5000), FlowOp::Worker)), NOW).expect("room");
    let error = icmp(backend.0, node.0, PORT_UNREACHABLE, quoted(&udp(node, backend)));
    let result = run(&programs, ProgramName::EdgeOverlayIn, &error);
    assert_eq!(result.action, TcAction::Redirect);
    assert_eq!(result.frame[..6], upcall_mac(Upcall { hook: Hook::UplinkIn, ifindex: LOOPBACK }));
    assert_eq!(result.frame[6..], error[6..]);
}

#[test]
fn pings_to_services_go_up() {
    const PING: (u8, u8) = (8, 0);
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    let address = |last| Ipv4Addr::new(203, 0, 113, last);
    let vip = AddressUse { vip: true, ping: true, ..AddressUse::default() };
    for (last, value) in [
        (1, vip),
        (2, AddressUse { announced: true, ..vip }),
        (3, AddressUse { closed: true, ping: true, ..AddressUse::default() }),
        (4, AddressUse { announced: true, ping: false, ..vip }),
    ] {
        programs.addresses.upsert(address(last), value).expect("an address");
    }
    let pod = Ipv4Addr::new(10, 1, 0, 4);
    let upcall = upcall_mac(Upcall { hook: Hook::PodIn, ifindex: LOOPBACK });
    // At pods, an address that nobody here announces may be a host's.
    for (last, at_uplink, goes_up) in [
        (1, XdpAction::Redirect, false),
        (2, XdpAction::Redirect, true),
        (3, XdpAction::Redirect, true),
        (4, XdpAction::Drop, false),
        (5, XdpAction::Pass, false),
    ] {
        let ping = icmp(pod, address(last), PING, b"ping");
        assert_eq!(programs.test_run_uplink(&ping, LOOPBACK).expect("a test run"), at_uplink, "{last}");
        let result = run(&programs, ProgramName::EdgePodIn, &ping);
        assert_eq!((result.action == TcAction::Redirect, result.frame[..6] == upcall), (goes_up, goes_up), "{last}");
        assert_eq!(run(&programs, ProgramName::EdgePodOut, &ping).action, TcAction::Next, "{last}");
    }
    let ping = icmp(pod, address(2), PING, b"ping");
    for other in [
        icmp(pod, address(2), (0, 0), b"ping"),
        icmp(pod, address(2), (8, 1), b"ping"),
        packet::as_fragment(&ping, 0, true),
        packet::with_ip_options(&ping, &[1; 4]),
        ping[..14 + 20].to_vec(),
        // Padding is no ICMP.
        with_total_bytes(&ping, 20),
        with_total_bytes(&ping, 27),
        with_total_bytes(&ping, 200),
    ] {
        assert_eq!(programs.test_run_uplink(&other, LOOPBACK).expect("a test run"), XdpAction::Drop);
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &other).action, TcAction::Next);
    }
}

/// The same frame, with another length in its IP header.
fn with_total_bytes(frame: &[u8], bytes: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[16..18].copy_from_slice(&bytes.to_be_bytes());
    frame
}

#[test]
fn a_datagram_to_a_backend_that_stopped_goes_up() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    let (client, backend) = (end("198.51.100.7", 5000), end("10.1.0.5", 8080));
    programs
        .frontends
        .upsert(&FrontendKey { address: VIP, port: 80, protocol: 17 }, FrontendUse { here: true, ..FrontendUse::default() })
        .expect("a frontend");
    let table = table_of(&programs);
    let key = FlowKey::new(client, (VIP, 80), 0, Hook::UplinkIn, 17);
    let slot = table.insert(0, &one_way(key, to(client, backend, FlowOp::Pass)), NOW).expect("room");
    let at_pod =
        table.insert(0, &one_way(FlowKey::new(client, (VIP, 80), LOOPBACK, Hook::PodIn, 17), to(client, backend, FlowOp::Pass)), NOW);
    let frame = udp(client, (VIP, 80));
    let uplink = || programs.test_run_uplink(&frame, LOOPBACK).expect("a test run");
    let pod = || run(&programs, ProgramName::EdgePodIn, &frame).action;
    assert_eq!((uplink(), pod()), (XdpAction::Pass, TcAction::Next));
    table.stop(slot);
    table.stop(at_pod.expect("room"));
    assert_eq!((uplink(), pod()), (XdpAction::Redirect, TcAction::Redirect));
}
