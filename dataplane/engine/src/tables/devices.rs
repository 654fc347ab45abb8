//! The node's devices as far as the engine needs them.

use std::net::IpAddr;

use rustc_hash::{FxHashMap, FxHashSet};

/// What a device is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A NIC that we serve, by its index among the uplinks.
    Uplink(u8),
    /// The host's side of a pod.
    Pod,
    /// A bridge; pods may be its ports.
    Bridge,
    /// Leads to other nodes' pods by encapsulation (vxlan, ipip, WireGuard). `ethernet`: its packets have Ethernet headers.
    Overlay {
        ethernet: bool,
    },
    /// Our own `rw1`.
    Hostlink,
    Other,
}

impl DeviceKind {
    /// `edge` runs on each device of this kind as long as it exists. (On uplinks, too, but those are configured.)
    pub fn has_edge(self) -> bool {
        matches!(self, DeviceKind::Pod | DeviceKind::Overlay { .. })
    }
}

/// One device of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub kind: DeviceKind,
    pub mac: [u8; 6],
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// The bridge of which the device is a port.
    pub bridge: Option<u32>,
}

/// Devices by ifindex, and on which port of a bridge a MAC lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    pub by_index: FxHashMap<u32, Device>,
    /// (ifindex of the bridge, MAC) → ifindex of the port; the kernel's FDB.
    pub bridge_ports: FxHashMap<(u32, [u8; 6]), u32>,
}

/// Neighbors that the kernel considers usable: (ifindex, address) → MAC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbors {
    pub by_address: FxHashMap<(u32, IpAddr), [u8; 6]>,
    /// Those that somebody set for good. The kernel must not be asked to resolve them: it would forget them
    /// (`NTF_USE` takes `NUD_PERMANENT` away, net/core/neighbour.c), and overlay networks live by such entries.
    pub permanent: FxHashSet<(u32, IpAddr)>,
}

impl Devices {
    #[inline]
    pub fn get(&self, ifindex: u32) -> Option<&Device> {
        self.by_index.get(&ifindex)
    }
}

impl Neighbors {
    #[inline]
    pub fn lookup(&self, ifindex: u32, address: IpAddr) -> Option<[u8; 6]> {
        self.by_address.get(&(ifindex, address)).copied()
    }
}
