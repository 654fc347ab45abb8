//! SCTP, whose checksum is not the Internet's.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use ringway_engine::flow::{FlowKey, FlowOp, Hook, SEEN_ACK, SEEN_ANY, SEEN_FIN, SEEN_RST, SEEN_SYN};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{AddressUse, FrontendUse, ProgramName, SkbContext, TcAction, XdpAction};

use crate::packet::{as_fragment, icmp, read, read_icmp, sctp, with_ip_options};
use crate::scratch::{End, NOW, Scratch, end, one_way, table_of, to, uplink_use};

const LOOPBACK: u32 = 1;
const SCTP: u8 = 132;
const VIP: End = (Ipv4Addr::new(203, 0, 113, 10), 80);
const INIT: u8 = 1;
const DATA: u8 = 0;

#[test]
fn ports_and_checksum_are_rewritten_whatever_the_length() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of(&programs);
    let run = |frame: &[u8]| programs.test_run_tc(ProgramName::EdgePodIn, frame, SkbContext::default()).expect("a test run");
    let (pod, backend) = (end("10.1.0.4", 40000), end("10.1.200.77", 8080));
    table.insert(0, &one_way(FlowKey::new(pod, VIP, LOOPBACK, Hook::PodIn, SCTP), to(pod, backend, FlowOp::Pass)), NOW).expect("room");
    for bytes in (0..64).chain([255, 256, 1000, 1023, 1400, 1436]) {
        let frame = sctp(pod, VIP, DATA, bytes);
        for frame in [frame.clone(), with_ip_options(&frame, &[1; 8])] {
            let result = run(&frame);
            let seen = read(&result.frame);
            assert_eq!((result.action, seen.src, seen.dst), (TcAction::Next, pod, backend), "{bytes} bytes");
            assert_eq!(result.frame.len(), frame.len());
        }
    }
    // A sum that was wrong stays wrong; one that a device still has to make is left to it.
    let mut wrong = sctp(pod, VIP, DATA, 100);
    let right = run(&wrong).frame;
    wrong[14 + 20 + 8] ^= 0x40;
    let translated = run(&wrong).frame;
    assert_eq!(translated[14 + 20 + 8] ^ 0x40, right[14 + 20 + 8]);
    wrong[14 + 20 + 8..][..4].fill(0);
    assert_eq!(run(&wrong).frame[14 + 20 + 8..][..4], [0; 4]);
    // Only the common header, and not even that.
    let frame = sctp(pod, VIP, DATA, 0);
    let header = as_fragment(&frame[..14 + 20 + 12], 0, false);
    assert_eq!(run(&header).frame[30..34], backend.0.octets());
    let short = as_fragment(&frame[..14 + 20 + 11], 0, false);
    assert_eq!(run(&short).frame, short);
    // In fragments it cannot be translated.
    let fragment = as_fragment(&frame, 0, true);
    assert_eq!(run(&fragment).frame, fragment);
}

#[test]
fn chunks_tell_the_state() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of(&programs);
    let pod = end("10.1.0.4", 40000);
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
        let key = FlowKey::new(pod, (VIP.0, port), LOOPBACK, Hook::PodIn, SCTP);
        let slot = table.insert(0, &one_way(key, to(pod, VIP, FlowOp::Pass)), NOW).expect("room");
        let result = programs.test_run_tc(ProgramName::EdgePodIn, &sctp(pod, (VIP.0, port), chunk, 16), SkbContext::default());
        assert_eq!(result.expect("a test run").action, TcAction::Next);
        assert_eq!(table.slot(slot).seen.load(Ordering::Relaxed), SEEN_ANY | seen, "chunk {chunk}");
    }
}

#[test]
fn the_uplink_redirects_it_to_workers() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    programs.frontends.upsert(&FrontendKey { address: VIP.0, port: 80, protocol: SCTP }, FrontendUse::default()).expect("a frontend");
    programs.addresses.upsert(VIP.0, AddressUse { vip: true, closed: true, ..AddressUse::default() }).expect("an address");
    let client = end("198.51.100.7", 5000);
    for (wanted, what, frame) in [
        (XdpAction::Redirect, "INIT", sctp(client, VIP, INIT, 16)),
        (XdpAction::Redirect, "DATA", sctp(client, VIP, DATA, 0)),
        (XdpAction::Redirect, "INIT to a closed port", sctp(client, (VIP.0, 81), INIT, 16)),
        (XdpAction::Drop, "DATA to a closed port", sctp(client, (VIP.0, 81), DATA, 16)),
        (XdpAction::Drop, "a fragment", as_fragment(&sctp(client, VIP, INIT, 16), 0, true)),
    ] {
        assert_eq!(programs.test_run_uplink(&frame, LOOPBACK).expect("a test run"), wanted, "{what}");
    }
}

#[test]
fn errors_about_it_are_translated() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let table = table_of(&programs);
    let (pod, backend) = (end("10.1.0.4", 40000), end("10.1.200.77", 8080));
    table.insert(0, &one_way(FlowKey::new(backend, pod, LOOPBACK, Hook::PodOut, SCTP), to(VIP, pod, FlowOp::Pass)), NOW).expect("room");
    let (sent, arrived) = (sctp(pod, VIP, INIT, 16), sctp(pod, backend, INIT, 16));
    // RFC 9260 §10: verification tags and ports identify the association; the sum is nobody's business.
    for bytes in [28, 32] {
        let error = icmp(backend.0, pod.0, (3, 2), &arrived[14..14 + bytes]);
        let result = programs.test_run_tc(ProgramName::EdgePodOut, &error, SkbContext::default()).expect("a test run");
        let (from, told, ttl, quoted) = read_icmp(&result.frame);
        assert_eq!((from, told, ttl, &quoted[..28]), (VIP.0, pod.0, 64, &sent[14..14 + 28]), "{bytes} bytes");
    }
}
