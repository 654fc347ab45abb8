//! Asks devices of the caller's network namespace by `ioctl`: driver, queues, offloads, link.

use crate::error::Error;

/// Queues of a device (`ethtool -l`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    pub rx: u32,
    pub tx: u32,
    pub combined: u32,
    pub rx_max: u32,
    pub tx_max: u32,
    pub combined_max: u32,
}

impl Channels {
    /// Queues that receive now, at least 1.
    pub fn receiving(&self) -> u32 {
        (self.rx + self.combined).max(1)
    }

    /// Queues that transmit now, at least 1.
    pub fn transmitting(&self) -> u32 {
        (self.tx + self.combined).max(1)
    }
}

/// What a device is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Has a carrier (`IFF_RUNNING`).
    pub running: bool,
}

/// The kernel driver's name (`ethtool -i`): "veth", "virtio_net", "ixgbe".
pub fn driver(ifname: &str) -> Result<String, Error> { todo!() }

/// A device whose driver does not tell has one queue.
pub fn channels(ifname: &str) -> Result<Channels, Error> { todo!() }

/// Sizes of the NIC's own receive and transmit rings in descriptors (`ethtool -g`); `None` if the driver has no such thing.
pub fn hardware_rings(ifname: &str) -> Result<Option<(u32, u32)>, Error> { todo!() }

pub fn link(ifname: &str) -> Result<Link, Error> { todo!() }

/// Whether the device computes checksums of what it transmits (`ethtool -k`, tx-checksumming).
pub fn tx_checksum(ifname: &str) -> Result<bool, Error> { todo!() }

/// `ethtool -K DEV tx on|off`. Off on `rw1`, the stack completes checksums before we see them.
pub fn set_tx_checksum(ifname: &str, on: bool) -> Result<(), Error> { todo!() }
