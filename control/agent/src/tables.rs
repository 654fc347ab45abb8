//! From the two sources, manifests and kernel, to the next snapshot and what the filter maps should hold. Pure.

mod node;
mod node_ports;
mod refused;
mod vip_ports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use ringway_engine::tables::{
    Backend, Bonds, Device, DeviceKind, Fib, FibResult, Frontend, FrontendKey, FrontendKind, NodeTables, PodDelivery, Snapshot, Target,
    is_alias,
};
use ringway_model::{IpFamily, Vip};
use rustc_hash::{FxHashMap, FxHashSet};
use xdp_redirect::{AddressUse, FrontendUse, Sockets};

use crate::config::Config;
use crate::filter::{Filter, FilterKey, FilterValue};
use crate::netlink;
use crate::units::PortRange;
pub use node::internal_ips;
use node_ports::NodePorts;
pub use refused::refused_services;
use vip_ports::VipPorts;

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct TableSettings {
    pub node_name: String,
    /// None of a family: the node's own address with `snat_ports`.
    pub snat_addresses: Vec<IpAddr>,
    pub snat_ports: PortRange,
    pub pod_delivery: PodDelivery,
    pub announce: bool,
    pub answer_ping: bool,
    /// Beside those of the ServiceCIDR objects.
    pub service_cidrs: Vec<IpNet>,
    pub rw1_ifindex: u32,
    pub rw1_mac: [u8; 6],
}

/// What follows from changed objects beside the next snapshot.
#[derive(Debug, Default)]
pub struct Applied {
    /// Addresses for which this node answers from now on.
    pub announced: Vec<IpAddr>,
    /// Backends that do not serve frontends any more, also under their aliases.
    pub stopped: Vec<(FrontendKey, SocketAddr)>,
}

/// The pieces of the next snapshot.
#[derive(Debug)]
pub struct Tables {
    settings: TableSettings,
    snapshot: Snapshot,
    pub filter: Filter,
    vips: BTreeMap<IpAddr, Vip>,
    node_ports: NodePorts,
    vip_ports: VipPorts,
    addresses: Arc<Vec<netlink::LocalAddress>>,
    /// Of the ServiceCIDR objects.
    service_cidrs: BTreeSet<IpNet>,
    refused_cidrs: BTreeSet<IpNet>,
    bonds: Bonds,
}

impl TableSettings {
    pub fn new(config: &Config, rw1_ifindex: u32, rw1_mac: [u8; 6]) -> TableSettings {
        TableSettings {
            node_name: config.node_name.clone(),
            snat_addresses: config.snat_addresses.clone(),
            snat_ports: config.snat_ports,
            pod_delivery: config.pod_delivery,
            announce: config.announce,
            answer_ping: config.answer_ping,
            service_cidrs: config.service_cidrs.clone(),
            rw1_ifindex,
            rw1_mac,
        }
    }
}

