//! Asks the kernel to resolve neighbors, and to keep those in use fresh.

use std::net::Ipv4Addr;
use std::time::Duration;

use ringway_engine::tables::Fib;
use rustc_hash::FxHashSet;

use super::NetlinkError;

/// How often [`Resolver::resolve`] should be called for the neighbors in use: the kernel then probes those that are stale, and
/// starts again with those that failed.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Asks the kernel to resolve.
#[derive(Debug)]
pub struct Resolver {}

impl Resolver {
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn new() -> Result<Resolver, NetlinkError> {
        unimplemented!()
    }

    /// Asks the kernel to resolve (ifindex, address), or to probe it if it is stale: what a packet sent there would cause. The
    /// answer comes as an update of the [`super::Follower`]. Returns those that the kernel refused (device gone or down).
    ///
    /// # Errors
    /// The netlink socket failed.
    pub async fn resolve(&mut self, wanted: impl IntoIterator<Item = (u32, Ipv4Addr)>) -> Result<Vec<(u32, Ipv4Addr)>, NetlinkError> {
        let _ = wanted.into_iter();
        unimplemented!()
    }
}

/// The neighbors through which `destinations` (backends) are reached, all ways of multipath routes included.
pub fn next_hops(fib: &Fib, destinations: impl IntoIterator<Item = Ipv4Addr>) -> FxHashSet<(u32, Ipv4Addr)> {
    let _ = (fib, destinations.into_iter());
    unimplemented!()
}
