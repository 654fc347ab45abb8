//! The hostlink: the veth pair `rw0`/`rw1` between the workers and the rest of the node.

use std::io::ErrorKind;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use ringway_engine::flow::Hook;
use ringway_engine::order::{Upcall, upcall_mac};
use ringway_engine::tables::Neighbors;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::convert::{self, Link};
use super::socket::Requests;
use super::{HOSTLINK_GATEWAY, HOSTLINK_GATEWAY6, NetlinkError, RW0, RW1, ipv6};

/// How the pair should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostlinkConfig {
    /// Receive and transmit queues of both ends: the number of workers.
    pub queues: u32,
    /// Bytes; at least the largest pod's or uplink's, at most 3500 (what a veth takes with XDP on its peer).
    pub mtu: u32,
}

/// What [`Hostlink::ensure`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostlinkAction {
    Created,
    /// One of an earlier process, which fits.
    Kept,
    /// One of an earlier process with another number of queues: made anew.
    Recreated,
}

/// The pair as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hostlink {
    pub rw0_ifindex: u32,
    pub rw1_ifindex: u32,
    pub rw1_mac: [u8; 6],
    pub mtu: u32,
    /// It carries IPv6: the node has it, see [`super::Ipv6`].
    pub ipv6: bool,
    pub action: HostlinkAction,
}

/// Of both families.
pub(super) const GATEWAYS: [IpAddr; 2] = [IpAddr::V4(HOSTLINK_GATEWAY), IpAddr::V6(HOSTLINK_GATEWAY6)];

/// Orders and upcalls carry 24 bits of an ifindex.
const IFINDEX_MAX: u32 = (1 << 24) - 1;

impl Hostlink {
    /// Creates, takes over or repairs the pair: queues, MTU, up, no IPv6 address, no transmit checksum offload on `rw1`, the
    /// permanent neighbor of each family that the node has. Idempotent.
    ///
    /// # Errors
    /// A device `rw0` or `rw1` that is not ours, or the kernel refuses.
    pub async fn ensure(config: HostlinkConfig) -> Result<Hostlink, NetlinkError> {
        let mut requests = Requests::open()?;
        let present = find(&mut requests).await?;
        let (action, (rw0, rw1)) = match present {
            Some((rw0, rw1)) if [rw0.queues, rw1.queues] == [(config.queues, config.queues); 2] => (HostlinkAction::Kept, (rw0, rw1)),
            Some((rw0, _)) => {
                delete(&mut requests, rw0.ifindex).await?;
                (HostlinkAction::Recreated, create(&mut requests, config).await?)
            }
            None => (HostlinkAction::Created, create(&mut requests, config).await?),
        };
        if rw0.ifindex.max(rw1.ifindex) > IFINDEX_MAX {
            let hint = "Ringway knows device numbers below 16777216; this network namespace has to be made anew (usually by a reboot)";
            return Err(NetlinkError::explained(format!("use {RW0}/{RW1}"), ErrorKind::Unsupported, hint));
        }
        switch_off_checksum_offload()?;
        for link in [&rw0, &rw1] {
            configure(&mut requests, link, config.mtu).await?;
        }
        let ipv6 = ipv6::switch_on(RW1);
        let hostlink = Hostlink { rw0_ifindex: rw0.ifindex, rw1_ifindex: rw1.ifindex, rw1_mac: rw1.mac, mtu: config.mtu, ipv6, action };
        for gateway in hostlink.gateways() {
            let attempt = format!("set the permanent neighbor {gateway} on {RW1}");
            let neighbor = gateway_neighbor(rw1.ifindex, gateway);
            requests.request(&attempt, Message::NewNeighbour(neighbor), NLM_F_CREATE | NLM_F_REPLACE).await?;
        }
        Ok(hostlink)
    }

    /// Whether it still has its permanent neighbors, and carries IPv6 exactly if it could: if not, [`Hostlink::ensure`] it again.
    pub fn is_intact(&self, neighbors: &Neighbors) -> bool {
        self.ipv6 == ipv6::is_on(RW1) && self.gateways().all(|gateway| neighbors.lookup(self.rw1_ifindex, gateway).is_some())
    }

    /// Gateways of the routes on `rw1`.
    fn gateways(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let ipv6 = self.ipv6;
        GATEWAYS.into_iter().filter(move |gateway| gateway.is_ipv4() || ipv6)
    }
}

/// With it every checksum of what the host hands us would be unfinished: an XSK frame has no room for `CHECKSUM_PARTIAL`.
fn switch_off_checksum_offload() -> Result<(), NetlinkError> {
    ringway_io::ethtool::set_tx_checksum(RW1, false)
        .map_err(|error| NetlinkError::new(format!("switch off transmit checksum offload of {RW1}"), std::io::Error::other(error)))
}

