use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

use super::*;

const A: BackendKey = (IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)), 8080);
const B: BackendKey = (IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7)), 8080);
const NOW: u32 = u32::MAX - 30;

fn service(name: &str) -> ServicePortName {
    ServicePortName { namespace: "default".into(), name: name.into(), port: "http".into() }
}

fn web(timeout_s: u32) -> Affinity {
    Affinity::new(&service("web"), 6, timeout_s)
}

/// Clients of both families.
fn client(number: u32) -> IpAddr {
    let v6 = Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(number));
    if number.is_multiple_of(2) { Ipv4Addr::from(number).into() } else { v6.into() }
}

fn settle(table: &AffinityTable, affinity: Affinity, number: u32, now: u32, choice: BackendKey) -> BackendKey {
    table.settle(affinity, client(number), now, |_| true, || Some(choice)).expect("nobody else is here").expect("a choice")
}

#[test]
fn a_client_keeps_its_backend_until_it_was_silent_for_the_time_out() {
    let table = AffinityTable::in_memory(64, 7);
    assert_eq!(settle(&table, web(10), 1, NOW, A), A);
    // 10 s are 596 ticks, here over the wrap of the counter; each use begins them anew.
    let mut now = NOW;
    for _ in 0..5 {
        now = now.wrapping_add(595);
        assert_eq!(settle(&table, web(10), 1, now, B), A);
    }
    assert_eq!(table.len(now.wrapping_add(595)), 1);
    assert_eq!(table.len(now.wrapping_add(596)), 0);
    assert_eq!(settle(&table, web(10), 1, now.wrapping_add(596), B), B);
}

#[test]
fn clients_services_and_protocols_are_apart() {
    let table = AffinityTable::in_memory(64, 7);
    settle(&table, web(10), 1, NOW, A);
    for (affinity, client) in [(web(10), 2), (Affinity::new(&service("api"), 6, 10), 1), (Affinity::new(&service("web"), 17, 10), 1)] {
        assert_eq!(settle(&table, affinity, client, NOW, B), B);
    }
    assert_eq!(settle(&table, web(10), 1, NOW, B), A);
}

#[test]
fn a_backend_that_cannot_be_reached_is_replaced() {
    let table = AffinityTable::in_memory(64, 7);
    settle(&table, web(10), 1, NOW, A);
    assert_eq!(table.settle(web(10), client(1), NOW, |backend| backend != A, || Some(B)), Ok(Some(B)));
    assert_eq!(settle(&table, web(10), 1, NOW, A), B, "the old one is forgotten");
    assert_eq!(table.settle(web(10), client(1), NOW, |_| false, || None), Ok(None));
    assert_eq!(table.len(NOW), 1);
}

#[test]
fn a_time_out_that_changes_counts_for_entries_that_are_there() {
    let table = AffinityTable::in_memory(64, 7);
    settle(&table, web(10_000), 1, NOW, A);
    assert_eq!(settle(&table, web(1), 1, NOW.wrapping_add(60), B), B);
}

#[test]
fn when_full_what_is_over_goes_first_and_then_the_oldest() {
    let table = AffinityTable::in_memory(16, 7);
    for client in 0..16 {
        settle(&table, web(1000), client, NOW.wrapping_add(client), A);
    }
    assert_eq!((table.len(NOW.wrapping_add(16)), table.entries_max(), table.evicted()), (16, 16, 0));
    // Client 0 is the oldest.
    settle(&table, web(1000), 100, NOW.wrapping_add(20), A);
    assert_eq!(table.evicted(), 1);
    assert_eq!(settle(&table, web(1000), 1, NOW.wrapping_add(21), B), A);
    assert_eq!(table.renew(web(1000), client(0), NOW.wrapping_add(21)), None);
    // Client 5 is younger than others, but has a short time-out, and that is over.
    settle(&table, web(1), 5, NOW.wrapping_add(22), A);
    settle(&table, web(1000), 101, NOW.wrapping_add(82), A);
    assert_eq!(table.evicted(), 1);
    assert_eq!(table.renew(web(1000), client(5), NOW.wrapping_add(83)), None);
    assert_eq!(settle(&table, web(1000), 2, NOW.wrapping_add(83), B), A);
}

#[test]
fn a_table_takes_three_quarters_of_its_size() {
    let table = AffinityTable::in_memory(65_536, 7);
    for client in 0..49_152 {
        settle(&table, web(1000), client, NOW, A);
    }
    assert!(table.evicted() < 5, "{}", table.evicted());
}

#[test]
fn the_next_process_goes_on_with_it() {
    let slots: &'static [AffinitySlot] = Box::leak((0..16).map(|_| AffinitySlot::default()).collect());
    settle(&AffinityTable::over(slots, 7), web(10), 1, NOW, A);
    let slot = slots.iter().find(|slot| slot.key.load(Relaxed) == EMPTY).expect("an empty slot");
    slot.key.store(TAKEN, Relaxed);
    let next = AffinityTable::over(slots, 7);
    assert_eq!(settle(&next, web(10), 1, NOW, B), A);
    assert_eq!(slot.key.load(Relaxed), EMPTY, "the process before died while it wrote");
}

/// All first connections of a client get the same backend, whichever worker has them, also while entries go and come.
#[test]
fn workers_agree() {
    const WORKERS: usize = 4;
    const ROUNDS: u32 = 3000;
    let table = AffinityTable::in_memory(16, 7);
    let (barrier, next) = (Barrier::new(WORKERS), AtomicUsize::new(0));
    let choices: Vec<Vec<BackendKey>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    let choose = || Some((client(next.fetch_add(1, Relaxed) as u32), 80));
                    (0..ROUNDS)
                        .map(|round| {
                            barrier.wait();
                            // Every third round the entry is over; in the others it is there, or a new client's.
                            let (number, now) = (round / 3, (round + 1) * if round % 3 == 2 { 1000 } else { 1 });
                            loop {
                                if let Ok(backend) = table.settle(web(1), client(number), now, |_| true, choose) {
                                    break backend.expect("a choice");
                                }
                            }
                        })
                        .collect()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).collect()
    });
    for round in 0..ROUNDS as usize {
        assert!(choices.iter().all(|of_worker| of_worker[round] == choices[0][round]), "round {round}");
    }
}
