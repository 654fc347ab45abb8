//! A node on paper: tables, one engine, frames built by hand.

use std::net::Ipv4Addr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ringway_engine::affinity::AffinityTable;
use ringway_engine::engine::{BATCH_MAX, Engine, EngineConfig, Origin, Packet};
use ringway_engine::flow::{FlowTable, Hook, Timeouts};
use ringway_engine::order::{Upcall, upcall_mac};
use ringway_engine::tables::*;
use ringway_engine::verdict::Verdict;

pub const UPLINK: u32 = 2;
pub const POD_A: u32 = 10;
pub const POD_B: u32 = 11;
pub const BRIDGE: u32 = 20;
pub const PORT_C: u32 = 21;
pub const PORT_D: u32 = 22;
pub const OVERLAY: u32 = 40;
pub const OVERLAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
pub const RW1: u32 = 30;

pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const RW1_MAC: [u8; 6] = [2, 0, 0, 0, 0, 30];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const NODE2_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// All ports of it are ours.
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const NODE2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Routed pods of this node.
pub const A: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 10);
pub const B: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 11);
/// Pods of this node behind one bridge.
pub const C: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 21);
pub const D: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 22);
/// A pod of node 2.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 5);

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const RST: u8 = 0x04;
pub const FIN: u8 = 0x01;

pub fn pod_mac(address: Ipv4Addr) -> [u8; 6] {
    let o = address.octets();
    [2, 1, o[0], o[1], o[2], o[3]]
}

pub struct Bed {
    pub snapshot: Snapshot,
    pub flows: Arc<FlowTable>,
    pub affinity: Arc<AffinityTable>,
    pub engine: Engine,
    pub now: u32,
}

/// What came of one packet.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
}

impl Bed {
    pub fn new() -> Bed {
        Bed::with(4096, (10_000, 29_999), PodDelivery::Edge)
    }

    /// For those who make many: a table's memory lives as long as the process.
    pub fn small() -> Bed {
        Bed::sized((16, 16), (10_000, 29_999), PodDelivery::Edge)
    }

    pub fn with(flows_max: usize, ports: (u16, u16), pod_delivery: PodDelivery) -> Bed {
        Bed::sized((flows_max, 1024), ports, pod_delivery)
    }

    fn sized((flows_max, affinity_max): (usize, usize), ports: (u16, u16), pod_delivery: PodDelivery) -> Bed {
        let flows = Arc::new(FlowTable::in_memory(flows_max, 1, 7));
        let config = EngineConfig { worker: 0, workers: 1, transmits_on: vec![true], timeouts: Timeouts::default(), seed: 42 };
        let affinity = Arc::new(AffinityTable::in_memory(affinity_max, 7));
        let engine = Engine::new(config, Arc::clone(&flows), Arc::clone(&affinity));
        let mut bed = Bed { snapshot: tables(ports, pod_delivery), flows, affinity, engine, now: 1000 };
        bed.snapshot.generation = 1;
        bed
    }

    /// VIP:port/protocol leads to these backends, from everywhere.
    pub fn serve(&mut self, port: u16, protocol: u8, backends: &[(Ipv4Addr, u16)]) {
        let target = if backends.is_empty() {
            Target::NoBackend
        } else {
            let backends = backends.iter().map(|&(address, port)| Backend { address, port, local: false }).collect();
            Target::Backends(Arc::new(BackendSet { backends, maglev: None }))
        };
        self.publish(port, protocol, |frontend| (frontend.outside, frontend.inside) = (target.clone(), target.clone()));
    }

