//! ICMP, as `uplink` and `edge` treat it: whoever gets an error about a flow reads what it sent itself; pings go up.

use ringway_engine::flow::{FlowKey, FlowOp, Hook, Rewrite};
use ringway_engine::order::{Upcall, upcall_mac};
use ringway_engine::tables::FrontendKey;
use std::sync::atomic::Ordering;
use xdp_redirect::{AddressUse, FrontendUse, ProgramName, Programs, SkbContext, SkbResult, TcAction, UplinkUse, XdpAction};

use crate::packet::{self, ACK, Icmp, icmp, read_icmp, tcp, udp};
use crate::scratch::{Addresses, End, NOW, Scratch, end, for_both_families, ip, one_way, table_of, to, uplink_use};

const LOOPBACK: u32 = 1;
fn vip<F: Addresses>() -> F::Ip {
    ip::<F>("203.0.113.10")
}

fn hop<F: Addresses>() -> F::Ip {
    ip::<F>("192.0.2.99")
}

fn run(programs: &Programs, program: ProgramName, frame: &[u8]) -> SkbResult {
    programs.test_run_tc(program, frame, SkbContext::default()).expect("a test run")
}

fn quoted(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// Both directions of a pod's flow to a VIP, TCP and UDP.
fn pods_flows<F: Addresses>(programs: &Programs, pod: End<F>, backend: End<F>) {
    let table = table_of::<F>(programs);
    for protocol in [6, 17] {
        let forward = FlowKey::new(pod, (vip::<F>(), 80), LOOPBACK, Hook::PodIn, protocol);
        let reverse = FlowKey::new(backend, pod, LOOPBACK, Hook::PodOut, protocol);
        table.insert(0, &one_way(forward, to(pod, backend, FlowOp::Pass)), NOW).expect("room");
        table.insert(0, &one_way(reverse, to((vip::<F>(), 80), pod, FlowOp::Pass)), NOW).expect("room");
    }
}

fn who_is_told_reads_what_it_sent<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (pod, backend) = (end::<F>("10.1.0.4", 40000), end::<F>("10.1.200.77", 8080));
    pods_flows::<F>(&programs, pod, backend);
    // IPv6 knows no datagram without a checksum; but what is quoted may have passed somebody who does.
    let mut no_checksum = udp(pod, (vip::<F>(), 80));
    if !F::IS_V6 {
        no_checksum[packet::udp_check::<F>()..][..2].fill(0);
    }
    let options = packet::with_ip_options(&tcp(pod, (vip::<F>(), 80), ACK), &[1; 40]);
    for (what, sent) in [
        ("TCP", tcp(pod, (vip::<F>(), 80), ACK)),
        ("UDP", udp(pod, (vip::<F>(), 80))),
        ("no checksum", no_checksum),
        ("IP options", options),
    ] {
        let translated = run(&programs, ProgramName::EdgePodIn, &sent).frame;
        let header = packet::headers_end(&sent) - 14;
        for len in [header + 4, header + 6, header + 8, header + 16, header + 18, quoted(&sent).len()] {
            let len = len.min(quoted(&sent).len());
            for from in [hop::<F>(), backend.0] {
                // To the pod, about what it sent.
                let error = icmp(from, pod.0, Icmp::PortUnreachable, &quoted(&translated)[..len]);
                let result = run(&programs, ProgramName::EdgePodOut, &error);
                assert_eq!((result.action, result.frame.len()), (TcAction::Next, error.len()), "{what}, {len} bytes");
                assert_eq!(read_icmp::<F>(&result.frame), (vip::<F>(), pod.0, 64, quoted(&sent)[..len].to_vec()), "{what}, {len} bytes");
            }
        }
    }
    // From the pod, about an answer that it did not want.
    for (answer, as_sent) in [(udp((vip::<F>(), 80), pod), udp(backend, pod)), (tcp((vip::<F>(), 80), pod, ACK), tcp(backend, pod, ACK))] {
        let result = run(&programs, ProgramName::EdgePodIn, &icmp(pod.0, vip::<F>(), Icmp::PortUnreachable, quoted(&answer)));
        assert_eq!(result.action, TcAction::Next);
        assert_eq!(read_icmp::<F>(&result.frame), (pod.0, backend.0, 64, quoted(&as_sent).to_vec()));
    }
}