impl Tables {
    /// `filter` holds what the pinned maps hold.
    pub fn new(settings: TableSettings, filter: Filter) -> Tables {
        let port = |(key, held): (FrontendKey, FrontendUse)| if let Sockets::Vip(port) = held.sockets { Some((key, port)) } else { None };
        let places = filter.held_frontends().map(|(key, _)| key).filter(vip_ports::is_alias);
        let vip_ports = VipPorts::over(filter.held_frontends().filter_map(port), places);
        Tables {
            settings,
            snapshot: Snapshot::default(),
            filter,
            vips: BTreeMap::new(),
            node_ports: NodePorts::default(),
            vip_ports,
            addresses: Arc::default(),
            service_cidrs: BTreeSet::new(),
            refused_cidrs: BTreeSet::new(),
            bonds: Bonds::default(),
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
    pub fn vips(&self) -> &BTreeMap<IpAddr, Vip> {
        &self.vips
    }

    /// What has a route into the hostlink: the ServiceCIDRs, the ClusterIPs that none of them covers, and the aliases. An address that
    /// was a frontend's keeps it for as long as connections last, which may be the node's own. Other addresses of services have none:
    /// they may be hosts, which the node reaches as ever.
    pub fn routed(&self) -> FxHashSet<IpNet> {
        let covering: Vec<&IpNet> = self.service_cidrs().filter(|net| !self.refused_cidrs.contains(net)).collect();
        let cluster_ips = self.vips.iter().filter(|(_, vip)| vip.cluster_ip).map(|(address, _)| *address);
        let draining = self.filter.draining().filter(|(_, sockets)| *sockets == Sockets::Routed).map(|(key, _)| key.address);
        let alone = cluster_ips.chain(self.aliases()).chain(draining).filter(|address| !covering.iter().any(|net| net.contains(address)));
        alone.map(IpNet::from).chain(self.service_cidrs().copied()).collect()
    }

    /// The aliases in use.
    fn aliases(&self) -> impl Iterator<Item = IpAddr> {
        IpFamily::BOTH.into_iter().flat_map(|family| {
            let of_node_ports = (!self.node_ports.is_empty(family)).then_some(node_ports::alias_of(family));
            of_node_ports.into_iter().chain((!self.vip_ports.is_empty(family)).then_some(vip_ports::alias_of(family)))
        })
    }

    /// The key under which the node's own sockets use a frontend, if it is not the frontend's own.
    fn alias_of(&self, key: &FrontendKey) -> Option<FrontendKey> {
        let of_vip = self.vip_ports.port(key).map(|port| vip_ports::alias(key, port));
        let of_node_port = || Some(node_ports::alias(key)).filter(|alias| self.node_ports.frontends(alias).any(|other| other == *key));
        of_vip.or_else(of_node_port)
    }

    /// Which frontend stands behind each alias; of a NodePort the one on the first address.
    pub fn aliased(&self) -> FxHashMap<FrontendKey, FrontendKey> {
        let aliases = self.snapshot.frontends.iter().map(|(key, _)| *key).filter(|key| is_alias(key.address));
        aliases.filter_map(|alias| Some((alias, *self.frontends_under(&alias).first()?))).collect()
    }

    /// The frontends that the node's own sockets use under a key: those for which an alias stands, or the key's own.
    pub fn frontends_under(&self, key: &FrontendKey) -> Vec<FrontendKey> {
        match key {
            key if node_ports::is_alias(key) => self.node_ports.frontends(key).collect(),
            key if vip_ports::is_alias(key) => self.vip_ports.frontend(key).into_iter().collect(),
            key => vec![*key],
        }
    }

    fn service_cidrs(&self) -> impl Iterator<Item = &IpNet> {
        self.settings.service_cidrs.iter().chain(&self.service_cidrs)
    }

    /// ServiceCIDRs whose routes the kernel did not take: their addresses need routes of their own.
    pub fn refuse_cidrs(&mut self, refused: BTreeSet<IpNet>) {
        self.refused_cidrs = refused;
    }

    /// Takes in what the model made of changed objects.
    pub fn apply_model(&mut self, mut update: ringway_model::Update) -> Applied {
        let mut stopped = std::mem::take(&mut update.stopped);
        let under_aliases: Vec<_> = stopped.iter().filter_map(|(key, backend)| Some((self.alias_of(key)?, *backend))).collect();
        stopped.extend(under_aliases);
        let mut of_aliases = self.node_ports.apply(&update.frontends);
        of_aliases.extend(self.vip_ports.apply(&update.frontends, |alias| self.filter.drains(alias)));
        update.frontends.extend(of_aliases);
        let mut seen = FxHashMap::default();
        for (key, frontend) in &update.frontends {
            let Some(frontend) = frontend else {
                self.filter.retire(*key);
                continue;
            };
            let here = !is_alias(key.address) && self.has_backend_here(frontend, &mut seen);
            let value = FrontendUse { here, sockets: self.sockets(key, frontend), draining: false };
            self.filter.want(FilterKey::Frontend(*key), Some(FilterValue::Frontend(value)));
        }
        if !update.frontends.is_empty() {
            self.snapshot.frontends = self.snapshot.frontends.with(update.frontends);
        }
        let touched: Vec<IpAddr> = update.vips.iter().map(|(address, _)| *address).collect();
        if let Some(cidrs) = update.service_cidrs {
            self.service_cidrs = cidrs;
        }
        for (address, vip) in update.vips {
            let is_cluster_ip = vip.is_some_and(|vip| vip.cluster_ip);
            match vip {
                Some(vip) => self.vips.insert(address, vip),
                None => self.vips.remove(&address),
            };
            put(&mut self.snapshot.cluster_ips, address, is_cluster_ip);
            put(&mut self.snapshot.vips, address, vip.is_some() && !is_cluster_ip);
            self.want_address(address);
        }
        for family in IpFamily::BOTH {
            self.want_alias(node_ports::alias_of(family), !self.node_ports.is_empty(family));
            self.want_alias(vip_ports::alias_of(family), !self.vip_ports.is_empty(family));
        }
        Applied { announced: self.follow_announced(touched), stopped }
    }

    fn sockets(&self, key: &FrontendKey, frontend: &Frontend) -> Sockets {
        match frontend.kind {
            _ if is_alias(key.address) => Sockets::Routed,
            FrontendKind::ClusterIp => Sockets::Routed,
            FrontendKind::NodePort => Sockets::NodePort,
            FrontendKind::LoadBalancerIp | FrontendKind::ExternalIp => Sockets::Vip(self.vip_ports.port(key).unwrap_or_default()),
        }
    }

    /// Sockets may still be connected to an alias port that nobody has any more: they are refused.
    fn want_alias(&mut self, alias: IpAddr, is_used: bool) {
        if put(&mut self.snapshot.cluster_ips, alias, is_used) {
            self.want_address(alias);
        }
    }

    /// Addresses for which this node answers: the VIPs if it is told to, and SNAT addresses that no device has. Looks at those that were
    /// touched and returns those that are new.
    fn follow_announced(&mut self, touched: Vec<IpAddr>) -> Vec<IpAddr> {
        let mut new = Vec::new();
        for address in touched.into_iter().chain(self.settings.snat_addresses.clone()) {
            let is_announced = self.is_announced(&address);
            if put(&mut self.snapshot.announced, address, is_announced) && is_announced {
                new.push(address);
            }
        }
        new
    }

    fn is_announced(&self, address: &IpAddr) -> bool {
        self.is_homeless_snat(address) || self.settings.announce && self.vips.get(address).is_some_and(|vip| vip.announced)
    }

    /// A dedicated SNAT address for which the kernel would not answer neighbors.
    fn is_homeless_snat(&self, address: &IpAddr) -> bool {
        self.settings.snat_addresses.contains(address) && !self.addresses.iter().any(|local| local.address == *address)
    }

    fn want_address(&mut self, address: IpAddr) {
        let snat = self.snapshot.node.snat.iter().find(|snat| snat.address == address);
        let value = AddressUse {
            announced: self.is_announced(&address),
            closed: self.snapshot.cluster_ips.contains(&address),
            vip: self.snapshot.vips.contains(&address),
            ping: self.settings.answer_ping && self.vips.contains_key(&address),
            snat_ports: snat.map(|snat| snat.ports),
        };
        self.filter.want(FilterKey::Address(address), (value != AddressUse::default()).then_some(FilterValue::Address(value)));
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
                self.want_address(address);
            }
        }
        if let Some(fib) = &update.fib {
            self.snapshot.fib = Arc::clone(fib);
            self.look_for_backends_here();
        }
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
        for (key, frontend) in self.snapshot.frontends.iter().filter(|(key, _)| !is_alias(key.address)) {
            let key = FilterKey::Frontend(*key);
            if let Some(FilterValue::Frontend(wanted)) = self.filter.wanted(&key)
                && !wanted.here
                && self.has_backend_here(frontend, &mut seen)
            {
                found.push((key, FilterValue::Frontend(FrontendUse { here: true, ..wanted })));
            }
        }
        for (key, value) in found {
            self.filter.want(key, Some(value));
        }
    }

    /// Whether packets from outside may have to be handed to `edge`. `seen` saves asking twice for one address.
    fn has_backend_here(&self, frontend: &Frontend, seen: &mut FxHashMap<IpAddr, bool>) -> bool {
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
fn is_here(fib: &Fib, devices: &FxHashMap<u32, Device>, address: IpAddr) -> bool {
    match fib.lookup(IpFamily::of(&address).unspecified(), address, None, 0) {
        FibResult::Local => true,
        FibResult::Via { ifindex, .. } => {
            devices.get(&ifindex).is_some_and(|device| matches!(device.kind, DeviceKind::Pod | DeviceKind::Bridge))
        }
        FibResult::None => false,
    }
}

/// Puts an address into a set of the snapshot or takes it out. True if that changed the set.
fn put(set: &mut Arc<FxHashSet<IpAddr>>, address: IpAddr, is_in: bool) -> bool {
    if set.contains(&address) == is_in {
        return false;
    }
    let set = Arc::make_mut(set);
    if is_in { set.insert(address) } else { set.remove(&address) }
}

#[cfg(test)]
mod tests;
