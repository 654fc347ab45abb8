//! Which segments a flow believes: two honest ends with a lossy path, and somebody who guesses.

use proptest::prelude::*;

use super::*;

pub const FIN: u32 = SEEN_FIN;
pub const SYN: u32 = SEEN_SYN;
pub const RST: u32 = SEEN_RST;
pub const ACK: u32 = SEEN_ACK;
pub const UNIT: u32 = 1 << POSITION_SHIFT;
/// Farther than any window reaches.
pub const FAR: u32 = (2 * LAG as u32) << POSITION_SHIFT;

/// A flow of TCP in a table of its own.
pub struct Bed {
    pub table: FlowTable,
    pub forward: SlotIndex,
    pub reverse: SlotIndex,
    pub now: u32,
}

impl Bed {
    pub fn new() -> Bed {
        let table = FlowTable::in_memory(2, 1, 1);
        let forward = table.insert(0, &flow_of(1, TCP), 0).unwrap();
        let reverse = table.slot(forward).peer.load(Relaxed);
        Bed { table, forward, reverse, now: 0 }
    }

    /// After a handshake that began with these numbers.
    pub fn established(client: u32, backend: u32) -> Bed {
        let bed = Bed::new();
        bed.forward(SYN, client, 0);
        bed.reverse(SYN | ACK, backend, client.wrapping_add(1));
        bed.forward(ACK, client.wrapping_add(1), backend.wrapping_add(1));
        assert_eq!(bed.state(), FlowState::Established);
        bed
    }

    pub fn touch(&self, slot: SlotIndex, flags: u32, sequence: u32, acknowledged: u32) {
        let numbers = Some(Numbers { sequence, acknowledged });
        self.table.touch(slot, Segment { flags: flags as u8, numbers }, self.now);
    }

    pub fn forward(&self, flags: u32, sequence: u32, acknowledged: u32) {
        self.touch(self.forward, flags, sequence, acknowledged);
    }

    pub fn reverse(&self, flags: u32, sequence: u32, acknowledged: u32) {
        self.touch(self.reverse, flags, sequence, acknowledged);
    }

    pub fn state(&self) -> FlowState {
        self.table.state(self.forward)
    }
}

