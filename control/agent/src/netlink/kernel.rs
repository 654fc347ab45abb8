//! A mirror of the kernel's objects, and the engine's tables made of it.
//!
//! Links, neighbors and the FDB are followed message by message: each message is a whole object. Addresses, rules and routes are
//! read anew when any of them, or a link, changed: the kernel removes IPv4 routes *without a word* when their device goes down or
//! loses an address, and where a new route stands among those of the same prefix is not in its message either.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, address::AddressMessage};
use ringway_engine::tables::{Device, DeviceKind, Devices, Fib, FibBuilder, Neighbors, Rule, Uplink};
use rustc_hash::FxHashMap;

use super::convert::{self, Gaps, Link, Neighbor, TableRoute};
use super::socket::Requests;
use super::{Bond, LocalAddress, NetlinkError, RW0, RW1, bond};

/// One after the other. Asked for a family that it does not have (`ipv6.disable=1`), the kernel answers with an error, which is none of
/// that family, or with the objects of all others: look at the family of each.
pub(super) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// What has to be read anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) links: bool,
    pub(super) neighbors: bool,
    pub(super) routing: bool,
}

impl Stale {
    pub(super) const ALL: Stale = Stale { links: true, neighbors: true, routing: true };
}

/// Which tables have to be made anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) devices: bool,
    pub(super) bonds: bool,
    pub(super) neighbors: bool,
    pub(super) fib: bool,
    pub(super) addresses: bool,
}

/// The kernel's objects as last heard of.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) stale: Stale,
    pub(super) changed: Changed,
    links: FxHashMap<u32, Link>,
    neighbors: FxHashMap<(u32, IpAddr), [u8; 6]>,
    permanent: FxHashMap<(u32, IpAddr), ()>,
    bridge_ports: FxHashMap<(u32, [u8; 6], u16), u32>,
    addresses: Vec<LocalAddress>,
    rules: Vec<Rule>,
    routes: Vec<TableRoute>,
    gaps: Gaps,
}

impl Kernel {
    /// Nothing is known yet.
    pub(super) fn unread() -> Kernel {
        Kernel { stale: Stale::ALL, ..Kernel::default() }
    }

    /// Takes in a notification.
    pub(super) fn hear(&mut self, message: &Message) {
        match message {
            Message::NewLink(message) => {
                let Some(link) = convert::link(message) else { return };
                if self.links.get(&link.ifindex) != Some(&link) {
                    self.changed.bonds |= bond::is_part(&link);
                    let before = self.links.insert(link.ifindex, link);
                    self.changed.bonds |= before.as_ref().is_some_and(bond::is_part);
                    self.changed.devices = true;
                    self.stale.routing = true;
                }
            }
            Message::DelLink(message) => {
                let Some(link) = convert::link(message) else { return };
                self.forget_link(link.ifindex);
                // It may have moved to another namespace: its peer says so only when asked.
                self.stale.links = true;
                self.stale.routing = true;
            }
            Message::NewNeighbour(message) => self.hear_neighbor(convert::neighbor(message), true),
            Message::DelNeighbour(message) => self.hear_neighbor(convert::neighbor(message), false),
            Message::NewAddress(_)
            | Message::DelAddress(_)
            | Message::NewRoute(_)
            | Message::DelRoute(_)
            | Message::NewRule(_)
            | Message::DelRule(_) => self.stale.routing = true,
            _ => {}
        }
    }

    fn forget_link(&mut self, ifindex: u32) {
        self.changed.bonds |= self.links.remove(&ifindex).as_ref().is_some_and(bond::is_part);
        self.neighbors.retain(|key, _| key.0 != ifindex);
        self.permanent.retain(|key, ()| key.0 != ifindex);
        self.bridge_ports.retain(|key, port| key.0 != ifindex && *port != ifindex);
        self.changed.devices = true;
        self.changed.neighbors = true;
    }

    fn hear_neighbor(&mut self, neighbor: Option<Neighbor>, present: bool) {
        match neighbor {
            Some(Neighbor::Inet { key, mac, permanent }) => {
                self.changed.neighbors |= put(&mut self.neighbors, key, mac.filter(|_| present));
                self.changed.neighbors |= put(&mut self.permanent, key, (present && permanent).then_some(()));
            }
            Some(Neighbor::Bridge { key, port }) => {
                self.changed.devices |= put(&mut self.bridge_ports, key, port.filter(|_| present));
            }
            None => {}
        }
    }

