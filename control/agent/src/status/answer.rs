//! From what the control loop and the workers know to documents.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ringway_engine::affinity::AffinityTable;
use ringway_engine::family::Family;
use ringway_engine::flow::{FlowKey, FlowOp, FlowRecord, FlowState, FlowTable, FlowTables, Hook, Rewrite, TICK_SHIFT, Tuple};
use ringway_engine::tables::{BackendSet, Devices, FrontendKey, Snapshot, Target};
use ringway_engine::verdict::DropReason;
use ringway_io::{Port, SocketStatus, WorkerState, WorkerStats, WorkerStatus};
use ringway_model::{IpFamily, ServicePortView, Vip};
use rustc_hash::{FxHashMap, FxHashSet};

use super::documents::*;

/// `02:52:00:00:00:01`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What the workers say about themselves, the statistics in the order of the states.
pub fn workers(status: &[WorkerStatus], stats: &[WorkerStats]) -> Vec<WorkerDocument> {
    let document = |(status, stats): (&WorkerStatus, &WorkerStats)| WorkerDocument {
        worker: status.worker,
        core: status.core,
        state: match &status.state {
            WorkerState::Running => "running".into(),
            WorkerState::Stopped => "stopped".into(),
            WorkerState::Failed(reason) => format!("failed: {reason}"),
        },
        generation: status.generation,
        packets: stats.packets,
        bytes: stats.bytes,
        batches: stats.batches,
        sleeps: stats.sleeps,
        wakeups: stats.wakeups,
    };
    status.iter().zip(stats).map(document).collect()
}

/// The queues of an uplink or of a member of a bond, by its port, and the mode in which all its sockets are bound (`copy+zero-copy` if they
/// differ).
pub fn queues(port: u8, status: &[WorkerStatus]) -> (Vec<QueueDocument>, String) {
    let mut queues = Vec::new();
    let mut modes = Vec::new();
    for (worker, socket) in sockets(status).filter(|(_, socket)| socket.port == Port::Uplink(port)) {
        queues.push(QueueDocument { queue: socket.queue, worker, failed: socket.failed.clone() });
        modes.push(socket.mode.label());
    }
    queues.sort_by_key(|queue| queue.queue);
    modes.sort_unstable();
    modes.dedup();
    (queues, modes.join("+"))
}

fn sockets(status: &[WorkerStatus]) -> impl Iterator<Item = (usize, &SocketStatus)> {
    status.iter().flat_map(|worker| worker.sockets.iter().map(|socket| (worker.worker, socket)))
}

/// Frames of all workers.
pub fn frames(stats: &[WorkerStats]) -> FramesDocument {
    stats.iter().map(|worker| worker.frames).fold(FramesDocument::default(), |sum, frames| FramesDocument {
        total: sum.total + frames.total,
        pool: sum.pool + frames.pool,
        fill: sum.fill + frames.fill,
        rx: sum.rx + frames.rx,
        tx: sum.tx + frames.tx,
        completion: sum.completion + frames.completion,
        held: sum.held + frames.held,
        lost: sum.lost + frames.lost,
    })
}

/// How full everything is. Backends are those in force, each address and port once.
pub fn limits(
    services: usize,
    snapshot: &Snapshot,
    vips: &BTreeMap<IpAddr, Vip>,
    (flows, affinity): (&FlowTables, &AffinityTable),
    now: u32,
    stats: &[WorkerStats],
) -> LimitsDocument {
    let targets = snapshot.frontends.iter().flat_map(|(_, frontend)| [&frontend.outside, &frontend.inside]);
    let sets = targets.filter_map(|target| if let Target::Backends(set) = target { Some(set) } else { None });
    // Frontends of one service port share their set.
    let sets: FxHashMap<*const BackendSet, &Arc<BackendSet>> = sets.map(|set| (Arc::as_ptr(set), set)).collect();
    let backends: FxHashSet<_> = sets.values().flat_map(|set| set.backends.iter().map(|backend| (backend.address, backend.port))).collect();
    let frames = frames(stats);
    let limit = |count: usize, max: usize| Limit { count: count as u64, max: max as u64 };
    let frontends = |family| {
        let of_family = snapshot.frontends.iter().filter(|(key, _)| IpFamily::of(&key.address) == family);
        limit(of_family.count(), crate::programs::FRONTENDS_MAX)
    };
    let vips = |family| limit(vips.keys().filter(|address| IpFamily::of(address) == family).count(), crate::programs::VIPS_MAX);
    LimitsDocument {
        services: limit(services, 0),
        frontends: frontends(IpFamily::V4),
        frontends6: frontends(IpFamily::V6),
        vips: vips(IpFamily::V4),
        vips6: vips(IpFamily::V6),
        backends: limit(backends.len(), 0),
        flows: limit(flows.v4.len(), flows.v4.flows_max()),
        flows6: limit(flows.v6.len(), flows.v6.flows_max()),
        affinity: limit(affinity.len(now), affinity.entries_max()),
        affinity_evicted: affinity.evicted(),
        frames: Limit { count: frames.total.saturating_sub(frames.pool + frames.fill), max: frames.total },
    }
}

