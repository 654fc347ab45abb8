//! The hostlink: the veth pair `rw0`/`rw1` between the workers and the rest of the node.

use super::NetlinkError;

/// How the pair should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostlinkConfig {
    /// Receive and transmit queues of both ends: the number of workers.
    pub queues: u32,
    /// Bytes; at least the largest pod's or uplink's, at most 3500.
    pub mtu: u32,
}

/// What [`Hostlink::ensure`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostlinkAction {
    Created,
    /// One of an earlier process, which fits.
    Kept,
    /// One of an earlier process did not fit (other number of queues, no pair): made anew.
    Recreated,
}

/// The pair as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hostlink {
    pub rw0_ifindex: u32,
    pub rw1_ifindex: u32,
    pub rw1_mac: [u8; 6],
    pub mtu: u32,
    pub action: HostlinkAction,
}

impl Hostlink {
    /// Creates, takes over or repairs the pair: queues, MTU, up, no IPv6 address, no transmit checksum offload on `rw1`, the
    /// permanent neighbor. Idempotent.
    ///
    /// # Errors
    /// A device `rw0` or `rw1` that is not ours, or the kernel refuses.
    pub async fn ensure(config: HostlinkConfig) -> Result<Hostlink, NetlinkError> {
        let _ = config;
        unimplemented!()
    }
}
