//! Routes of the VIPs into the hostlink, for the node's own sockets.

use std::net::Ipv4Addr;

use rustc_hash::FxHashSet;

use super::NetlinkError;

/// A VIP whose route the kernel did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipConflict {
    pub vip: Ipv4Addr,
    /// What stands in the way, as a sentence.
    pub reason: String,
}

/// What one reconciliation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    pub added: usize,
    pub removed: usize,
    /// Wanted, but addresses of this node: they have no route.
    pub local: Vec<Ipv4Addr>,
    pub conflicts: Vec<VipConflict>,
}

/// `VIP/32 via 169.254.82.2 dev rw1 onlink src NODE proto 82` in table main, one for each VIP.
#[derive(Debug)]
pub struct VipRoutes {}

impl VipRoutes {
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn new(rw1_ifindex: u32) -> Result<VipRoutes, NetlinkError> {
        let _ = rw1_ifindex;
        unimplemented!()
    }

    /// Makes the routes of protocol 82 equal to `wanted`; others' routes are never touched. Reads what is there each time, so it also repairs.
    ///
    /// # Errors
    /// The kernel's tables cannot be read. What it refuses for single routes is in [`Reconciled::conflicts`].
    pub async fn reconcile(&mut self, wanted: &FxHashSet<Ipv4Addr>, source: Ipv4Addr) -> Result<Reconciled, NetlinkError> {
        let _ = (wanted, source);
        unimplemented!()
    }
}
