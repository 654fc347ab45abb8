//! The node's devices: which are uplinks, which are pods', and the programs on them.

use std::collections::BTreeSet;

use ringway_engine::flow::TICK_SHIFT;
use ringway_engine::tables::{DeviceKind, Devices, Uplink};
use xdp_redirect::Programs;

use crate::netlink::{Bond, Event, Hostlink, Update};
use crate::programs;

/// Uplinks as last seen and the hostlink.
#[derive(Clone, Debug)]
pub struct Node {
    pub hostlink: Hostlink,
    /// By index; of one that is gone, what it was last.
    pub uplinks: Vec<Uplink>,
    pub present: Vec<bool>,
    /// By index; `None` of an uplink that is no bond.
    pub bonds: Vec<Option<Bond>>,
}

/// What a change of devices asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// Stations have to learn a new MAC.
    pub macs_changed: bool,
    pub addresses_changed: bool,
    pub bonds_changed: bool,
}

impl Node {
    pub fn new(hostlink: Hostlink, uplinks: Vec<Uplink>, bonds: Vec<Option<Bond>>, found: &[Option<Uplink>]) -> Node {
        let present = uplinks.iter().enumerate().map(|(number, _)| found.get(number).is_some_and(Option::is_some)).collect();
        Node { hostlink, uplinks, present, bonds }
    }

    pub fn macs(&self) -> Vec<[u8; 6]> {
        self.uplinks.iter().map(|uplink| uplink.mac).collect()
    }

    /// Attaches `edge` to all pods' and overlay devices and returns them. A device that vanishes meanwhile, or whose hook refuses, is
    /// logged; its packets go on as the kernel has it.
    pub fn attach_edges(&self, programs: &Programs, devices: &Devices) -> BTreeSet<u32> {
        let edges = devices.by_index.iter().filter(|(_, device)| device.kind.has_edge());
        edges.map(|(ifindex, device)| attach_edge(programs, devices, *ifindex, device.kind)).collect()
    }

    /// Follows an update: programs on pods' devices at once, before their first packet if possible. The caller does the rest.
    pub fn apply(&mut self, programs: &Programs, update: &Update, devices: &Devices) -> NodeChange {
        let mut change = NodeChange::default();
        let before = self.macs();
        for (number, uplink) in update.uplinks.iter().flat_map(|uplinks| uplinks.iter()).enumerate().take(self.uplinks.len()) {
            self.present[number] = uplink.is_some();
            if let Some(uplink) = uplink {
                self.uplinks[number] = uplink.clone();
            }
        }
        if let Some(bonds) = &update.bonds {
            self.bonds.clone_from(bonds);
            change.bonds_changed = true;
        }
        for event in &update.events {
            match *event {
                Event::EdgeAppeared { ifindex, kind } => drop(attach_edge(programs, devices, ifindex, kind)),
                Event::EdgeVanished { ifindex, kind } => {
                    let detached = if kind == DeviceKind::Pod { programs.detach_pod(ifindex) } else { programs.detach_overlay(ifindex) };
                    if let Err(error) = detached {
                        tracing::warn!("{error}");
                    }
                }
                Event::UplinkGone { uplink } => tracing::error!("uplink {} is gone: its traffic stops until it is back", self.name(uplink)),
                Event::UplinkBack { uplink } => tracing::info!("uplink {} is back", self.name(uplink)),
                Event::UplinkChanged { uplink } => {
                    tracing::info!("uplink {} has changed: {:?}", self.name(uplink), self.uplinks.get(uplink))
                }
                Event::AddressesChanged => change.addresses_changed = true,
            }
        }
        change.macs_changed = before != self.macs();
        change
    }

    fn name(&self, uplink: usize) -> &str {
        self.uplinks.get(uplink).map_or("?", |uplink| uplink.name.as_str())
    }
}

/// Returns the device.
fn attach_edge(programs: &Programs, devices: &Devices, ifindex: u32, kind: DeviceKind) -> u32 {
    let name = devices.get(ifindex).map_or_else(|| format!("device {ifindex}"), |device| device.name.clone());
    let attached = match kind {
        DeviceKind::Overlay { ethernet } => programs.attach_edge_overlay(ifindex, ethernet),
        _ => programs.attach_edge_pod(ifindex),
    };
    match attached {
        Ok(attachment) => programs::log_attachment("edge", &name, &attachment),
        // A pod that lives for a moment only.
        Err(error) => tracing::warn!("{name}: {error}"),
    }
    ifindex
}

/// The clock of the flow table: `CLOCK_MONOTONIC` in ticks.
pub fn now_ticks() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let ns = (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64);
    (ns >> TICK_SHIFT) as u32
}
