//! What the follower hands to the control loop.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ringway_engine::tables::{Devices, Fib, Neighbors, Uplink};

/// An IPv4 address of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalAddress {
    pub ifindex: u32,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    /// Not the first of its subnet on the device.
    pub secondary: bool,
}

/// What happened between two updates, for those who attach programs or announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device became the host's side of a pod: attach `edge`.
    PodAppeared { ifindex: u32 },
    /// It is gone, or is no pod's any more; its programs went with it or have to be detached.
    PodVanished { ifindex: u32 },
    /// The uplink of this index (order of `FollowerConfig::uplinks`) does not exist any more.
    UplinkGone { uplink: usize },
    /// It exists again, perhaps with another ifindex.
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
    pub uplinks: Option<Vec<Option<Uplink>>>,
    /// Sorted.
    pub addresses: Option<Arc<Vec<LocalAddress>>>,
    /// In the order: vanished, appeared, uplinks, addresses. The first update reports every pod and every missing uplink.
    pub events: Vec<Event>,
}
