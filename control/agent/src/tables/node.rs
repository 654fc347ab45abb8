//! The node itself: its address, its SNAT addresses, those of its overlay devices.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ringway_engine::tables::{Device, DeviceKind, NodeTables, SnatAddress, Uplink};
use ringway_model::Compiler;

use super::Tables;
use crate::config::SNAT_PORTS_DEDICATED;
use crate::netlink;

impl Tables {
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
            answer_ping: self.settings.answer_ping,
        };
        if node == *self.snapshot.node {
            return;
        }
        let touched: Vec<Ipv4Addr> = self.snapshot.node.snat.iter().chain(&node.snat).map(|snat| snat.address).collect();
        self.snapshot.node = Arc::new(node);
        touched.into_iter().for_each(|address| self.want_address(address));
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
}

/// The IPv4 InternalIPs of the Node object of this name.
pub fn internal_ips(compiler: &Compiler, node_name: &str) -> Vec<Ipv4Addr> {
    let addresses = compiler.cluster().node(node_name).map(|node| node.internal_ips.as_slice()).unwrap_or_default();
    addresses.iter().filter_map(|address| if let std::net::IpAddr::V4(v4) = address { Some(*v4) } else { None }).collect()
}
