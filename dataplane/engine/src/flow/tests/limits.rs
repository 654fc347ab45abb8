//! Full buckets, the limit of flows, floods, expiry.

use super::*;

/// Inserts flows until one does not fit; how many did.
fn inserts_until_full(table: &FlowTable, first: u32, now: u32) -> usize {
    (first..).position(|number| table.insert(0, &flow_of(number, TCP), now).is_err()).unwrap_or(0)
}

/// Two choices of four slots do not fill evenly: at the load of 0.5, the most that `slots_for` allows, a few entries overflow from both.
#[test]
fn a_table_loads_to_its_limit() {
    let mut overflowed = 0;
    for seed in 0..8 {
        let table = FlowTable::in_memory(4096, 1, seed);
        assert_eq!(inserts_until_full(&table, 0, 0), 4096);
        assert_eq!(table.insert(0, &flow_of(5000, TCP), 0), Err(InsertError::Limit));
        overflowed += table.overflowed();
    }
    // Of 65 536 entries; 40 in a million are three.
    assert!((1..10).contains(&overflowed), "{overflowed}");
}

/// Flows come and go, 300 a second at a load of 0.4: slots rest after a removal, and the rest is left by chance, so that buckets do not fill as evenly as
/// those of a table that only grows.
#[test]
fn a_table_in_use_takes_every_flow_below_its_limit() {
    for seed in 0..4 {
        let table = FlowTable::in_memory(4096, 1, seed);
        let mut flows = std::collections::VecDeque::new();
        for number in 0..200_000 {
            let now = number / 5;
            if flows.len() == 3200 {
                table.remove(0, flows.pop_front().unwrap(), now);
            }
            let inserted = table.insert(0, &flow_of(number, TCP), now);
            flows.push_back(inserted.unwrap_or_else(|error| panic!("seed {seed}, flow {number}: {error:?}")));
        }
    }
}

#[test]
fn entries_without_room_in_their_buckets_overflow() {
    let memory: &[FlowSlot] = Box::leak((0..1024).map(|_| FlowSlot::default()).collect());
    let over = || FlowTable::over(memory, 512, 1, 5, 0).0;
    let table = over();
    let made: Vec<u32> = (0..460).filter(|&number| table.insert(0, &flow_of(number, TCP), 0).is_ok()).collect();
    let all_found = |table: &FlowTable, numbers: &[u32]| {
        numbers.iter().all(|&number| {
            let flow = flow_of(number, TCP);
            find_both(table, &flow).is_some_and(|(f, r)| (table.rewrite_of(f), table.rewrite_of(r)) == (flow.forward.1, flow.reverse.1))
        })
    };
    assert!(table.overflowed() > 10 && all_found(&table, &made), "{}", table.overflowed());
    // The next process counts anew, whatever the one before left.
    memory.iter().step_by(BUCKET_ENTRIES).for_each(|slot| slot.overflowed.store(u16::MAX, Relaxed));
    let next = over();
    assert_eq!((next.len(), next.overflowed(), all_found(&next, &made)), (made.len(), table.overflowed(), true));
    let (gone, stay) = made.split_at(made.len() / 2);
    for &number in gone {
        let (f, r) = find_both(&next, &flow_of(number, TCP)).unwrap();
        assert!(next.remove(0, if number % 2 == 0 { f } else { r }, 0));
    }
    assert!(all_found(&next, stay));
    for &number in stay {
        next.remove(0, find(&next, &flow_of(number, TCP).forward.0).unwrap(), 0);
    }
    assert_eq!(next.overflowed(), 0);
    assert!(memory.iter().all(|slot| slot.overflowed.load(Relaxed) == 0));
}

#[test]
fn the_limit_of_flows_holds() {
    let table = FlowTable::in_memory(100, 4, 1);
    for number in 0..100 {
        table.insert(number as usize % 4, &flow_of(number, TCP), 0).unwrap();
        establish(&table, &flow_of(number, TCP), 0);
    }
    for worker in 0..4 {
        assert_eq!(table.insert(worker, &flow_of(200, TCP), 1000), Err(InsertError::Limit));
    }
    assert_eq!(table.len(), 100);
    // Counted by one worker, removed by another: the sum is right.
    assert!(table.remove(3, find(&table, &flow_of(0, TCP).forward.0).unwrap(), 1000));
    table.insert(1, &flow_of(200, TCP), 1000).unwrap();
    assert_eq!(table.len(), 100);
}

