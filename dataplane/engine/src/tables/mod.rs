//! The snapshot: all lookup tables of one generation, immutable, published by one pointer swap.

mod devices;
mod fib;
mod services;

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustc_hash::FxHashSet;

pub use devices::{Device, DeviceKind, Devices, Neighbors};
pub use fib::{Fib, FibBuilder, FibResult, NextHop, Route, RouteKind, Rule, RuleAction};
pub use services::{
    Backend, BackendSet, Frontend, FrontendKey, FrontendKind, Frontends, NODE_PORT_ALIAS, ServicePortName, Target, VIP_ALIAS, is_alias,
};

/// How packets from outside reach backends on this node (`--pod-delivery`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodDelivery {
    /// First packet by a worker, then `edge` at the uplink: the node's firewall sees all.
    #[default]
    Edge,
    /// Every packet by a worker, straight into the pod.
    Direct,
}

/// A source address for SNAT and the ports of it that are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatAddress {
    pub address: Ipv4Addr,
    /// First and last port, inclusive.
    pub ports: (u16, u16),
}

/// A NIC that we serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// The device may hand us unfinished checksums (veth and other software devices): complete them.
    pub partial_checksums: bool,
}

/// What does not change while the process runs, or seldom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTables {
    pub name: String,
    /// The node's own address: source of its own sockets' flows to VIPs.
    pub address: Option<Ipv4Addr>,
    pub snat: Vec<SnatAddress>,
    /// Source addresses towards backends behind an overlay device, by its ifindex: its own, so that replies come back by it.
    pub overlays: Vec<(u32, SnatAddress)>,
    pub uplinks: Vec<Uplink>,
    pub rw1_ifindex: u32,
    pub rw1_mac: [u8; 6],
    pub pod_delivery: PodDelivery,
    /// Services' addresses answer pings.
    pub answer_ping: bool,
}

impl NodeTables {
    /// Source addresses towards backends behind this device: an overlay device's own, else the node's.
    pub fn snat_towards(&self, ifindex: u32) -> &[SnatAddress] {
        match self.overlays.iter().find(|(overlay, _)| *overlay == ifindex) {
            Some((_, snat)) => std::slice::from_ref(snat),
            None => &self.snat,
        }
    }
}

/// One generation of everything that the engine looks up, flows excepted.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts publications, from 1.
    pub generation: u64,
    pub node: Arc<NodeTables>,
    pub frontends: Frontends,
    pub fib: Arc<Fib>,
    pub neighbors: Arc<Neighbors>,
    pub devices: Arc<Devices>,
    /// Addresses for which this node answers ARP.
    pub announced: Arc<FxHashSet<Ipv4Addr>>,
    /// Addresses all of whose ports are ours: one that no frontend has is refused (contract §2: an undefined port of a ClusterIP).
    pub cluster_ips: Arc<FxHashSet<Ipv4Addr>>,
    /// Services' other addresses, if they are no node's.
    pub vips: Arc<FxHashSet<Ipv4Addr>>,
}
