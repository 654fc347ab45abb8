//! Nanoseconds per packet of the whole engine on frames in memory: established flows and first packets, at 64, 32 768 and 1 000 000 flows.
//!
//! Each round copies frames of 60 bytes (IPv6: 80) into a batch and lets the engine decide and rewrite them; `copy` is the same without the
//! engine.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringway_engine::affinity::AffinityTable;
use ringway_engine::engine::{BATCH_MAX, Engine, EngineConfig, Origin, Packet};
use ringway_engine::flow::{FlowTables, TICKS_PER_SECOND, Timeouts};
use ringway_engine::tables::*;
use ringway_engine::verdict::Verdict;

const FRAME_BYTES: usize = 60;
const FRAME6_BYTES: usize = 80;
/// SNAT ports are unique per backend: a million flows need many of them.
const BACKENDS: u8 = 64;
const UPLINK: u32 = 2;
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const FLOWS: [usize; 3] = [64, 32_768, 1_000_000];

/// What the tables say of one family; backends and the router are stations of the node's network.
struct Side {
    vip: IpAddr,
    node: IpAddr,
    router: IpAddr,
    everything: &'static str,
    network: &'static str,
    backend: fn(u8) -> IpAddr,
}

fn sides() -> [Side; 2] {
    let v6 = |station| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, station));
    [
        Side {
            vip: VIP.into(),
            node: [10, 0, 0, 1].into(),
            router: [10, 0, 0, 254].into(),
            everything: "0.0.0.0/0",
            network: "10.0.0.0/16",
            backend: |number| [10, 0, 1, number].into(),
        },
        Side {
            vip: VIP6.into(),
            node: v6(1),
            router: v6(0xfe),
            everything: "::/0",
            network: "fd00::/64",
            backend: |number| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, number.into()).into(),
        },
    ]
}

fn snapshot() -> Snapshot {
    let mut fib = FibBuilder::default();
    let mut neighbors = Neighbors::default();
    let mut frontends = Vec::new();
    for side in sides() {
        let backends: Box<[Backend]> =
            (1..=BACKENDS).map(|number| Backend { address: (side.backend)(number), port: 8080, local: false }).collect();
        neighbors.by_address.insert((UPLINK, side.router), [4; 6]);
        neighbors.by_address.extend(backends.iter().map(|backend| ((UPLINK, backend.address), [6; 6])));
        add_routes(&mut fib, &side);
        let target = Target::Backends(Arc::new(BackendSet { backends, maglev: None }));
        let frontend = Frontend {
            service: Arc::new(ServicePortName { namespace: "default".into(), name: "web".into(), port: "".into() }),
            kind: FrontendKind::LoadBalancerIp,
            outside: target.clone(),
            inside: target,
            source_ranges: None,
            affinity: None,
        };
        frontends.push((FrontendKey { address: side.vip, port: 80, protocol: 17 }, Some(frontend)));
    }
    let mut devices = Devices::default();
    devices.by_index.insert(UPLINK, Device { name: "eth0".into(), kind: DeviceKind::Uplink(0), mac: [2; 6], mtu: 1500, bridge: None });
    let uplink = Uplink { name: "eth0".into(), ifindex: UPLINK, mac: [2; 6], mtu: 1500, partial_checksums: false };
    let node = NodeTables {
        snat: sides().map(|side| SnatAddress { address: side.node, ports: (1024, 65_535) }).into(),
        uplinks: vec![uplink],
        ..NodeTables::default()
    };
    Snapshot {
        generation: 1,
        node: Arc::new(node),
        frontends: Frontends::default().with(frontends),
        fib: Arc::new(fib.build()),
        neighbors: Arc::new(neighbors),
        devices: Arc::new(devices),
        ..Snapshot::default()
    }
}

fn add_routes(fib: &mut FibBuilder, side: &Side) {
    let any = side.everything.parse().expect("a prefix");
    for (priority, table) in [(0, 255), (32_766, 254), (32_767, 253)] {
        let action = RuleAction::Lookup(table);
        fib.add_rule(Rule { priority, from: any, to: any, invert: false, iif: None, suppress_prefix_len: None, action });
    }
    let via =
        |gateway| Route { kind: RouteKind::Unicast(Box::new([NextHop { ifindex: UPLINK, gateway, weight: 1 }])), mtu: None, metric: 0 };
    fib.add_route(255, side.node.into(), Route { kind: RouteKind::Local, mtu: None, metric: 0 });
    fib.add_route(254, side.network.parse().expect("a prefix"), via(None));
    fib.add_route(254, any, via(Some(side.router)));
}

/// The frame of client number `n` to the VIP: UDP, with a checksum that the engine has to keep right.
fn request(n: usize) -> [u8; FRAME_BYTES] {
    let client = Ipv4Addr::from(0x0b00_0000 + (n / 60_000) as u32);
    let port = (1024 + n % 60_000) as u16;
    let mut frame = [0; FRAME_BYTES];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    frame[26..30].copy_from_slice(&client.octets());
    frame[30..34].copy_from_slice(&VIP.octets());
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[36..38].copy_from_slice(&80u16.to_be_bytes());
    frame[38..42].copy_from_slice(&[0, 26, 0x12, 0x34]);
    frame
}

