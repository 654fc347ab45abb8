//! Which frames `uplink` gives to a worker. The shared fixture table (tests/) has the many cases; here the branches.

use std::sync::atomic::Ordering;

use ringway_engine::flow::{FlowKey, FlowOp, Hook, Segment};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{AddressUse, FrontendUse, Programs, Receives, UplinkUse, XdpAction};

use crate::packet::{self, ACK, FIN, SYN, tcp, udp, who_has, with_vlans};
use crate::scratch::{Addresses, NOW, Scratch, end, for_both_families, ip, one_way, table_of, to, uplink_use};

const LOOPBACK: u32 = 1;
fn vip<F: Addresses>() -> F::Ip {
    ip::<F>("203.0.113.10")
}

fn snat<F: Addresses>() -> F::Ip {
    ip::<F>("10.0.0.1")
}

fn cluster_ip<F: Addresses>() -> F::Ip {
    ip::<F>("10.96.0.10")
}

/// A frontend with backends elsewhere (port 80), one that may have them here (port 81), SNAT ports, an announced VIP.
fn load<F: Addresses>(scratch: &Scratch) -> Programs {
    let programs = scratch.load().0;
    for (port, here) in [(80, false), (81, true)] {
        for protocol in [6, 17] {
            let value = FrontendUse { here, ..FrontendUse::default() };
            programs.frontends.upsert(&FrontendKey { address: vip::<F>().into(), port, protocol }, value).expect("a frontend");
        }
    }
    let nothing = AddressUse::default();
    for (address, value) in [
        (vip::<F>(), AddressUse { announced: true, vip: true, ..nothing }),
        (ip::<F>("203.0.113.11"), AddressUse { vip: true, ..nothing }),
        (cluster_ip::<F>(), AddressUse { closed: true, ..nothing }),
        (snat::<F>(), AddressUse { snat_ports: Some((10000, 29999)), ..nothing }),
    ] {
        programs.addresses.upsert(address.into(), value).expect("an address");
    }
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    programs
}

fn action(programs: &Programs, frame: &[u8]) -> XdpAction {
    programs.test_run_uplink(frame, LOOPBACK).expect("a test run")
}

fn frontends_go_to_a_worker_and_nothing_else_does<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    let client = end::<F>("198.51.100.7", 5000);
    let frontend = (vip::<F>(), 80);
    let segment = tcp(client, frontend, SYN);
    for (wanted, what, frame) in [
        (XdpAction::Redirect, "TCP", segment.clone()),
        (XdpAction::Redirect, "UDP", udp(client, frontend)),
        (XdpAction::Redirect, "one VLAN tag", with_vlans(&segment, &[7])),
        (XdpAction::Redirect, "two VLAN tags", with_vlans(&segment, &[7, 8])),
        (XdpAction::Redirect, "IP options", packet::with_ip_options(&segment, &[1; 12])),
        (XdpAction::Redirect, "padding", [segment.clone(), vec![0; 9]].concat()),
        (XdpAction::Redirect, "who has an announced VIP", who_has(vip::<F>())),
        (XdpAction::Redirect, "the same, tagged", with_vlans(&who_has(vip::<F>()), &[7])),
        (XdpAction::Pass, "three VLAN tags", with_vlans(&segment, &[7, 8, 9])),
        (XdpAction::Redirect, "the first packet to a port of a ClusterIP that nobody has", tcp(client, (cluster_ip::<F>(), 9), SYN)),
        (XdpAction::Pass, "a later one", tcp(client, (cluster_ip::<F>(), 9), ACK)),
        (XdpAction::Redirect, "a first fragment to a ClusterIP", packet::as_fragment(&tcp(client, (cluster_ip::<F>(), 80), SYN), 0, true)),
        (XdpAction::Drop, "another port", tcp(client, (vip::<F>(), 82), SYN)),
        (XdpAction::Drop, "another port, whatever the packet", tcp(client, (vip::<F>(), 82), ACK)),
        (XdpAction::Drop, "a VIP without any frontend", udp(client, end::<F>("203.0.113.11", 80))),
        (XdpAction::Pass, "another address", tcp(client, end::<F>("203.0.113.9", 80), SYN)),
        (XdpAction::Redirect, "a first fragment", packet::as_fragment(&segment, 0, true)),
        (XdpAction::Redirect, "a last fragment", packet::as_fragment(&segment, 8, false)),
        (XdpAction::Drop, "a first fragment to another port", packet::as_fragment(&tcp(client, (vip::<F>(), 82), SYN), 0, true)),
        (XdpAction::Drop, "a short TCP header", segment[..14 + F::HEADER_BYTES + 19].to_vec()),
        (XdpAction::Drop, "a frame shorter than its IP length", segment[..segment.len() - 1].to_vec()),
        (XdpAction::Pass, "half an IP header", segment[..14 + 10].to_vec()),
        (XdpAction::Pass, "Ethernet only", segment[..14].to_vec()),
        (XdpAction::Pass, "half a VLAN tag", [&segment[..12], &[0x81, 0, 0]].concat()),
        (XdpAction::Pass, "half of that", who_has(vip::<F>())[..30].to_vec()),
        (XdpAction::Pass, "who has a VIP that is not announced", who_has(ip::<F>("203.0.113.11"))),
        (XdpAction::Pass, "who has another address", who_has(ip::<F>("203.0.113.12"))),
    ] {
        assert_eq!(action(&programs, &frame), wanted, "{what}");
    }
}