/// The pair, if it exists.
///
/// # Errors
/// A device has one of our names, but the two are not each other's peer: it is not ours to touch.
pub(super) async fn find(requests: &mut Requests) -> Result<Option<(Link, Link)>, NetlinkError> {
    let rw0 = link_by_name(requests, RW0).await?;
    let rw1 = link_by_name(requests, RW1).await?;
    let (rw0, rw1) = match (rw0, rw1) {
        (None, None) => return Ok(None),
        (Some(rw0), Some(rw1)) if is_peer(&rw0, &rw1) && is_peer(&rw1, &rw0) => (rw0, rw1),
        (rw0, rw1) => {
            let name = if rw0.is_some() { RW0 } else { RW1 };
            let both = if rw0.is_some() && rw1.is_some() { format!("{RW0} and {RW1}") } else { name.to_string() };
            let hint = format!("{both} exists, but is not the veth pair {RW0}/{RW1} that Ringway makes; rename or remove it");
            return Err(NetlinkError::explained(format!("take the device names {RW0} and {RW1}"), ErrorKind::AlreadyExists, hint));
        }
    };
    Ok(Some((rw0, rw1)))
}

fn is_peer(link: &Link, other: &Link) -> bool {
    link.kind == Some(InfoKind::Veth) && !link.peer_elsewhere && link.peer == Some(other.ifindex)
}

async fn link_by_name(requests: &mut Requests, name: &str) -> Result<Option<Link>, NetlinkError> {
    let ask = LinkUnspec::new_with_name(name).build();
    match requests.request(&format!("look for the device {name}"), Message::GetLink(ask), 0).await {
        Ok(messages) => Ok(messages.iter().find_map(|message| match message {
            Message::NewLink(message) => convert::link(message),
            _ => None,
        })),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn create(requests: &mut Requests, config: HostlinkConfig) -> Result<(Link, Link), NetlinkError> {
    let end = |name: &str| {
        LinkMessageBuilder::<LinkUnspec>::new()
            .name(name.to_string())
            .mtu(config.mtu)
            .append_extra_attribute(LinkAttribute::NumRxQueues(config.queues))
            .append_extra_attribute(LinkAttribute::NumTxQueues(config.queues))
    };
    let mut pair = end(RW0);
    pair = pair.set_info_data(InfoData::Veth(InfoVeth::Peer(end(RW1).build())));
    let mut message = pair.build();
    name_kind(&mut message, InfoKind::Veth);
    let attempt = format!("create the veth pair {RW0}/{RW1} with {} queues and MTU {}", config.queues, config.mtu);
    requests.request(&attempt, Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await?;
    let gone = || NetlinkError::explained(attempt.clone(), ErrorKind::NotFound, "somebody removed it at once");
    find(requests).await?.ok_or_else(gone)
}

/// The builder of an unspecific link has no place for the kind.
fn name_kind(message: &mut LinkMessage, kind: InfoKind) {
    use netlink_packet_route::link::LinkInfo;
    for attribute in &mut message.attributes {
        if let LinkAttribute::LinkInfo(infos) = attribute {
            infos.insert(0, LinkInfo::Kind(kind.clone()));
        }
    }
}

/// No IPv6 address (the hostlink carries frames, it is no network), and so no search for duplicates or routers; the MTU, up.
async fn configure(requests: &mut Requests, link: &Link, mtu: u32) -> Result<(), NetlinkError> {
    let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let message = LinkUnspec::new_with_index(link.ifindex).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none])).build();
    match requests.request(&format!("switch off IPv6 addresses of {}", link.name), Message::SetLink(message), 0).await {
        // A kernel without IPv6 makes no IPv6 address.
        Err(error) if error.errno() != Some(libc::EAFNOSUPPORT) => return Err(error),
        _ => {}
    }
    let mut message = LinkUnspec::new_with_index(link.ifindex).up();
    if link.mtu != mtu {
        message = message.mtu(mtu);
    }
    requests.request(&format!("set {} up with MTU {mtu}", link.name), Message::SetLink(message.build()), 0).await?;
    Ok(())
}

pub(super) async fn delete(requests: &mut Requests, rw0_ifindex: u32) -> Result<(), NetlinkError> {
    let message = LinkUnspec::new_with_index(rw0_ifindex).build();
    requests.request(&format!("remove the veth pair {RW0}/{RW1}"), Message::DelLink(message), 0).await?;
    Ok(())
}

/// Whatever is routed to the gateway leaves `rw1` as an upcall of the node.
pub(super) fn gateway_neighbor(rw1_ifindex: u32, gateway: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = convert::family(gateway);
    message.header.ifindex = rw1_ifindex;
    message.header.state = NeighbourState::Permanent;
    let mac = upcall_mac(Upcall { hook: Hook::NodeOut, ifindex: rw1_ifindex });
    message.attributes = vec![NeighbourAttribute::Destination(gateway.into()), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    message
}