#[test]
fn a_flood_of_syns_evicts_no_established_flow_and_lets_new_ones_in() {
    let flows_max = 2048;
    let table = FlowTable::in_memory(flows_max, 2, 9);
    let established: Vec<NewFlow> = (0..1000).map(|number| flow_of(number, TCP)).collect();
    for flow in &established {
        table.insert(0, flow, 0).unwrap();
        establish(&table, flow, 0);
    }
    // 60 s at 600 forged SYNs per second, which would be 36 000 flows without shedding, and 10 honest clients per second, who repeat a SYN after 1 s and 3 s.
    let mut honest: Vec<(u32, NewFlow)> = Vec::new();
    let (mut made, mut connected, mut given_up) = (0, 0, 0);
    let mut forged = 10_000_000;
    for now in 0..60 * TICKS_PER_SECOND {
        for _ in 0..10 {
            forged += 1;
            if let Ok(index) = table.insert(1, &flow_of(forged, TCP), now) {
                table.touch(index, Segment::unnumbered(SEEN_SYN as u8), now);
                table.touch(table.slot(index).peer.load(Relaxed), Segment::unnumbered((SEEN_SYN | SEEN_ACK) as u8), now);
            }
        }
        if now % 6 == 0 {
            honest.push((now, flow_of(1_000_000 + now, TCP)));
            made += 1;
        }
        honest.retain(|(first, flow)| {
            if ![0, 60, 180].contains(&(now - first)) {
                return true;
            }
            let inserted = table.insert(0, flow, now).is_ok();
            if inserted {
                establish(&table, flow, now);
                connected += 1;
            } else {
                given_up += usize::from(now - first == 180);
            }
            !inserted && now - first < 180
        });
        table.sweep(0, 256, &Timeouts::default(), now);
        table.sweep(1, 256, &Timeouts::default(), now);
        assert!(table.len() <= flows_max);
    }
    for flow in &established {
        assert!(find_both(&table, flow).is_some(), "an established flow was evicted");
    }
    println!("{made} honest clients: {connected} connected, {given_up} gave up, {} still try", honest.len());
    assert!(connected * 10 >= made * 8, "only {connected} of {made} honest clients connected");
}

#[test]
fn a_young_embryonic_flow_is_not_shed() {
    let table = FlowTable::in_memory(64, 1, 1);
    let inserted = inserts_until_full(&table, 0, 0);
    let young = TICKS_PER_SECOND - 1;
    for number in 1000..1100 {
        assert!(table.insert(0, &flow_of(number, TCP), young).is_err());
    }
    assert_eq!(table.len(), inserted);
    assert!((1000..1100).any(|number| table.insert(0, &flow_of(number, TCP), young + 1).is_ok()), "but an older one is");
}

#[test]
fn idle_flows_end_after_their_time_out() {
    let timeouts = Timeouts::default();
    // Over the wrap of ticks, too.
    for start in [0, u32::MAX - 1000] {
        let cases: [(u8, &[u32], &[u32], u32); 6] = [
            (TCP, &[SEEN_SYN], &[], timeouts.tcp_syn),
            (TCP, &[SEEN_SYN, SEEN_ACK], &[SEEN_SYN | SEEN_ACK], timeouts.tcp_established),
            (TCP, &[SEEN_SYN, SEEN_ACK], &[SEEN_SYN | SEEN_ACK, SEEN_FIN | SEEN_ACK], timeouts.tcp_close_wait),
            (TCP, &[SEEN_SYN, SEEN_ACK | SEEN_FIN], &[SEEN_SYN | SEEN_ACK | SEEN_FIN], timeouts.tcp_closed),
            (UDP, &[0], &[], timeouts.udp_unreplied),
            (UDP, &[0], &[0], timeouts.udp),
        ];
        for (protocol, forward, reverse, timeout) in cases {
            let table = FlowTable::in_memory(16, 3, 1);
            let flow = flow_of(1, protocol);
            table.insert(0, &flow, start).unwrap();
            let (f, r) = find_both(&table, &flow).unwrap();
            forward.iter().for_each(|&flags| table.touch(f, Segment::unnumbered(flags as u8), start));
            // The reply is two seconds younger and keeps the whole flow.
            let reply = start.wrapping_add(120);
            reverse.iter().for_each(|&flags| table.touch(r, Segment::unnumbered(flags as u8), reply));
            let last = if reverse.is_empty() { start } else { reply };
            let sweep = |now| (0..3).map(|worker| table.sweep(worker, usize::MAX, &timeouts, now)).sum::<usize>();
            assert_eq!(sweep(last.wrapping_add(timeout - 1)), 0, "{protocol} {timeout}");
            assert_eq!(sweep(last.wrapping_add(timeout)), 1, "{protocol} {timeout}");
            assert!(table.is_empty() && find_both(&table, &flow).is_none());
        }
    }
}

