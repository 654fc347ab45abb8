//! Taking over shared memory that a process has left.

use super::*;

const SEED: u64 = 77;

fn memory(slots: usize) -> &'static [FlowSlot] {
    Box::leak((0..slots).map(|_| FlowSlot::default()).collect::<Box<[FlowSlot]>>())
}

#[test]
fn live_flows_are_kept() {
    let memory = memory(1024);
    let (before, kept) = FlowTable::over(memory, 256, 2, SEED, 0);
    assert_eq!(kept, 0);
    for number in 0..200 {
        before.insert(1, &flow_of(number, TCP), 10).unwrap();
        establish(&before, &flow_of(number, TCP), 20);
    }
    drop(before);
    let (after, kept) = FlowTable::over(memory, 256, 3, SEED, 5000);
    assert_eq!((kept, after.len()), (200, 200));
    for number in 0..200 {
        let flow = flow_of(number, TCP);
        let (f, r) = find_both(&after, &flow).unwrap();
        assert_eq!((after.rewrite_of(f), after.rewrite_of(r)), (flow.forward.1, flow.reverse.1));
        assert_eq!(after.state(f), FlowState::Established);
        assert_eq!(after.slot(f).created.load(Relaxed), 10);
        assert_eq!(after.insert(2, &flow, 5000), Err(InsertError::Exists(f)));
        assert!(after.remove(2, r, 5000));
    }
    assert!(after.is_empty());
}

/// What a process leaves that dies between two stores, and worse.
#[test]
fn halves_are_removed() {
    type Damage = fn(slots: &[FlowSlot], forward: usize, reverse: usize, other_reverse: usize);
    let damages: [(&str, Damage); 8] = [
        ("died before the forward entry was published", |slots, f, _, _| slots[f].meta.store(0, Relaxed)),
        ("died before the reverse entry was cleared", |slots, _, r, _| slots[r].meta.store(0, Relaxed)),
        ("peer out of range", |slots, f, _, _| slots[f].peer.store(u32::MAX, Relaxed)),
        ("peer is another flow's", |slots, f, _, other| slots[f].peer.store(other as u32, Relaxed)),
        ("its own peer", |slots, f, _, _| slots[f].peer.store(f as u32, Relaxed)),
        ("two forward entries", |slots, _, r, _| _ = slots[r].flags.fetch_or(FLOW_FORWARD, Relaxed)),
        ("unknown op", |slots, f, _, _| _ = slots[f].flags.fetch_or(0xff, Relaxed)),
        ("not where its hash leads", |slots, f, _, _| F::store(&slots[f].saddr, F::from_ip(address(1, 1)))),
    ];
    for (what, damage) in damages {
        let memory = memory(1024);
        let (before, _) = FlowTable::over(memory, 256, 1, SEED, 0);
        let (good, bad) = (flow_of(1, TCP), flow_of(2, TCP));
        before.insert(0, &good, 0).unwrap();
        before.insert(0, &bad, 0).unwrap();
        let (f, r) = find_both(&before, &bad).unwrap();
        let other = find(&before, &good.reverse.0).unwrap();
        damage(memory, f as usize, r as usize, other as usize);
        let live = [f, r].map(|slot| memory[slot as usize].meta.load(Relaxed) != 0);
        let (after, kept) = FlowTable::over(memory, 256, 1, SEED, 100);
        assert_eq!((kept, after.len()), (1, 1), "{what}");
        assert!(find_both(&after, &good).is_some(), "{what}");
        assert_eq!(memory.iter().filter(|slot| slot.meta.load(Relaxed) != 0).count(), 2, "{what}");
        // BPF programs may still copy what was removed just now.
        for (slot, was_live) in [f, r].into_iter().zip(live) {
            assert_eq!(after.ownership.is_usable(slot as usize, 100 + GRACE_TICKS - 1), !was_live, "{what}");
            assert!(after.ownership.is_usable(slot as usize, 100 + GRACE_TICKS), "{what}");
        }
        after.insert(0, &bad, 100).unwrap();
    }
}

#[test]
fn a_half_is_removed_though_its_buckets_are_everywhere() {
    for seed in 0..32 {
        let memory = memory(8);
        let (before, _) = FlowTable::over(memory, 2, 1, seed, 0);
        let index = before.insert(0, &flow_of(1, TCP), 0).unwrap();
        memory[index as usize].meta.store(0, Relaxed);
        let (after, kept) = FlowTable::over(memory, 2, 1, seed, 0);
        assert_eq!((kept, after.len()), (0, 0));
        assert!(memory.iter().all(|slot| slot.meta.load(Relaxed) == 0));
    }
}

#[test]
fn nothing_survives_another_seed() {
    let memory = memory(4096);
    let (before, _) = FlowTable::over(memory, 16, 1, SEED, 0);
    (0..10).for_each(|number| _ = before.insert(0, &flow_of(number, TCP), 0).unwrap());
    let (after, kept) = FlowTable::over(memory, 16, 1, SEED + 1, 0);
    // A slot may lie in the right bucket by chance, both slots of a flow seldom.
    assert!(kept <= 1);
    assert_eq!(after.len(), kept);
}

#[test]
fn slots_cleared_before_are_free_after_a_restart() {
    let memory = memory(8);
    let (before, _) = FlowTable::over(memory, 2, 1, SEED, 0);
    let flow = flow_of(1, TCP);
    let index = before.insert(0, &flow, 500).unwrap();
    before.remove(0, index, 500);
    assert!(!before.ownership.is_usable(index as usize, 501));
    let (after, _) = FlowTable::over(memory, 2, 1, SEED, 501);
    assert_eq!((0..8).filter(|&slot| after.ownership.is_usable(slot, 501)).count(), 8);
}

#[test]
fn a_lower_limit_keeps_flows_and_refuses_new_ones() {
    let memory = memory(64);
    let (before, _) = FlowTable::over(memory, 16, 1, SEED, 0);
    for number in 0..10 {
        before.insert(0, &flow_of(number, TCP), 0).unwrap();
        establish(&before, &flow_of(number, TCP), 0);
    }
    let (after, kept) = FlowTable::over(memory, 5, 1, SEED, 0);
    assert_eq!(kept, 10);
    assert_eq!(after.insert(0, &flow_of(100, TCP), 100), Err(InsertError::Limit));
    assert_eq!(after.len(), 10);
}
