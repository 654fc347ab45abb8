//! Fragments that lie on each other, as `edge` treats what it executes (RFC 5722, RFC 8200 §4.5).

use std::ops::Range;
use std::time::Duration;

use ringway_engine::flow::{FlowKey, FlowOp, Hook};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{AddressUse, FrontendUse, ProgramName, Programs, SkbContext, TcAction, XdpAction};

use crate::packet::{piece, udp};
use crate::scratch::{Addresses, NOW, Scratch, end, for_both_families, ip, one_way, table_of, to, uplink_use};

const LOOPBACK: u32 = 1;
const MARK: u32 = 0x5257_0001;
/// As large as an IPv6 packet may be, in pieces as the smallest MTU has them.
const DATAGRAM_BYTES: usize = 65_535;
const PIECE_BYTES: usize = 1_232;

/// A pod's flow to a VIP, executed at its device.
struct Bed {
    _scratch: Scratch,
    programs: Programs,
    /// A whole datagram of it, with its ports.
    frame: Vec<u8>,
}

impl Bed {
    fn new<F: Addresses>() -> Bed {
        let scratch = Scratch::new();
        let (programs, _) = scratch.load();
        let (pod, vip) = (end::<F>("10.1.0.4", 40000), end::<F>("203.0.113.10", 80));
        let key = FlowKey::new(pod, vip, LOOPBACK, Hook::PodIn, 17);
        table_of::<F>(&programs).insert(0, &one_way(key, to(pod, end::<F>("10.1.200.77", 8080), FlowOp::Pass)), NOW).expect("room");
        programs.addresses.upsert(vip.0.into(), AddressUse { vip: true, ..AddressUse::default() }).expect("an address");
        Bed { _scratch: scratch, programs, frame: udp(pod, vip) }
    }

    /// What becomes of these bytes of the datagram `id`: translated, dropped, or sent to a worker.
    fn send_marked(&self, mark: u32, id: u16, bytes: Range<usize>, has_more: bool) -> TcAction {
        let frame = piece(&self.frame, id, bytes, has_more);
        let context = SkbContext { mark, ..SkbContext::default() };
        let result = self.programs.test_run_tc(ProgramName::EdgePodIn, &frame, context).expect("a test run");
        assert_eq!(result.action == TcAction::Next, result.frame[14..] != frame[14..], "what goes on is translated");
        result.action
    }

    fn send(&self, id: u16, bytes: Range<usize>, has_more: bool) -> TcAction {
        self.send_marked(0, id, bytes, has_more)
    }

    fn dropped(&self) -> u64 {
        self.programs.counters.get("edge_drop_overlap").expect("counters").expect("a counter of this name")
    }
}

fn honest_pieces_pass_in_any_order<F: Addresses>() {
    let bed = Bed::new::<F>();
    let starts: Vec<usize> = (0..DATAGRAM_BYTES).step_by(PIECE_BYTES).collect();
    let send = |start: usize| {
        let end = DATAGRAM_BYTES.min(start + PIECE_BYTES);
        bed.send(9, start..end, end < DATAGRAM_BYTES)
    };
    for seed in [0, 1, 2, 0x9e37_79b9_7f4a_7c15_u64] {
        let mut order = starts[1..].to_vec();
        // 0: as they are; 1: backwards; 2: every other one, then the rest, so that there are as many gaps as can be.
        match seed {
            0 => {}
            1 => order.reverse(),
            2 => order.sort_by_key(|start| start / PIECE_BYTES % 2 == 1),
            seed => order.sort_by_key(|start| (*start as u64 + 1).wrapping_mul(seed).rotate_left(17)),
        }
        let dropped = bed.dropped();
        assert_eq!(send(0), TcAction::Next);
        for (number, start) in order.iter().enumerate() {
            assert_eq!(send(*start), TcAction::Next, "{number}, order {seed}");
            if number + 1 < order.len() {
                assert_eq!(send(*start), TcAction::Drop, "a duplicate of {number}, order {seed}");
            }
        }
        assert_eq!(bed.dropped() - dropped, order.len() as u64 - 1);
        // All have come, so the next round is of another datagram of the same identification.
        assert_eq!(send(starts[1]), TcAction::Redirect, "its first one is not known yet");
    }
}

