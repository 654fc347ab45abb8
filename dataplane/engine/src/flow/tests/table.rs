//! The flow table as one worker sees it, and what the tests of a family share.

mod concurrent;
mod doubt;
mod limits;
mod model;
mod position;
mod restart;

use std::sync::atomic::Ordering::Relaxed;

use super::{F, address};
use crate::checksum;
use crate::family::Family;
use crate::flow::ownership::GRACE_TICKS;
use crate::flow::*;

pub type FlowKey = crate::flow::FlowKey<F>;
pub type FlowSlot = crate::flow::FlowSlot<F>;
pub type FlowTable = crate::flow::FlowTable<F>;
pub type NewFlow = crate::flow::NewFlow<F>;
pub type Rewrite = crate::flow::Rewrite<F>;
pub type Tuple = crate::flow::Tuple<F>;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// A client's flow through a VIP to a backend, with SNAT: everything in it follows from its number.
pub fn flow_of(number: u32, protocol: u8) -> NewFlow {
    let port = |offset: u32| (number.wrapping_mul(7) + offset) as u16 | 1;
    let client = (address(10, number), port(1));
    let vip = (address(192, 1), 80);
    let snat = (address(172, 1), port(2));
    let backend = (address(11, number), 8080);
    let [d, e, f, _] = number.to_le_bytes();
    NewFlow {
        forward: (
            FlowKey::new(client, vip, 0, Hook::UplinkIn, protocol),
            Rewrite { tuple: Tuple::new(snat, backend), op: FlowOp::Worker, ifindex: number, dmac: [2, 0, 0, d, e, f] },
        ),
        reverse: (
            FlowKey::new(backend, snat, 0, Hook::UplinkIn, protocol),
            Rewrite { tuple: Tuple::new(vip, client), op: FlowOp::Neigh, ifindex: !number, dmac: [4, 0, 0, d, e, f] },
        ),
        snat: number.is_multiple_of(2),
    }
}

pub fn find(table: &FlowTable, key: &FlowKey) -> Option<SlotIndex> {
    table.lookup(key, table.hash(key))
}

/// Both directions' slots, if the flow is there as a whole.
pub fn find_both(table: &FlowTable, flow: &NewFlow) -> Option<(SlotIndex, SlotIndex)> {
    match (find(table, &flow.forward.0), find(table, &flow.reverse.0)) {
        (Some(forward), Some(reverse)) => Some((forward, reverse)),
        (None, None) => None,
        half => panic!("half a flow: {half:?}"),
    }
}

/// The packets of a handshake, as far as `seen` tells.
pub fn establish(table: &FlowTable, flow: &NewFlow, now: u32) {
    let (forward, reverse) = find_both(table, flow).expect("the flow is there");
    table.touch(forward, Segment::unnumbered(SEEN_SYN as u8), now);
    table.touch(reverse, Segment::unnumbered((SEEN_SYN | SEEN_ACK) as u8), now);
    table.touch(forward, Segment::unnumbered(SEEN_ACK as u8), now);
}

#[test]
fn a_flow_is_found_in_both_directions() {
    let table = FlowTable::in_memory(16, 1, 1);
    let flow = flow_of(5, TCP);
    let inserted = table.insert(0, &flow, 100).unwrap();
    let (forward, reverse) = find_both(&table, &flow).unwrap();
    assert_eq!(inserted, forward);
    assert_eq!((table.key_of(forward), table.rewrite_of(forward)), flow.forward);
    assert_eq!((table.key_of(reverse), table.rewrite_of(reverse)), flow.reverse);
    assert_eq!((table.slot(forward).peer.load(Relaxed), table.slot(reverse).peer.load(Relaxed)), (reverse, forward));
    assert_eq!(table.slot(forward).flags.load(Relaxed), FlowOp::Worker as u16 | FLOW_FORWARD);
    assert_eq!(table.slot(reverse).flags.load(Relaxed), FlowOp::Neigh as u16);
    assert_eq!(table.len(), 1);
}

