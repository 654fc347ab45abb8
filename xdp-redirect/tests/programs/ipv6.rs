//! What only IPv6 has: extension headers, neighbor discovery, packets that say a length of 0.

use std::net::Ipv6Addr;

use ringway_engine::family::V6;
use ringway_engine::flow::{FlowKey, FlowOp, Hook};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{AddressUse, FrontendUse, ProgramName, Programs, SkbContext, SkbResult, TcAction, XdpAction};

use crate::extension::{self, DESTINATION_OPTIONS, HOP_BY_HOP, ROUTING, padding, with, with_fragment};
use crate::packet::{ACK, Icmp, SYN, fragments, icmp, read, read_icmp, reassembled, sctp, tcp, udp, udp_check, who_has, with_ttl};
use crate::scratch::{End, NOW, Scratch, end, ip, one_way, table_of, to, uplink_use};

const LOOPBACK: u32 = 1;
const AUTHENTICATION: u8 = 51;
/// Of an IPv6 header in a frame.
const LENGTH: usize = 14 + 4;
const L4: usize = 14 + 40;

fn vip() -> End<V6> {
    end::<V6>("203.0.113.10", 80)
}

fn pod() -> End<V6> {
    end::<V6>("10.1.0.4", 40000)
}

fn backend() -> End<V6> {
    end::<V6>("10.1.200.77", 8080)
}

fn run(programs: &Programs, program: ProgramName, frame: &[u8]) -> SkbResult {
    programs.test_run_tc(program, frame, SkbContext::default()).expect("a test run")
}

/// Programs with a frontend and a pod's flows to it.
fn load(scratch: &Scratch) -> Programs {
    let programs = scratch.load().0;
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    let address = AddressUse { announced: true, vip: true, ping: true, ..AddressUse::default() };
    programs.addresses.upsert(vip().0.into(), address).expect("an address");
    for protocol in [6, 17, 132] {
        let key = FrontendKey { address: vip().0.into(), port: 80, protocol };
        programs.frontends.upsert(&key, FrontendUse::default()).expect("a frontend");
        let forward = FlowKey::new(pod(), vip(), LOOPBACK, Hook::PodIn, protocol);
        let reverse = FlowKey::new(backend(), pod(), LOOPBACK, Hook::PodOut, protocol);
        let table = table_of::<V6>(&programs);
        table.insert(0, &one_way(forward, to(pod(), backend(), FlowOp::Pass)), NOW).expect("room");
        table.insert(0, &one_way(reverse, to(vip(), pod(), FlowOp::Pass)), NOW).expect("room");
    }
    programs
}

/// A routing header (RFC 8200 §4.4).
fn routing(segments_left: u8) -> Vec<u8> {
    vec![0, 0, 4, segments_left, 0, 0, 0, 0]
}

/// The frame with so many headers of options.
fn options(frame: &[u8], number: usize) -> Vec<u8> {
    (0..number).fold(frame.to_vec(), |frame, _| with(&frame, DESTINATION_OPTIONS, &padding(4)))
}

#[test]
fn extension_headers_are_walked_over() {
    let scratch = Scratch::new();
    let programs = load(&scratch);
    for whole in [tcp(pod(), vip(), ACK), udp(pod(), vip()), sctp(pod(), vip(), 0, 0), sctp(pod(), vip(), 0, 100)] {
        for (what, frame) in [
            ("hop-by-hop options", with(&whole, HOP_BY_HOP, &padding(4))),
            ("long ones", with(&whole, HOP_BY_HOP, &padding(250))),
            ("a route that is at its end", with(&whole, ROUTING, &routing(0))),
            ("a fragment header of a whole packet", with_fragment(&whole, 7, 0, false)),
            ("the same behind options", with_fragment(&options(&whole, 1), 7, 0, false)),
            ("one of each", with(&with(&with_fragment(&options(&whole, 1), 7, 0, false), ROUTING, &routing(0)), HOP_BY_HOP, &padding(4))),
            ("six", options(&whole, 6)),
        ] {
            let result = run(&programs, ProgramName::EdgePodIn, &frame);
            let seen = read::<V6>(&result.frame);
            assert_eq!((result.action, seen.src, seen.dst), (TcAction::Next, pod(), backend()), "{what}");
            assert_eq!(result.frame.len(), frame.len(), "{what}");
            assert_eq!(programs.test_run_uplink(&frame, LOOPBACK).expect("a test run"), XdpAction::Redirect, "{what}");
        }
        for (what, frame) in [
            ("a route that is not", with(&whole, ROUTING, &routing(1))),
            ("seven", options(&whole, 7)),
            ("one that we do not know", with(&whole, AUTHENTICATION, &padding(20))),
            ("nothing behind them", with(&whole[..L4], DESTINATION_OPTIONS, &padding(4))),
            ("two fragment headers", with_fragment(&with_fragment(&whole, 7, 0, false), 8, 0, false)),
        ] {
            assert_eq!(run(&programs, ProgramName::EdgePodIn, &frame).frame, frame, "{what}");
            assert_eq!(programs.test_run_uplink(&frame, LOOPBACK).expect("a test run"), XdpAction::Drop, "{what}");
        }
        // Headers that end behind the packet, in its padding.
        let mut short = options(&whole, 1);
        for length in [0, 4, 8, 11, 15] {
            short[LENGTH..LENGTH + 2].copy_from_slice(&u16::to_be_bytes(length));
            assert_eq!(programs.test_run_uplink(&short, LOOPBACK).expect("a test run"), XdpAction::Drop, "{length} bytes");
        }
    }
}