#[test]
fn ends_in_the_window_count_and_others_do_not() {
    // Also over the wrap of sequence numbers.
    for (client, backend) in [(1_000, 5_000_000), (u32::MAX - 10, UNIT - 1), (0, u32::MAX), (1 << 31, (1 << 31) - 2)] {
        let (c, b) = (client + 1, backend.wrapping_add(1));
        type Sent<'a> = &'a dyn Fn(&Bed);
        let ends: [(&str, Sent<'_>, FlowState); 8] = [
            ("the client's reset", &|bed| bed.forward(RST | ACK, c, b), FlowState::Closed),
            ("the backend's", &|bed| bed.reverse(RST | ACK, b, c), FlowState::Closed),
            ("one that answers a segment", &|bed| bed.reverse(RST, b, 0), FlowState::Closed),
            ("one some way on", &|bed| bed.forward(RST, c.wrapping_add(500_000), 0), FlowState::Closed),
            ("the client's FIN", &|bed| bed.forward(FIN | ACK, c, b), FlowState::CloseWait),
            ("the backend's FIN", &|bed| bed.reverse(FIN | ACK, b.wrapping_sub(900_000), c), FlowState::CloseWait),
            ("FINs of both", &|bed| (bed.forward(FIN | ACK, c, b), bed.reverse(FIN | ACK, b, c + 1)).0, FlowState::Closed),
            ("a FIN again", &|bed| (bed.forward(FIN | ACK, c, b), bed.forward(FIN | ACK, c, b)).0, FlowState::CloseWait),
        ];
        for (what, send, state) in ends {
            let bed = Bed::established(client, backend);
            send(&bed);
            assert_eq!(bed.state(), state, "{what}, {client}");
        }
        for far in [FAR, FAR.wrapping_neg(), 1 << 31, 0x1234_5678] {
            let (wrong_c, wrong_b) = (c.wrapping_add(far), b.wrapping_add(far));
            let bed = Bed::established(client, backend);
            for flags in [RST, RST | ACK, FIN | ACK, FIN, FIN | RST, FIN | RST | ACK | SYN, ACK, SYN | ACK, SYN, 0] {
                bed.forward(flags, wrong_c, wrong_b);
                bed.reverse(flags, wrong_b, wrong_c);
                let needs_both = flags & ACK != 0;
                for (sequence, acknowledged) in [(wrong_c, b), (c, wrong_b)].into_iter().filter(|_| needs_both) {
                    bed.forward(flags, sequence, acknowledged);
                }
                assert_eq!((bed.state(), bed.table.has_ended(bed.forward)), (FlowState::Established, false), "{flags:#x} + {far:#x}");
            }
            assert_eq!(bed.table.slot(bed.forward).position(), Some((c >> POSITION_SHIFT) as u16), "it did not move");
            bed.forward(FIN | ACK, c, b);
            bed.reverse(RST, b, 0);
            assert_eq!(bed.state(), FlowState::Closed, "the true ends still count");
        }
    }
}

/// As a reset has only one number to guess, its window is narrower.
#[test]
fn a_reset_without_an_acknowledgment_is_believed_from_nearby_only() {
    let reach = u32::from(RESET_REACH) + 1;
    for (distance, state) in [(reach - 1, FlowState::Closed), (reach, FlowState::Established)] {
        for distance in [distance * UNIT, (distance * UNIT).wrapping_neg()] {
            let bed = Bed::established(0, 0);
            bed.reverse(RST, distance, 0);
            assert_eq!(bed.state(), state, "{distance:#x}");
        }
    }
}

#[test]
fn a_bulk_transfer_takes_the_position_along() {
    let bed = Bed::established(7, u32::MAX - 5);
    let (mut sent, lost) = (0u32, 15 << 20);
    // Twice round all numbers, in super-packets, with gaps of lost ones and repetitions of as much.
    for round in 0..1u32 << 17 {
        sent = sent.wrapping_add(UNIT);
        bed.reverse(ACK, sent, 8);
        bed.forward(ACK, 8, sent);
        if round % 1_000 == 0 {
            bed.reverse(ACK, sent.wrapping_sub(lost), 8);
            sent = sent.wrapping_add(lost);
        }
    }
    assert_eq!(bed.state(), FlowState::Established);
    bed.reverse(FIN | ACK, sent, 8);
    assert_eq!(bed.state(), FlowState::CloseWait);
    bed.forward(RST, 8, 0);
    assert_eq!(bed.state(), FlowState::Closed);
}

/// It may have been one that its receiver dropped. What it overtook on the way says nothing.
#[test]
fn whoever_goes_on_has_not_been_reset() {
    for (goes_on_after, flags, away, state) in [
        (TICKS_PER_SECOND, ACK, 0, FlowState::Established),
        (TICKS_PER_SECOND - 1, ACK, 0, FlowState::Closed),
        (TICKS_PER_SECOND, RST, 0, FlowState::Closed),
        (TICKS_PER_SECOND, ACK, FAR, FlowState::Closed),
        (TICKS_PER_SECOND, SYN, 0, FlowState::Closed),
    ] {
        for (by_client, to_client, goes_on) in [(true, false, 0), (true, false, 1), (false, true, 0), (true, true, 1)] {
            let mut bed = Bed::established(8, 1_000);
            if by_client {
                bed.forward(RST, 500_000, 0);
            }
            if to_client {
                bed.reverse(RST | ACK, 900_000, 9);
            }
            bed.now = goes_on_after;
            let (slot, own, other) = [(bed.forward, 9, 1_001), (bed.reverse, 1_001, 9)][goes_on];
            bed.touch(slot, flags, own + away, other);
            assert_eq!(bed.state(), state, "{flags:#x}, {away} away, after {goes_on_after}: {by_client} {to_client} {goes_on}");
            // The other side may say so as well.
            bed.touch(bed.table.slot(slot).peer.load(Relaxed), ACK, other, own);
            assert_eq!(bed.state() == FlowState::Closed, goes_on_after < TICKS_PER_SECOND || flags == RST);
        }
    }
}

/// With much under way both ways, acknowledgments lag; what is repeated comes in any steps.
#[test]
fn a_long_path_loses_no_position() {
    const UNDER_WAY: u32 = 60 << 20;
    let bed = Bed::established(0, 0);
    let mut sent = 0u32;
    for _ in 0..5_000 {
        sent = sent.wrapping_add(UNIT);
        let received = if sent > UNDER_WAY { sent - UNDER_WAY } else { 1 };
        bed.forward(ACK, sent, received);
        bed.reverse(ACK, sent, received);
    }
    for back in (0..UNDER_WAY).step_by(UNIT as usize) {
        bed.forward(ACK, sent - back, sent);
    }
    bed.forward(FIN | ACK, sent.wrapping_add(UNIT), sent);
    bed.reverse(FIN | ACK, sent, sent - UNDER_WAY);
    assert_eq!(bed.state(), FlowState::Closed);
}

/// The backend alone knows whether a SYN is its client's, which may have been started anew.
#[test]
fn only_the_backends_answer_to_a_syn_begins_anew() {
    for forged in [false, true] {
        let bed = Bed::established(1_000, 2_000);
        bed.reverse(FIN | ACK, 2_001, 1_001);
        bed.forward(SYN, 3 * FAR, 0);
        assert_eq!(bed.state(), FlowState::CloseWait, "the SYN alone changes nothing");
        let acknowledged = if forged { 5 * FAR } else { 3 * FAR + 1 };
        bed.reverse(SYN | ACK, 7 * FAR, acknowledged);
        assert_eq!(bed.state(), if forged { FlowState::CloseWait } else { FlowState::Established });
        bed.forward(ACK, 3 * FAR + 1, 7 * FAR + 1);
        assert_eq!(bed.state(), if forged { FlowState::CloseWait } else { FlowState::Established });
        let (c, b) = if forged { (1_001, 2_002) } else { (3 * FAR + 1, 7 * FAR + 1) };
        if !forged {
            // One that went round in the network comes too late.
            bed.reverse(SYN | ACK, 6 * FAR, 3 * FAR + 1);
        }
        bed.forward(FIN | ACK, c, b);
        assert_eq!(bed.state(), if forged { FlowState::Closed } else { FlowState::CloseWait });
        bed.forward(RST, c, 0);
        assert_eq!(bed.state(), FlowState::Closed);
    }
}

#[test]
fn a_refused_syn_ends_the_flow() {
    let refusal = |bed: &Bed, sent: u32| bed.reverse(RST | ACK, 0, sent.wrapping_add(1));
    let fresh = Bed::new();
    fresh.forward(SYN, 3 * FAR, 0);
    refusal(&fresh, 7 * FAR);
    assert_eq!(fresh.state(), FlowState::Embryonic, "forged");
    refusal(&fresh, 3 * FAR);
    assert_eq!(fresh.state(), FlowState::Closed);
    // Client and backend have both forgotten what was before.
    let bed = Bed::established(1_000, 9 * FAR);
    refusal(&bed, 3 * FAR);
    assert_eq!(bed.state(), FlowState::Established, "nobody asked");
    bed.forward(SYN, 3 * FAR, 0);
    refusal(&bed, 3 * FAR);
    assert_eq!(bed.state(), FlowState::Closed);
}

/// RFC 9293 §3.5, RFC 7413, RFC 4987 §3.6.
#[test]
fn handshakes_of_all_kinds_complete() {
    let simultaneous = Bed::new();
    simultaneous.forward(SYN, 3 * FAR, 0);
    simultaneous.reverse(SYN, 7 * FAR, 0);
    simultaneous.forward(SYN | ACK, 3 * FAR, 7 * FAR + 1);
    simultaneous.reverse(SYN | ACK, 7 * FAR, 3 * FAR + 1);
    assert_eq!(simultaneous.state(), FlowState::Established);

    for fast_open in [Bed::new(), Bed::established(3 * FAR, 5 * FAR)] {
        fast_open.forward(SYN, UNIT - 2, 0);
        let was_complete = fast_open.state() == FlowState::Established;
        fast_open.reverse(SYN | ACK, FAR, UNIT - 1 + 1400);
        assert_eq!(fast_open.state(), if was_complete { FlowState::Established } else { FlowState::Embryonic });
        fast_open.forward(ACK, UNIT - 1 + 1400, FAR + 1);
        assert_eq!(fast_open.state(), FlowState::Established);
    }

    // A SYN that is repeated is answered by another cookie.
    let cookies = Bed::new();
    for cookie in [3 * FAR, 5 * FAR] {
        cookies.forward(SYN, 1_000, 0);
        cookies.reverse(SYN | ACK, cookie, 1_001);
    }
    cookies.forward(ACK, 1_001, 5 * FAR + 1);
    assert_eq!(cookies.state(), FlowState::Established);

    // Taken over in the middle.
    let middle = Bed::new();
    middle.forward(ACK, 3 * FAR, 7 * FAR);
    middle.reverse(ACK, 7 * FAR, 3 * FAR);
    assert_eq!(middle.state(), FlowState::Established);
    middle.reverse(RST, 7 * FAR, 0);
    assert_eq!(middle.state(), FlowState::Closed);
}

#[test]
fn another_syn_does_not_keep_a_flow_alive_and_all_else_does() {
    for (flags, keeps) in [(SYN, false), (ACK, true), (RST, true), (SYN | ACK, true)] {
        let mut bed = Bed::established(0, 0);
        bed.now = 10 * TICKS_PER_SECOND;
        bed.forward(flags, FAR, FAR);
        assert_eq!(bed.table.slot(bed.forward).last.load(Relaxed), if keeps { bed.now } else { 0 }, "{flags:#x}");
    }
}

/// One end, as the flow's other end and the path between them see it.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// Sent and acknowledged, sent last, sent at all, and received in order.
    acknowledged: u32,
    sent: u32,
    farthest: u32,
    received: u32,
}

