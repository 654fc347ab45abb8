//! The node: its engine, and frames for that.

use std::sync::Arc;

use arrayvec::ArrayVec;
use ringway_engine::affinity::AffinityTable;
use ringway_engine::engine::{BATCH_MAX, Engine, EngineConfig, Origin, Packet};
use ringway_engine::flow::{FlowTable, FlowTables, Hook, Timeouts};
use ringway_engine::order::{Upcall, upcall_mac};
use ringway_engine::tables::*;
use ringway_engine::verdict::Verdict;
use ringway_engine::wire::{TCP, UDP};

use super::tables::tables;
use super::{Endpoint, Outcome, Side};

/// The node as a family meets it.
pub struct Bed<F: Side> {
    pub snapshot: Snapshot,
    /// Flows of this family, and of both.
    pub flows: Arc<FlowTable<F>>,
    pub flow_tables: FlowTables,
    pub affinity: Arc<AffinityTable>,
    pub engine: Engine,
    pub now: u32,
}

impl<F: Side> Bed<F> {
    pub fn new() -> Bed<F> {
        Bed::with(4096, (10_000, 29_999), PodDelivery::Edge)
    }

    /// For those who make many: a table's memory lives as long as the process.
    pub fn small() -> Bed<F> {
        Bed::sized((16, 16), (10_000, 29_999), PodDelivery::Edge)
    }

    pub fn with(flows_max: usize, ports: (u16, u16), pod_delivery: PodDelivery) -> Bed<F> {
        Bed::sized((flows_max, 1024), ports, pod_delivery)
    }

    /// TCP and UDP on port 80 lead to this backend. Small, too.
    pub fn served(backend: Endpoint, pod_delivery: PodDelivery) -> Bed<F> {
        let mut bed = Bed::sized((16, 16), (10_000, 29_999), pod_delivery);
        bed.serve(80, TCP, &[backend]);
        bed.serve(80, UDP, &[backend]);
        bed
    }

    fn sized((flows_max, affinity_max): (usize, usize), ports: (u16, u16), pod_delivery: PodDelivery) -> Bed<F> {
        let affinity = Arc::new(AffinityTable::in_memory(affinity_max, 7));
        Bed::over(FlowTables::in_memory(flows_max, 1, 7), affinity, tables(ports, pod_delivery))
    }

    pub fn over(flow_tables: FlowTables, affinity: Arc<AffinityTable>, snapshot: Snapshot) -> Bed<F> {
        let flows = Arc::clone(F::flows(&flow_tables));
        let engine = Engine::new(config(), flow_tables.clone(), Arc::clone(&affinity));
        Bed { snapshot, flows, flow_tables, affinity, engine, now: 1000 }
    }

    /// VIP:port/protocol leads to these backends, from everywhere.
    pub fn serve(&mut self, port: u16, protocol: u8, backends: &[Endpoint]) {
        self.serve_at((F::SIDE.vip, port), protocol, backends);
    }

    /// Likewise another address.
    pub fn serve_at(&mut self, frontend: Endpoint, protocol: u8, backends: &[Endpoint]) {
        let target = if backends.is_empty() {
            Target::NoBackend
        } else {
            let backends = backends.iter().map(|&(address, port)| Backend { address, port, local: false }).collect();
            Target::Backends(Arc::new(BackendSet { backends, maglev: None }))
        };
        self.publish_at(frontend, protocol, |frontend| (frontend.outside, frontend.inside) = (target.clone(), target.clone()));
    }

    pub fn publish(&mut self, port: u16, protocol: u8, change: impl FnOnce(&mut Frontend)) {
        self.publish_at((F::SIDE.vip, port), protocol, change);
    }

    pub fn publish_at(&mut self, (address, port): Endpoint, protocol: u8, change: impl FnOnce(&mut Frontend)) {
        let key = FrontendKey { address, port, protocol };
        let mut frontend = self.snapshot.frontends.lookup(&key).map_or_else(
            || Frontend {
                service: Arc::new(ServicePortName { namespace: "default".into(), name: "web".into(), port: "".into() }),
                kind: FrontendKind::LoadBalancerIp,
                outside: Target::NoBackend,
                inside: Target::NoBackend,
                source_ranges: None,
                affinity: None,
            },
            |frontend| Frontend::clone(frontend),
        );
        change(&mut frontend);
        self.snapshot.frontends = self.snapshot.frontends.with([(key, Some(frontend))]);
        self.snapshot.generation += 1;
    }

    pub fn run(&mut self, origin: Origin, frame: &[u8]) -> Outcome {
        self.run_batch(&[(origin, frame)]).remove(0)
    }

    /// One batch of frames.
    pub fn run_batch(&mut self, frames: &[(Origin, &[u8])]) -> Vec<Outcome> {
        // The room behind a packet holds what was there before it.
        let room = |frame: &[u8]| {
            let mut bytes = frame.to_vec();
            bytes.resize(4096 - 256, 0xa5);
            bytes
        };
        let mut memory: Vec<Vec<u8>> = frames.iter().map(|(_, frame)| room(frame)).collect();
        let mut packets: Vec<_> = frames
            .iter()
            .zip(&mut memory)
            .map(|((origin, frame), bytes)| Packet { origin: *origin, bytes: &mut bytes[..], len: frame.len() })
            .collect();
        let mut verdicts: ArrayVec<Verdict, BATCH_MAX> = ArrayVec::new();
        self.engine.process(&self.snapshot, self.now, &mut packets, &mut verdicts);
        verdicts
            .iter()
            .zip(&packets)
            .map(|(verdict, packet)| Outcome { verdict: *verdict, frame: packet.bytes[..packet.len].to_vec() })
            .collect()
    }

    pub fn receive(&mut self, frame: &[u8]) -> Outcome {
        self.run(Origin::Uplink(0), frame)
    }

    /// Receives frames as the shell does: those that have to wait come again after each of the others.
    pub fn receive_all(&mut self, frames: &[Vec<u8>]) -> Vec<Outcome> {
        let (mut outcomes, mut waiting) = (Vec::new(), Vec::<Vec<u8>>::new());
        for frame in frames {
            for frame in std::mem::take(&mut waiting).into_iter().chain([frame.clone()]) {
                let out = self.receive(&frame);
                if out.verdict == Verdict::AwaitFirst {
                    assert_eq!(out.frame, frame, "untouched");
                    waiting.push(frame);
                } else {
                    outcomes.push(out);
                }
            }
        }
        for frame in waiting {
            outcomes.push(self.receive(&frame));
        }
        outcomes
    }

    /// As `edge` hands it up.
    pub fn upcall(&mut self, hook: Hook, ifindex: u32, frame: &[u8]) -> Outcome {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&upcall_mac(Upcall { hook, ifindex }));
        self.run(Origin::Host, &frame)
    }
}

pub fn config() -> EngineConfig {
    EngineConfig { worker: 0, workers: 1, transmits_on: vec![true], timeouts: Timeouts::default(), seed: 42 }
}
