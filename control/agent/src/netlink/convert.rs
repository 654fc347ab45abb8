//! Kernel messages to what we keep of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RoutePreference, RouteType,
};
use netlink_packet_route::rule::{self, RuleAttribute, RuleFlags, RuleMessage};
use ringway_engine::tables::{NextHop, Route, RouteKind, Rule, RuleAction};

use super::LocalAddress;
use super::bond::{BondState, MemberState};

/// A device as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    /// Its packets have Ethernet headers.
    pub(super) ethernet: bool,
    /// `None` for a device with a driver of its own: a NIC.
    pub(super) kind: Option<InfoKind>,
    /// The bridge, bond or VRF of which it is a part.
    pub(super) controller: Option<u32>,
    pub(super) bond: Option<BondState>,
    pub(super) bond_member: Option<MemberState>,
    /// The device at the other end, or below.
    pub(super) peer: Option<u32>,
    /// The device at the other end, or below, is in another network namespace.
    pub(super) peer_elsewhere: bool,
    pub(super) queues: (u32, u32),
    /// Up and running: routes change with it.
    pub(super) flags: LinkFlags,
}

/// `None` for messages about a bridge's port, which repeat part of the device.
pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        kind: None,
        controller: None,
        bond: None,
        bond_member: None,
        peer: None,
        peer_elsewhere: false,
        queues: (1, 1),
        flags: message.header.flags & (LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(ifindex) => link.controller = Some(*ifindex),
            LinkAttribute::Link(ifindex) => link.peer = Some(*ifindex),
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::NumRxQueues(count) => link.queues.0 = *count,
            LinkAttribute::NumTxQueues(count) => link.queues.1 = *count,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
                link.bond = BondState::read(infos);
                link.bond_member = MemberState::read(infos);
            }
            _ => {}
        }
    }
    Some(link)
}

/// `None` for what nobody can be reached by: an IPv6 address that is not yet, or not, known to be free on its link (RFC 4862 section 5.4),
/// and the link-local ones that each device has by itself.
pub(super) fn address(message: &AddressMessage) -> Option<LocalAddress> {
    type Flags = AddressHeaderFlags;
    // `Local` is ours; `Address` is the same, or the other end of a point-to-point device.
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    let address = find(true).or_else(|| find(false))?;
    let flags = message.header.flags;
    let secondary = match address {
        IpAddr::V4(_) => flags.contains(Flags::Secondary),
        IpAddr::V6(address) => {
            // An optimistic one (RFC 4429) is in use meanwhile.
            let tentative = flags.contains(Flags::Tentative) && !flags.contains(Flags::Optimistic);
            if tentative || flags.contains(Flags::Dadfailed) || address.is_unicast_link_local() {
                return None;
            }
            // The bit of IPv4's secondary addresses says temporary.
            flags.intersects(Flags::Secondary | Flags::Deprecated)
        }
    };
    Some(LocalAddress { ifindex: message.header.index, address, prefix_len: message.header.prefix_len, secondary })
}

/// An entry of the neighbor table or of a bridge's FDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbor {
    /// `mac` is `None` if it is not usable now.
    Inet { key: (u32, IpAddr), mac: Option<[u8; 6]>, permanent: bool },
    /// `port` is `None` if the MAC is the host's own.
    Bridge { key: (u32, [u8; 6], u16), port: Option<u32> },
}

/// `None` for what is no neighbor: the kernel notes the MAC of each multicast group that it has sent to.
pub(super) fn neighbor(message: &NeighbourMessage) -> Option<Neighbor> {
    let mut mac = None;
    let mut address = None;
    let mut bridge = None;
    let mut vlan = 0;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(destination)) => address = Some(IpAddr::V4(*destination)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(destination)) => address = Some(IpAddr::V6(*destination)),
            NeighbourAttribute::Controller(ifindex) => bridge = Some(*ifindex),
            NeighbourAttribute::Vlan(id) => vlan = *id,
            _ => {}
        }
    }
    let ifindex = message.header.ifindex;
    match message.header.family {
        AddressFamily::Inet | AddressFamily::Inet6 => {
            use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
            let usable = matches!(message.header.state, Permanent | Noarp | Reachable | Stale | Delay | Probe);
            let permanent = matches!(message.header.state, Permanent | Noarp);
            let address = address.filter(|address| !address.is_multicast())?;
            Some(Neighbor::Inet { key: (ifindex, address), mac: mac.filter(|_| usable), permanent })
        }
        AddressFamily::Bridge => {
            let own = message.header.state == NeighbourState::Permanent;
            Some(Neighbor::Bridge { key: (bridge?, mac?, vlan), port: (!own).then_some(ifindex) })
        }
        _ => None,
    }
}