/// What somebody sends who does not know where the connection is.
#[derive(Clone, Copy, Debug)]
struct Guess {
    reverse: bool,
    flags: u32,
    away: [u32; 2],
}

fn guess() -> impl Strategy<Value = Guess> {
    let flags = prop::sample::select(vec![RST, RST | ACK, FIN | ACK, FIN, ACK, SYN, SYN | ACK, SYN | FIN, SYN | RST, 0]);
    (any::<bool>(), flags, [FAR..FAR.wrapping_neg(), FAR..FAR.wrapping_neg()]).prop_map(|(reverse, flags, away)| Guess {
        reverse,
        flags,
        away,
    })
}

proptest! {
    /// Whatever is lost before us or behind us, honest ends are noted, and those of somebody who guesses are not.
    #[test]
    fn honest_ends_are_noted_and_forged_ones_are_not(
        isn in any::<[u32; 2]>(),
        steps in prop::collection::vec((0..2usize, 1u32..1 << 20, 0..6u32, prop::option::of(guess())), 1..300),
        end in 0..4u32,
    ) {
        const WINDOW: u32 = 48 << 20;
        let bed = Bed::established(isn[0], isn[1]);
        let first = isn.map(|isn| isn.wrapping_add(1));
        let host = |own: usize| Host { acknowledged: first[own], sent: first[own], farthest: first[own], received: first[1 - own] };
        let mut hosts = [host(0), host(1)];
        let send = |side: usize, flags, sequence, acknowledged| bed.touch([bed.forward, bed.reverse][side], flags, sequence, acknowledged);
        let mut asked = None;
        for (side, bytes, fate, guess) in steps {
            if let Some(Guess { reverse, flags, away }) = guess {
                let side = usize::from(reverse);
                let farthest = |side: usize| hosts[side].farthest;
                let (sequence, acknowledged) = (farthest(side).wrapping_add(away[0]), farthest(1 - side).wrapping_add(away[1]));
                // Who sends in the name of both sides may answer what he himself has asked.
                let is_lucky = asked.is_some_and(|asked: u32| (acknowledged.wrapping_sub(asked) as i32).unsigned_abs() < 2 * UNIT);
                if !is_lucky {
                    send(side, flags, sequence, acknowledged);
                    asked = if flags & (SYN | ACK | RST) == SYN && !reverse { Some(sequence) } else { asked };
                }
                prop_assert_eq!((bed.state(), bed.table.has_ended(bed.forward)), (FlowState::Established, false), "{:?}", guess);
            }
            let Host { acknowledged, sent, received, .. } = hosts[side];
            if fate == 5 || sent.wrapping_sub(acknowledged).wrapping_add(bytes) > WINDOW {
                // From the first byte on that is missing, as after a time-out.
                hosts[side].sent = hosts[1 - side].received;
            }
            let sequence = hosts[side].sent;
            hosts[side].sent = sequence.wrapping_add(bytes);
            if (hosts[side].sent.wrapping_sub(hosts[side].farthest) as i32) > 0 {
                hosts[side].farthest = hosts[side].sent;
            }
            if fate > 0 {
                send(side, ACK, sequence, received);
            }
            if fate > 1 && hosts[1 - side].received == sequence {
                hosts[1 - side].received = sequence.wrapping_add(bytes);
            }
            if fate > 2 {
                hosts[side].acknowledged = hosts[1 - side].received;
                send(1 - side, ACK, hosts[1 - side].sent, hosts[1 - side].received);
            }
        }
        // All that is missing is repeated at the end; a reset need not wait for that.
        let [client, backend] = hosts;
        match end {
            0 => send(0, RST | ACK, client.farthest, client.received),
            1 => send(1, RST | ACK, backend.farthest, backend.received),
            _ => {
                for side in [0, 1] {
                    let mut sequence = hosts[1 - side].received;
                    while sequence != hosts[side].farthest {
                        send(side, ACK, sequence, hosts[side].received);
                        sequence = sequence.wrapping_add(UNIT.min(hosts[side].farthest.wrapping_sub(sequence)));
                    }
                }
                send(0, FIN | ACK, client.farthest, backend.farthest);
                prop_assert_eq!(bed.state(), FlowState::CloseWait);
                if end == 2 {
                    send(1, FIN | ACK, backend.farthest, client.farthest.wrapping_add(1));
                } else {
                    send(1, RST, backend.farthest, 0);
                }
            }
        }
        prop_assert_eq!(bed.state(), FlowState::Closed);
    }
}
