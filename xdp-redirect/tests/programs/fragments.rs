//! Fragments, as `uplink` and `edge` treat them: those without ports go where the first one went.

use ringway_engine::flow::{FlowKey, FlowOp, Hook, Rewrite};
use ringway_engine::order::{Upcall, upcall_mac};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{AddressUse, FrontendUse, ProgramName, Programs, SkbContext, SkbResult, TcAction, XdpAction};

use crate::packet::{ACK, SYN, fragments, reassembled, tcp, udp};
use crate::scratch::{Addresses, NOW, Scratch, end, for_both_families, ip, one_way, table_of, to, uplink_use};

const LOOPBACK: u32 = 1;
const MARK: u32 = 0x5257_0001;
fn vip<F: Addresses>() -> F::Ip {
    ip::<F>("203.0.113.10")
}

fn run(programs: &Programs, program: ProgramName, frame: &[u8], mark: u32) -> SkbResult {
    programs.test_run_tc(program, frame, SkbContext { mark, ..SkbContext::default() }).expect("a test run")
}

fn count(programs: &Programs, name: &str) -> u64 {
    programs.counters.get(name).expect("counters").expect("a counter of this name")
}

fn a_pods_datagram_is_translated_in_pieces<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let (pod, backend) = (end::<F>("10.1.0.4", 40000), end::<F>("10.1.200.77", 8080));
    for (number, (op, ttl)) in [(FlowOp::Pass, 64), (FlowOp::Bridge, 64), (FlowOp::Neigh, 63), (FlowOp::Peer, 64)].into_iter().enumerate() {
        for protocol in [6, 17] {
            let vip = (vip::<F>(), 80 + number as u16);
            let rewrite = Rewrite { ifindex: LOOPBACK, dmac: [2, 7, 7, 7, 7, 7], ..to(pod, backend, op) };
            table.insert(0, &one_way(FlowKey::new(pod, vip, LOOPBACK, Hook::PodIn, protocol), rewrite), NOW).expect("room");
            let whole = if protocol == 6 { tcp(pod, vip, ACK) } else { udp(pod, vip) };
            for options in [&[][..], &[1; 8]] {
                let whole = crate::packet::with_ip_options(&whole, options);
                let translated: Vec<_> = fragments(&whole, 500 + number as u16, 24)
                    .iter()
                    .map(|fragment| {
                        let result = run(&programs, ProgramName::EdgePodIn, fragment, 0);
                        let redirected = matches!(op, FlowOp::Neigh | FlowOp::Peer);
                        assert_eq!(result.action, if redirected { TcAction::Redirect } else { TcAction::Next }, "{op:?}");
                        assert_eq!(result.frame[..6] == [2, 7, 7, 7, 7, 7], matches!(op, FlowOp::Bridge | FlowOp::Peer), "{op:?}");
                        result.frame
                    })
                    .collect();
                let seen = reassembled::<F>(&translated);
                assert_eq!((seen.src, seen.dst, seen.ttl), (pod, backend, ttl), "{op:?}");
            }
        }
    }
    assert_eq!(count(&programs, "pod_in_upcall") + count(&programs, "pod_in_miss"), 0);
}

fn what_comes_before_its_first_goes_up_once<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (client, backend) = (end::<F>("198.51.100.7", 5000), end::<F>("10.1.0.5", 8080));
    programs.addresses.upsert(vip::<F>().into(), AddressUse { vip: true, ..AddressUse::default() }).expect("an address");
    let key = FlowKey::new(client, (vip::<F>(), 80), 0, Hook::UplinkIn, 17);
    table_of::<F>(&programs).insert(0, &one_way(key, to(client, backend, FlowOp::Pass)), NOW).expect("room");
    let pieces = fragments(&udp(client, (vip::<F>(), 80)), 7, 8);
    let early = run(&programs, ProgramName::EdgeUplinkIn, &pieces[1], 0);
    assert_eq!(
        (early.action, &early.frame[..6]),
        (TcAction::Redirect, &upcall_mac(Upcall { hook: Hook::UplinkIn, ifindex: LOOPBACK })[..])
    );
    assert_eq!(early.frame[6..], pieces[1][6..], "all else stays");
    // It came back, and nobody knows more: the kernel would send it into the network.
    assert_eq!(run(&programs, ProgramName::EdgeUplinkIn, &pieces[1], MARK).action, TcAction::Drop);
    assert_eq!(count(&programs, "edge_drop_fragment"), 1);
    let first = run(&programs, ProgramName::EdgeUplinkIn, &pieces[0], 0).frame;
    let rest: Vec<_> = pieces[1..].iter().map(|piece| run(&programs, ProgramName::EdgeUplinkIn, piece, MARK).frame).collect();
    assert_eq!(reassembled::<F>(&[vec![first], rest].concat()).dst, backend, "now it is known");

    // To others it goes on as it is, and outwards it does not even go up.
    let foreign = fragments(&udp(client, end::<F>("10.1.0.9", 80)), 8, 8);
    for (program, mark) in [(ProgramName::EdgeUplinkIn, MARK), (ProgramName::EdgePodOut, 0), (ProgramName::EdgeUplinkOut, 0)] {
        let result = run(&programs, program, &foreign[1], mark);
        assert_eq!((result.action, &result.frame), (TcAction::Next, &foreign[1]), "{program:?}");
    }
    for piece in &foreign {
        let result = run(&programs, ProgramName::EdgeUplinkIn, piece, 0);
        assert_eq!((result.action, &result.frame), (TcAction::Next, piece), "behind its first one it needs nobody");
    }
}

