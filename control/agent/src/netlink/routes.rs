//! Routes of ClusterIPs, of ServiceCIDRs and of aliases into the hostlink: for the node's own sockets, and so that an address that no
//! Service has goes nowhere else.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol};
use rtnetlink::RouteMessageBuilder;
use rustc_hash::FxHashSet;

use super::kernel::local_addresses;
use super::socket::Requests;
use super::{HOSTLINK_GATEWAY, NetlinkError, ROUTE_PROTOCOL, RW1};

/// A route that the kernel did not take, or keeps although it is not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConflict {
    pub net: Ipv4Net,
    /// What stands in the way, as a sentence.
    pub reason: String,
}

/// What one reconciliation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    pub added: usize,
    pub removed: usize,
    /// Given another MTU.
    pub resized: usize,
    /// Wanted, but addresses of this node: they have no route.
    pub local: Vec<Ipv4Addr>,
    pub conflicts: Vec<RouteConflict>,
}

/// `NET via 169.254.82.2 dev rw1 onlink src NODE proto 82` in table main, one for each ServiceCIDR, and a /32 for each ClusterIP and alias.
pub struct Routes {
    requests: Requests,
    rw1_ifindex: u32,
}

impl Routes {
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn new(rw1_ifindex: u32) -> Result<Routes, NetlinkError> {
        Ok(Routes { requests: Requests::open()?, rw1_ifindex })
    }

    /// Makes the routes of protocol 82 equal to `wanted`, with `source` as the address that the node's sockets get, and `mtu` as the bytes
    /// of the largest packet that they send (`None`: what `rw1` takes); others' routes are never touched. Reads what is there each time, so it
    /// also repairs.
    ///
    /// # Errors
    /// The kernel's tables cannot be read. What it refuses for single routes is in [`Reconciled::conflicts`].
    pub async fn reconcile(&mut self, wanted: &FxHashSet<Ipv4Net>, source: Ipv4Addr, mtu: Option<u32>) -> Result<Reconciled, NetlinkError> {
        let node: HashSet<Ipv4Addr> = local_addresses(&mut self.requests).await?.iter().map(|local| local.address).collect();
        let is_local = |net: &&Ipv4Net| net.prefix_len() == 32 && node.contains(&net.addr());
        let mut local: Vec<Ipv4Addr> = wanted.iter().filter(is_local).map(Ipv4Net::addr).collect();
        local.sort_unstable();
        // A route of a network that the node lives in would cut it off.
        let overlaps = |net: &Ipv4Net| node.iter().find(|address| net.prefix_len() < 32 && net.contains(*address)).copied();

        let mut missing: FxHashSet<Ipv4Net> = wanted.iter().filter(|net| !is_local(net) && overlaps(net).is_none()).copied().collect();
        let (mut surplus, mut resized) = (Vec::new(), Vec::new());
        for route in ours(&mut self.requests).await? {
            let net = destination(&route);
            if !self.fits(&route, source) || !missing.remove(&net) {
                surplus.push(route);
            } else if !has_mtu(&route, mtu) {
                resized.push(net);
            }
        }
        let mut missing: Vec<Ipv4Net> = missing.into_iter().collect();
        missing.sort_unstable();

        let mut result = Reconciled { local, ..Reconciled::default() };
        result.conflicts.extend(wanted.iter().filter_map(|&net| {
            let address = overlaps(&net)?;
            Some(RouteConflict { net, reason: format!("{address} is an address of this node: such a route would cut it off") })
        }));
        // First, because a route with another source is in the way of its successor.
        let nets: Vec<Ipv4Net> = surplus.iter().map(destination).collect();
        for (removed, net) in remove(&mut self.requests, surplus).await?.into_iter().zip(nets) {
            match removed {
                Ok(()) => result.removed += 1,
                // The kernel was faster: it removes routes whose source address goes.
                Err(error) if error.errno() == Some(libc::ESRCH) => result.removed += 1,
                Err(error) => result.conflicts.push(RouteConflict { net, reason: error.to_string() }),
            }
        }
        // In place, so that no packet goes another way meanwhile. It is ours that is replaced: two of one destination and priority cannot be.
        let requests = resized.iter().map(|&net| (Message::NewRoute(self.route(net, source, mtu)), NLM_F_REPLACE)).collect();
        let replaced = self.requests.batch(requests, |number| format!("change the MTU of the route {}", resized[number])).await?;
        for (replaced, &net) in replaced.into_iter().zip(&resized) {
            match replaced {
                Ok(()) => result.resized += 1,
                Err(error) => result.conflicts.push(RouteConflict { net, reason: error.to_string() }),
            }
        }
        let requests = missing.iter().map(|&net| (Message::NewRoute(self.route(net, source, mtu)), NLM_F_CREATE | NLM_F_EXCL)).collect();
        let added = self.requests.batch(requests, |number| format!("add the route {} dev {RW1}", missing[number])).await?;
        for (added, &net) in added.into_iter().zip(&missing) {
            match added {
                Ok(()) => result.added += 1,
                Err(error) if error.errno() == Some(libc::EEXIST) => {
                    let reason = format!("a route to {net} that is not Ringway's exists in table main: packets take that one");
                    result.conflicts.push(RouteConflict { net, reason });
                }
                Err(error) => result.conflicts.push(RouteConflict { net, reason: error.to_string() }),
            }
        }
        Ok(result)
    }