/// IPv6 forbids it (RFC 8200 §8.1).
#[test]
fn a_datagram_without_a_checksum_is_not_ours() {
    let scratch = Scratch::new();
    let programs = load(&scratch);
    let mut frame = udp(pod(), vip());
    frame[udp_check::<V6>()..][..2].fill(0);
    for frame in [frame.clone(), options(&frame, 1)] {
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &frame).frame, frame);
        assert_eq!(programs.test_run_uplink(&frame, LOOPBACK).expect("a test run"), XdpAction::Drop);
    }
}

/// A super-packet says how long it is in a hop-by-hop option (RFC 2675), newer kernels' not at all. XDP sees none.
#[test]
fn a_super_packet_is_as_long_as_its_skb() {
    let scratch = Scratch::new();
    let programs = load(&scratch);
    let segment = tcp(pod(), vip(), ACK);
    let mut jumbo = vec![0, 0, 0xc2, 4];
    jumbo.extend(((segment.len() - L4) as u32 + 8).to_be_bytes());
    for whole in [segment.clone(), with(&segment, HOP_BY_HOP, &jumbo)] {
        let translated = run(&programs, ProgramName::EdgePodIn, &whole).frame;
        assert_ne!(translated, whole);
        let without_length = |frame: &[u8]| [&frame[..LENGTH], &[0, 0], &frame[LENGTH + 2..]].concat();
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &without_length(&whole)).frame, without_length(&translated));
        assert_eq!(programs.test_run_uplink(&without_length(&whole), LOOPBACK).expect("a test run"), XdpAction::Drop);
    }
}

/// The first fragment of a longer datagram: it ends with a unit of eight bytes.
fn first_fragment(frame: &[u8], id: u32) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.resize(L4 + (frame.len() - L4).next_multiple_of(8), 0);
    extension::set_length(&mut frame);
    with_fragment(&frame, id, 0, true)
}

#[test]
fn fragments_behind_extension_headers_follow_their_first() {
    let scratch = Scratch::new();
    let programs = load(&scratch);
    let whole = with(&udp(pod(), vip()), ROUTING, &routing(0));
    for order in [[0, 1, 2], [0, 2, 1]] {
        let pieces = fragments(&whole, 900, 8);
        let mut translated = vec![Vec::new(); 3];
        for number in order {
            let result = run(&programs, ProgramName::EdgePodIn, &pieces[number]);
            assert_eq!(result.action, TcAction::Next);
            translated[number] = result.frame;
        }
        assert_eq!(reassembled::<V6>(&translated).dst, backend(), "{order:?}");
    }
    // Of what begins with more headers, those that follow do not tell the protocol.
    let first = with_fragment(&udp(pod(), vip()), 901, 0, true);
    let mut hidden = [&first[..L4 + 8], &padding(4), &first[L4 + 8..]].concat();
    hidden[L4 + 8] = hidden[L4];
    hidden[L4] = DESTINATION_OPTIONS;
    extension::set_length(&mut hidden);
    assert_eq!(run(&programs, ProgramName::EdgePodIn, &hidden).frame, hidden);
    // Identifications have 32 bits.
    for (id, other) in [(0x1_0007, 0x2_0007), (0x1_0008, 0x1_0009)] {
        let [one, other] = [id, other].map(|id| [first_fragment(&udp(pod(), vip()), id), with_fragment(&whole, id, 3, false)]);
        run(&programs, ProgramName::EdgePodIn, &one[0]);
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &other[1]).action, TcAction::Redirect, "the other's first did not come");
        assert_eq!(run(&programs, ProgramName::EdgePodIn, &one[1]).action, TcAction::Next);
    }
}