fn all_pieces_of_what_a_worker_executes_go_up<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs
        .frontends
        .upsert(&FrontendKey { address: vip::<F>().into(), port: 80, protocol: 17 }, FrontendUse::default())
        .expect("a frontend");
    let pod = end::<F>("10.1.0.4", 40000);
    // The first of a new flow, and one of a flow that a worker executes.
    let executed = FlowKey::new(pod, (vip::<F>(), 81), LOOPBACK, Hook::PodIn, 17);
    table_of::<F>(&programs).insert(0, &one_way(executed, to(pod, (vip::<F>(), 9), FlowOp::Worker)), NOW).expect("room");
    for port in [80, 81] {
        for piece in fragments(&udp(pod, (vip::<F>(), port)), port, 8) {
            let result = run(&programs, ProgramName::EdgePodIn, &piece, 0);
            assert_eq!(result.action, TcAction::Redirect, "{port}");
            assert_eq!(result.frame[..6], upcall_mac(Upcall { hook: Hook::PodIn, ifindex: LOOPBACK }));
        }
    }
    // The same identification once more, in another datagram: the older one is forgotten.
    for piece in fragments(&udp(pod, (vip::<F>(), 82)), 81, 8) {
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &piece, 0).action, TcAction::Next);
    }
}

fn the_uplink_sends_them_after_their_first<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    for (port, here) in [(80, false), (81, true)] {
        let value = FrontendUse { here, ..FrontendUse::default() };
        programs.frontends.upsert(&FrontendKey { address: vip::<F>().into(), port, protocol: 17 }, value).expect("a frontend");
    }
    programs.addresses.upsert(vip::<F>().into(), AddressUse { vip: true, ..AddressUse::default() }).expect("an address");
    let client = end::<F>("198.51.100.7", 5000);
    let key = FlowKey::new(client, (vip::<F>(), 81), 0, Hook::UplinkIn, 17);
    table_of::<F>(&programs).insert(0, &one_way(key, to(client, end::<F>("10.1.0.5", 8080), FlowOp::Pass)), NOW).expect("room");
    let node = ip::<F>("10.0.0.9");
    for (id, to, wanted) in [
        (1, (vip::<F>(), 80), XdpAction::Redirect),
        (2, (vip::<F>(), 81), XdpAction::Pass),
        (3, (vip::<F>(), 82), XdpAction::Drop),
        (4, (node, 53), XdpAction::Pass),
    ] {
        for piece in fragments(&udp(client, to), id, 8) {
            assert_eq!(programs.test_run_uplink(&piece, LOOPBACK).expect("a test run"), wanted, "{to:?}");
        }
        // One that came first.
        let early = &fragments(&udp(client, to), 100 + id, 8)[1];
        let wanted = if to.0 == vip::<F>() { XdpAction::Redirect } else { XdpAction::Pass };
        assert_eq!(programs.test_run_uplink(early, LOOPBACK).expect("a test run"), wanted, "early, {to:?}");
    }
    // RFC 1858: it would lie on the header of the first one.
    let overlapping = &fragments(&tcp(client, (vip::<F>(), 80), SYN), 200, 8)[1];
    assert_eq!(programs.test_run_uplink(overlapping, LOOPBACK).expect("a test run"), XdpAction::Drop);
}

for_both_families! {
    a_pods_datagram_is_translated_in_pieces
    what_comes_before_its_first_goes_up_once
    all_pieces_of_what_a_worker_executes_go_up
    the_uplink_sends_them_after_their_first
}
