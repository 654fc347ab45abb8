//! The node on paper of the pipeline tests, anew for each input but in the same memory: a flow table's is never given back.

#[path = "../../tests/pipeline/bed/mod.rs"]
pub mod bed;
#[path = "../../tests/pipeline/frames.rs"]
pub mod frames;

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};

use ringway_engine::affinity::AffinityTable;
use ringway_engine::family::{Family, V4, V6};
use ringway_engine::flow::{FlowSlot, FlowTable, FlowTables};
use ringway_engine::tables::{PodDelivery, Snapshot};
use ringway_engine::wire::{SCTP, TCP, UDP};

use bed::*;

const FLOWS_MAX: usize = 64;

/// The node; its engine has both families, whichever its name says.
pub type Node = v4::Bed;

/// What does not change: the services, and the memory.
struct Fixed {
    snapshots: [Snapshot; 2],
    slots: &'static [FlowSlot<V4>],
    slots6: &'static [FlowSlot<V6>],
    affinity: Arc<AffinityTable>,
}

static FIXED: LazyLock<Fixed> = LazyLock::new(|| {
    let snapshots = [PodDelivery::Edge, PodDelivery::Direct].map(|delivery| {
        let mut node = Node::with(FLOWS_MAX, (10_000, 10_063), delivery);
        for protocol in [TCP, UDP, SCTP] {
            for [vip, remote, a, c, own] in [[v4::VIP, v4::REMOTE, v4::A, v4::C, v4::NODE], [v6::VIP, v6::REMOTE, v6::A, v6::C, v6::NODE]] {
                node.serve_at((vip, 80), protocol, &[(remote, 8080)]);
                node.serve_at((vip, 81), protocol, &[(a, 8080), (c, 80), (own, 8080)]);
                node.serve_at((vip, 82), protocol, &[]);
            }
        }
        node.snapshot
    });
    Fixed { snapshots, slots: memory(), slots6: memory(), affinity: Arc::new(AffinityTable::in_memory(16, 7)) }
});

fn memory<F: Family>() -> &'static [FlowSlot<F>] {
    let slots = ringway_engine::flow::slots_for(FLOWS_MAX);
    Box::leak((0..slots).map(|_| FlowSlot::default()).collect())
}

fn table<F: Family>(slots: &'static [FlowSlot<F>]) -> Arc<FlowTable<F>> {
    slots.iter().for_each(|slot| slot.meta.store(0, Relaxed));
    Arc::new(FlowTable::over(slots, FLOWS_MAX, 1, 7, 0).0)
}

/// Ports 80 (a backend elsewhere), 81 (here) and 82 (none) of both VIPs are served.
pub fn node(delivery_is_direct: bool) -> Node {
    let fixed = &*FIXED;
    let flow_tables = FlowTables { v4: table(fixed.slots), v6: table(fixed.slots6) };
    Node::over(flow_tables, Arc::clone(&fixed.affinity), fixed.snapshots[usize::from(delivery_is_direct)].clone())
}

/// Who takes part in a family, and where in a frame without options and extension headers something stands.
#[derive(Clone, Copy)]
pub struct Side {
    pub client: Endpoint,
    pub vip: IpAddr,
    pub node: IpAddr,
    pub hop: IpAddr,
    pub errors: &'static [(u8, u8)],
    pub ttl: usize,
    pub source: usize,
    pub l4: usize,
}

pub fn side(is_v6: bool) -> Side {
    if is_v6 {
        use v6::*;
        Side { client: CLIENT_END, vip: VIP, node: NODE, hop: HOP, errors: &ERRORS, ttl: TTL, source: SOURCE, l4: L4 }
    } else {
        use v4::*;
        Side { client: CLIENT_END, vip: VIP, node: NODE, hop: HOP, errors: &ERRORS, ttl: TTL, source: SOURCE, l4: L4 }
    }
}