    /// Reads anew what is stale. `stale` is cleared only for what was read: call again after an error.
    ///
    /// # Errors
    /// A dump failed.
    pub(super) async fn refresh(&mut self, requests: &mut Requests) -> Result<(), NetlinkError> {
        if self.stale.links {
            self.read_links(requests).await?;
            self.stale.links = false;
        }
        if self.stale.neighbors {
            self.read_neighbors(requests).await?;
            self.stale.neighbors = false;
        }
        if self.stale.routing {
            self.read_routing(requests).await?;
            self.stale.routing = false;
        }
        Ok(())
    }

    async fn read_links(&mut self, requests: &mut Requests) -> Result<(), NetlinkError> {
        let mut ask = LinkMessage::default();
        ask.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut links = FxHashMap::default();
        for message in requests.dump("read the devices", Message::GetLink(ask)).await? {
            if let Message::NewLink(message) = message
                && let Some(link) = convert::link(&message)
            {
                links.insert(link.ifindex, link);
            }
        }
        if links != self.links {
            self.links = links;
            self.changed.devices = true;
            self.changed.bonds = true;
            self.stale.routing = true;
        }
        Ok(())
    }

    async fn read_neighbors(&mut self, requests: &mut Requests) -> Result<(), NetlinkError> {
        let (neighbors, bridge_ports) = (std::mem::take(&mut self.neighbors), std::mem::take(&mut self.bridge_ports));
        let permanent = std::mem::take(&mut self.permanent);
        let before = self.changed;
        let families = [
            (AddressFamily::Inet, "read the neighbors"),
            (AddressFamily::Inet6, "read the IPv6 neighbors"),
            (AddressFamily::Bridge, "read the bridges' FDB"),
        ];
        for (family, attempt) in families {
            let mut ask = NeighbourMessage::default();
            ask.header.family = family;
            for message in requests.dump(attempt, Message::GetNeighbour(ask)).await? {
                if let Message::NewNeighbour(message) = message {
                    self.hear_neighbor(convert::neighbor(&message), true);
                }
            }
        }
        self.changed.neighbors = before.neighbors || neighbors != self.neighbors || permanent != self.permanent;
        self.changed.devices = before.devices || bridge_ports != self.bridge_ports;
        Ok(())
    }

    async fn read_routing(&mut self, requests: &mut Requests) -> Result<(), NetlinkError> {
        let mut gaps = Gaps::new();
        let mut addresses: Vec<LocalAddress> = local_addresses(requests).await?;
        addresses.sort_unstable();

        let ifindex_of = |name: &str| self.links.values().find(|link| link.name == name).map(|link| link.ifindex);
        let (mut rules, mut routes) = (Vec::new(), Vec::new());
        for family in FAMILIES {
            let mut ask = RuleMessage::default();
            ask.header.family = family;
            for message in requests.dump(&format!("read the {family:?} rules"), Message::GetRule(ask)).await? {
                if let Message::NewRule(message) = message
                    && message.header.family == family
                {
                    rules.extend(convert::rule(&message, ifindex_of, &mut gaps));
                }
            }

            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            for message in requests.dump(&format!("read the {family:?} routes of all tables"), Message::GetRoute(ask)).await? {
                if let Message::NewRoute(message) = message
                    && message.header.address_family == family
                {
                    routes.extend(convert::route(&message, &mut gaps));
                }
            }
        }
        // Each device has a route of all multicast groups, and all are local.
        routes.dedup();
        // The FIB takes the first of those with one metric.
        routes.sort_by_key(|route| route.preference);

        for gap in gaps.difference(&self.gaps) {
            tracing::warn!("{gap}");
        }
        self.gaps = gaps;
        self.changed.addresses |= addresses != self.addresses;
        self.changed.fib |= rules != self.rules || routes != self.routes;
        (self.addresses, self.rules, self.routes) = (addresses, rules, routes);
        Ok(())
    }

    pub(super) fn fib(&self) -> Fib {
        let mut builder = FibBuilder::default();
        for rule in &self.rules {
            builder.add_rule(rule.clone());
        }
        for TableRoute { table, prefix, route, .. } in &self.routes {
            builder.add_route(*table, *prefix, route.clone());
        }
        builder.build()
    }

