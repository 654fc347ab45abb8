//! The table against a plain map, under random operations.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::flow::doubt::DOUBT_TICKS;

const SLOTS: usize = 64;
const FLOWS_MAX: usize = 14;
const WORKERS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Insert {
        number: u32,
    },
    /// Inserts another client's flow with the reverse key of this one.
    InsertClash {
        number: u32,
    },
    Remove {
        number: u32,
        forward: bool,
    },
    Touch {
        number: u32,
        forward: bool,
        flags: u8,
    },
    Wait {
        ticks: u32,
    },
    Sweep {
        worker: usize,
        budget: usize,
    },
    SweepAll,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let number = 0..24u32;
    let flags = prop::sample::select(vec![0, SEEN_SYN, SEEN_ACK, SEEN_SYN | SEEN_ACK, SEEN_FIN | SEEN_ACK, SEEN_RST]);
    let timeouts = Timeouts::default();
    let ticks = [1, 20, GRACE_TICKS, timeouts.tcp_closed, timeouts.udp_unreplied, timeouts.tcp_syn, timeouts.udp, timeouts.tcp_established];
    prop_oneof![
        8 => number.clone().prop_map(|number| Op::Insert { number }),
        1 => number.clone().prop_map(|number| Op::InsertClash { number }),
        3 => (number.clone(), any::<bool>()).prop_map(|(number, forward)| Op::Remove { number, forward }),
        8 => (number, any::<bool>(), flags).prop_map(|(number, forward, flags)| Op::Touch { number, forward, flags: flags as u8 }),
        4 => prop::sample::select(ticks.to_vec()).prop_map(|ticks| Op::Wait { ticks }),
        2 => (0..WORKERS, 0..SLOTS).prop_map(|(worker, budget)| Op::Sweep { worker, budget }),
        1 => Just(Op::SweepAll),
        1 => Just(Op::Restart),
    ]
}

/// A flow as the map has it; `[forward, reverse]`.
#[derive(Debug)]
struct Expected {
    flow: NewFlow,
    created: u32,
    last: [u32; 2],
    seen: [u32; 2],
    /// The sweep found it in doubt.
    is_asked: bool,
}

impl Expected {
    fn idle(&self, now: u32) -> u32 {
        self.last.map(|last| now.wrapping_sub(last)).into_iter().min().unwrap_or(0)
    }

    fn state(&self) -> FlowState {
        let [f, r] = self.seen;
        if self.flow.forward.0.protocol() == UDP {
            return if r == 0 { FlowState::Embryonic } else { FlowState::Established };
        }
        let fins = [f, r].iter().filter(|&&seen| seen & SEEN_FIN != 0).count();
        match fins {
            _ if (f | r) & SEEN_RST != 0 => FlowState::Closed,
            2 => FlowState::Closed,
            _ if f & SEEN_ACK == 0 || r & (SEEN_SYN | SEEN_ACK) == 0 => FlowState::Embryonic,
            1 => FlowState::CloseWait,
            _ => FlowState::Established,
        }
    }

    fn is_expired(&self, now: u32) -> bool {
        match self.is_doubtful() {
            true => self.is_asked && self.idle(now) >= DOUBT_TICKS,
            false => self.idle(now) >= Timeouts::default().of(self.flow.forward.0.protocol(), self.state()),
        }
    }

    fn is_doubtful(&self) -> bool {
        let [f, r] = self.seen;
        let is_complete = f & SEEN_ACK != 0 && r & (SEEN_SYN | SEEN_ACK) != 0;
        self.flow.forward.0.protocol() == TCP && is_complete && (f | r) & SEEN_RST != 0 && f & r & SEEN_FIN == 0
    }

    fn is_to_be_asked(&self, now: u32) -> bool {
        self.is_doubtful() && !self.is_asked && self.idle(now) >= DOUBT_TICKS
    }

    fn may_be_shed(&self, now: u32) -> bool {
        matches!(self.state(), FlowState::Embryonic | FlowState::Closed) && now.wrapping_sub(self.created) >= TICKS_PER_SECOND
    }
}

struct Both {
    memory: &'static [FlowSlot],
    table: FlowTable,
    map: HashMap<u32, Expected>,
    now: u32,
}

impl Both {
    fn insert(&mut self, number: u32, flow: NewFlow, worker: usize) {
        let result = self.table.insert(worker, &flow, self.now);
        let clash = self.map.values().any(|other| other.flow.reverse.0 == flow.reverse.0);
        let now = self.now;
        match result {
            Err(InsertError::Exists(_)) => assert!(self.map.contains_key(&number)),
            Err(InsertError::ReverseTaken) => assert!(clash && !self.map.contains_key(&number)),
            Err(InsertError::Limit) => assert!(self.map.len() >= FLOWS_MAX),
            Err(InsertError::Full) => self.forget(|flow| flow.may_be_shed(now), 2),
            Err(InsertError::Contended) => panic!("contended without another thread"),
            Ok(_) => {
                assert!(!clash && !self.map.contains_key(&number));
                let shed_max = usize::from(self.map.len() >= FLOWS_MAX);
                self.forget(|flow| flow.may_be_shed(now), shed_max);
                self.map.insert(number, Expected { flow, created: now, last: [now; 2], seen: [0; 2], is_asked: false });
            }
        }
    }

