//! Several workers, and a reader like the BPF programs, at the same time.

use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
use std::thread;
use std::time::Duration;

use super::*;
use crate::flow::ownership::Ownership;

const WORKERS: usize = 4;

/// A plain xorshift: the tests need variety, not quality.
struct Dice(u32);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % below
    }
}

/// Looks up and copies as `edge` does. `None` is a miss.
fn copy_like_edge(table: &FlowTable, key: &FlowKey) -> Option<Rewrite> {
    let hash = table.hash(key);
    let (a, b) = table.buckets(hash);
    let slot =
        [a, b].into_iter().chain(table.overflow_buckets(hash)).flat_map(|bucket| &table.slots[bucket..bucket + BUCKET_ENTRIES]).find(
            |slot| {
                slot.meta.load(Acquire) == key.meta
                    && slot.ports.load(Relaxed) == key.ports
                    && F::load(&slot.saddr) == key.saddr
                    && F::load(&slot.daddr) == key.daddr
            },
        )?;
    slot.rewrite()
}

#[test]
fn readers_never_see_a_torn_entry() {
    // Few slots for many flows: a slot is used again as soon as it may.
    let flows: Vec<NewFlow> = (0..400).map(|number| flow_of(number, TCP)).collect();
    let table = FlowTable::in_memory(100, WORKERS, 3);
    let (clock, stop) = (AtomicU32::new(u32::MAX - 200), AtomicBool::new(false));
    let (hits, inserted, removed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (table, flows, clock, stop, inserted, removed) = (&table, &flows, &clock, &stop, &inserted, &removed);
            scope.spawn(move || {
                let mut dice = Dice(worker as u32 + 1);
                while !stop.load(Relaxed) {
                    let (flow, now) = (&flows[dice.roll(flows.len())], clock.load(Relaxed));
                    match dice.roll(16) {
                        0 => inserted.fetch_add(usize::from(table.insert(worker, flow, now).is_ok()), Relaxed),
                        1..8 => match find(table, if dice.roll(2) == 0 { &flow.forward.0 } else { &flow.reverse.0 }) {
                            Some(index) => removed.fetch_add(usize::from(table.remove(worker, index, now)), Relaxed),
                            None => 0,
                        },
                        _ => removed.fetch_add(table.sweep(worker, 8, &Timeouts { tcp_syn: 30, ..Timeouts::default() }, now), Relaxed),
                    };
                }
            });
        }
        for reader in 0..2 {
            let (table, flows, clock, stop, hits) = (&table, &flows, &clock, &stop, &hits);
            scope.spawn(move || {
                let mut dice = Dice(reader + 100);
                while !stop.load(Relaxed) {
                    let flow = &flows[dice.roll(flows.len())];
                    let (key, rewrite) = if dice.roll(2) == 0 { flow.forward } else { flow.reverse };
                    let before = clock.load(Acquire);
                    let copy = copy_like_edge(table, &key);
                    // A BPF program is not descheduled in between; we are, on a busy machine.
                    let ticks = clock.load(Acquire).wrapping_sub(before);
                    if let Some(copy) = copy.filter(|_| ticks < GRACE_TICKS / 2) {
                        assert_eq!(copy, rewrite, "key and rewrite of different flows");
                        hits.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        // 100 µs a tick, so that a grace period is 6 ms, for a second.
        for _ in 0..10_000 {
            thread::sleep(Duration::from_micros(100));
            clock.fetch_add(1, Relaxed);
        }
        stop.store(true, Relaxed);
    });
    let left = flows.iter().filter(|flow| find_both(&table, flow).is_some()).count();
    assert_eq!(table.len(), left);
    let (hits, inserted, removed) = (hits.into_inner(), inserted.into_inner(), removed.into_inner());
    println!("{inserted} flows made, {removed} removed, {hits} hits");
    assert!(hits > 1000 && removed > 1000, "the test tried nothing");
    let now = clock.into_inner();
    for flow in &flows {
        find(&table, &flow.reverse.0).into_iter().for_each(|index| assert!(table.remove(0, index, now)));
    }
    assert!(table.is_empty());
    let later = now.wrapping_add(GRACE_TICKS);
    assert!((0..table.slots.len()).all(|slot| table.ownership.is_usable(slot, later)), "a slot was lost");
}

/// Runs one closure per worker, all at once; their sum.
fn race(work: impl Fn(usize) -> usize + Sync) -> usize {
    let barrier = Barrier::new(WORKERS);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    work(worker)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker panicked")).sum()
    })
}

#[test]
fn a_flow_is_created_and_removed_once() {
    const FLOWS: u32 = 4000;
    let table = FlowTable::in_memory(8192, WORKERS, 5);
    let created = race(|worker| {
        let create = |number| {
            // Half of the workers want another client's flow with the same reverse key.
            let flow = flow_of(number, TCP);
            let flow = if worker % 2 == 0 { flow } else { NewFlow { forward: flow_of(number + FLOWS, TCP).forward, ..flow } };
            // Whoever is contended tries again, for a second or so at most.
            for _ in 0..1_000_000 {
                match table.insert(worker, &flow, 0) {
                    Ok(_) => return 1,
                    Err(InsertError::Exists(_) | InsertError::ReverseTaken) => return 0,
                    Err(InsertError::Contended) => thread::yield_now(),
                    Err(error) => panic!("{error:?}"),
                }
            }
            panic!("a gate stays closed")
        };
        (0..FLOWS).map(create).sum()
    });
    assert_eq!((created, table.len()), (FLOWS as usize, FLOWS as usize));
    let entries = table.slots.iter().filter(|slot| slot.meta.load(Relaxed) != 0).count();
    assert_eq!(entries, 2 * FLOWS as usize);
    let removed = race(|worker| {
        let remove = |number| find(&table, &flow_of(number, TCP).reverse.0).is_some_and(|index| table.remove(worker, index, 0));
        (0..FLOWS).filter(|&number| remove(number)).count()
    });
    assert_eq!((removed, table.len()), (FLOWS as usize, 0));
    assert!(table.slots.iter().all(|slot| slot.meta.load(Relaxed) == 0));
}

/// Two threads meet without sleeping, so that what follows happens within nanoseconds.
#[derive(Default)]
struct Meeting(AtomicUsize);

impl Meeting {
    fn wait(&self) {
        let round = self.0.fetch_add(1, SeqCst) / 2;
        let mut spins = 0;
        while self.0.load(SeqCst) < 2 * (round + 1) {
            spins += 1;
            // The other one may wait for this very CPU.
            if spins % 1000 == 0 { thread::yield_now() } else { spin_loop() }
        }
    }
}

/// Both threads try each of the rounds at the same time; how many tries succeed in all. `after` runs between rounds.
fn duel(rounds: usize, attempt: impl Fn(usize, usize) -> bool + Sync, after: impl Fn(usize) + Sync) -> usize {
    let meeting = Meeting::default();
    let fight = |thread| {
        let mut successes = 0;
        for round in 0..rounds {
            meeting.wait();
            let success = attempt(thread, round);
            meeting.wait();
            if success {
                successes += 1;
                after(thread);
            }
        }
        successes
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| fight(1));
        fight(0) + other.join().expect("the other thread panicked")
    })
}

#[test]
fn each_slot_is_claimed_and_taken_by_one() {
    const SLOTS: usize = 10_000;
    let ownership = Ownership::new(SLOTS);
    assert_eq!(duel(SLOTS, |_, slot| ownership.claim(slot, 0), |_| ()), SLOTS);
    (0..SLOTS).for_each(|slot| ownership.publish(slot));
    assert_eq!(duel(SLOTS, |_, slot| ownership.take(slot), |_| ()), SLOTS);
}

#[test]
fn the_limit_holds_for_all_workers_together() {
    const ROUNDS: usize = 10_000;
    let table = FlowTable::in_memory(1, 2, 5);
    // None of two may get the last place when both want it, but not both.
    let reserved = duel(ROUNDS, |worker, _| table.reserve(worker), |worker| table.unreserve(worker));
    assert!((1..=ROUNDS).contains(&reserved), "{reserved} of {ROUNDS}");
    assert!(table.is_empty());
}
