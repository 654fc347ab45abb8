//! From the two sources, manifests and kernel, to the next snapshot and what the filter maps should hold. Pure.

mod node_ports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use ringway_engine::tables::{
    Backend, Device, DeviceKind, Fib, FibResult, Frontend, FrontendKind, NODE_PORT_ALIAS, NodeTables, PodDelivery, Snapshot, SnatAddress,
    Target, Uplink,
};
use ringway_model::{Compiler, Vip};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::config::{Config, SNAT_PORTS_DEDICATED};
use crate::filter::{Filter, FilterKey, FilterValue};
use crate::netlink;
use crate::units::PortRange;
use node_ports::NodePorts;

pub use node_ports::alias;

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct TableSettings {
    pub node_name: String,
    /// Empty: the node's own address with `snat_ports`.
    pub snat_addresses: Vec<Ipv4Addr>,
    pub snat_ports: PortRange,
    pub pod_delivery: PodDelivery,
    pub announce: bool,
    /// Beside those of the ServiceCIDR objects.
    pub service_cidrs: Vec<Ipv4Net>,
    pub rw1_ifindex: u32,
    pub rw1_mac: [u8; 6],
}

/// The pieces of the next snapshot.
#[derive(Debug)]
pub struct Tables {
    settings: TableSettings,
    snapshot: Snapshot,
    pub filter: Filter,
    vips: BTreeMap<Ipv4Addr, Vip>,
    node_ports: NodePorts,
    addresses: Arc<Vec<netlink::LocalAddress>>,
    /// Of the ServiceCIDR objects.
    service_cidrs: BTreeSet<Ipv4Net>,
    refused_cidrs: BTreeSet<Ipv4Net>,
}

impl TableSettings {
    pub fn new(config: &Config, rw1_ifindex: u32, rw1_mac: [u8; 6]) -> TableSettings {
        TableSettings {
            node_name: config.node_name.clone(),
            snat_addresses: config.snat_addresses.clone(),
            snat_ports: config.snat_ports,
            pod_delivery: config.pod_delivery,
            announce: config.announce,
            service_cidrs: config.service_cidrs.clone(),
            rw1_ifindex,
            rw1_mac,
        }
    }
}

impl Tables {
    /// `filter` holds what the pinned maps hold.
    pub fn new(settings: TableSettings, filter: Filter) -> Tables {
        Tables {
            settings,
            snapshot: Snapshot::default(),
            filter,
            vips: BTreeMap::new(),
            node_ports: NodePorts::default(),
            addresses: Arc::default(),
            service_cidrs: BTreeSet::new(),
            refused_cidrs: BTreeSet::new(),
        }
    }