    pub fn publish(&mut self, port: u16, protocol: u8, change: impl FnOnce(&mut Frontend)) {
        let key = FrontendKey { address: VIP, port, protocol };
        let mut frontend = self.snapshot.frontends.lookup(&key).map_or_else(
            || Frontend {
                service: Arc::new(ServicePortName { namespace: "default".into(), name: "web".into(), port: String::new() }),
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
        let mut bytes = frame.to_vec();
        let len = bytes.len();
        // The room behind a packet holds what was there before it.
        bytes.resize(4096 - 256, 0xa5);
        let mut packets = [Packet { origin, bytes: &mut bytes, len }];
        let mut verdicts: ArrayVec<Verdict, BATCH_MAX> = ArrayVec::new();
        self.engine.process(&self.snapshot, self.now, &mut packets, &mut verdicts);
        let len = packets[0].len;
        bytes.truncate(len);
        Outcome { verdict: verdicts[0], frame: bytes }
    }

    pub fn receive(&mut self, frame: &[u8]) -> Outcome {
        self.run(Origin::Uplink(0), frame)
    }

    /// As `edge` hands it up.
    pub fn upcall(&mut self, hook: Hook, ifindex: u32, frame: &[u8]) -> Outcome {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&upcall_mac(Upcall { hook, ifindex }));
        self.run(Origin::Host, &frame)
    }
}

fn tables((low, high): (u16, u16), pod_delivery: PodDelivery) -> Snapshot {
    let device = |name: &str, kind, mac, bridge| Device { name: name.into(), kind, mac, mtu: 1500, bridge };
    let mut devices = Devices::default();
    devices.by_index.extend([
        (UPLINK, device("eth0", DeviceKind::Uplink(0), UPLINK_MAC, None)),
        (POD_A, device("veth-a", DeviceKind::Pod, [2, 9, 0, 0, 0, 10], None)),
        (POD_B, device("veth-b", DeviceKind::Pod, [2, 9, 0, 0, 0, 11], None)),
        (BRIDGE, device("br0", DeviceKind::Bridge, [2, 9, 0, 0, 0, 20], None)),
        (PORT_C, device("veth-c", DeviceKind::Pod, [2, 9, 0, 0, 0, 21], Some(BRIDGE))),
        (PORT_D, device("veth-d", DeviceKind::Pod, [2, 9, 0, 0, 0, 22], Some(BRIDGE))),
        (OVERLAY, device("vxlan0", DeviceKind::Overlay { ethernet: true }, [2, 9, 0, 0, 0, 23], None)),
        (RW1, device("rw1", DeviceKind::Hostlink, RW1_MAC, None)),
    ]);
    devices.bridge_ports.extend([((BRIDGE, pod_mac(C)), PORT_C), ((BRIDGE, pod_mac(D)), PORT_D)]);

    let mut neighbors = Neighbors::default();
    neighbors.by_address.extend([
        ((UPLINK, ROUTER), ROUTER_MAC),
        ((UPLINK, NODE2), NODE2_MAC),
        ((POD_A, A), pod_mac(A)),
        ((POD_B, B), pod_mac(B)),
        ((BRIDGE, C), pod_mac(C)),
        ((BRIDGE, D), pod_mac(D)),
    ]);

    let via =
        |ifindex, gateway| Route { kind: RouteKind::Unicast(Box::new([NextHop { ifindex, gateway, weight: 1 }])), mtu: None, metric: 0 };
    let mut fib = FibBuilder::default();
    for (priority, table) in [(0, 255), (32766, 254)] {
        let any = "0.0.0.0/0".parse().expect("a prefix");
        fib.add_rule(Rule {
            priority,
            from: any,
            to: any,
            invert: false,
            iif: None,
            suppress_prefix_len: None,
            action: RuleAction::Lookup(table),
        });
    }
    let net = |text: &str| text.parse().expect("a prefix");
    fib.add_route(255, net("10.0.0.1/32"), Route { kind: RouteKind::Local, mtu: None, metric: 0 });
    fib.add_route(254, net("10.0.0.0/24"), via(UPLINK, None));
    fib.add_route(254, net("0.0.0.0/0"), via(UPLINK, Some(ROUTER)));
    fib.add_route(254, net("10.2.0.0/16"), via(UPLINK, Some(NODE2)));
    fib.add_route(254, net("10.3.0.0/16"), via(OVERLAY, Some(Ipv4Addr::new(10, 3, 0, 0))));
    fib.add_route(254, net("10.1.1.10/32"), via(POD_A, None));
    fib.add_route(254, net("10.1.1.11/32"), via(POD_B, None));
    fib.add_route(254, net("10.1.2.0/24"), via(BRIDGE, None));

    let uplink = Uplink { name: "eth0".into(), ifindex: UPLINK, mac: UPLINK_MAC, mtu: 1500, partial_checksums: true };
    let node = NodeTables {
        name: "node1".into(),
        address: Some(NODE),
        snat: vec![SnatAddress { address: NODE, ports: (low, high) }],
        overlays: vec![(OVERLAY, SnatAddress { address: OVERLAY_ADDRESS, ports: (low, high) })],
        uplinks: vec![uplink],
        rw1_ifindex: RW1,
        rw1_mac: RW1_MAC,
        pod_delivery,
        answer_ping: true,
    };
    Snapshot {
        node: Arc::new(node),
        fib: Arc::new(fib.build()),
        neighbors: Arc::new(neighbors),
        devices: Arc::new(devices),
        announced: Arc::new([VIP].into_iter().collect()),
        cluster_ips: Arc::new([CLUSTER_IP].into_iter().collect()),
        vips: Arc::new([VIP].into_iter().collect()),
        ..Snapshot::default()
    }
}
