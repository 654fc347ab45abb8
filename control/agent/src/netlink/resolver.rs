//! Asks the kernel to resolve neighbors by ARP or NDP, and to keep those in use fresh.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use ringway_engine::tables::{Fib, RouteKind};
use rustc_hash::FxHashSet;

use super::NetlinkError;
use super::convert::family;
use super::socket::Requests;

/// How often [`Resolver::resolve`] should be called for the neighbors in use: the kernel then probes those that are stale, and
/// starts again with those that failed. Shorter than the time for which an entry is reachable (15 to 45 s by default).
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Asks the kernel to resolve.
pub struct Resolver {
    requests: Requests,
}

impl Resolver {
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn new() -> Result<Resolver, NetlinkError> {
        Ok(Resolver { requests: Requests::open()? })
    }

    /// Asks the kernel to resolve (ifindex, address), or to probe it if it is stale: what a packet sent there would cause. The
    /// answer comes as an update of the [`super::Follower`]. Returns those that the kernel refused (device gone or down).
    ///
    /// # Errors
    /// The netlink socket failed.
    pub async fn resolve(&mut self, wanted: impl IntoIterator<Item = (u32, IpAddr)>) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
        let wanted: Vec<_> = wanted.into_iter().collect();
        let messages = wanted.iter().map(|&neighbor| (Message::NewNeighbour(used(neighbor)), NLM_F_CREATE)).collect();
        let results = self.requests.batch(messages, |number| format!("ask the kernel to resolve {:?}", wanted[number])).await?;
        Ok(results.into_iter().zip(wanted).filter_map(|(result, neighbor)| result.is_err().then_some(neighbor)).collect())
    }
}

/// `ip neigh replace ADDRESS dev DEV use`: as if a packet were sent there.
fn used((ifindex, address): (u32, IpAddr)) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.header.flags = NeighbourFlags::Use;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

/// The neighbors (ifindex, address) through which packets from `source`, received on `iif`, reach `destinations` (backends of its
/// family), all ways of multipath routes included: what to keep fresh.
pub fn next_hops(fib: &Fib, source: IpAddr, iif: Option<u32>, destinations: impl IntoIterator<Item = IpAddr>) -> FxHashSet<(u32, IpAddr)> {
    let mut neighbors = FxHashSet::default();
    for destination in destinations {
        if let Some(RouteKind::Unicast(ways)) = fib.find(source, destination, iif).map(|route| &route.kind) {
            neighbors.extend(ways.iter().map(|way| (way.ifindex, way.gateway.unwrap_or(destination))));
        }
    }
    neighbors
}
