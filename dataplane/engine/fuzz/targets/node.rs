//! The node on paper of the pipeline tests, anew for each input but in the same memory: a flow table's is never given back.

#[path = "../../tests/pipeline/bed.rs"]
pub mod bed;
#[path = "../../tests/pipeline/frames.rs"]
pub mod frames;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};

use ringway_engine::affinity::AffinityTable;
use ringway_engine::engine::{Engine, EngineConfig};
use ringway_engine::flow::{FlowSlot, FlowTable, Timeouts};
use ringway_engine::tables::{PodDelivery, Snapshot};
use ringway_engine::wire::{SCTP, TCP, UDP};

use bed::*;

const FLOWS_MAX: usize = 64;

/// What does not change: the services, and the memory.
struct Fixed {
    snapshots: [Snapshot; 2],
    slots: &'static [FlowSlot],
    affinity: Arc<AffinityTable>,
}

static FIXED: LazyLock<Fixed> = LazyLock::new(|| {
    let slots = (0..FlowTable::slots_for(FLOWS_MAX)).map(|_| FlowSlot::default()).collect::<Box<[FlowSlot]>>();
    let beds = [PodDelivery::Edge, PodDelivery::Direct].map(|delivery| {
        let mut bed = Bed::with(FLOWS_MAX, (10_000, 10_063), delivery);
        for protocol in [TCP, UDP, SCTP] {
            bed.serve(80, protocol, &[(REMOTE, 8080)]);
            bed.serve(81, protocol, &[(A, 8080), (C, 80), (NODE, 8080)]);
            bed.serve(82, protocol, &[]);
        }
        bed.snapshot
    });
    Fixed { snapshots: beds, slots: Box::leak(slots), affinity: Arc::new(AffinityTable::in_memory(16, 7)) }
});

/// Ports 80 (a backend elsewhere), 81 (here) and 82 (none) of the VIP are served.
pub fn node(delivery_is_direct: bool) -> Bed {
    let fixed = &*FIXED;
    fixed.slots.iter().for_each(|slot| slot.meta.store(0, Relaxed));
    let flows = Arc::new(FlowTable::over(fixed.slots, FLOWS_MAX, 1, 7, 0).0);
    let config = EngineConfig { worker: 0, workers: 1, transmits_on: vec![true], timeouts: Timeouts::default(), seed: 42 };
    let engine = Engine::new(config, Arc::clone(&flows), Arc::clone(&fixed.affinity));
    let snapshot = fixed.snapshots[usize::from(delivery_is_direct)].clone();
    Bed { snapshot, flows, affinity: Arc::clone(&fixed.affinity), engine, now: 1000 }
}