/// Every endpoint once for each protocol, with the service ports that use it.
pub fn backends(services: &[ServicePortView]) -> BackendsDocument {
    let mut backends: BTreeMap<_, BackendDocument> = BTreeMap::new();
    for service in services {
        let port_name = if service.port_name.is_empty() { String::new() } else { format!(":{}", service.port_name) };
        let name = format!("{}/{}{port_name}", service.namespace, service.name);
        for endpoint in &service.endpoints {
            let state = match (endpoint.ready, endpoint.serving, endpoint.terminating) {
                (true, _, false) => "ready",
                (_, true, true) => "terminating",
                _ => "not ready",
            };
            let backend = backends.entry((endpoint.address, endpoint.port, service.protocol)).or_insert_with(|| BackendDocument {
                address: endpoint.address,
                port: endpoint.port,
                protocol: service.protocol.to_string(),
                node: endpoint.node.clone(),
                local: endpoint.local,
                state: state.into(),
                services: Vec::new(),
            });
            backend.services.push(name.clone());
        }
    }
    BackendsDocument { backends: backends.into_values().collect() }
}

/// All flows. Copies the tables, so call it where waiting is allowed. `aliased` names the frontends that stand behind aliases.
pub fn flows(tables: &FlowTables, devices: &Devices, aliased: &FxHashMap<FrontendKey, FrontendKey>, now: u32) -> FlowsDocument {
    let mut flows = flows_of(&tables.v4, devices, aliased, now);
    flows.extend(flows_of(&tables.v6, devices, aliased, now));
    FlowsDocument { flows }
}

fn flows_of<F: Family>(
    table: &FlowTable<F>,
    devices: &Devices,
    aliased: &FxHashMap<FrontendKey, FrontendKey>,
    now: u32,
) -> Vec<FlowDocument> {
    table.records(now).iter().map(|record| flow(record, devices, aliased)).collect()
}

fn flow<F: Family>(record: &FlowRecord<F>, devices: &Devices, aliased: &FxHashMap<FrontendKey, FrontendKey>) -> FlowDocument {
    let (key, rewrite) = &record.forward;
    let (address, port) = key.tuple().dst();
    let addressed = FrontendKey { address: address.into(), port, protocol: key.protocol() };
    let frontend = aliased.get(&addressed).unwrap_or(&addressed);
    FlowDocument {
        protocol: protocol_name(key.protocol()),
        state: match record.state {
            FlowState::Embryonic => "embryonic",
            FlowState::Established => "established",
            FlowState::CloseWait => "close-wait",
            FlowState::Closed => "closed",
        }
        .into(),
        client: pair(key.tuple().src()),
        frontend: pair((frontend.address, frontend.port)),
        backend: pair(rewrite.tuple.dst()),
        nat_binding: record.snat.then(|| pair(rewrite.tuple.src())),
        age_s: seconds(record.age),
        idle_s: seconds(record.idle),
        forward: direction(&record.forward, devices),
        reverse: direction(&record.reverse, devices),
    }
}

/// `address:port`, or `[address]:port`.
fn pair((address, port): (impl Into<IpAddr>, u16)) -> String {
    SocketAddr::new(address.into(), port).to_string()
}