#[test]
fn removal_takes_both_directions_from_either() {
    let table = FlowTable::in_memory(16, 2, 1);
    for (number, forward) in [(2, true), (4, false)] {
        let flow = flow_of(number, UDP);
        table.insert(0, &flow, 0).unwrap();
        let (f, r) = find_both(&table, &flow).unwrap();
        assert_eq!(table.slot(f).flags.load(Relaxed) & FLOW_SNAT, FLOW_SNAT);
        assert!(table.remove(1, if forward { f } else { r }, 0));
        assert!(!table.remove(1, f, 0) && !table.remove(1, r, 0), "once is enough");
        assert_eq!(find_both(&table, &flow), None);
        assert!(table.is_empty());
    }
}

#[test]
fn keys_are_unique_over_both_directions() {
    let table = FlowTable::in_memory(16, 1, 1);
    let flow = flow_of(1, TCP);
    let index = table.insert(0, &flow, 0).unwrap();
    assert_eq!(table.insert(0, &flow, 0), Err(InsertError::Exists(index)));
    let other_client = NewFlow { reverse: flow.reverse, ..flow_of(2, TCP) };
    assert_eq!(table.insert(0, &other_client, 0), Err(InsertError::ReverseTaken));
    let mirror = NewFlow { forward: flow_of(3, TCP).forward, reverse: flow_of(3, TCP).forward, snat: false };
    assert_eq!(table.insert(0, &mirror, 0), Err(InsertError::ReverseTaken));
    assert_eq!(table.len(), 1);
}

#[test]
fn every_part_of_the_key_counts() {
    let flow = flow_of(1, TCP);
    let others = [
        flow.forward.0.tuple().at(0, Hook::UplinkOut, TCP),
        flow.forward.0.tuple().at(7, Hook::UplinkIn, TCP),
        flow.forward.0.tuple().at(0, Hook::UplinkIn, UDP),
        FlowKey { saddr: F::from_ip(address(1, 1)), ..flow.forward.0 },
        FlowKey { daddr: F::from_ip(address(1, 1)), ..flow.forward.0 },
        FlowKey { ports: 1, ..flow.forward.0 },
    ];
    // With two buckets and many seeds, lookup meets the entry for each of the others.
    for seed in 0..32 {
        let table = FlowTable::in_memory(2, 1, seed);
        table.insert(0, &flow, 0).unwrap();
        for key in others {
            assert_eq!(find(&table, &key), None);
        }
    }
}

#[test]
fn differences_lead_from_the_old_checksum_to_the_new() {
    let table = FlowTable::in_memory(16, 1, 1);
    for number in 0..10 {
        let flow = flow_of(number, TCP);
        let slot = table.slot(table.insert(0, &flow, 0).unwrap());
        let check = |t: Tuple| checksum::l4::<F>(t.saddr, t.daddr, TCP, &[&t.ports.to_ne_bytes()[..], b"payload"].concat());
        let (old, new) = (flow.forward.0.tuple(), flow.forward.1.tuple);
        let addresses = checksum::apply(check(old), slot.addr_diff.load(Relaxed));
        assert_eq!(addresses, check(Tuple { ports: old.ports, ..new }));
        assert_eq!(checksum::apply(addresses, slot.port_diff.load(Relaxed)), check(new));
    }
}

#[test]
fn touch_collects_flags_and_refreshes_once_a_second() {
    let table = FlowTable::in_memory(16, 1, 1);
    let start = u32::MAX - 10;
    let index = table.insert(0, &flow_of(1, TCP), start).unwrap();
    let (seen, last) = (&table.slot(index).seen, &table.slot(index).last);
    table.touch(index, Segment::unnumbered(0xff), start + 5);
    assert_eq!((seen.load(Relaxed), last.load(Relaxed)), (SEEN_ANY | SEEN_FIN | SEEN_SYN | SEEN_RST | SEEN_ACK, start));
    table.touch(index, Segment::unnumbered(0), start.wrapping_add(TICKS_PER_SECOND));
    assert_eq!(last.load(Relaxed), start.wrapping_add(TICKS_PER_SECOND), "over the wrap of ticks");
    table.touch(index, Segment::unnumbered(0), start);
    assert_eq!(last.load(Relaxed), start.wrapping_add(TICKS_PER_SECOND), "another CPU's clock may be ahead");
}

