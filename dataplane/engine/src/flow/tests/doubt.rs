//! Connections that are said to be reset: those whose client answers live on, the others end soon.

use proptest::prelude::*;

use super::position::{ACK, Bed, FAR, FIN, RST, SYN, UNIT};
use super::*;
use crate::flow::doubt::{DOUBT_TICKS, DOUBTED_MAX};
use crate::flow::{Doubted, Numbers};

/// Round the whole table takes a worker so long.
const ROUND_TICKS: u32 = 10 * TICKS_PER_SECOND;

const CLIENT: u32 = 1_000;
const BACKEND: u32 = 5 * UNIT;

impl Bed {
    fn sweep(&self) -> usize {
        self.table.sweep(0, usize::MAX, &Timeouts::default(), self.now)
    }

    /// Sweeps after so many ticks; who is asked then.
    fn asked_after(&mut self, ticks: u32) -> Option<Doubted<F>> {
        self.now = self.now.wrapping_add(ticks);
        assert_eq!(self.sweep(), 0, "removed");
        self.table.next_doubted()
    }

    /// The client's answer.
    fn answer(&self) {
        self.forward(ACK, CLIENT + 1, BACKEND + 1);
    }
}

/// A connection of which somebody said, from the client's side or the other, that it is reset.
fn reset(by_client: bool, flags: u32) -> Bed {
    let bed = Bed::established(CLIENT, BACKEND);
    match by_client {
        true => bed.forward(flags, CLIENT + 100_000, BACKEND),
        false => bed.reverse(flags, BACKEND + 1_000_000, CLIENT),
    }
    assert_eq!((bed.state(), bed.table.is_doubtful(bed.forward)), (FlowState::Closed, true));
    bed
}

#[test]
fn a_client_is_asked_before_its_flow_ends() {
    for by_client in [true, false] {
        let mut bed = reset(by_client, RST);
        assert_eq!(bed.asked_after(DOUBT_TICKS - 1), None);
        let asked = bed.asked_after(1).expect("asked");
        assert_eq!((asked.slot, asked.key), (bed.forward, flow_of(1, TCP).forward.0));
        // Far behind where client and backend stand.
        let Numbers { sequence, acknowledged } = asked.numbers;
        assert!([sequence, acknowledged].iter().all(|number| (*number as i32) < -(1 << 29)), "{asked:?}");
        assert!(bed.table.is_unanswered(&asked));
        assert_eq!(bed.asked_after(DOUBT_TICKS - 1), None, "once");
        bed.now += 1;
        assert_eq!((bed.sweep(), bed.table.is_empty()), (1, true));
        assert!(!bed.table.is_unanswered(&asked));
    }
}

#[test]
fn an_answer_takes_the_reset_back() {
    for (by_client, flags) in [(true, RST), (false, RST), (true, RST | ACK), (false, RST | ACK)] {
        let mut bed = reset(by_client, flags);
        let asked = bed.asked_after(DOUBT_TICKS).expect("asked");
        // At once: a second is only for what was on the way when the reset came.
        bed.answer();
        assert_eq!((bed.state(), bed.table.is_unanswered(&asked)), (FlowState::Established, false));
        assert_eq!(bed.asked_after(Timeouts::default().tcp_established - 1), None);
        // The next one is nothing special.
        bed.reverse(RST, BACKEND + 1, 0);
        assert!(bed.asked_after(DOUBT_TICKS).is_some());
        bed.now += DOUBT_TICKS;
        assert_eq!(bed.sweep(), 1);
    }
}

/// Resets, of the client that is asked or of a backend that it tries again, and SYNs that nobody answers.
#[test]
fn what_is_no_answer_ends_the_flow_in_time() {
    let mut bed = reset(false, RST);
    assert!(bed.asked_after(DOUBT_TICKS).is_some());
    for again in 1..DOUBT_TICKS {
        bed.now += 1;
        bed.forward(RST, CLIENT.wrapping_sub(1 << 30), 0);
        bed.forward(SYN, FAR + again, 0);
        bed.reverse(RST | ACK, 0, FAR + again + 1);
        assert_eq!((bed.sweep(), bed.state()), (0, FlowState::Closed));
    }
    bed.now += 1;
    assert_eq!(bed.sweep(), 1);
}

/// The server was started anew, or closed: whoever tries it again and again from one port comes to another one in time.
#[test]
fn a_backend_that_refuses_keeps_nobody() {
    let mut bed = reset(false, RST);
    let begin = bed.now;
    let mut asked = false;
    for again in 0..3 * DOUBT_TICKS {
        bed.now += 1;
        bed.forward(SYN, FAR + again, 0);
        bed.reverse(RST | ACK, 0, FAR + again + 1);
        let removed = bed.sweep();
        asked |= bed.table.next_doubted().is_some();
        if removed == 1 {
            assert!(asked && bed.now - begin <= 2 * DOUBT_TICKS + 1, "after {} ticks", bed.now - begin);
            return;
        }
    }
    panic!("it lives on");
}