fn direction<F: Family>((key, rewrite): &(FlowKey<F>, Rewrite<F>), devices: &Devices) -> DirectionDocument {
    let pairs = |tuple: Tuple<F>| PairDocument { source: pair(tuple.src()), destination: pair(tuple.dst()) };
    let device = |ifindex: u32| devices.get(ifindex).map_or_else(|| format!("device {ifindex}"), |device| device.name.clone());
    let op = match rewrite.op {
        FlowOp::Pass => "pass",
        FlowOp::Bridge => "bridge",
        FlowOp::Peer => "peer",
        FlowOp::Neigh => "neigh",
        FlowOp::Received => "received",
        FlowOp::Worker => "worker",
    };
    DirectionDocument {
        hook: match key.hook() {
            Some(Hook::PodIn) => "pod-in",
            Some(Hook::PodOut) => "pod-out",
            Some(Hook::UplinkIn) => "uplink-in",
            Some(Hook::UplinkOut) => "uplink-out",
            Some(Hook::NodeOut) => "node-out",
            None => "unknown",
        }
        .into(),
        device: (key.zone() != 0).then(|| device(key.zone())),
        from: pairs(key.tuple()),
        to: pairs(rewrite.tuple),
        executor: if rewrite.op == FlowOp::Worker { "worker" } else { "edge" }.into(),
        op: op.into(),
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        6 => "TCP".into(),
        17 => "UDP".into(),
        132 => "SCTP".into(),
        other => format!("protocol {other}"),
    }
}

/// Ticks in seconds, to a hundredth.
fn seconds(ticks: u32) -> f64 {
    let ns = u64::from(ticks) << TICK_SHIFT;
    (ns / 10_000_000) as f64 / 100.0
}

/// The neighbors of a snapshot, those in use first, and those that are being resolved.
pub fn neighbors(snapshot: &Snapshot, in_use: &FxHashSet<(u32, IpAddr)>) -> NeighborsDocument {
    let device = |ifindex: u32| snapshot.devices.get(ifindex).map_or_else(|| format!("device {ifindex}"), |device| device.name.clone());
    let document = |(ifindex, address): (u32, IpAddr), mac: Option<[u8; 6]>| NeighborDocument {
        device: device(ifindex),
        ifindex,
        address,
        mac: mac.map(mac_text),
        in_use: in_use.contains(&(ifindex, address)),
    };
    let known = snapshot.neighbors.by_address.iter().map(|(key, mac)| document(*key, Some(*mac)));
    let asked = in_use.iter().filter(|key| !snapshot.neighbors.by_address.contains_key(key)).map(|key| document(*key, None));
    let mut neighbors: Vec<_> = known.chain(asked).collect();
    neighbors.sort_by(|a, b| (!a.in_use, &a.device, a.address).cmp(&(!b.in_use, &b.device, b.address)));
    NeighborsDocument { neighbors }
}

/// Packets by verdict and by reason, and what happened beside them.
pub fn stats(status: &[WorkerStatus], stats: &[WorkerStats], programs: Vec<CounterDocument>) -> StatsDocument {
    let mut verdicts = VerdictsDocument::default();
    let mut drops = vec![0u64; DropReason::ALL.len()];
    for worker in stats {
        verdicts.uplink += worker.verdicts.uplink;
        verdicts.host += worker.verdicts.host;
        verdicts.hold += worker.verdicts.hold;
        verdicts.refused += worker.verdicts.refused;
        verdicts.icmp_errors += worker.verdicts.icmp_errors;
        verdicts.pings += worker.verdicts.pings;
        for (sum, count) in drops.iter_mut().zip(worker.verdicts.drops) {
            *sum += count;
        }
    }
    verdicts.drop = drops.iter().sum();
    let reasons = DropReason::ALL.iter().zip(drops);
    StatsDocument {
        verdicts,
        drops: reasons
            .map(|(reason, packets)| DropDocument { reason: reason.label().into(), packets, sentence: reason.sentence().into() })
            .collect(),
        workers: workers(status, stats),
        sockets: sockets(status).map(|(worker, socket)| socket_document(worker, socket)).collect(),
        frames: frames(stats),
        programs,
    }
}

fn socket_document(worker: usize, socket: &SocketStatus) -> SocketDocument {
    let counters = &socket.counters;
    SocketDocument {
        device: socket.ifname.clone(),
        queue: socket.queue,
        worker,
        mode: socket.mode.label().into(),
        rx_packets: counters.rx_packets,
        rx_bytes: counters.rx_bytes,
        tx_packets: counters.tx_packets,
        tx_bytes: counters.tx_bytes,
        kicks: counters.kicks,
        rx_dropped: counters.rx_dropped,
        rx_ring_full: counters.rx_ring_full,
        fill_ring_empty: counters.fill_ring_empty,
        rx_invalid: counters.rx_invalid,
        tx_invalid: counters.tx_invalid,
    }
}

#[cfg(test)]
mod tests;
