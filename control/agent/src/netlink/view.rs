//! What the follower hands to the control loop.

use std::net::IpAddr;
use std::sync::Arc;

use ringway_engine::tables::{DeviceKind, Devices, Fib, Neighbors, Uplink};

use super::Bond;

/// An address of this node. IPv6 ones that are not usable yet, and the link-local ones that each device has by itself, are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalAddress {
    pub ifindex: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
    /// Not the one to speak from: of IPv4, not the first of its subnet on the device; of IPv6, temporary or deprecated.
    pub secondary: bool,
}

/// What happened between two updates, for those who attach programs or announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device became the host's side of a pod, or an overlay device: attach `edge`.
    EdgeAppeared { ifindex: u32, kind: DeviceKind },
    /// It is gone, or is none of `kind` any more; its programs went with it or have to be detached.
    EdgeVanished { ifindex: u32, kind: DeviceKind },
    /// The uplink of this index (order of `FollowerConfig::uplinks`) does not exist, or is another device now.
    UplinkGone { uplink: usize },
    /// It exists again, with another ifindex.
    UplinkBack { uplink: usize },
    /// Its MAC, MTU or kind changed.
    UplinkChanged { uplink: usize },
    /// See `Update::addresses`.
    AddressesChanged,
}

/// The parts that changed since the last update; the first update has all of them.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub devices: Option<Arc<Devices>>,
    pub fib: Option<Arc<Fib>>,
    pub neighbors: Option<Arc<Neighbors>>,
    /// By index of the configured uplinks; `None` where the device does not exist.
    pub uplinks: Option<Arc<Vec<Option<Uplink>>>>,
    /// By index of the configured uplinks; `None` where the device is no bond.
    pub bonds: Option<Arc<Vec<Option<Bond>>>>,
    /// Sorted.
    pub addresses: Option<Arc<Vec<LocalAddress>>>,
    /// In the order: pods vanished, pods appeared, uplinks, addresses. The first update reports every pod, every uplink that is
    /// missing, and no other uplink.
    pub events: Vec<Event>,
}

/// All tables of one moment. Parts that did not change are shared with the moment before.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) devices: Arc<Devices>,
    pub(super) fib: Arc<Fib>,
    pub(super) neighbors: Arc<Neighbors>,
    pub(super) uplinks: Arc<Vec<Option<Uplink>>>,
    pub(super) bonds: Arc<Vec<Option<Bond>>>,
    pub(super) addresses: Arc<Vec<LocalAddress>>,
}

impl View {
    pub(super) fn same(&self, other: &View) -> bool {
        Arc::ptr_eq(&self.devices, &other.devices)
            && Arc::ptr_eq(&self.fib, &other.fib)
            && Arc::ptr_eq(&self.neighbors, &other.neighbors)
            && Arc::ptr_eq(&self.uplinks, &other.uplinks)
            && Arc::ptr_eq(&self.bonds, &other.bonds)
            && Arc::ptr_eq(&self.addresses, &other.addresses)
    }

    /// What is different here from `last`.
    pub(super) fn since(&self, last: &View) -> Update {
        let devices = changed(&self.devices, &last.devices);
        let uplinks = changed(&self.uplinks, &last.uplinks);
        let addresses = changed(&self.addresses, &last.addresses);
        let mut events = Vec::new();
        if devices.is_some() {
            let (last, now) = (&last.devices, &self.devices);
            events.extend(edges_missing(last, now).map(|(ifindex, kind)| Event::EdgeVanished { ifindex, kind }));
            events.extend(edges_missing(now, last).map(|(ifindex, kind)| Event::EdgeAppeared { ifindex, kind }));
        }
        for (uplink, now) in self.uplinks.iter().enumerate() {
            uplink_events(uplink, last.uplinks.get(uplink).map(Option::as_ref), now.as_ref(), &mut events);
        }
        if addresses.is_some() {
            events.push(Event::AddressesChanged);
        }
        Update {
            fib: changed(&self.fib, &last.fib),
            neighbors: changed(&self.neighbors, &last.neighbors),
            devices,
            uplinks,
            bonds: changed(&self.bonds, &last.bonds),
            addresses,
            events,
        }
    }
}

fn changed<T>(now: &Arc<T>, last: &Arc<T>) -> Option<Arc<T>> {
    (!Arc::ptr_eq(now, last)).then(|| Arc::clone(now))
}

/// Pods' and overlay devices of `here` that are none of that kind in `there`.
fn edges_missing<'a>(here: &'a Devices, there: &'a Devices) -> impl Iterator<Item = (u32, DeviceKind)> + 'a {
    let edges = here.by_index.iter().filter(|(_, device)| device.kind.has_edge());
    edges
        .map(|(ifindex, device)| (*ifindex, device.kind))
        .filter(|(ifindex, kind)| there.get(*ifindex).is_none_or(|other| other.kind != *kind))
}

/// `last` is `None` in the first update.
fn uplink_events(uplink: usize, last: Option<Option<&Uplink>>, now: Option<&Uplink>, events: &mut Vec<Event>) {
    match (last, now) {
        (None | Some(Some(_)), None) => events.push(Event::UplinkGone { uplink }),
        (Some(None), Some(_)) => events.push(Event::UplinkBack { uplink }),
        (Some(Some(last)), Some(now)) if last.ifindex != now.ifindex => {
            events.extend([Event::UplinkGone { uplink }, Event::UplinkBack { uplink }]);
        }
        (Some(Some(last)), Some(now)) if last != now => events.push(Event::UplinkChanged { uplink }),
        _ => {}
    }
}