fn an_error_goes_the_way_of_an_answer<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let (backend, node, dmac) = (end::<F>("10.1.0.4", 8080), ip::<F>("10.0.0.1"), [2, 7, 7, 7, 7, 7]);
    for (port, op, action, ttl) in [
        (1, FlowOp::Received, TcAction::Redirect, 64),
        (2, FlowOp::Peer, TcAction::Redirect, 64),
        (3, FlowOp::Neigh, TcAction::Redirect, 63),
        (4, FlowOp::Bridge, TcAction::Next, 64),
    ] {
        let key = FlowKey::new(backend, (node, port), LOOPBACK, Hook::PodIn, 17);
        let rewrite = Rewrite { ifindex: LOOPBACK, dmac, ..to((vip::<F>(), 80), (node, 40000 + port), op) };
        let slot = table.insert(0, &one_way(key, rewrite), NOW).expect("room");
        let error = icmp(backend.0, node, Icmp::PortUnreachable, quoted(&udp((node, port), backend)));
        let result = run(&programs, ProgramName::EdgePodIn, &error);
        assert_eq!(result.action, action, "{op:?}");
        assert_eq!(
            read_icmp::<F>(&result.frame),
            (vip::<F>(), node, ttl, quoted(&udp((node, 40000 + port), (vip::<F>(), 80))).to_vec()),
            "{op:?}"
        );
        assert_eq!(result.frame[..6] == dmac, op != FlowOp::Neigh, "{op:?}");
        assert_eq!(table.slot(slot).seen.load(Ordering::Relaxed), 0, "an error does not keep the flow alive");
        let last = packet::with_ttl(&error, 1);
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &last).action == TcAction::Drop, op == FlowOp::Neigh, "{op:?}");
    }
}

fn the_filter_finds_the_flow_of_an_error<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.uplinks.set(&[UplinkUse { mac: packet::NODE_MAC, ..uplink_use(LOOPBACK) }]).expect("an uplink");
    let table = table_of::<F>(&programs);
    let (client, backend) = (end::<F>("198.51.100.7", 5000), end::<F>("10.1.0.5", 8080));
    for (port, op) in [(80, FlowOp::Worker), (81, FlowOp::Pass)] {
        let key = FlowKey::new(client, (vip::<F>(), port), 0, Hook::UplinkIn, 6);
        table.insert(0, &one_way(key, to(client, backend, op)), NOW).expect("room");
    }
    let action = |frame: &[u8]| programs.test_run_uplink(frame, LOOPBACK).expect("a test run");
    let about = |port| icmp(hop::<F>(), vip::<F>(), Icmp::TooBig, quoted(&tcp((vip::<F>(), port), client, ACK)));
    assert_eq!(action(&about(80)), XdpAction::Redirect);
    assert_eq!(action(&packet::with_vlans(&about(80), &[7, 8])), XdpAction::Redirect);
    assert_eq!(action(&about(81)), XdpAction::Pass, "edge translates it");
    assert_eq!(action(&about(82)), XdpAction::Pass, "not ours");
    for error in [
        icmp(hop::<F>(), vip::<F>(), Icmp::Redirect, quoted(&tcp((vip::<F>(), 80), client, ACK))),
        icmp(hop::<F>(), vip::<F>(), Icmp::Ping, quoted(&tcp((vip::<F>(), 80), client, ACK))),
        icmp(hop::<F>(), client.0, Icmp::TooBig, quoted(&tcp((vip::<F>(), 80), client, ACK))),
        icmp(hop::<F>(), vip::<F>(), Icmp::TooBig, &quoted(&tcp((vip::<F>(), 80), client, ACK))[..F::HEADER_BYTES + 3]),
        icmp(hop::<F>(), vip::<F>(), Icmp::TooBig, quoted(&packet::as_fragment(&tcp((vip::<F>(), 80), client, ACK), 1, false))),
    ] {
        assert_eq!(action(&error), XdpAction::Pass);
    }
    let first_fragment =
        icmp(hop::<F>(), vip::<F>(), Icmp::TooBig, quoted(&packet::as_fragment(&tcp((vip::<F>(), 80), client, ACK), 0, true)));
    assert_eq!(action(&first_fragment), XdpAction::Redirect);
}

/// A worker executes the flow, but the error came by a device that only `edge` sees.
fn an_error_about_a_workers_flow_goes_up<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (backend, node) = (end::<F>("10.3.0.4", 8080), end::<F>("10.0.0.1", 10_000));
    let key = FlowKey::new(backend, node, 0, Hook::UplinkIn, 17);
    table_of::<F>(&programs)
        .insert(0, &one_way(key, to((vip::<F>(), 80), end::<F>("198.51.100.7", 5000), FlowOp::Worker)), NOW)
        .expect("room");
    let error = icmp(backend.0, node.0, Icmp::PortUnreachable, quoted(&udp(node, backend)));
    let result = run(&programs, ProgramName::EdgeOverlayIn, &error);
    assert_eq!(result.action, TcAction::Redirect);
    assert_eq!(result.frame[..6], upcall_mac(Upcall { hook: Hook::UplinkIn, ifindex: LOOPBACK }));
    assert_eq!(result.frame[6..], error[6..]);
}

