//! `edge` believes the segments that the engine believes, and no others.

use std::sync::atomic::Ordering::Relaxed;

use ringway_engine::flow::{
    FlowKey, FlowOp, FlowSlot, FlowState, FlowTable, Hook, LAG, NewFlow, Numbers, POSITION_SHIFT, REACH, RESET_REACH, SEEN_CHALLENGED,
    SEEN_FIN, SEEN_POSITION, SEEN_RST, Segment, SlotIndex, TICKS_PER_SECOND, Timeouts,
};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{FrontendUse, ProgramName, Programs, SkbContext, TcAction};

use crate::packet::{ACK, FIN, RST, SYN, segment};
use crate::scratch::{Addresses, End, NOW, Scratch, end, for_both_families, table_of, to};

const LOOPBACK: u32 = 1;
const FAR: u32 = 0x4000_0000;
/// Long before the ticks of the tests and of the kernel, and ahead of both, which counts as just now.
const OLD: u32 = NOW - 2 * TICKS_PER_SECOND;
const RECENT: u32 = 1 << 30;

/// A pod's flow to another pod, and what `edge` makes of its packets.
struct Bed<F: Addresses> {
    programs: Programs,
    table: FlowTable<F>,
    slots: [SlotIndex; 2],
    pod: End<F>,
    vip: End<F>,
    backend: End<F>,
    _scratch: Scratch,
}

impl<F: Addresses> Bed<F> {
    fn new() -> Bed<F> {
        let scratch = Scratch::new();
        let (programs, _) = scratch.load();
        let table = table_of::<F>(&programs);
        let (pod, vip, backend) = (end::<F>("10.1.0.4", 40_000), end::<F>("203.0.113.10", 80), end::<F>("10.1.0.5", 8080));
        let frontend = FrontendKey { address: vip.0.into(), port: vip.1, protocol: 6 };
        programs.frontends.upsert(&frontend, FrontendUse::default()).expect("a frontend");
        let forward = table.insert(0, &flow_of(pod, vip, backend), NOW).expect("room");
        let slots = [forward, table.slot(forward).peer.load(Relaxed)];
        Bed { programs, table, slots, pod, vip, backend, _scratch: scratch }
    }

    /// A segment of the client (side 0) or the backend.
    fn send(&self, side: usize, flags: u8, numbers: (u32, u32)) -> TcAction {
        let (program, frame) = match side {
            0 => (ProgramName::EdgePodIn, segment(self.pod, self.vip, flags, numbers)),
            _ => (ProgramName::EdgePodOut, segment(self.backend, self.pod, flags, numbers)),
        };
        self.programs.test_run_tc(program, &frame, SkbContext::default()).expect("a test run").action
    }

    fn established(client: u32, backend: u32) -> Bed<F> {
        let bed = Bed::new();
        bed.send(0, SYN, (client, 0));
        bed.send(1, SYN | ACK, (backend, client + 1));
        bed.send(0, ACK, (client + 1, backend + 1));
        bed
    }

    fn slot(&self, side: usize) -> &FlowSlot<F> {
        self.table.slot(self.slots[side])
    }
}

fn flow_of<F: Addresses>(pod: End<F>, vip: End<F>, backend: End<F>) -> NewFlow<F> {
    NewFlow {
        forward: (FlowKey::new(pod, vip, LOOPBACK, Hook::PodIn, 6), to(pod, backend, FlowOp::Pass)),
        reverse: (FlowKey::new(backend, pod, LOOPBACK, Hook::PodOut, 6), to(vip, pod, FlowOp::Pass)),
        snat: false,
    }
}

fn forged_segments_end_nothing<F: Addresses>() {
    let bed = Bed::<F>::established(1_000, 9);
    for flags in [RST, RST | ACK, FIN | ACK, FIN, FIN | RST] {
        for side in [0, 1] {
            assert_eq!(bed.send(side, flags, (FAR, FAR)), TcAction::Next, "its receiver judges it");
        }
    }
    let seen = bed.slot(0).seen.load(Relaxed) | bed.slot(1).seen.load(Relaxed);
    assert_eq!(seen & (SEEN_FIN | SEEN_RST), 0);
    assert_eq!(bed.send(0, SYN, (FAR, 0)), TcAction::Next, "nor does a SYN take its place");
    bed.send(0, FIN | ACK, (1_001, 10));
    assert_eq!(bed.send(0, SYN, (FAR, 0)), TcAction::Next, "half-closed: the backend knows");
    bed.send(1, FIN | ACK, (10, 1_002));
    assert_eq!(bed.send(0, ACK, (1_002, 11)), TcAction::Next, "the last ACK");
    for sequence in [FAR, 0, 70_000] {
        assert_eq!(bed.send(0, SYN, (sequence, 0)), TcAction::Redirect, "a new connection");
    }
}

/// A worker says whether its client may still be served there. If so, the SYN goes to the backend, which knows.
fn a_syn_after_a_reset_is_for_a_worker<F: Addresses>() {
    for (side, flags, numbers) in [(0, RST, (2_000, 0)), (0, RST | ACK, (1_001, 10)), (1, RST, (10, 0)), (1, RST | ACK, (10, 1_001))] {
        let bed = Bed::<F>::established(1_000, 9);
        bed.send(side, flags, numbers);
        assert_eq!(bed.table.state(bed.slots[0]), FlowState::Closed);
        for attempt in [FAR, 2 * FAR] {
            assert_eq!(bed.send(0, SYN, (attempt, 0)), TcAction::Redirect, "{side} {flags:#x}");
            let syn = Segment { flags: SYN, numbers: Some(Numbers { sequence: attempt, acknowledged: 0 }) };
            bed.table.touch(bed.slots[0], syn, NOW);
            assert_eq!(bed.send(0, SYN, (attempt, 0)), TcAction::Next, "it, and those that repeat it");
            if attempt == FAR {
                bed.send(1, RST | ACK, (0, FAR + 1));
            }
        }
        bed.send(1, SYN | ACK, (10, 2 * FAR + 1));
        bed.send(0, ACK, (2 * FAR + 1, 11));
        assert_eq!(bed.table.state(bed.slots[0]), FlowState::Established);
        assert!(!bed.table.has_ended(bed.slots[0]));
    }
}