fn lengths_inside_the_packet_are_not_believed<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    let segment = tcp(end::<F>("198.51.100.7", 5000), (vip::<F>(), 80), SYN);
    let of_v4 = [
        ("header length 0", 14, vec![0x40]),
        ("header length 60, beyond the frame", 14, vec![0x4f]),
        ("version 6", 14, vec![0x65]),
        ("total length without a TCP header", 16, vec![0, 39]),
        ("total length beyond the frame", 16, vec![0xff, 0xff]),
        ("total length 0: a super-packet for tc, but XDP sees no such thing", 16, vec![0, 0]),
    ];
    let of_v6 = [
        ("version 4", 14, vec![0x45]),
        ("payload length without a TCP header", 18, vec![0, 19]),
        ("payload length beyond the frame", 18, vec![0xff, 0xff]),
        ("payload length 0: likewise", 18, vec![0, 0]),
    ];
    for (what, offset, value) in if F::IS_V6 { &of_v6[..] } else { &of_v4 } {
        let mut frame = segment.clone();
        frame[*offset..offset + value.len()].copy_from_slice(value);
        assert_eq!(action(&programs, &frame), XdpAction::Drop, "{what}");
    }
}

fn flows_that_edge_executes_pass_unless_they_are_over<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    let table = table_of::<F>(&programs);
    let (client, here) = (end::<F>("198.51.100.7", 5000), (vip::<F>(), 81));
    assert_eq!(action(&programs, &tcp(client, here, SYN)), XdpAction::Redirect, "no flow yet");

    let key = FlowKey::new(client, here, 0, Hook::UplinkIn, 6);
    let slot = table.insert(0, &one_way(key, to(client, end::<F>("10.1.0.5", 8080), FlowOp::Pass)), NOW).expect("room");
    assert_eq!(action(&programs, &tcp(client, here, SYN)), XdpAction::Pass);
    assert_eq!(action(&programs, &tcp(client, here, ACK)), XdpAction::Pass);

    table.touch(slot, Segment::unnumbered(FIN | ACK), NOW);
    assert_eq!(action(&programs, &tcp(client, here, ACK)), XdpAction::Pass, "the rest of a closing connection");
    assert_eq!(action(&programs, &tcp(client, here, SYN)), XdpAction::Pass, "half-closed: the backend knows");
    table.touch(table.slot(slot).peer.load(Ordering::Relaxed), Segment::unnumbered(FIN | ACK), NOW);
    assert_eq!(action(&programs, &tcp(client, here, ACK)), XdpAction::Pass, "the last ACK");
    assert_eq!(action(&programs, &tcp(client, here, SYN)), XdpAction::Redirect, "a new connection over one that ended");
    assert_eq!(action(&programs, &tcp(client, here, SYN | ACK)), XdpAction::Pass);
}