    /// Drops from the map what is not in the table, which at most `max` flows may be, and only such.
    fn forget(&mut self, may_go: impl Fn(&Expected) -> bool, max: usize) {
        let before = self.map.len();
        self.map.retain(|_, expected| {
            let there = find_both(&self.table, &expected.flow).is_some();
            assert!(there || may_go(expected), "gone too early: {expected:?}");
            there
        });
        assert!(before - self.map.len() <= max);
    }

    fn apply(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::Insert { number } => self.insert(number, flow_of(number, protocol_of(number)), number as usize % WORKERS),
            Op::InsertClash { number } => {
                let (flow, protocol) = (flow_of(number, protocol_of(number)), protocol_of(number));
                self.insert(number + 100, NewFlow { reverse: flow.reverse, ..flow_of(number + 100, protocol) }, 0);
            }
            Op::Remove { number, forward } => {
                if let Some(expected) = self.map.remove(&number) {
                    let (f, r) = find_both(&self.table, &expected.flow).unwrap();
                    assert!(self.table.remove(0, if forward { f } else { r }, now));
                }
            }
            Op::Touch { number, forward, flags } => {
                if let Some(expected) = self.map.get_mut(&number) {
                    let (f, r) = find_both(&self.table, &expected.flow).unwrap();
                    self.table.touch(if forward { f } else { r }, Segment::unnumbered(flags), now);
                    let side = usize::from(!forward);
                    expected.seen[side] |= SEEN_ANY | u32::from(flags);
                    if now.wrapping_sub(expected.last[side]) >= TICKS_PER_SECOND {
                        expected.last[side] = now;
                    }
                }
            }
            Op::Wait { ticks } => self.now = now.wrapping_add(ticks),
            Op::Sweep { worker, budget } => {
                let removed = self.table.sweep(worker, budget, &Timeouts::default(), now);
                self.forget(|flow| flow.is_expired(now), removed);
                self.note_asked();
            }
            Op::SweepAll => {
                (0..WORKERS).for_each(|worker| _ = self.table.sweep(worker, SLOTS, &Timeouts::default(), now));
                self.map.retain(|_, flow| !flow.is_expired(now));
                self.note_asked();
                assert!(!self.map.values().any(|flow| flow.is_to_be_asked(now)), "not asked");
            }
            Op::Restart => {
                let (table, kept) = FlowTable::over(self.memory, FLOWS_MAX, WORKERS, self.table.seed(), now);
                assert_eq!(kept, self.map.len());
                self.table = table;
                self.map.values_mut().for_each(|flow| flow.is_asked = false);
            }
        }
    }

    /// Those that wait to be asked have a new time-out.
    fn note_asked(&mut self) {
        for asked in std::iter::from_fn(|| self.table.next_doubted()) {
            let flow = self.map.values_mut().find(|flow| flow.flow.forward.0 == asked.key).expect("a flow");
            assert!(flow.is_to_be_asked(self.now), "{flow:?}");
            (flow.is_asked, flow.last[0]) = (true, self.now);
            flow.seen = flow.seen.map(|seen| seen | SEEN_RST);
        }
    }

    fn check(&self) {
        assert_eq!(self.table.len(), self.map.len());
        let records: HashMap<_, _> = self.table.records(self.now).into_iter().map(|record| (record.forward.0, record)).collect();
        assert_eq!(records.len(), self.map.len());
        for expected in self.map.values() {
            let (f, r) = find_both(&self.table, &expected.flow).expect("a flow is missing");
            assert_eq!((self.table.rewrite_of(f), self.table.rewrite_of(r)), (expected.flow.forward.1, expected.flow.reverse.1));
            let record = &records[&expected.flow.forward.0];
            assert_eq!((record.slot, record.reverse, record.snat), (f, expected.flow.reverse, expected.flow.snat));
            assert_eq!((record.state, record.idle), (expected.state(), expected.idle(self.now)));
            assert_eq!(record.age, self.now.wrapping_sub(expected.created));
        }
        let live = self.memory.iter().filter(|slot| slot.meta.load(Relaxed) != 0).count();
        assert_eq!(live, 2 * self.map.len(), "a half was left behind");
    }
}

fn protocol_of(number: u32) -> u8 {
    if number.is_multiple_of(3) { UDP } else { TCP }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_table_is_a_map(start in prop_oneof![Just(0), Just(u32::MAX - 2000), any::<u32>()], seed in any::<u64>(), ops in prop::collection::vec(op(), 1..120)) {
        let memory: &'static [FlowSlot] = Box::leak((0..SLOTS).map(|_| FlowSlot::default()).collect::<Box<[FlowSlot]>>());
        let (table, _) = FlowTable::over(memory, FLOWS_MAX, WORKERS, seed, start);
        let mut both = Both { memory, table, map: HashMap::new(), now: start };
        for op in ops {
            both.apply(op);
            both.check();
        }
    }
}
