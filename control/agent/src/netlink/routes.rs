//! Routes of ClusterIPs, of ServiceCIDRs and of aliases into the hostlink: for the node's own sockets, and so that an address that no
//! Service has goes nowhere else.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol};
use ringway_engine::tables::NodeAddresses;
use rtnetlink::RouteMessageBuilder;
use rustc_hash::FxHashSet;

use super::convert::{every, family};
use super::kernel::{FAMILIES, local_addresses};
use super::socket::Requests;
use super::{HOSTLINK_GATEWAY, HOSTLINK_GATEWAY6, NetlinkError, ROUTE_PROTOCOL, RW1};

/// A route that the kernel did not take, or keeps although it is not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConflict {
    pub net: IpNet,
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
    pub local: Vec<IpAddr>,
    pub conflicts: Vec<RouteConflict>,
}

/// The metric that the kernel gives IPv6 routes without one (`IP6_RT_PRIO_USER`). Others' routes to the same net usually have it, too: then
/// they are a conflict instead of losing to ours in silence.
const METRIC6: u32 = 1024;

/// `NET via 169.254.82.2 dev rw1 onlink src NODE proto 82` in table main (IPv6: `via fe80::5252:1`), one for each ServiceCIDR, and a /32 or
/// /128 for each ClusterIP and alias.
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

    /// Makes the routes of protocol 82 equal to `wanted`, with `sources` as the addresses that the node's sockets get, and `mtu` as the bytes
    /// of the largest packet that they send (`None`: what `rw1` takes); others' routes are never touched. A family without a source has no
    /// routes: the node cannot be a client. Reads what is there each time, so it also repairs.
    ///
    /// # Errors
    /// The kernel's tables cannot be read. What it refuses for single routes is in [`Reconciled::conflicts`].
    pub async fn reconcile(
        &mut self,
        wanted: &FxHashSet<IpNet>,
        sources: NodeAddresses,
        mtu: Option<u32>,
    ) -> Result<Reconciled, NetlinkError> {
        let wanted: Vec<IpNet> = wanted.iter().filter(|net| source_of(net, sources).is_some()).copied().collect();
        let node: HashSet<IpAddr> = local_addresses(&mut self.requests).await?.iter().map(|local| local.address).collect();
        let is_local = |net: &&IpNet| is_single(net) && node.contains(&net.addr());
        let mut local: Vec<IpAddr> = wanted.iter().filter(is_local).map(IpNet::addr).collect();
        local.sort_unstable();
        // A route of a network that the node lives in would cut it off.
        let overlaps = |net: &IpNet| node.iter().find(|address| !is_single(net) && net.contains(*address)).copied();

        let mut missing: FxHashSet<IpNet> = wanted.iter().filter(|net| !is_local(net) && overlaps(net).is_none()).copied().collect();
        let (mut surplus, mut resized) = (Vec::new(), Vec::new());
        for route in ours(&mut self.requests).await? {
            let net = destination(&route);
            if !self.fits(&route, sources) || !missing.remove(&net) {
                surplus.push(route);
            } else if !has_mtu(&route, mtu) {
                resized.push(net);
            }
        }
        let mut missing: Vec<IpNet> = missing.into_iter().collect();
        missing.sort_unstable();

        let mut result = Reconciled { local, ..Reconciled::default() };
        result.conflicts.extend(wanted.iter().filter_map(|&net| {
            let address = overlaps(&net)?;
            Some(RouteConflict { net, reason: format!("{address} is an address of this node: such a route would cut it off") })
        }));
        // First, because a route with another source is in the way of its successor.
        let nets: Vec<IpNet> = surplus.iter().map(destination).collect();
        for (removed, net) in remove(&mut self.requests, surplus).await?.into_iter().zip(nets) {
            match removed {
                Ok(()) => result.removed += 1,
                // The kernel was faster: it removes routes whose source address goes.
                Err(error) if error.errno() == Some(libc::ESRCH) => result.removed += 1,
                Err(error) => result.conflicts.push(RouteConflict { net, reason: error.to_string() }),
            }
        }
        // In place, so that no packet goes another way meanwhile. It is ours that is replaced: two of one destination and priority cannot be.
        let requests = resized.iter().map(|&net| (Message::NewRoute(self.route(net, sources, mtu)), NLM_F_REPLACE)).collect();
        let replaced = self.requests.batch(requests, |number| format!("change the MTU of the route {}", resized[number])).await?;
        for (replaced, &net) in replaced.into_iter().zip(&resized) {
            match replaced {
                Ok(()) => result.resized += 1,
                Err(error) => result.conflicts.push(RouteConflict { net, reason: error.to_string() }),
            }
        }
        let requests = missing.iter().map(|&net| (Message::NewRoute(self.route(net, sources, mtu)), NLM_F_CREATE | NLM_F_EXCL)).collect();
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

    fn route(&self, net: IpNet, sources: NodeAddresses, mtu: Option<u32>) -> RouteMessage {
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .output_interface(self.rw1_ifindex)
            .protocol(RouteProtocol::from(ROUTE_PROTOCOL))
            .onlink()
            .build();
        route.header.address_family = family(net.addr());
        route.header.destination_prefix_length = net.prefix_len();
        route.attributes.push(RouteAttribute::Destination(net.network().into()));
        route.attributes.push(RouteAttribute::Gateway(gateway(&net).into()));
        route.attributes.extend(metric(&net).map(RouteAttribute::Priority));
        route.attributes.extend(source_of(&net, sources).map(|source| RouteAttribute::PrefSource(source.into())));
        route.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        route
    }

    /// Whether the route is as we make them, but for its MTU.
    fn fits(&self, route: &RouteMessage, sources: NodeAddresses) -> bool {
        let net = destination(route);
        let has = |wanted: RouteAttribute| route.attributes.contains(&wanted);
        let metrics = route.attributes.iter().filter_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
        route.header.table == RouteHeader::RT_TABLE_MAIN
            && route.header.flags.contains(RouteFlags::Onlink)
            && metrics.eq(metric(&net))
            && has(RouteAttribute::Oif(self.rw1_ifindex))
            && has(RouteAttribute::Gateway(gateway(&net).into()))
            && source_of(&net, sources).is_some_and(|source| has(RouteAttribute::PrefSource(source.into())))
    }
}

