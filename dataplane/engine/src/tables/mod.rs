//! The snapshot: all lookup tables of one generation, immutable, published by one pointer swap.

mod bonds;
mod devices;
mod fib;
mod services;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rustc_hash::FxHashSet;

pub use bonds::Bonds;
pub use devices::{Device, DeviceKind, Devices, Neighbors};
pub use fib::{Fib, FibBuilder, FibResult, NextHop, Route, RouteKind, Rule, RuleAction};
pub use services::{
    Backend, BackendSet, Frontend, FrontendKey, FrontendKind, Frontends, NODE_PORT_ALIAS, NODE_PORT_ALIAS6, ServicePortName, Target,
    VIP_ALIAS, VIP_ALIAS6, is_alias,
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
    pub address: IpAddr,
    /// First and last port, inclusive.
    pub ports: (u16, u16),
}

/// A NIC that we serve, or a bond of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// The device may hand us unfinished checksums (veth and other software devices): complete them.
    pub partial_checksums: bool,
}

/// The node's own address of each family: source of its own sockets' flows to VIPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// What does not change while the process runs, or seldom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTables {
    pub name: String,
    pub addresses: NodeAddresses,
    pub snat: Vec<SnatAddress>,
    /// Source addresses towards backends behind an overlay device, by its ifindex: its own, so that replies come back by it; at most one of
    /// each family.
    pub overlays: Vec<(u32, SnatAddress)>,
    pub uplinks: Vec<Uplink>,
    pub bonds: Bonds,
    pub rw1_ifindex: u32,
    pub rw1_mac: [u8; 6],
    pub pod_delivery: PodDelivery,
    /// Services' addresses answer pings.
    pub answer_ping: bool,
}

impl NodeTables {
    /// The source address of this family towards backends behind an overlay device; `None` behind others.
    pub fn overlay_snat(&self, ifindex: u32, is_v6: bool) -> Option<&SnatAddress> {
        self.overlays.iter().find(|(overlay, snat)| *overlay == ifindex && snat.address.is_ipv6() == is_v6).map(|(_, snat)| snat)
    }

    /// Source addresses of this family towards backends behind this device: an overlay device's own, else the node's.
    pub fn snat_towards(&self, ifindex: u32, is_v6: bool) -> impl Iterator<Item = &SnatAddress> {
        let overlay = self.overlay_snat(ifindex, is_v6);
        let others = if overlay.is_some() { &[] } else { &self.snat[..] };
        overlay.into_iter().chain(others.iter().filter(move |snat| snat.address.is_ipv6() == is_v6))
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
    /// Addresses for which this node answers ARP and neighbor solicitations.
    pub announced: Arc<FxHashSet<IpAddr>>,
    /// Addresses all of whose ports are ours: one that no frontend has is refused (contract §2: an undefined port of a ClusterIP).
    pub cluster_ips: Arc<FxHashSet<IpAddr>>,
    /// Services' other addresses, if they are no node's.
    pub vips: Arc<FxHashSet<IpAddr>>,
}