/// Likewise of IPv6.
fn request6(n: usize) -> [u8; FRAME6_BYTES] {
    let client = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, (n / 60_000) as u16, 7);
    let port = (1024 + n % 60_000) as u16;
    let mut frame = [0; FRAME6_BYTES];
    frame[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, 17, 64]);
    frame[22..38].copy_from_slice(&client.octets());
    frame[38..54].copy_from_slice(&VIP6.octets());
    frame[54..56].copy_from_slice(&port.to_be_bytes());
    frame[56..58].copy_from_slice(&80u16.to_be_bytes());
    frame[58..62].copy_from_slice(&[0, 26, 0x12, 0x34]);
    frame
}

struct Rig<const BYTES: usize> {
    snapshot: Snapshot,
    engine: Engine,
    buffers: Vec<[u8; BYTES]>,
    verdicts: ArrayVec<Verdict, BATCH_MAX>,
    forwarded: u64,
    now: u32,
}

impl<const BYTES: usize> Rig<BYTES> {
    fn new(flows_max: usize) -> Rig<BYTES> {
        let flows = FlowTables::in_memory(flows_max, 1, 1);
        Rig {
            snapshot: snapshot(),
            engine: engine(flows),
            buffers: vec![[0; BYTES]; BATCH_MAX],
            verdicts: ArrayVec::new(),
            forwarded: 0,
            now: 1000,
        }
    }

    /// One batch of these frames; without the engine only the copy.
    fn batch(&mut self, frames: &[[u8; BYTES]], with_engine: bool) {
        self.buffers[..frames.len()].copy_from_slice(frames);
        if with_engine {
            let mut packets: ArrayVec<Packet<'_>, BATCH_MAX> =
                self.buffers[..frames.len()].iter_mut().map(|bytes| Packet { origin: Origin::Uplink(0), bytes, len: BYTES }).collect();
            self.engine.process(&self.snapshot, self.now, &mut packets, &mut self.verdicts);
            self.forwarded += self.verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Uplink { .. })).count() as u64;
        }
        black_box(&self.buffers);
    }

    /// Empties the table, so that every flow's next packet is its first.
    fn expire_all(&mut self) {
        const HOUR: u32 = 3600 * TICKS_PER_SECOND;
        self.now += HOUR;
        self.engine.sweep(self.now, usize::MAX);
        // Slots are used again only after their grace period.
        self.now += HOUR;
    }

    /// Time for `packets` packets, in batches going round the frames.
    fn run(&mut self, frames: &[[u8; BYTES]], packets: u64, with_engine: bool) -> Duration {
        let start = Instant::now();
        let mut left = packets as usize;
        while left > 0 {
            for chunk in frames.chunks(BATCH_MAX) {
                let chunk = &chunk[..chunk.len().min(left)];
                self.batch(chunk, with_engine);
                left -= chunk.len();
            }
        }
        start.elapsed()
    }
}

fn engine(flows: FlowTables) -> Engine {
    Engine::new(
        EngineConfig { worker: 0, workers: 1, transmits_on: vec![true], timeouts: Timeouts::default(), seed: 1 },
        flows,
        Arc::new(AffinityTable::in_memory(16, 1)),
    )
}

/// Frames in an order in which no flow's entry lies beside the last one's.
fn shuffled<const BYTES: usize>(flows: usize, request: fn(usize) -> [u8; BYTES]) -> Vec<[u8; BYTES]> {
    let mut frames: Vec<_> = (0..flows).map(request).collect();
    let mut state = 0x9e37_79b9_u64;
    for i in (1..flows).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        frames.swap(i, (state >> 33) as usize % (i + 1));
    }
    frames
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn established(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/established");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    for flows in FLOWS {
        established_flows(&mut group, ["copy", "engine"], shuffled(flows, request));
        established_flows(&mut group, ["copy_ipv6", "engine_ipv6"], shuffled(flows, request6));
    }
    group.finish();
}

/// `names` of the cases without and with the engine.
fn established_flows<const BYTES: usize>(group: &mut Group<'_>, names: [&str; 2], frames: Vec<[u8; BYTES]>) {
    let flows = frames.len();
    let mut rig = Rig::new(flows + flows / 8);
    rig.run(&frames, flows as u64, true);
    assert_eq!(rig.forwarded, flows as u64, "every flow is bound");
    for (name, with_engine) in names.into_iter().zip([false, true]) {
        group.bench_function(BenchmarkId::new(name, flows), |bencher| bencher.iter_custom(|n| rig.run(&frames, n, with_engine)));
    }
}

fn first_packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/first");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    for flows in FLOWS {
        first_packets_of(&mut group, "engine", shuffled(flows, request));
        first_packets_of(&mut group, "engine_ipv6", shuffled(flows, request6));
    }
    group.finish();
}

fn first_packets_of<const BYTES: usize>(group: &mut Group<'_>, name: &str, frames: Vec<[u8; BYTES]>) {
    let flows = frames.len();
    let mut rig = Rig::new(flows + flows / 8);
    group.bench_function(BenchmarkId::new(name, flows), |bencher| {
        bencher.iter_custom(|n| {
            let mut spent = Duration::ZERO;
            let mut left = n;
            while left > 0 {
                rig.expire_all();
                let now = left.min(flows as u64);
                spent += rig.run(&frames, now, true);
                left -= now;
            }
            spent
        });
    });
}

criterion_group!(benches, established, first_packets);
criterion_main!(benches);