fn is_single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

fn gateway(net: &IpNet) -> IpAddr {
    if net.addr().is_ipv4() { HOSTLINK_GATEWAY.into() } else { HOSTLINK_GATEWAY6.into() }
}

fn metric(net: &IpNet) -> Option<u32> {
    net.addr().is_ipv6().then_some(METRIC6)
}

fn source_of(net: &IpNet, sources: NodeAddresses) -> Option<IpAddr> {
    match net {
        IpNet::V4(_) => sources.v4.map(IpAddr::V4),
        IpNet::V6(_) => sources.v6.map(IpAddr::V6),
    }
}

fn has_mtu(route: &RouteMessage, mtu: Option<u32>) -> bool {
    let metrics = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics.flatten().filter_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None }).eq(mtu)
}

/// All routes of our protocol, whatever their table.
pub(super) async fn ours(requests: &mut Requests) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut ours = Vec::new();
    for family in FAMILIES {
        let mut ask = RouteMessageBuilder::<IpAddr>::new().protocol(RouteProtocol::from(ROUTE_PROTOCOL)).build();
        ask.header.address_family = family;
        // 0: of all tables.
        ask.header.table = RouteHeader::RT_TABLE_UNSPEC;
        let messages = requests.dump(&format!("read the {family:?} routes of protocol {ROUTE_PROTOCOL}"), Message::GetRoute(ask)).await?;
        ours.extend(messages.into_iter().filter_map(|message| match message {
            // The kernel filters; were that to fail, others' routes would be removed: look again.
            Message::NewRoute(route) if u8::from(route.header.protocol) == ROUTE_PROTOCOL && route.header.address_family == family => {
                Some(route)
            }
            _ => None,
        }));
    }
    Ok(ours)
}

/// Of IPv6 routes to one prefix with one metric the kernel makes one: were somebody to append a way, it is found by its protocol and stays.
pub(super) async fn remove(requests: &mut Requests, routes: Vec<RouteMessage>) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
    let nets: Vec<IpNet> = routes.iter().map(destination).collect();
    let messages = routes.into_iter().map(|route| (Message::DelRoute(route), 0)).collect();
    requests.batch(messages, |number| format!("remove the route to {}", nets[number])).await
}

fn destination(route: &RouteMessage) -> IpNet {
    let unspecified = every(route.header.address_family).unwrap_or_default();
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    IpNet::new(destination.unwrap_or(unspecified.addr()), route.header.destination_prefix_length).unwrap_or(unspecified)
}