fn one_that_lies_on_another_ends_its_datagram<F: Addresses>() {
    let bed = Bed::new::<F>();
    let strays: [(&str, Range<usize>, bool); 8] = [
        ("begins too early", 120..136, true),
        ("ends too late", 64..136, true),
        ("over all", 8..400, true),
        ("a longer first one", 0..136, true),
        ("ends before what has come", 96..120, false),
        ("behind the end", 208..216, true),
        ("another end", 192..199, false),
        ("empty", 136..136, true),
    ];
    for (number, (what, stray, has_more)) in strays.into_iter().enumerate() {
        let id = number as u16;
        for bytes in [0..64, 64..128] {
            assert_eq!(bed.send(id, bytes, true), TcAction::Next, "{what}");
        }
        if what == "behind the end" || what == "another end" {
            assert_eq!(bed.send(id, 192..200, false), TcAction::Next, "{what}");
        }
        let dropped = bed.dropped();
        for (bytes, has_more) in [(stray.clone(), has_more), (stray, has_more), (128..192, true), (192..200, false), (0..64, true)] {
            assert_eq!(bed.send(id, bytes.clone(), has_more), TcAction::Drop, "{what}: {bytes:?}");
        }
        assert_eq!(bed.dropped() - dropped, 5, "{what}");
    }
    assert_eq!(bed.send(98, 0..60, true), TcAction::Drop, "not of whole units");
    // More gaps than are remembered.
    assert_eq!(bed.send(99, 0..8, true), TcAction::Next);
    let sent = (1..60).map(|number| bed.send(99, number * 16..number * 16 + 8, true));
    let (passed, dropped): (Vec<_>, Vec<_>) = sent.partition(|action| *action == TcAction::Next);
    assert_eq!((passed.len(), dropped.len()), (27, 32));
}

fn one_within_another_is_dropped_alone<F: Addresses>() {
    let bed = Bed::new::<F>();
    assert_eq!(bed.send(1, 0..64, true), TcAction::Next);
    assert_eq!(bed.send(1, 64..128, true), TcAction::Next);
    for bytes in [72..80, 64..128, 0..64, 32..96] {
        assert_eq!(bed.send(1, bytes, true), TcAction::Drop);
    }
    assert_eq!(bed.dropped(), 4);
    // What a worker gives back was seen on its way there.
    assert_eq!(bed.send_marked(MARK, 1, 64..128, true), TcAction::Next);
    assert_eq!(bed.send_marked(MARK, 1, 64..136, true), TcAction::Drop);
    // So was a first one, with which the datagram begins anew.
    assert_eq!(bed.send_marked(MARK, 1, 0..64, true), TcAction::Next);
    assert_eq!(bed.send(1, 64..128, false), TcAction::Next);
    assert_eq!(bed.send(1, 0..64, true), TcAction::Next, "of another datagram");
    // One that stays incomplete is over after a while.
    assert_eq!(bed.send(1, 0..64, true), TcAction::Drop);
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(bed.send(1, 0..72, true), TcAction::Next);
    assert_eq!(bed.send(1, 72..80, true), TcAction::Next);
}

/// It is for the worker to judge them; and none makes a datagram larger than it can be.
fn the_uplink_leaves_them_to_who_executes_them<F: Addresses>() {
    let bed = Bed::new::<F>();
    let (programs, vip) = (&bed.programs, ip::<F>("203.0.113.10"));
    programs.uplinks.set(&[uplink_use(LOOPBACK)]).expect("an uplink");
    programs.frontends.upsert(&FrontendKey { address: vip.into(), port: 80, protocol: 17 }, FrontendUse::default()).expect("a frontend");
    let run = |frame: &[u8]| programs.test_run_uplink(frame, LOOPBACK).expect("a test run");
    assert_eq!(run(&piece(&bed.frame, 1, 0..64, true)), XdpAction::Redirect);
    for (bytes, has_more) in [(64..128, true), (120..136, true), (64..128, true), (65_528..65_535, false)] {
        assert_eq!(run(&piece(&bed.frame, 1, bytes, has_more)), XdpAction::Redirect);
    }
    assert_eq!(run(&piece(&bed.frame, 1, 65_528..65_536, false)), XdpAction::Drop);
}

for_both_families! {
    honest_pieces_pass_in_any_order
    one_that_lies_on_another_ends_its_datagram
    one_within_another_is_dropped_alone
    the_uplink_leaves_them_to_who_executes_them
}