#[test]
fn a_packet_from_the_future_does_not_end_a_flow() {
    let table = FlowTable::in_memory(16, 1, 1);
    let index = table.insert(0, &flow_of(1, UDP), 1000).unwrap();
    table.slot(index).last.store(1003, Relaxed);
    assert_eq!(table.sweep(0, usize::MAX, &Timeouts::default(), 1001), 0);
}

#[test]
fn workers_sweep_every_slot_once_a_round() {
    for workers in [1, 2, 3, 7, 64, 200] {
        for budget in [1, 3, 4, 64, 1000] {
            let table = FlowTable::in_memory(100, workers, 1);
            for number in 0..100 {
                table.insert(0, &flow_of(number, UDP), 0).unwrap();
            }
            let buckets = table.slots.len() / BUCKET_ENTRIES;
            let mut removed = 0;
            for worker in 0..workers {
                let share = buckets.saturating_sub(worker).div_ceil(workers) * BUCKET_ENTRIES;
                let mut rounds = 0;
                while rounds < share {
                    removed += table.sweep(worker, budget, &Timeouts::default(), 10_000);
                    rounds += budget;
                }
            }
            assert_eq!((removed, table.len()), (100, 0), "{workers} workers, budget {budget}");
        }
    }
}

#[test]
fn sweeping_frees_what_rested_long_enough() {
    let table = FlowTable::in_memory(2, 1, 1);
    let flow = flow_of(1, TCP);
    let now = 50;
    for _ in 0..table.slots.len() {
        if let Ok(index) = table.insert(0, &flow, now) {
            table.remove(0, index, now);
        }
    }
    assert_eq!(table.insert(0, &flow, now), Err(InsertError::Full));
    table.sweep(0, usize::MAX, &Timeouts::default(), now + GRACE_TICKS);
    // 2^30 ticks later a slot that had kept its tick would look freshly cleared.
    table.insert(0, &flow, now + (1 << 30)).unwrap();
}

#[test]
fn flows_whose_backend_stopped_make_room() {
    let table = FlowTable::in_memory(4, 1, 7);
    let slots: Vec<SlotIndex> = (0..4).map(|number| table.insert(0, &flow_of(number, UDP), 0).unwrap()).collect();
    for number in 0..4 {
        let (_, reverse) = find_both(&table, &flow_of(number, UDP)).unwrap();
        table.touch(reverse, Segment::unnumbered(0), 0);
    }
    assert_eq!(table.state(slots[1]), FlowState::Established);
    slots.iter().for_each(|slot| table.stop(*slot));
    assert_eq!(table.state(slots[1]), FlowState::Closed);
    assert!(find_both(&table, &flow_of(1, UDP)).is_some(), "answers are still translated");
    // Shed one by one where others need their places, and gone after five seconds.
    let later = 2 * TICKS_PER_SECOND;
    let made = (10..200).filter(|number| table.insert(0, &flow_of(*number, UDP), later).is_ok()).count();
    assert!(made > 0 && table.len() <= 4);
    table.sweep(0, 1 << 16, &Timeouts::default(), 5 * TICKS_PER_SECOND);
    assert!((0..4).all(|number| find_both(&table, &flow_of(number, UDP)).is_none()));
}