fn an_answer_takes_a_reset_back<F: Addresses>() {
    for side in [0, 1] {
        for resets in [&[0][..], &[1], &[0, 1]] {
            let bed = Bed::<F>::established(1_000, 9);
            let place = [(1_001, 10), (10, 1_001)];
            resets.iter().for_each(|side| _ = bed.send(*side, RST | ACK, place[*side]));
            bed.send(side, ACK, place[side]);
            assert_eq!(bed.table.state(bed.slots[0]), FlowState::Closed, "it may have overtaken the reset");
            let later = bed.slot(0).last.load(Relaxed).wrapping_add(5 * TICKS_PER_SECOND);
            bed.table.sweep(0, usize::MAX, &Timeouts::default(), later);
            let asked = bed.table.next_doubted().expect("asked");
            assert!(bed.table.is_unanswered(&asked));
            bed.send(side, ACK, place[side]);
            assert_eq!((bed.table.state(bed.slots[0]), bed.table.is_unanswered(&asked)), (FlowState::Established, false));
        }
    }
}

/// Plain xorshift: variety, not quality.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll() as usize % of.len()]
    }

    /// A number at the borders of what is near this position, or any.
    fn number(&mut self, position: u16) -> u32 {
        let reach = self.one(&[0, 0, 0, 1, 2, RESET_REACH, RESET_REACH + 1, REACH, REACH + 1, LAG, LAG + 1]);
        let near = if self.roll().is_multiple_of(2) { position.wrapping_add(reach) } else { position.wrapping_sub(reach) };
        let low = self.one(&[0, 1, 0xffff, 0x8000]);
        if self.roll().is_multiple_of(16) { self.roll() } else { u32::from(near) << POSITION_SHIFT | low }
    }
}

/// The same segments to both: each leaves the same in the entries of `edge` and of the engine.
fn edge_and_engine_note_the_same<F: Addresses>() {
    let bed = Bed::<F>::new();
    let model = FlowTable::<F>::in_memory(16, 1, 1);
    let forward = model.insert(0, &flow_of(bed.pod, bed.vip, bed.backend), NOW).expect("room");
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for connection in 0..200 {
        model.reopen(forward, NOW);
        bed.table.reopen(bed.slots[0], NOW);
        for step in 0..40 {
            let side = (dice.roll() % 2) as usize;
            let slots = [forward, model.slot(forward).peer.load(Relaxed)];
            let place = |of: usize| model.slot(slots[of]).position().unwrap_or(7);
            // What the client has asked is what its backend may answer.
            let asked = model.slot(forward).asked.load(Relaxed);
            let flags =
                dice.one(&[SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST, RST | ACK, FIN, 0, SYN | FIN, SYN | RST, SYN | RST | ACK]);
            let is_answer = flags & (SYN | RST) != 0 && dice.roll().is_multiple_of(2);
            let (own, other) = (place(side), if is_answer { asked } else { place(1 - side) });
            let (sequence, acknowledged) = (dice.number(own), if flags & ACK == 0 { 0 } else { dice.number(other) });
            let segment = Segment { flags, numbers: Some(Numbers { sequence, acknowledged }) };
            let is_challenged = dice.roll().is_multiple_of(8);
            for (of, slot) in slots.into_iter().enumerate() {
                let last = dice.one(&[OLD, OLD, RECENT]);
                for slot in [model.slot(slot), bed.slot(of)] {
                    slot.last.store(last, Relaxed);
                    if is_challenged {
                        slot.seen.fetch_or([SEEN_RST | SEEN_CHALLENGED, SEEN_RST][of], Relaxed);
                    }
                }
            }
            // A SYN after the end is a worker's, who may let it pass.
            if flags & (SYN | ACK) == SYN && side == 0 && model.has_ended(forward) {
                assert_eq!(bed.send(side, flags, (sequence, acknowledged)), TcAction::Redirect);
                if flags != SYN || dice.roll().is_multiple_of(2) {
                    break;
                }
                bed.table.touch(bed.slots[side], segment, NOW);
            }
            model.touch(slots[side], segment, NOW);
            bed.send(side, flags, (sequence, acknowledged));
            for (side, slot) in slots.into_iter().enumerate() {
                let of = |slot: &FlowSlot<F>| {
                    let last = slot.last.load(Relaxed);
                    (slot.seen.load(Relaxed), slot.asked.load(Relaxed), [OLD, RECENT].map(|then| then == last))
                };
                let (ours, engines) = (of(bed.slot(side)), of(model.slot(slot)));
                assert_eq!(ours, engines, "side {side} after step {step} of {connection}: {segment:x?}");
            }
        }
    }
    assert_ne!(bed.slot(0).seen.load(Relaxed) & SEEN_POSITION, 0);
}

for_both_families! {
    forged_segments_end_nothing
    a_syn_after_a_reset_is_for_a_worker
    an_answer_takes_a_reset_back
    edge_and_engine_note_the_same
}