    fn route(&self, net: Ipv4Net, source: Ipv4Addr, mtu: Option<u32>) -> RouteMessage {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .gateway(HOSTLINK_GATEWAY)
            .output_interface(self.rw1_ifindex)
            .pref_source(source)
            .protocol(RouteProtocol::from(ROUTE_PROTOCOL))
            .onlink()
            .build();
        route.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        route
    }

    /// Whether the route is as we make them, but for its MTU.
    fn fits(&self, route: &RouteMessage, source: Ipv4Addr) -> bool {
        let has = |wanted: RouteAttribute| route.attributes.contains(&wanted);
        route.header.table == RouteHeader::RT_TABLE_MAIN
            && route.header.flags.contains(RouteFlags::Onlink)
            && !route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Priority(_)))
            && has(RouteAttribute::Oif(self.rw1_ifindex))
            && has(RouteAttribute::Gateway(RouteAddress::Inet(HOSTLINK_GATEWAY)))
            && has(RouteAttribute::PrefSource(RouteAddress::Inet(source)))
    }
}

fn has_mtu(route: &RouteMessage, mtu: Option<u32>) -> bool {
    let metrics = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics.flatten().filter_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None }).eq(mtu)
}

/// All IPv4 routes of our protocol, whatever their table.
pub(super) async fn ours(requests: &mut Requests) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut ask = RouteMessageBuilder::<Ipv4Addr>::new().protocol(RouteProtocol::from(ROUTE_PROTOCOL)).build();
    // 0: of all tables.
    ask.header.table = RouteHeader::RT_TABLE_UNSPEC;
    let messages = requests.dump(&format!("read the routes of protocol {ROUTE_PROTOCOL}"), Message::GetRoute(ask)).await?;
    let routes = messages.into_iter().filter_map(|message| match message {
        // The kernel filters; were that to fail, others' routes would be removed: look again.
        Message::NewRoute(route) if u8::from(route.header.protocol) == ROUTE_PROTOCOL => Some(route),
        _ => None,
    });
    Ok(routes.collect())
}

pub(super) async fn remove(requests: &mut Requests, routes: Vec<RouteMessage>) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
    let nets: Vec<Ipv4Net> = routes.iter().map(destination).collect();
    let messages = routes.into_iter().map(|route| (Message::DelRoute(route), 0)).collect();
    requests.batch(messages, |number| format!("remove the route to {}", nets[number])).await
}

fn destination(route: &RouteMessage) -> Ipv4Net {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    Ipv4Net::new(destination.unwrap_or(Ipv4Addr::UNSPECIFIED), route.header.destination_prefix_length).unwrap_or_default()
}