    pub(super) fn neighbors(&self) -> Neighbors {
        Neighbors { by_address: self.neighbors.clone(), permanent: self.permanent.keys().copied().collect() }
    }

    pub(super) fn addresses(&self) -> Vec<LocalAddress> {
        self.addresses.clone()
    }

    pub(super) fn devices(&self, uplinks: &[String]) -> Devices {
        let by_index = self.links.iter().map(|(ifindex, link)| (*ifindex, self.device(link, uplinks))).collect();
        let bridge_ports = self.bridge_ports.iter().map(|(&(bridge, mac, _vlan), &port)| ((bridge, mac), port)).collect();
        Devices { by_index, bridge_ports }
    }

    fn device(&self, link: &Link, uplinks: &[String]) -> Device {
        let veth = link.kind == Some(InfoKind::Veth);
        let kind = if let Some(number) = uplinks.iter().position(|name| *name == link.name) {
            DeviceKind::Uplink(number.try_into().unwrap_or(u8::MAX))
        } else if veth && !link.peer_elsewhere && (link.name == RW0 || link.name == RW1) {
            DeviceKind::Hostlink
        } else if veth && link.peer_elsewhere && link.bond_member.is_none() {
            DeviceKind::Pod
        } else if link.kind == Some(InfoKind::Bridge) {
            DeviceKind::Bridge
        } else if is_overlay(link) {
            DeviceKind::Overlay { ethernet: link.ethernet }
        } else {
            DeviceKind::Other
        };
        let is_bridge = |ifindex: &u32| self.links.get(ifindex).is_some_and(|link| link.kind == Some(InfoKind::Bridge));
        Device { name: link.name.clone(), kind, mac: link.mac, mtu: link.mtu, bridge: link.controller.filter(is_bridge) }
    }

    /// By index of `names`; `None` where the device does not exist.
    pub(super) fn uplinks(&self, names: &[String]) -> Vec<Option<Uplink>> {
        let uplink = |name: &String| {
            let link = self.links.values().find(|link| link.name == *name)?;
            Some(Uplink {
                name: name.clone(),
                ifindex: link.ifindex,
                mac: link.mac,
                mtu: link.mtu,
                // Devices made of software (veth, bridge, vlan, …) may hand over what the sender's stack left unfinished.
                partial_checksums: match self.bond(link) {
                    Some(bond) => bond.members.iter().any(|member| self.links.get(&member.ifindex).is_some_and(|link| link.kind.is_some())),
                    None => link.kind.is_some(),
                },
            })
        };
        names.iter().map(uplink).collect()
    }

    /// By index of `names`; `None` where the device does not exist or is no bond.
    pub(super) fn bonds(&self, names: &[String]) -> Vec<Option<Bond>> {
        let bond = |name: &String| self.bond(self.links.values().find(|link| link.name == *name)?);
        names.iter().map(bond).collect()
    }

    fn bond(&self, link: &Link) -> Option<Bond> {
        bond::bond(link, self.links.values())
    }
}

/// Whether packets that leave by the device are wrapped for another node. A TAP is a virtual machine's NIC, a TUN a tunnel's mouth.
fn is_overlay(link: &Link) -> bool {
    use InfoKind::{Geneve, GreTap, GreTun, IpIp, Tun, Vxlan, Wireguard, Xfrm};
    match &link.kind {
        Some(Vxlan | Geneve | GreTap | GreTun | IpIp | Wireguard | Xfrm) => true,
        Some(Tun) => !link.ethernet,
        _ => false,
    }
}

/// Sets or removes a value; whether that changed anything.
fn put<K: std::hash::Hash + Eq, V: PartialEq + Copy>(map: &mut FxHashMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        Some(value) => map.insert(key, value) != Some(value),
        None => map.remove(&key).is_some(),
    }
}

/// The addresses of this network namespace.
pub(super) async fn local_addresses(requests: &mut Requests) -> Result<Vec<LocalAddress>, NetlinkError> {
    let mut addresses = Vec::new();
    for family in FAMILIES {
        let mut ask = AddressMessage::default();
        ask.header.family = family;
        for message in requests.dump(&format!("read the {family:?} addresses"), Message::GetAddress(ask)).await? {
            if let Message::NewAddress(message) = message
                && message.header.family == family
            {
                addresses.extend(convert::address(&message));
            }
        }
    }
    Ok(addresses)
}
