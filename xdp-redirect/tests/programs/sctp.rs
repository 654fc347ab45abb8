//! SCTP, whose checksum is not the Internet's.

use std::sync::atomic::Ordering;

use ringway_engine::flow::{FlowKey, FlowOp, Hook, SEEN_ACK, SEEN_ANY, SEEN_FIN, SEEN_RST, SEEN_SYN};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{AddressUse, FrontendUse, ProgramName, SkbContext, TcAction, XdpAction};

use crate::packet::{Icmp, as_fragment, cut, icmp, read, read_icmp, sctp, with_ip_options};
use crate::scratch::{Addresses, End, NOW, Scratch, end, for_both_families, one_way, table_of, to, uplink_use};

const LOOPBACK: u32 = 1;
const SCTP: u8 = 132;
fn vip<F: Addresses>() -> End<F> {
    end::<F>("203.0.113.10", 80)
}

const INIT: u8 = 1;
const DATA: u8 = 0;

fn l4<F: Addresses>() -> usize {
    14 + F::HEADER_BYTES
}

fn ports_and_checksum_are_rewritten_whatever_the_length<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let run = |frame: &[u8]| programs.test_run_tc(ProgramName::EdgePodIn, frame, SkbContext::default()).expect("a test run");
    let (pod, backend) = (end::<F>("10.1.0.4", 40000), end::<F>("10.1.200.77", 8080));
    table
        .insert(0, &one_way(FlowKey::new(pod, vip::<F>(), LOOPBACK, Hook::PodIn, SCTP), to(pod, backend, FlowOp::Pass)), NOW)
        .expect("room");
    for bytes in (0..64).chain([255, 256, 1000, 1023, 1400, 1436]) {
        let frame = sctp(pod, vip::<F>(), DATA, bytes);
        for frame in [frame.clone(), with_ip_options(&frame, &[1; 8])] {
            let result = run(&frame);
            let seen = read::<F>(&result.frame);
            assert_eq!((result.action, seen.src, seen.dst), (TcAction::Next, pod, backend), "{bytes} bytes");
            assert_eq!(result.frame.len(), frame.len());
        }
    }
    // A sum that was wrong stays wrong; one that a device still has to make is left to it.
    let mut wrong = sctp(pod, vip::<F>(), DATA, 100);
    let right = run(&wrong).frame;
    wrong[l4::<F>() + 8] ^= 0x40;
    let translated = run(&wrong).frame;
    assert_eq!(translated[l4::<F>() + 8] ^ 0x40, right[l4::<F>() + 8]);
    wrong[l4::<F>() + 8..][..4].fill(0);
    assert_eq!(run(&wrong).frame[l4::<F>() + 8..][..4], [0; 4]);
    // Only the common header, and not even that.
    let frame = sctp(pod, vip::<F>(), DATA, 0);
    let header = cut(&frame, l4::<F>() + 12);
    assert_eq!(run(&header).frame[l4::<F>() + 2..][..2], backend.1.to_be_bytes());
    let short = cut(&frame, l4::<F>() + 11);
    assert_eq!(run(&short).frame, short);
    // In fragments it cannot be translated.
    let fragment = as_fragment(&frame, 0, true);
    assert_eq!(run(&fragment).frame, fragment);
}

fn chunks_tell_the_state<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let pod = end::<F>("10.1.0.4", 40000);
    for (chunk, seen) in [
        (1, SEEN_SYN),
        (2, SEEN_SYN | SEEN_ACK),
        (10, SEEN_ACK),
        (0, SEEN_ACK),
        (6, SEEN_RST),
        (7, SEEN_FIN | SEEN_ACK),
        (8, SEEN_FIN | SEEN_ACK),
    ] {
        let port = 1000 + u16::from(chunk);
        let key = FlowKey::new(pod, (vip::<F>().0, port), LOOPBACK, Hook::PodIn, SCTP);
        let slot = table.insert(0, &one_way(key, to(pod, vip::<F>(), FlowOp::Pass)), NOW).expect("room");
        let result = programs.test_run_tc(ProgramName::EdgePodIn, &sctp(pod, (vip::<F>().0, port), chunk, 16), SkbContext::default());
        assert_eq!(result.expect("a test run").action, TcAction::Next);
        assert_eq!(table.slot(slot).seen.load(Ordering::Relaxed), SEEN_ANY | seen, "chunk {chunk}");
    }
}

fn the_uplink_redirects_it_to_workers<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    programs
        .frontends
        .upsert(&FrontendKey { address: vip::<F>().0.into(), port: 80, protocol: SCTP }, FrontendUse::default())
        .expect("a frontend");
    programs.addresses.upsert(vip::<F>().0.into(), AddressUse { vip: true, closed: true, ..AddressUse::default() }).expect("an address");
    let client = end::<F>("198.51.100.7", 5000);
    for (wanted, what, frame) in [
        (XdpAction::Redirect, "INIT", sctp(client, vip::<F>(), INIT, 16)),
        (XdpAction::Redirect, "DATA", sctp(client, vip::<F>(), DATA, 0)),
        (XdpAction::Redirect, "INIT to a closed port", sctp(client, (vip::<F>().0, 81), INIT, 16)),
        (XdpAction::Drop, "DATA to a closed port", sctp(client, (vip::<F>().0, 81), DATA, 16)),
        (XdpAction::Drop, "a fragment", as_fragment(&sctp(client, vip::<F>(), INIT, 16), 0, true)),
    ] {
        assert_eq!(programs.test_run_uplink(&frame, LOOPBACK).expect("a test run"), wanted, "{what}");
    }
}

fn errors_about_it_are_translated<F: Addresses>() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of::<F>(&programs);
    let (pod, backend) = (end::<F>("10.1.0.4", 40000), end::<F>("10.1.200.77", 8080));
    table
        .insert(0, &one_way(FlowKey::new(backend, pod, LOOPBACK, Hook::PodOut, SCTP), to(vip::<F>(), pod, FlowOp::Pass)), NOW)
        .expect("room");
    let (sent, arrived) = (sctp(pod, vip::<F>(), INIT, 16), sctp(pod, backend, INIT, 16));
    // RFC 9260 §10: verification tags and ports identify the association; the sum is nobody's business.
    for bytes in [F::HEADER_BYTES + 8, F::HEADER_BYTES + 12] {
        let error = icmp(backend.0, pod.0, Icmp::PortUnreachable, &arrived[14..14 + bytes]);
        let result = programs.test_run_tc(ProgramName::EdgePodOut, &error, SkbContext::default()).expect("a test run");
        let (from, told, ttl, quoted) = read_icmp::<F>(&result.frame);
        assert_eq!((from, told, ttl, &quoted[..F::HEADER_BYTES + 8]), (vip::<F>().0, pod.0, 64, &sent[14..l4::<F>() + 8]), "{bytes} bytes");
    }
}

for_both_families! {
    ports_and_checksum_are_rewritten_whatever_the_length
    chunks_tell_the_state
    the_uplink_redirects_it_to_workers
    errors_about_it_are_translated
}