fn pings_to_services_go_up<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    let address = |last| F::ip([203, 0, 113, last].into());
    let vip = AddressUse { vip: true, ping: true, ..AddressUse::default() };
    for (last, value) in [
        (1, vip),
        (2, AddressUse { announced: true, ..vip }),
        (3, AddressUse { closed: true, ping: true, ..AddressUse::default() }),
        (4, AddressUse { announced: true, ping: false, ..vip }),
    ] {
        programs.addresses.upsert(address(last).into(), value).expect("an address");
    }
    let pod = ip::<F>("10.1.0.4");
    let upcall = upcall_mac(Upcall { hook: Hook::PodIn, ifindex: LOOPBACK });
    // At pods, an address that nobody here announces may be a host's.
    for (last, at_uplink, goes_up) in [
        (1, XdpAction::Redirect, false),
        (2, XdpAction::Redirect, true),
        (3, XdpAction::Redirect, true),
        (4, XdpAction::Drop, false),
        (5, XdpAction::Pass, false),
    ] {
        let ping = icmp(pod, address(last), Icmp::Ping, b"ping");
        assert_eq!(programs.test_run_uplink(&ping, LOOPBACK).expect("a test run"), at_uplink, "{last}");
        let result = run(&programs, ProgramName::EdgePodIn, &ping);
        assert_eq!((result.action == TcAction::Redirect, result.frame[..6] == upcall), (goes_up, goes_up), "{last}");
        assert_eq!(run(&programs, ProgramName::EdgePodOut, &ping).action, TcAction::Next, "{last}");
    }
    let ping = icmp(pod, address(2), Icmp::Ping, b"ping");
    for other in [
        icmp(pod, address(2), Icmp::Pong, b"ping"),
        icmp(pod, address(2), Icmp::OddPing, b"ping"),
        packet::as_fragment(&ping, 0, true),
        packet::with_ip_options(&ping, &[1; 4]),
        ping[..14 + F::HEADER_BYTES].to_vec(),
        // Padding is no ICMP.
        with_payload_bytes(&ping, 0),
        with_payload_bytes(&ping, 7),
        with_payload_bytes(&ping, 180),
    ] {
        assert_eq!(programs.test_run_uplink(&other, LOOPBACK).expect("a test run"), XdpAction::Drop);
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &other).action, TcAction::Next);
    }
}

/// The same frame, with another length in its IP header.
fn with_payload_bytes(frame: &[u8], bytes: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let (at, length) = if frame[14] >> 4 == 6 { (18, bytes) } else { (16, 20 + bytes) };
    frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
    frame
}

fn a_datagram_to_a_backend_that_stopped_goes_up<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    let (client, backend) = (end::<F>("198.51.100.7", 5000), end::<F>("10.1.0.5", 8080));
    programs
        .frontends
        .upsert(&FrontendKey { address: vip::<F>().into(), port: 80, protocol: 17 }, FrontendUse { here: true, ..FrontendUse::default() })
        .expect("a frontend");
    let table = table_of::<F>(&programs);
    let key = FlowKey::new(client, (vip::<F>(), 80), 0, Hook::UplinkIn, 17);
    let slot = table.insert(0, &one_way(key, to(client, backend, FlowOp::Pass)), NOW).expect("room");
    let at_pod = table.insert(
        0,
        &one_way(FlowKey::new(client, (vip::<F>(), 80), LOOPBACK, Hook::PodIn, 17), to(client, backend, FlowOp::Pass)),
        NOW,
    );
    let frame = udp(client, (vip::<F>(), 80));
    let uplink = || programs.test_run_uplink(&frame, LOOPBACK).expect("a test run");
    let pod = || run(&programs, ProgramName::EdgePodIn, &frame).action;
    assert_eq!((uplink(), pod()), (XdpAction::Pass, TcAction::Next));
    table.stop(slot);
    table.stop(at_pod.expect("room"));
    assert_eq!((uplink(), pod()), (XdpAction::Redirect, TcAction::Redirect));
}

for_both_families! {
    who_is_told_reads_what_it_sent
    an_error_goes_the_way_of_an_answer
    the_filter_finds_the_flow_of_an_error
    an_error_about_a_workers_flow_goes_up
    pings_to_services_go_up
    a_datagram_to_a_backend_that_stopped_goes_up
}