/// Of a frontend that was removed, only what is established comes to a worker.
fn a_draining_frontend_keeps_its_flows_and_takes_no_new_ones<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    let table = table_of::<F>(&programs);
    let draining = FrontendUse { draining: true, ..FrontendUse::default() };
    programs.frontends.upsert(&FrontendKey { address: vip::<F>().into(), port: 80, protocol: 6 }, draining).expect("a frontend");
    programs.addresses.remove(vip::<F>().into()).expect("removal");
    let (client, other, vip) = (end::<F>("198.51.100.7", 5000), end::<F>("198.51.100.7", 5001), (vip::<F>(), 80));
    let backend = end::<F>("10.2.0.5", 8080);
    let key = FlowKey::new(client, vip, 0, Hook::UplinkIn, 6);
    let slot = table.insert(0, &one_way(key, to((snat::<F>(), 10_001), backend, FlowOp::Worker)), NOW).expect("room");
    assert_eq!(action(&programs, &tcp(client, vip, ACK)), XdpAction::Redirect);
    assert_eq!(action(&programs, &tcp(other, vip, ACK)), XdpAction::Pass, "no flow");
    assert_eq!(action(&programs, &tcp(other, vip, SYN)), XdpAction::Pass, "a new one");
    table.touch(slot, Segment::unnumbered(FIN | ACK), NOW);
    assert_eq!(action(&programs, &tcp(client, vip, ACK)), XdpAction::Redirect, "the rest of a closing connection");
    assert_eq!(action(&programs, &tcp(client, vip, SYN)), XdpAction::Pass, "a new one over a closed one");
    let key = FlowKey::new(other, vip, 0, Hook::UplinkIn, 6);
    table.insert(0, &one_way(key, to(other, backend, FlowOp::Pass)), NOW).expect("room");
    assert_eq!(action(&programs, &tcp(other, vip, ACK)), XdpAction::Pass, "a flow of edge");
}

fn a_reset_by_the_other_side_counts_too<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    let table = table_of::<F>(&programs);
    let (client, here) = (end::<F>("198.51.100.7", 5000), (vip::<F>(), 81));
    let key = FlowKey::new(client, here, 0, Hook::UplinkIn, 6);
    let flow = one_way(key, to(client, end::<F>("10.1.0.5", 8080), FlowOp::Pass));
    table.insert(0, &flow, NOW).expect("room");
    let reverse = table.lookup(&flow.reverse.0, table.hash(&flow.reverse.0)).expect("the other direction");
    table.touch(reverse, Segment::unnumbered(packet::RST), NOW);
    assert_eq!(action(&programs, &tcp(client, here, SYN)), XdpAction::Redirect);
}

fn replies_to_snat_go_to_a_worker_only_if_a_flow_says_so<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    let table = table_of::<F>(&programs);
    let backend = end::<F>("10.2.0.5", 8080);
    let rewritten = to((vip::<F>(), 80), end::<F>("198.51.100.7", 5000), FlowOp::Worker);
    assert_eq!(action(&programs, &tcp(backend, (snat::<F>(), 10000), ACK)), XdpAction::Pass, "no flow");
    for port in [10000, 29999, 9999] {
        let key = FlowKey::new(backend, (snat::<F>(), port), 0, Hook::UplinkIn, 6);
        table.insert(0, &one_way(key, rewritten), NOW).expect("room");
    }
    assert_eq!(action(&programs, &tcp(backend, (snat::<F>(), 10000), ACK)), XdpAction::Redirect, "the first port");
    assert_eq!(action(&programs, &tcp(backend, (snat::<F>(), 29999), ACK)), XdpAction::Redirect, "the last port");
    assert_eq!(action(&programs, &tcp(backend, (snat::<F>(), 9999), ACK)), XdpAction::Pass, "not our port");

    let key = FlowKey::new(backend, (snat::<F>(), 10001), 0, Hook::UplinkIn, 6);
    let received = to(backend, (snat::<F>(), 10001), FlowOp::Received);
    table.insert(0, &one_way(key, received), NOW).expect("room");
    assert_eq!(action(&programs, &tcp(backend, (snat::<F>(), 10001), ACK)), XdpAction::Pass, "edge executes it");
}

fn with_generic_xdp_what_we_hand_back_passes<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = Programs::load(xdp_redirect::LoadOptions { generic_uplinks: true, ..scratch.options() }).expect("programs").0;
    programs
        .frontends
        .upsert(&FrontendKey { address: vip::<F>().into(), port: 80, protocol: 6 }, FrontendUse::default())
        .expect("a frontend");
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    let mut frame = tcp(end::<F>("198.51.100.7", 5000), (vip::<F>(), 80), SYN);
    assert_eq!(action(&programs, &frame), XdpAction::Redirect);
    frame[6..12].copy_from_slice(&[2, 0x52, 0, 0, 0, 1]);
    assert_eq!(action(&programs, &frame), XdpAction::Pass);
    assert_eq!(programs.counters.get("uplink_pass_returned").expect("counters"), Some(1));
}

