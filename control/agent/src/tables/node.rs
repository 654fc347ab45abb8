//! The node itself: its address of each family, its SNAT addresses, those of its overlay devices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ringway_engine::family::{Family, V4, V6};
use ringway_engine::tables::{Bonds, Device, DeviceKind, NodeAddresses, NodeTables, SnatAddress, Uplink};
use ringway_model::{Compiler, IpFamily};

use super::Tables;
use crate::config::SNAT_PORTS_DEDICATED;
use crate::netlink;
use crate::units::PortRange;

impl Tables {
    /// Decides about the node's own addresses and its SNAT addresses. `internal_ips` are those of its Node object.
    pub fn set_node(&mut self, uplinks: Vec<Uplink>, internal_ips: &[IpAddr]) {
        let here = self.device_addresses(&uplinks);
        let own = |family| node_address(&here, internal_ips, family);
        let node = NodeTables {
            name: self.settings.node_name.clone(),
            addresses: NodeAddresses { v4: own(IpFamily::V4).and_then(V4::ip_of), v6: own(IpFamily::V6).and_then(V6::ip_of) },
            snat: IpFamily::BOTH.into_iter().flat_map(|family| self.snat_addresses(family, own(family))).collect(),
            overlays: self.overlays(),
            uplinks,
            bonds: self.bonds.clone(),
            rw1_ifindex: self.settings.rw1_ifindex,
            rw1_mac: self.settings.rw1_mac,
            pod_delivery: self.settings.pod_delivery,
            answer_ping: self.settings.answer_ping,
        };
        if node == *self.snapshot.node {
            return;
        }
        let touched: Vec<IpAddr> = self.snapshot.node.snat.iter().chain(&node.snat).map(|snat| snat.address).collect();
        self.snapshot.node = Arc::new(node);
        touched.into_iter().for_each(|address| self.want_address(address));
    }

    /// Which ports of the workers are members of bonds: in force with the next [`Tables::set_node`].
    pub fn set_bonds(&mut self, bonds: Bonds) {
        self.bonds = bonds;
    }

    /// The dedicated ones of the family; without any, the node's `own`.
    fn snat_addresses(&self, family: IpFamily, own: Option<IpAddr>) -> Vec<SnatAddress> {
        let snat = |address, ports: PortRange| SnatAddress { address, ports: (ports.first, ports.last) };
        let dedicated = self.settings.snat_addresses.iter().filter(|address| IpFamily::of(address) == family);
        let dedicated: Vec<SnatAddress> = dedicated.map(|address| snat(*address, SNAT_PORTS_DEDICATED)).collect();
        if dedicated.is_empty() { own.into_iter().map(|address| snat(address, self.settings.snat_ports)).collect() } else { dedicated }
    }

    /// Overlay devices that have an address, with the ports that are ours on it; of each family the first address.
    fn overlays(&self) -> Vec<(u32, SnatAddress)> {
        let ports = (self.settings.snat_ports.first, self.settings.snat_ports.last);
        let is_overlay = |ifindex| matches!(self.snapshot.devices.get(ifindex), Some(Device { kind: DeviceKind::Overlay { .. }, .. }));
        let usable = |local: &&netlink::LocalAddress| !local.secondary && !is_link_local(&local.address) && is_overlay(local.ifindex);
        let place = |local: &netlink::LocalAddress| (local.ifindex, IpFamily::of(&local.address));
        let found: BTreeMap<(u32, IpFamily), IpAddr> =
            self.addresses.iter().rev().filter(usable).map(|local| (place(local), local.address)).collect();
        found.into_iter().map(|((ifindex, _), address)| (ifindex, SnatAddress { address, ports })).collect()
    }

    /// The node's device addresses for the model: the uplinks' first, in their order. IPv6 link-local ones are each device's own and no
    /// node's.
    pub fn device_addresses(&self, uplinks: &[Uplink]) -> Vec<IpAddr> {
        let rank = |ifindex: u32| uplinks.iter().position(|uplink| uplink.ifindex == ifindex).unwrap_or(usize::MAX);
        let mut addresses: Vec<_> = self.addresses.iter().filter(|local| is_ordinary(&local.address)).collect();
        addresses.sort_by_key(|local| (rank(local.ifindex), local.secondary, local.ifindex, local.address));
        let mut unique = Vec::new();
        for local in addresses {
            if !unique.contains(&local.address) {
                unique.push(local.address);
            }
        }
        unique
    }
}

/// What Kubernetes calls the node's address if the node has it, else what its first uplink has. Gateways of pods are often
/// link-local; nobody else can answer to such.
fn node_address(here: &[IpAddr], internal_ips: &[IpAddr], family: IpFamily) -> Option<IpAddr> {
    let of_family = |address: &&IpAddr| IpFamily::of(address) == family;
    let named = internal_ips.iter().filter(of_family).find(|address| here.contains(address));
    named.or_else(|| here.iter().filter(of_family).find(|address| !is_link_local(address))).copied()
}

/// Others can reach this node by it, or could if routes led here.
fn is_ordinary(address: &IpAddr) -> bool {
    let is_each_devices = address.is_ipv6() && is_link_local(address);
    !address.is_loopback() && !is_each_devices
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The InternalIPs of the Node object of this name.
pub fn internal_ips(compiler: &Compiler, node_name: &str) -> Vec<IpAddr> {
    compiler.cluster().node(node_name).map_or_else(Vec::new, |node| node.internal_ips.clone())
}