#[test]
fn states_of_tcp() {
    use FlowState::*;
    let (fin, syn, rst, ack) = (SEEN_FIN, SEEN_SYN, SEEN_RST, SEEN_ACK);
    let states = [
        (0, 0, Embryonic),
        (syn, 0, Embryonic),
        (syn, syn | ack, Embryonic),       // half open: the source may be forged
        (syn | ack | fin, 0, Embryonic),   // forged altogether
        (syn | fin, syn | ack, Embryonic), // likewise
        (syn | ack, syn | ack, Established),
        (ack, ack, Established), // taken over in the middle
        (syn | ack | fin, syn | ack, CloseWait),
        (syn | ack, syn | ack | fin, CloseWait),
        (syn | ack | fin, syn | ack | fin, Closed),
        (syn | rst, 0, Closed),
        (syn, rst | ack, Closed), // refused
    ];
    let table = FlowTable::in_memory(16, 1, 1);
    let index = table.insert(0, &flow_of(1, TCP), 0).unwrap();
    let peer = table.slot(table.slot(index).peer.load(Relaxed));
    for (forward, reverse, state) in states {
        let any = |bits: u32| if bits == 0 { 0 } else { bits | SEEN_ANY };
        table.slot(index).seen.store(any(forward), Relaxed);
        peer.seen.store(any(reverse), Relaxed);
        assert_eq!(table.state(index), state, "{forward:#x} {reverse:#x}");
    }
}

#[test]
fn states_of_udp() {
    let table = FlowTable::in_memory(16, 1, 1);
    let index = table.insert(0, &flow_of(1, UDP), 0).unwrap();
    table.touch(index, Segment::unnumbered(0), 0);
    assert_eq!(table.state(index), FlowState::Embryonic);
    table.touch(table.slot(index).peer.load(Relaxed), Segment::unnumbered(0), 0);
    assert_eq!(table.state(index), FlowState::Established);
}

#[test]
fn records_show_whole_flows() {
    let table = FlowTable::in_memory(16, 1, 1);
    table.insert(0, &flow_of(1, TCP), 100).unwrap();
    let two = table.insert(0, &flow_of(2, TCP), 200).unwrap();
    establish(&table, &flow_of(2, TCP), 290);
    table.remove(0, find(&table, &flow_of(1, TCP).forward.0).unwrap(), 300);
    let records = table.records(330);
    assert_eq!(records.len(), 1);
    let record = &records[0];
    let flow = flow_of(2, TCP);
    assert_eq!((record.slot, record.forward, record.reverse, record.snat), (two, flow.forward, flow.reverse, true));
    assert_eq!((record.state, record.age, record.idle), (FlowState::Established, 130, 40));
}

#[test]
fn a_slot_rests_for_the_grace_period() {
    // 8 slots; the flow's two are the only ones that its keys may take twice.
    for start in [0, 1000, u32::MAX - 30, u32::MAX / 4 - 30] {
        let table = FlowTable::in_memory(2, 1, 1);
        let flow = flow_of(1, TCP);
        let mut taken = Vec::new();
        let mut now = start;
        // Fill and clear until no slot is left.
        while let Ok(index) = table.insert(0, &flow, now) {
            let peer = table.slot(index).peer.load(Relaxed);
            assert!(!taken.contains(&index) && !taken.contains(&peer), "a slot was used again within {} ticks", now.wrapping_sub(start));
            taken.extend([index, peer]);
            assert!(table.remove(0, index, now));
            now = now.wrapping_add(1);
        }
        let over = start.wrapping_add(GRACE_TICKS);
        assert_eq!(table.insert(0, &flow, over.wrapping_sub(1)), Err(InsertError::Full));
        let again = table.insert(0, &flow, over).unwrap();
        assert!(taken[..2].contains(&again), "the slots of the first removal are the first to come back");
    }
}

#[test]
fn a_worker_with_an_old_tick_does_not_shorten_the_grace_period() {
    let table = FlowTable::in_memory(2, 2, 1);
    let flow = flow_of(1, TCP);
    let first = table.insert(0, &flow, 1000).unwrap();
    // Worker 1 is at tick 1100 already when worker 0, still in the batch of tick 1000, removes the flow.
    table.sweep(1, 0, &Timeouts::default(), 1100);
    assert!(table.remove(0, first, 1000));
    for _ in 0..table.slots.len() {
        if let Ok(index) = table.insert(1, &flow, 1100) {
            assert_ne!(index, first);
            table.remove(1, index, 1100);
        }
    }
}