/// What of the kernel's routing is not followed: sentences for the log.
pub(super) type Gaps = BTreeSet<String>;

/// A rule, if packets that we look up can match it: they carry no mark, TOS 0 and no user, and come from no socket. `ifindex_of`
/// resolves a device's name.
pub(super) fn rule(message: &RuleMessage, ifindex_of: impl Fn(&str) -> Option<u32>, gaps: &mut Gaps) -> Option<Rule> {
    const FRA_DSCP: u16 = 25;
    const FRA_FLOWLABEL: u16 = 26;
    let header = &message.header;
    let every = every(header.family)?;
    let mut rule = Rule {
        priority: 0,
        from: every,
        to: every,
        invert: header.flags.contains(RuleFlags::Invert),
        iif: None,
        suppress_prefix_len: None,
        action: RuleAction::Refuse,
    };
    let mut table = u32::from(header.table);
    let mut target = 0;
    let (mut mark, mut mask) = (0, None);
    let mut impossible = header.tos != 0;
    let mut gap = None;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(address) => rule.from = IpNet::new(*address, header.src_len).ok()?,
            RuleAttribute::Destination(address) => rule.to = IpNet::new(*address, header.dst_len).ok()?,
            RuleAttribute::Iifname(name) => {
                rule.iif = ifindex_of(name);
                impossible |= rule.iif.is_none();
            }
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Goto(priority) => target = *priority,
            // The kernel's "none" is −1.
            RuleAttribute::SuppressPrefixLen(length) => rule.suppress_prefix_len = u8::try_from(*length).ok(),
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = Some(*value),
            // Forwarded packets count as root's (`sock_net_uid`).
            RuleAttribute::UidRange(range) => impossible |= range.start != 0,
            RuleAttribute::Oifname(_) | RuleAttribute::L3MDev(true) => impossible = true,
            RuleAttribute::TunId(id) => impossible |= *id != 0,
            RuleAttribute::IpProtocol(_) | RuleAttribute::SourcePortRange(_) | RuleAttribute::DestinationPortRange(_) => {
                impossible = true;
                gap = Some("selects by protocol or port: it is passed over");
            }
            RuleAttribute::SuppressIfGroup(_) => gap = Some("has suppress_ifgroup, which is not followed"),
            RuleAttribute::Other(other) if netlink_packet_core::Nla::kind(other) == FRA_DSCP => {
                let mut value = vec![0; netlink_packet_core::Nla::value_len(other)];
                netlink_packet_core::Nla::emit_value(other, &mut value);
                impossible |= value.first() != Some(&0);
            }
            RuleAttribute::Other(other) if netlink_packet_core::Nla::kind(other) == FRA_FLOWLABEL => {
                impossible = true;
                gap = Some("selects by flow label: it is passed over");
            }
            _ => {}
        }
    }
    if let Some(gap) = gap {
        let option = if header.family == AddressFamily::Inet6 { " -6" } else { "" };
        gaps.insert(format!("ip{option} rule {} {gap}", rule.priority));
    }
    impossible |= mark & mask.unwrap_or(u32::MAX) != 0;
    if impossible {
        if !rule.invert {
            return None;
        }
        // Not (what never holds): every packet.
        rule = Rule { invert: false, from: every, to: every, iif: None, ..rule };
    }
    rule.action = match header.action {
        rule::RuleAction::ToTable => RuleAction::Lookup(table),
        // The kernel wants a rule of exactly this priority and otherwise passes the rule over.
        rule::RuleAction::Goto if header.flags.contains(RuleFlags::Unresolved) => RuleAction::Nop,
        rule::RuleAction::Goto => RuleAction::Goto(target),
        rule::RuleAction::Nop => RuleAction::Nop,
        _ => RuleAction::Refuse,
    };
    Some(rule)
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The prefix that contains every address of the family.
pub(super) fn every(family: AddressFamily) -> Option<IpNet> {
    let unspecified = match family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    IpNet::new(unspecified, 0).ok()
}

