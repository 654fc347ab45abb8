//! The router made of the engine: one worker with two uplinks, and tables that say what the kernel's configuration says.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrayvec::ArrayVec;
use ringway_engine::affinity::AffinityTable;
use ringway_engine::divide::divide;
use ringway_engine::engine::{BATCH_MAX, Engine, EngineConfig, Origin, Packet};
use ringway_engine::flow::{FlowTables, TICKS_PER_SECOND, Timeouts};
use ringway_engine::tables::*;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::{TCP, UDP};
use ringway_tests::lab::Family;

use crate::packet::{ETHERNET_BYTES, Ip};
use crate::plan::*;

const LEFT_INDEX: u32 = 2;
const RIGHT_INDEX: u32 = 3;
const SNAT_PORTS: (u16, u16) = (10_000, 29_999);
/// As long as a later fragment may wait for the first one, and more.
const WAIT_TICKS: u32 = 3;
const FRAME_ROOM_BYTES: usize = 4096 - 256;

/// The engine and its tables.
pub struct Node {
    engine: Engine,
    snapshot: Snapshot,
    now: u32,
}

/// What came of some frames.
#[derive(Default)]
pub struct Processed {
    pub frames: Vec<(Side, Vec<u8>)>,
    pub drops: Vec<DropReason>,
}

impl Node {
    pub fn new(seed: u64) -> Node {
        let config = EngineConfig { worker: 0, workers: 1, transmits_on: vec![true; 2], timeouts: Timeouts::default(), seed };
        let engine = Engine::new(config, FlowTables::in_memory(4096, 1, seed), Arc::new(AffinityTable::in_memory(16, seed)));
        Node { engine, snapshot: snapshot(), now: 1000 }
    }

    /// Time goes on, for limits of answers and for slots that rest. No flow is ever idle for long enough to end.
    pub fn wait(&mut self, ticks: u32) {
        self.now += ticks;
    }

    /// Gives the engine frames of one side in a row, and those that it keeps again and again.
    pub fn run(&mut self, from: Side, frames: &[Vec<u8>]) -> Result<Processed> {
        let mut processed = Processed::default();
        let mut held = Vec::new();
        for frame in frames {
            for frame in std::mem::take(&mut held).into_iter().chain([frame.clone()]) {
                self.decide(from, frame, &mut processed, &mut held)?;
            }
        }
        self.wait(WAIT_TICKS);
        while !held.is_empty() {
            let waiting = std::mem::take(&mut held);
            let count = waiting.len();
            for frame in waiting {
                self.decide(from, frame, &mut processed, &mut held)?;
            }
            ensure!(held.len() < count, "{count} fragments wait for ever");
        }
        Ok(processed)
    }

    fn decide(&mut self, from: Side, frame: Vec<u8>, processed: &mut Processed, held: &mut Vec<Vec<u8>>) -> Result<()> {
        let mut bytes = frame.clone();
        let len = bytes.len();
        // The room behind a packet holds what was there before it.
        bytes.resize(FRAME_ROOM_BYTES, 0xa5);
        let mut packets = [Packet { origin: Origin::Uplink(from as u8), bytes: &mut bytes, len }];
        let mut verdicts: ArrayVec<Verdict, BATCH_MAX> = ArrayVec::new();
        self.engine.process(&self.snapshot, self.now, &mut packets, &mut verdicts);
        let len = packets[0].len;
        bytes.truncate(len);
        match verdicts.pop().context("no verdict")? {
            Verdict::Uplink { uplink } => processed.frames.push((side(uplink), bytes)),
            Verdict::Divide { mtu, uplink: Some(uplink) } => {
                let put = |piece: &[u8]| {
                    processed.frames.push((side(uplink), piece.to_vec()));
                    true
                };
                ensure!(divide(&bytes, mtu, put), "a packet that cannot be divided: {bytes:02x?}");
            }
            Verdict::AwaitFirst => held.push(frame),
            // To the node's own sockets. To a VIP nothing may be returned, for the kernel would send it back into the network; but a later
            // fragment, whose first one `edge` may have seen.
            Verdict::Host => {
                let (ip, place) = Ip::read(&frame[ETHERNET_BYTES..], true)?;
                let is_later = place.is_some_and(|place| place.offset > 0);
                ensure!(is_later || !self.snapshot.vips.contains(&ip.destination), "returned: {frame:02x?}");
            }
            Verdict::Drop(reason) => processed.drops.push(reason),
            other => bail!("the engine says {other:?}"),
        }
        Ok(())
    }
}