#[test]
fn nobody_is_asked_about_other_ends() {
    type End<'a> = &'a dyn Fn(&Bed);
    let ends: [(&str, End<'_>); 4] = [
        ("both FINs", &|bed| {
            bed.forward(FIN | ACK, CLIENT + 1, BACKEND + 1);
            bed.reverse(FIN | ACK, BACKEND + 1, CLIENT + 2);
        }),
        ("both FINs and a reset", &|bed| {
            bed.forward(FIN | ACK, CLIENT + 1, BACKEND + 1);
            bed.reverse(FIN | ACK, BACKEND + 1, CLIENT + 2);
            bed.forward(RST, CLIENT + 2, 0);
        }),
        ("the backend is gone", &|bed| {
            bed.reverse(RST, BACKEND + 1, 0);
            bed.table.stop(bed.forward);
        }),
        ("a reset of the client's only, and the backend gone since", &|bed| {
            bed.forward(RST, CLIENT + 1, 0);
            bed.table.stop(bed.forward);
            assert_eq!(bed.table.slot(bed.forward).seen.load(Relaxed) & SEEN_RST, 0, "it says nothing of what is answered now");
        }),
    ];
    for (what, end) in ends {
        let mut bed = Bed::established(CLIENT, BACKEND);
        end(&bed);
        assert_eq!((bed.state(), bed.asked_after(DOUBT_TICKS)), (FlowState::Closed, None), "{what}");
        bed.now += Timeouts::default().tcp_closed - DOUBT_TICKS;
        assert_eq!((bed.sweep(), bed.table.next_doubted()), (1, None), "{what}");
    }
    let mut refused = Bed::new();
    refused.forward(SYN, CLIENT, 0);
    refused.reverse(RST | ACK, 0, CLIENT + 1);
    assert_eq!((refused.state(), refused.asked_after(DOUBT_TICKS)), (FlowState::Closed, None), "it never began");
}

/// A reset with a FIN is a reset: else two of them would be the end.
#[test]
fn a_reset_sets_no_other_flag() {
    let bed = Bed::established(CLIENT, BACKEND);
    bed.forward(RST | FIN | ACK, CLIENT + 1, BACKEND + 1);
    bed.reverse(RST | FIN, BACKEND + 1, 0);
    assert!(bed.table.is_doubtful(bed.forward));
}

/// Also where the backend begins, by chance, where it stood before.
#[test]
fn a_syn_that_is_answered_begins_anew() {
    for backend in [BACKEND, FAR] {
        let bed = reset(true, RST);
        bed.forward(SYN, FAR, 0);
        bed.reverse(SYN | ACK, backend, FAR + 1);
        assert_eq!(bed.state(), FlowState::Established);
        bed.forward(FIN | ACK, FAR + 1, backend + 1);
        assert_eq!(bed.state(), FlowState::CloseWait, "the new connection's");
    }
}

/// The answer of a client whose flow has had its positions forged: nobody else says where it stands.
#[test]
fn an_answer_needs_no_position() {
    let mut bed = Bed::established(CLIENT, BACKEND);
    bed.forward(SYN, 3 * UNIT + FAR, 0);
    bed.reverse(SYN | ACK, FAR, 3 * UNIT + FAR + 1);
    bed.reverse(RST, FAR, 0);
    assert!(bed.asked_after(DOUBT_TICKS).is_some());
    bed.forward(FIN | ACK, 3 * FAR, 3 * FAR);
    assert_eq!(bed.state(), FlowState::Established, "but a FIN does");
    bed.reverse(RST, 3 * FAR, 0);
    assert!(bed.asked_after(DOUBT_TICKS).is_some());
    bed.answer();
    bed.reverse(FIN | ACK, BACKEND + 1, CLIENT + 1);
    assert_eq!(bed.state(), FlowState::CloseWait, "it stands again where it is");
}

#[test]
fn where_too_many_wait_flows_end_as_others_do() {
    let flows = DOUBTED_MAX + 1;
    let table = FlowTable::in_memory(flows, 1, 1);
    for number in 0..flows as u32 {
        let flow = flow_of(number, TCP);
        table.insert(0, &flow, 0).unwrap();
        establish(&table, &flow, 0);
        table.touch(find_both(&table, &flow).unwrap().1, Segment::unnumbered(SEEN_RST as u8), 0);
    }
    let timeouts = Timeouts::default();
    assert_eq!(table.sweep(0, usize::MAX, &timeouts, timeouts.tcp_closed - 1), 0);
    assert_eq!(table.sweep(0, usize::MAX, &timeouts, timeouts.tcp_closed), 1);
    assert_eq!((std::iter::from_fn(|| table.next_doubted()).count(), table.len()), (DOUBTED_MAX, DOUBTED_MAX));
}

#[test]
fn a_start_asks_again() {
    let memory: &[FlowSlot] = Box::leak((0..8).map(|_| FlowSlot::default()).collect());
    let over = |now| FlowTable::over(memory, 2, 1, 5, now).0;
    let (before, flow, timeouts) = (over(0), flow_of(1, TCP), Timeouts::default());
    let forward = before.insert(0, &flow, 0).unwrap();
    establish(&before, &flow, 0);
    before.touch(forward, Segment::unnumbered(SEEN_RST as u8), 0);
    before.sweep(0, usize::MAX, &timeouts, DOUBT_TICKS);
    let now = 3 * DOUBT_TICKS;
    let table = over(now);
    assert_eq!((table.sweep(0, usize::MAX, &timeouts, now), table.next_doubted().map(|asked| asked.slot)), (0, Some(forward)));
}

#[test]
fn a_full_table_sheds_what_is_in_doubt_last() {
    let table = FlowTable::in_memory(2, 1, 1);
    let flows = [1, 2].map(|number| flow_of(number, TCP));
    let now = 2 * TICKS_PER_SECOND;
    for flow in &flows {
        table.insert(0, flow, 0).unwrap();
    }
    establish(&table, &flows[0], 0);
    table.touch(find_both(&table, &flows[0]).unwrap().0, Segment::unnumbered(SEEN_RST as u8), 0);
    let shed = |table: &FlowTable, number| table.insert(0, &flow_of(number, TCP), now).is_ok();
    assert!(shed(&table, 3));
    assert!(find_both(&table, &flows[0]).is_some() && find_both(&table, &flows[1]).is_none(), "the younger, embryonic one goes");
    establish(&table, &flow_of(3, TCP), now);
    assert!(shed(&table, 4) && find_both(&table, &flows[0]).is_none(), "nothing else is left");
}

/// What somebody sends who knows addresses and ports, in the name of either side, and how long nobody sends anything then.
#[derive(Clone, Copy, Debug)]
struct Guess {
    reverse: bool,
    flags: u32,
    away: [u32; 2],
    then_ticks: u32,
}

fn guess() -> impl Strategy<Value = Guess> {
    let flags = prop::sample::select(vec![RST, RST, RST | ACK, SYN, SYN | ACK, SYN | RST, FIN | RST, FIN | RST | ACK, SYN | RST | ACK, 0]);
    let away = || prop_oneof![4 => (0..32 * UNIT).prop_map(|away| away.wrapping_sub(16 * UNIT)), 1 => Just(FAR), 1 => any::<u32>()];
    let then = prop_oneof![3 => 0..2 * TICKS_PER_SECOND, 1 => 0..4 * ROUND_TICKS];
    (any::<bool>(), flags, [away(), away()], then).prop_map(|(reverse, flags, away, then_ticks)| Guess { reverse, flags, away, then_ticks })
}

proptest! {
    /// As long as the client answers when it is asked.
    #[test]
    fn no_reset_and_no_syn_ends_a_connection_that_lives(guesses in prop::collection::vec(guess(), 1..60), phase in 0..ROUND_TICKS) {
        let mut bed = Bed::established(CLIENT, BACKEND);
        let key = bed.table.key_of(bed.forward);
        let wait = |bed: &mut Bed, ticks: u32| -> Result<(), TestCaseError> {
            for _ in 0..ticks {
                bed.now += 1;
                if bed.now % ROUND_TICKS == phase {
                    prop_assert_eq!(bed.sweep(), 0);
                }
                // Half a second later it answers.
                if bed.now % ROUND_TICKS == (phase + TICKS_PER_SECOND / 2) % ROUND_TICKS && bed.table.next_doubted().is_some() {
                    bed.answer();
                    prop_assert_eq!(bed.state(), FlowState::Established);
                }
            }
            Ok(())
        };
        for Guess { reverse, flags, away, then_ticks } in guesses {
            let (slot, own, other) = if reverse { (bed.reverse, BACKEND, CLIENT) } else { (bed.forward, CLIENT, BACKEND) };
            bed.touch(slot, flags, own.wrapping_add(away[0]), other.wrapping_add(away[1]));
            // A SYN of the client after an end is for a worker, who leaves a connection in doubt where it is.
            prop_assert!(!bed.table.has_ended(bed.forward) || bed.table.is_doubtful(bed.forward));
            wait(&mut bed, then_ticks)?;
        }
        wait(&mut bed, 3 * ROUND_TICKS)?;
        prop_assert_eq!((bed.table.key_of(bed.forward), bed.state()), (key, FlowState::Established));
    }
}