    /// The snapshot to publish now; its pieces are shared with the earlier ones.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    pub fn node(&self) -> &NodeTables {
        &self.snapshot.node
    }

    /// Addresses of services and of no device here.
    pub fn vips(&self) -> &BTreeMap<Ipv4Addr, Vip> {
        &self.vips
    }

    /// What has a route into the hostlink: the ServiceCIDRs, and the addresses that none of them covers. An address that was a
    /// frontend's keeps it for as long as connections last, which may be the node's own.
    pub fn routed(&self) -> FxHashSet<Ipv4Net> {
        let alias = (!self.node_ports.is_empty()).then_some(NODE_PORT_ALIAS);
        let covering: Vec<&Ipv4Net> = self.service_cidrs().filter(|net| !self.refused_cidrs.contains(net)).collect();
        let draining =
            self.filter.draining().map(|key| key.address).filter(|address| !self.addresses.iter().any(|own| own.address == *address));
        let alone = self.vips.keys().copied().chain(alias).chain(draining).filter(|vip| !covering.iter().any(|net| net.contains(vip)));
        alone.map(Ipv4Net::from).chain(self.service_cidrs().copied()).collect()
    }

    fn service_cidrs(&self) -> impl Iterator<Item = &Ipv4Net> {
        self.settings.service_cidrs.iter().chain(&self.service_cidrs)
    }

    /// ServiceCIDRs whose routes the kernel did not take: their addresses need routes of their own.
    pub fn refuse_cidrs(&mut self, refused: BTreeSet<Ipv4Net>) {
        self.refused_cidrs = refused;
    }

    /// Takes in what the model made of changed objects. Returns the VIPs that are announced from now on.
    pub fn apply_model(&mut self, mut update: ringway_model::Update) -> Vec<Ipv4Addr> {
        update.frontends.extend(self.node_ports.apply(&update.frontends));
        let mut seen = FxHashMap::default();
        for (key, frontend) in &update.frontends {
            let Some(frontend) = frontend else {
                self.filter.retire(*key);
                continue;
            };
            let value = FilterValue::Frontend {
                here: self.has_backend_here(frontend, &mut seen),
                node_port: frontend.kind == FrontendKind::NodePort && key.address != NODE_PORT_ALIAS,
            };
            self.filter.want(FilterKey::Frontend(*key), Some(value));
        }
        if !update.frontends.is_empty() {
            self.snapshot.frontends = self.snapshot.frontends.with(update.frontends);
        }
        let touched: Vec<Ipv4Addr> = update.vips.iter().map(|(address, _)| *address).collect();
        if let Some(cidrs) = update.service_cidrs {
            self.service_cidrs = cidrs;
        }
        for (address, vip) in update.vips {
            let is_cluster_ip = vip.is_some_and(|vip| vip.cluster_ip);
            match vip {
                Some(vip) => self.vips.insert(address, vip),
                None => self.vips.remove(&address),
            };
            if is_cluster_ip != self.snapshot.cluster_ips.contains(&address) {
                let cluster_ips = Arc::make_mut(&mut self.snapshot.cluster_ips);
                if is_cluster_ip {
                    cluster_ips.insert(address)
                } else {
                    cluster_ips.remove(&address)
                };
            }
            self.want_vip(address);
        }
        self.follow_announced(touched)
    }

    /// Addresses for which this node answers: the VIPs if it is told to, and SNAT addresses that no device has. Looks at those that were
    /// touched and returns those that are new.
    fn follow_announced(&mut self, touched: Vec<Ipv4Addr>) -> Vec<Ipv4Addr> {
        let mut new = Vec::new();
        for address in touched.into_iter().chain(self.settings.snat_addresses.clone()) {
            match (self.is_announced(&address), self.snapshot.announced.contains(&address)) {
                (true, false) => {
                    Arc::make_mut(&mut self.snapshot.announced).insert(address);
                    new.push(address);
                }
                (false, true) => {
                    Arc::make_mut(&mut self.snapshot.announced).remove(&address);
                }
                _ => {}
            }
        }
        new
    }

    fn is_announced(&self, address: &Ipv4Addr) -> bool {
        self.is_homeless_snat(address) || self.settings.announce && self.vips.get(address).is_some_and(|vip| vip.announced)
    }

    /// A dedicated SNAT address for which the kernel would not answer ARP.
    fn is_homeless_snat(&self, address: &Ipv4Addr) -> bool {
        self.settings.snat_addresses.contains(address) && !self.addresses.iter().any(|local| local.address == *address)
    }

    fn want_vip(&mut self, address: Ipv4Addr) {
        let is_vip = self.vips.contains_key(&address) || self.is_homeless_snat(&address);
        let announced = self.is_announced(&address);
        let closed = self.snapshot.cluster_ips.contains(&address);
        self.filter.want(FilterKey::Vip(address), is_vip.then_some(FilterValue::Vip { announced, closed }));
    }

    /// Takes in what changed in the kernel.
    pub fn apply_netlink(&mut self, update: &netlink::Update) {
        if let Some(devices) = &update.devices {
            self.want_device_macs(&devices.by_index);
            self.snapshot.devices = Arc::clone(devices);
        }
        if let Some(neighbors) = &update.neighbors {
            self.snapshot.neighbors = Arc::clone(neighbors);
        }
        if let Some(addresses) = &update.addresses {
            self.addresses = Arc::clone(addresses);
            for address in self.settings.snat_addresses.clone() {
                self.want_vip(address);
            }
        }
        if let Some(fib) = &update.fib {
            self.snapshot.fib = Arc::clone(fib);
            self.look_for_backends_here();
        }
    }

    /// Decides about the node's own address and its SNAT addresses. `internal_ips` are those of its Node object.
    pub fn set_node(&mut self, uplinks: Vec<Uplink>, internal_ips: &[Ipv4Addr]) {
        let address = self.node_address(&uplinks, internal_ips);
        let snat = match (&self.settings.snat_addresses[..], address) {
            ([], Some(address)) => {
                let ports = self.settings.snat_ports;
                vec![SnatAddress { address, ports: (ports.first, ports.last) }]
            }
            (dedicated, _) => {
                let ports = (SNAT_PORTS_DEDICATED.first, SNAT_PORTS_DEDICATED.last);
                dedicated.iter().map(|address| SnatAddress { address: *address, ports }).collect()
            }
        };
        let node = NodeTables {
            name: self.settings.node_name.clone(),
            address,
            snat,
            overlays: self.overlays(),
            uplinks,
            rw1_ifindex: self.settings.rw1_ifindex,
            rw1_mac: self.settings.rw1_mac,
            pod_delivery: self.settings.pod_delivery,
        };
        if node == *self.snapshot.node {
            return;
        }
        for before in &self.snapshot.node.snat {
            self.filter.want(FilterKey::Snat(before.address), None);
        }
        for snat in &node.snat {
            self.filter.want(FilterKey::Snat(snat.address), Some(FilterValue::Ports(snat.ports.0, snat.ports.1)));
        }
        self.snapshot.node = Arc::new(node);
    }

    /// Overlay devices that have an address, with the ports that are ours on it.
    fn overlays(&self) -> Vec<(u32, SnatAddress)> {
        let ports = (self.settings.snat_ports.first, self.settings.snat_ports.last);
        let is_overlay = |ifindex| matches!(self.snapshot.devices.get(ifindex), Some(Device { kind: DeviceKind::Overlay { .. }, .. }));
        let usable = |local: &&netlink::LocalAddress| !local.secondary && !local.address.is_link_local() && is_overlay(local.ifindex);
        let found: BTreeMap<u32, Ipv4Addr> =
            self.addresses.iter().rev().filter(usable).map(|local| (local.ifindex, local.address)).collect();
        found.into_iter().map(|(ifindex, address)| (ifindex, SnatAddress { address, ports })).collect()
    }

    /// The node's device addresses for the model: the uplinks' first, in their order.
    pub fn device_addresses(&self, uplinks: &[Uplink]) -> Vec<Ipv4Addr> {
        let rank = |ifindex: u32| uplinks.iter().position(|uplink| uplink.ifindex == ifindex).unwrap_or(usize::MAX);
        let mut addresses: Vec<_> = self.addresses.iter().filter(|local| !local.address.is_loopback()).collect();
        addresses.sort_by_key(|local| (rank(local.ifindex), local.secondary, local.ifindex, local.address));
        let mut unique = Vec::new();
        for local in addresses {
            if !unique.contains(&local.address) {
                unique.push(local.address);
            }
        }
        unique
    }

    /// What Kubernetes calls the node's address if the node has it, else what its first uplink has. Gateways of pods are often
    /// link-local; nobody else can answer to such.
    fn node_address(&self, uplinks: &[Uplink], internal_ips: &[Ipv4Addr]) -> Option<Ipv4Addr> {
        let here = self.device_addresses(uplinks);
        internal_ips
            .iter()
            .copied()
            .find(|address| here.contains(address))
            .or_else(|| here.into_iter().find(|address| !address.is_link_local()))
    }

    fn want_device_macs(&mut self, devices: &FxHashMap<u32, Device>) {
        for ifindex in self.snapshot.devices.by_index.keys().filter(|ifindex| !devices.contains_key(ifindex)) {
            self.filter.want(FilterKey::DeviceMac(*ifindex), None);
        }
        for (ifindex, device) in devices.iter().filter(|(_, device)| device.mac != [0; 6]) {
            self.filter.want(FilterKey::DeviceMac(*ifindex), Some(FilterValue::Mac(device.mac)));
        }
    }

    /// A route may have appeared that leads to a backend by a device of this node.
    fn look_for_backends_here(&mut self) {
        let mut seen = FxHashMap::default();
        let mut found = Vec::new();
        for (key, frontend) in self.snapshot.frontends.iter() {
            let key = FilterKey::Frontend(*key);
            if let Some(FilterValue::Frontend { here: false, node_port }) = self.filter.wanted(&key)
                && self.has_backend_here(frontend, &mut seen)
            {
                found.push((key, FilterValue::Frontend { here: true, node_port }));
            }
        }
        for (key, value) in found {
            self.filter.want(key, Some(value));
        }
    }

    /// Whether packets from outside may have to be handed to `edge`. `seen` saves asking twice for one address.
    fn has_backend_here(&self, frontend: &Frontend, seen: &mut FxHashMap<Ipv4Addr, bool>) -> bool {
        let is_here = |backend: &Backend| {
            let by_route = |address| is_here(&self.snapshot.fib, &self.snapshot.devices.by_index, address);
            backend.local || *seen.entry(backend.address).or_insert_with(|| by_route(backend.address))
        };
        match &frontend.outside {
            Target::Backends(set) => set.backends.iter().any(is_here),
            Target::NoBackend | Target::PolicyLocal => false,
        }
    }
}

/// Whether the kernel delivers packets for the address on this node, or through a device that leads to a pod.
fn is_here(fib: &Fib, devices: &FxHashMap<u32, Device>, address: Ipv4Addr) -> bool {
    match fib.lookup(Ipv4Addr::UNSPECIFIED, address, None, 0) {
        FibResult::Local => true,
        FibResult::Via { ifindex, .. } => {
            devices.get(&ifindex).is_some_and(|device| matches!(device.kind, DeviceKind::Pod | DeviceKind::Bridge))
        }
        FibResult::None => false,
    }
}

/// The IPv4 InternalIPs of the Node object of this name.
pub fn internal_ips(compiler: &Compiler, node_name: &str) -> Vec<Ipv4Addr> {
    let addresses = compiler.cluster().node(node_name).map(|node| node.internal_ips.as_slice()).unwrap_or_default();
    addresses.iter().filter_map(|address| if let std::net::IpAddr::V4(v4) = address { Some(*v4) } else { None }).collect()
}

#[cfg(test)]
mod tests;
