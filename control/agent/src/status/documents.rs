//! The documents of `-o json`. Names are stable; units stand last in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringway_model::ServicePortView;
use serde::{Deserialize, Serialize};

/// `ringway status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusDocument {
    /// Workers run, the programs are attached, the filter maps are written, and objects are known (of now or of an earlier process).
    pub ready: bool,
    pub version: String,
    pub process_id: u32,
    pub uptime_s: u64,
    /// Of the snapshot published last, and of the one that every worker acts on.
    pub generation: u64,
    pub acting_generation: u64,
    pub node: String,
    /// The node's own address of each family: source of its own connections to VIPs.
    pub address: Option<Ipv4Addr>,
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    pub pod_delivery: String,
    pub state_dir: String,
    pub uplinks: Vec<UplinkDocument>,
    pub workers: Vec<WorkerDocument>,
    pub limits: LimitsDocument,
    pub snat: Vec<SnatDocument>,
    /// VIPs for which this node answers ARP and neighbor solicitations.
    pub announced: Vec<IpAddr>,
    /// Nothing if none is followed.
    pub apiserver: Option<crate::apiserver::Status>,
    pub problems: Vec<String>,
}

/// A NIC that we serve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkDocument {
    pub name: String,
    pub ifindex: u32,
    pub mac: String,
    pub mtu: u32,
    /// The device exists now.
    pub present: bool,
    /// It is up and has a carrier.
    pub running: bool,
    /// The mode in force: `zero-copy`, `copy` or `generic`.
    pub mode: String,
    pub queues: Vec<QueueDocument>,
    /// Of a bond, whose queues these have.
    #[serde(default)]
    pub members: Vec<MemberDocument>,
}

/// A member of an uplink that is a bond.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberDocument {
    pub name: String,
    pub ifindex: u32,
    /// The bond sends by it now.
    pub transmits: bool,
    /// `everything`, `unicast` or `nothing`.
    pub receives: String,
    /// As for an uplink; empty if it has no sockets yet.
    pub mode: String,
    pub queues: Vec<QueueDocument>,
}

/// A receive queue of an uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDocument {
    pub queue: u32,
    pub worker: usize,
    /// Why its socket moves no frames any more.
    pub failed: Option<String>,
}

/// A pinned thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerDocument {
    pub worker: usize,
    pub core: Option<usize>,
    /// `running`, `stopped`, or `failed: …`.
    pub state: String,
    pub generation: u64,
    pub packets: u64,
    pub bytes: u64,
    pub batches: u64,
    pub sleeps: u64,
    pub wakeups: u64,
}

/// How many there are of everything that is limited; `max` 0 = no limit of ours. What each family has a table of its own for is there
/// twice; the one of IPv6 ends in 6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsDocument {
    pub services: Limit,
    pub frontends: Limit,
    #[serde(default)]
    pub frontends6: Limit,
    pub vips: Limit,
    #[serde(default)]
    pub vips6: Limit,
    /// Of both families.
    pub backends: Limit,
    pub flows: Limit,
    #[serde(default)]
    pub flows6: Limit,
    /// Clients with session affinity, one for each service port.
    #[serde(default)]
    pub affinity: Limit,
    /// Of those, in force, that had to make room for others since the start.
    #[serde(default)]
    pub affinity_evicted: u64,
    /// Frames of all workers that hold a packet.
    pub frames: Limit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub count: u64,
    pub max: u64,
}

/// A source address for SNAT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatDocument {
    pub address: IpAddr,
    pub first_port: u16,
    pub last_port: u16,
}

/// `ringway services`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicesDocument {
    pub services: Vec<ServicePortView>,
}

/// `ringway backends`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendsDocument {
    pub backends: Vec<BackendDocument>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendDocument {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: String,
    pub node: Option<String>,
    pub local: bool,
    /// `ready`, `terminating` (still serving) or `not ready`.
    pub state: String,
    /// `namespace/name:port` of each service port that uses it.
    pub services: Vec<String>,
}

/// `ringway flows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowsDocument {
    pub flows: Vec<FlowDocument>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowDocument {
    pub protocol: String,
    /// `embryonic`, `established`, `close-wait` or `closed`.
    pub state: String,
    pub client: String,
    pub frontend: String,
    pub backend: String,
    /// The source that the backend sees, if it is not the client's own.
    pub nat_binding: Option<String>,
    pub age_s: f64,
    /// Since the last packet of either direction; BPF programs note it once a second.
    pub idle_s: f64,
    /// Client to backend.
    pub forward: DirectionDocument,
    pub reverse: DirectionDocument,
}

/// What one entry of the flow table matches and writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionDocument {
    /// `pod-in`, `pod-out`, `uplink-in`, `uplink-out` or `node-out`.
    pub hook: String,
    /// The pod's device; nothing elsewhere.
    pub device: Option<String>,
    pub from: PairDocument,
    pub to: PairDocument,
    /// `worker` or `edge`.
    pub executor: String,
    /// `pass`, `bridge`, `peer`, `neigh`, `received` or `worker`.
    pub op: String,
}

/// Source and destination, each `address:port`, of IPv6 `[address]:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairDocument {
    pub source: String,
    pub destination: String,
}

/// `ringway neighbors`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborsDocument {
    pub neighbors: Vec<NeighborDocument>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborDocument {
    pub device: String,
    pub ifindex: u32,
    pub address: IpAddr,
    /// Nothing while it is being resolved.
    pub mac: Option<String>,
    /// We keep it fresh: a backend's next hop, or a worker asked for it.
    pub in_use: bool,
}

/// `ringway stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsDocument {
    pub verdicts: VerdictsDocument,
    pub drops: Vec<DropDocument>,
    pub workers: Vec<WorkerDocument>,
    pub sockets: Vec<SocketDocument>,
    pub frames: FramesDocument,
    /// Counters of the BPF programs since they were first loaded.
    pub programs: Vec<CounterDocument>,
}

/// Packets by verdict, over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictsDocument {
    /// Transmitted on an uplink.
    pub uplink: u64,
    /// Transmitted on the hostlink.
    pub host: u64,
    /// Kept until a neighbor was resolved.
    pub hold: u64,
    /// Of those above: TCP resets and ICMP errors to clients that nobody serves.
    #[serde(default)]
    pub refused: u64,
    /// Of those sent: ICMP errors about flows, translated.
    #[serde(default)]
    pub icmp_errors: u64,
    /// Of those sent: replies to pings.
    #[serde(default)]
    pub pings: u64,
    /// The sum of all drops.
    pub drop: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropDocument {
    pub reason: String,
    pub packets: u64,
    /// What the reason means.
    pub sentence: String,
}

/// An XSK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketDocument {
    pub device: String,
    pub queue: u32,
    pub worker: usize,
    pub mode: String,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub kicks: u64,
    pub rx_dropped: u64,
    pub rx_ring_full: u64,
    pub fill_ring_empty: u64,
    pub rx_invalid: u64,
    pub tx_invalid: u64,
}

/// Where all workers' frames are. Everything but `lost` adds up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FramesDocument {
    pub total: u64,
    pub pool: u64,
    pub fill: u64,
    pub rx: u64,
    pub tx: u64,
    pub completion: u64,
    pub held: u64,
    pub lost: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterDocument {
    pub name: String,
    pub packets: u64,
}