fn side(uplink: u8) -> Side {
    if uplink == 0 { Side::Left } else { Side::Right }
}

fn snapshot() -> Snapshot {
    let families = [Family::V4, Family::V6];
    let vips = families.map(|family| address(family, VIP));
    let uplink = |name: &str, ifindex, mac| Uplink { name: name.into(), ifindex, mac, mtu: 1500, partial_checksums: false };
    let node = NodeTables {
        name: "router".into(),
        snat: families.map(|family| SnatAddress { address: address(family, RIGHT), ports: SNAT_PORTS }).to_vec(),
        uplinks: vec![uplink("left", LEFT_INDEX, LEFT_MAC), uplink("right", RIGHT_INDEX, RIGHT_MAC)],
        answer_ping: true,
        ..NodeTables::default()
    };
    let mut devices = Devices::default();
    let mut neighbors = Neighbors::default();
    let mut fib = FibBuilder::default();
    for (index, (ifindex, mac, hop, hop_mac)) in
        [(LEFT_INDEX, LEFT_MAC, LEFT_HOP, LEFT_HOP_MAC), (RIGHT_INDEX, RIGHT_MAC, RIGHT_HOP, RIGHT_HOP_MAC)].into_iter().enumerate()
    {
        let device = Device { name: String::new(), kind: DeviceKind::Uplink(index as u8), mac, mtu: 1500, bridge: None };
        devices.by_index.insert(ifindex, device);
        neighbors.by_address.extend(families.map(|family| ((ifindex, address(family, hop)), hop_mac)));
    }
    for family in families {
        add_routes(&mut fib, family);
    }
    Snapshot {
        generation: 1,
        node: Arc::new(node),
        frontends: Frontends::default().with(families.into_iter().flat_map(frontends)),
        fib: Arc::new(fib.build()),
        neighbors: Arc::new(neighbors),
        devices: Arc::new(devices),
        announced: Arc::new(vips.into_iter().collect()),
        vips: Arc::new(vips.into_iter().collect()),
        ..Snapshot::default()
    }
}

fn add_routes(fib: &mut FibBuilder, family: Family) {
    let net = |text: &str| family.of(text).parse().unwrap_or_else(|_| panic!("{text} is no prefix"));
    let any = net("0.0.0.0/0");
    for (priority, table) in [(0, 255), (32766, 254)] {
        let action = RuleAction::Lookup(table);
        fib.add_rule(Rule { priority, from: any, to: any, invert: false, iif: None, suppress_prefix_len: None, action });
    }
    let via = |ifindex, gateway: &str, mtu| {
        let hop = NextHop { ifindex, gateway: Some(address(family, gateway)), weight: 1 };
        Route { kind: RouteKind::Unicast(Box::new([hop])), mtu, metric: 0 }
    };
    for own in [LEFT, RIGHT, VIP] {
        fib.add_route(255, address(family, own).into(), Route { kind: RouteKind::Local, mtu: None, metric: 0 });
    }
    fib.add_route(254, net("198.51.100.0/24"), via(LEFT_INDEX, LEFT_HOP, None));
    for (prefix, gateway, mtu) in NARROW {
        let ifindex = if gateway == LEFT_HOP { LEFT_INDEX } else { RIGHT_INDEX };
        fib.add_route(254, net(prefix), via(ifindex, gateway, Some(mtu)));
    }
}

fn frontends(family: Family) -> Vec<(FrontendKey, Option<Frontend>)> {
    let backend = |port| {
        let backends = [Backend { address: address(family, BACKEND), port, local: false }].into();
        Target::Backends(Arc::new(BackendSet { backends, maglev: None }))
    };
    let rows = [
        (WEB, backend(WEB_BACKEND_PORT)),
        (DNS, backend(DNS_BACKEND_PORT)),
        ((TCP, REFUSED_PORT), Target::NoBackend),
        ((UDP, REFUSED_PORT), Target::NoBackend),
    ];
    let frontend = |((protocol, port), target): ((u8, u16), Target)| {
        let frontend = Frontend {
            service: Arc::new(ServicePortName { namespace: "default".into(), name: "web".into(), port: port.to_string().into() }),
            kind: FrontendKind::LoadBalancerIp,
            outside: target.clone(),
            inside: target,
            source_ranges: None,
            affinity: None,
        };
        (FrontendKey { address: address(family, VIP), port, protocol }, Some(frontend))
    };
    rows.into_iter().map(frontend).collect()
}

/// Ticks between events: answers are limited to ten a second for each source.
pub const PAUSE_TICKS: u32 = TICKS_PER_SECOND / 10;