#[test]
fn errors_quote_packets_with_extension_headers() {
    let scratch = Scratch::new();
    let programs = load(&scratch);
    let hop = ip::<V6>("192.0.2.99");
    for whole in [tcp(pod(), vip(), ACK), udp(pod(), vip())] {
        for sent in [with(&whole, HOP_BY_HOP, &padding(12)), options(&whole, 6), first_fragment(&whole, 7)] {
            let arrived = run(&programs, ProgramName::EdgePodIn, &sent).frame;
            let l4 = extension::end(&sent);
            for end in [l4 + 4, l4 + 6, l4 + 8, l4 + 18, sent.len()] {
                let error = icmp(hop, pod().0, Icmp::TooBig, &arrived[14..end]);
                for error in [error.clone(), options(&error, 1)] {
                    let result = run(&programs, ProgramName::EdgePodOut, &error);
                    assert_eq!(read_icmp::<V6>(&result.frame), (vip().0, pod().0, 64, sent[14..end].to_vec()), "{end} bytes");
                }
            }
            let cut = icmp(hop, pod().0, Icmp::TooBig, &arrived[14..l4 + 3]);
            assert_eq!(run(&programs, ProgramName::EdgePodOut, &cut).frame, cut, "without ports");
        }
        let arrived = run(&programs, ProgramName::EdgePodIn, &whole).frame;
        for quoted in [options(&arrived, 7), with(&arrived, ROUTING, &routing(1)), with_fragment(&arrived, 7, 3, false)] {
            let error = icmp(hop, pod().0, Icmp::TooBig, &quoted[14..]);
            assert_eq!(run(&programs, ProgramName::EdgePodOut, &error).frame, error);
        }
        // What stands behind the packet is padding.
        let mut padded = icmp(hop, pod().0, Icmp::TooBig, &arrived[14..]);
        padded[LENGTH..LENGTH + 2].copy_from_slice(&[0, 8 + 40 + 3]);
        assert_eq!(run(&programs, ProgramName::EdgePodOut, &padded).frame, padded);
        // Only errors speak of a packet.
        let error = icmp(hop, pod().0, Icmp::TooBig, &arrived[14..]);
        for kind in [0, 5, 100, 127, 128] {
            let mut other = error.clone();
            other[L4] = kind;
            assert_eq!(run(&programs, ProgramName::EdgePodOut, &other).frame, other, "type {kind}");
        }
    }
}

#[test]
fn neighbor_discovery_is_the_kernels_but_for_what_asks_for_announced_addresses() {
    let scratch = Scratch::new();
    let programs = load(&scratch);
    let action = |frame: &[u8]| programs.test_run_uplink(frame, LOOPBACK).expect("a test run");
    let asked = who_has(vip().0);
    assert_eq!(action(&asked), XdpAction::Redirect);
    let with_byte = |at: usize, byte| {
        let mut frame = asked.clone();
        frame[at] = byte;
        frame
    };
    let mut to_the_address = asked.clone();
    to_the_address[14 + 24..L4].copy_from_slice(&vip().0.octets());
    assert_eq!(action(&to_the_address), XdpAction::Redirect, "is it still there?");
    for (what, frame) in [
        ("from farther than this link", with_ttl(&asked, 254)),
        ("another code", with_byte(L4 + 1, 1)),
        ("cut off", asked[..L4 + 8 + 15].to_vec()),
        ("another address", who_has(Ipv6Addr::LOCALHOST)),
    ] {
        assert_eq!(action(&frame), XdpAction::Pass, "{what}");
    }
    for kind in [133, 134, 136, 137] {
        let mut other = to_the_address.clone();
        other[L4] = kind;
        assert_eq!(action(&other), XdpAction::Pass, "type {kind}, though it is sent to a VIP");
    }
    assert_eq!(programs.counters.get("uplink_redirect_ndp").expect("counters"), Some(2));
}

/// Stations of one network differ in the second half of their addresses. So many of them meet the flow's bucket.
#[test]
fn addresses_are_compared_to_their_end() {
    let scratch = Scratch::new();
    let programs = load(&scratch);
    let [a, b, c, d, ..] = pod().0.segments();
    for station in 0..5000 {
        let frame = tcp((Ipv6Addr::new(a, b, c, d, 0, 0, 1, station), pod().1), vip(), ACK);
        assert_ne!(run(&programs, ProgramName::EdgePodIn, &frame).action, TcAction::Next, "a new flow: to a worker");
    }
}

/// An address of one family does not mean one of the other.
#[test]
fn families_do_not_mix() {
    let scratch = Scratch::new();
    let programs = load(&scratch);
    let v4 = "203.0.113.10".parse::<std::net::Ipv4Addr>().expect("an address");
    let client = "198.51.100.7".parse::<std::net::Ipv4Addr>().expect("an address");
    let mapped = (v4.to_ipv6_mapped(), 80);
    programs.frontends.upsert(&FrontendKey { address: v4.into(), port: 80, protocol: 6 }, FrontendUse::default()).expect("a frontend");
    let action = |frame: &[u8]| programs.test_run_uplink(frame, LOOPBACK).expect("a test run");
    assert_eq!(action(&tcp((client, 5000), (v4, 80), SYN)), XdpAction::Redirect);
    assert_eq!(action(&tcp((client.to_ipv6_mapped(), 5000), mapped, SYN)), XdpAction::Pass);
    assert_eq!(programs.frontends.entries().expect("entries").len(), 4);
    programs.frontends.remove(&FrontendKey { address: v4.into(), port: 80, protocol: 6 }).expect("removal");
    assert_eq!(action(&tcp(pod(), vip(), SYN)), XdpAction::Redirect);
}