/// A route and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableRoute {
    pub(super) table: u32,
    pub(super) prefix: IpNet,
    pub(super) route: Route,
    /// Of IPv6 routes with one metric the kernel takes those by the most preferred router (RFC 4191): the lowest here.
    pub(super) preference: u8,
}

/// A route with its table, if it is alive and applies to packets of TOS 0 from everywhere. Not those of link-local destinations: each device
/// has them, and packets of ours never go there.
pub(super) fn route(message: &RouteMessage, gaps: &mut Gaps) -> Option<TableRoute> {
    let header = &message.header;
    // What is cloned is an exception to a route (a path MTU, a redirect) that the kernel has learnt for its own packets.
    if header.tos != 0 || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut destination = every(header.address_family)?.addr();
    let mut metric = 0;
    let mut preference = 1;
    let mut mtu = None;
    let mut multipath = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Preference(RoutePreference::High) => preference = 0,
            RouteAttribute::Preference(RoutePreference::Low) => preference = 2,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) => Some(*bytes),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(ways) => multipath = Some(ways),
            _ => {}
        }
    }
    let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?;
    if matches!(prefix, IpNet::V6(prefix) if prefix.addr().is_unicast_link_local()) {
        return None;
    }
    if header.source_prefix_length > 0 {
        gaps.insert(format!("route {prefix} of table {table} is for some sources only: it is passed over"));
        return None;
    }
    // A way whose device is down is dead; without a carrier (`LINKDOWN`) it is only with ignore_routes_with_linkdown, and then the
    // kernel reports it as dead too.
    let dead = header.flags.contains(RouteFlags::Dead);
    let kind = match header.kind {
        RouteType::Unicast => {
            let ways: Vec<Way> = match multipath {
                Some(ways) => ways
                    .iter()
                    .filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead))
                    .map(|hop| way(hop.interface_index, u16::from(hop.hops) + 1, &hop.attributes))
                    .collect(),
                None if dead => Vec::new(),
                None => vec![way(0, 1, &message.attributes)],
            };
            if ways.is_empty() {
                return None;
            }
            let known: Box<[NextHop]> = ways.iter().filter_map(|way| way.ok()).collect();
            if known.len() < ways.len() {
                let way = if destination.is_ipv4() { "encapsulation or an IPv6 gateway" } else { "encapsulation" };
                gaps.insert(format!("route {prefix} of table {table} has a way by {way}, which is not followed"));
            }
            // Live, but beyond us: a shorter prefix would be wrong.
            if known.is_empty() { RouteKind::Refuse } else { RouteKind::Unicast(known) }
        }
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast if dead => return None,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => RouteKind::Local,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::Refuse,
    };
    Some(TableRoute { table, prefix, route: Route { kind, mtu, metric }, preference })
}

/// A way that we can take, or one that needs what we cannot do.
type Way = Result<NextHop, Unsupported>;

#[derive(Clone, Copy)]
struct Unsupported;

fn way(ifindex: u32, weight: u16, attributes: &[RouteAttribute]) -> Way {
    let mut hop = NextHop { ifindex, gateway: None, weight };
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => hop.ifindex = *ifindex,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => hop.gateway = Some((*address).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => hop.gateway = Some((*address).into()),
            RouteAttribute::Via(_) | RouteAttribute::Encap(_) => return Err(Unsupported),
            _ => {}
        }
    }
    Ok(hop)
}