fn every_frame_counts_once<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    let client = end::<F>("198.51.100.7", 5000);
    for frame in [
        tcp(client, (vip::<F>(), 80), SYN),
        tcp(client, (vip::<F>(), 82), SYN),
        tcp(client, end::<F>("203.0.113.9", 80), SYN),
        who_has(vip::<F>()),
    ] {
        action(&programs, &frame);
    }
    let counters = programs.counters.read().expect("counters");
    let nonzero = counters.iter().filter(|(_, value)| *value > 0).copied().collect::<Vec<_>>();
    let asked = if F::IS_V6 { "uplink_redirect_ndp" } else { "uplink_redirect_arp" };
    assert_eq!(nonzero, [("uplink_pass", 1), ("uplink_redirect", 1), (asked, 1), ("uplink_drop_vip", 1)]);
}

fn frames_for_another_station_pass<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    let own = [2, 0, 0, 0x11, 0x22, 0x33];
    let sent_to_us = |port| {
        let mut frame = tcp(end::<F>("198.51.100.7", 5000), (vip::<F>(), port), SYN);
        frame[..6].copy_from_slice(&own);
        frame
    };
    programs.uplinks.set_mac(LOOPBACK, own).expect("a MAC");
    assert_eq!(action(&programs, &sent_to_us(80)), XdpAction::Redirect);
    for (port, why) in [(80, "not ours to take"), (82, "not ours to drop")] {
        for byte in 0..6 {
            let mut flooded = sent_to_us(port);
            flooded[byte] ^= 1;
            assert_eq!(action(&programs, &flooded), XdpAction::Pass, "{why}, byte {byte}");
        }
    }
    assert_eq!(action(&programs, &who_has(vip::<F>())), XdpAction::Redirect, "broadcast is for everybody");
}

fn members_of_bonds_receive_what_the_kernel_would<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    let client = end::<F>("198.51.100.7", 5000);
    let (served, unserved) = (tcp(client, (vip::<F>(), 80), SYN), tcp(client, (vip::<F>(), 82), SYN));
    let mut to_group = served.clone();
    to_group[0] |= 1;
    let lacp = [&[0x01, 0x80, 0xc2, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x88, 0x09][..], &[1; 110]].concat();
    use XdpAction::{Drop, Pass, Redirect};
    for (receives, expected) in [
        (Receives::Everything, [Redirect, Drop, Redirect, Redirect, Pass]),
        (Receives::Unicast, [Redirect, Drop, Drop, Drop, Pass]),
        // The kernel, to which this device is active, would answer whatever of ours passed.
        (Receives::Nothing, [Drop, Drop, Drop, Drop, Pass]),
    ] {
        programs.uplinks.set(&[UplinkUse { receives, ..uplink_use(LOOPBACK) }]).expect("a member");
        let found = [&served, &unserved, &to_group, &who_has(vip::<F>()), &lacp].map(|frame| action(&programs, frame));
        assert_eq!(found, expected, "{receives:?}");
        assert_eq!(programs.uplinks.entries().expect("entries")[0].receives, receives);
        programs.uplinks.set_mac(LOOPBACK, [0; 6]).expect("a MAC");
        assert_eq!(programs.uplinks.entries().expect("entries")[0].receives, receives, "it stays when the MAC changes");
    }
    assert_eq!(programs.counters.get("uplink_drop_inactive").expect("counters"), Some(6));
}

fn an_uplink_without_sockets_drops_what_is_ours<F: Addresses>() {
    let scratch = Scratch::new();
    let programs = load::<F>(&scratch);
    programs.uplinks.set(&[uplink_use(7)]).expect("another uplink");
    action(&programs, &tcp(end::<F>("198.51.100.7", 5000), (vip::<F>(), 80), SYN));
    assert_eq!(programs.counters.get("uplink_drop_unknown").expect("counters"), Some(1));
}

for_both_families! {
    frontends_go_to_a_worker_and_nothing_else_does
    lengths_inside_the_packet_are_not_believed
    flows_that_edge_executes_pass_unless_they_are_over
    a_draining_frontend_keeps_its_flows_and_takes_no_new_ones
    a_reset_by_the_other_side_counts_too
    replies_to_snat_go_to_a_worker_only_if_a_flow_says_so
    with_generic_xdp_what_we_hand_back_passes
    every_frame_counts_once
    frames_for_another_station_pass
    members_of_bonds_receive_what_the_kernel_would
    an_uplink_without_sockets_drops_what_is_ours
}
