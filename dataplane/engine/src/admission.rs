//! Who may begin a flow, at which frontend and with which backends.

use std::net::IpAddr;

use crate::bind::Client;
use crate::family::Family;
use crate::flow::Tuple;
use crate::tables::{Backend, BackendSet, Frontend, FrontendKey, Snapshot, Target, is_alias};
use crate::verdict::{DropReason, Verdict};
use crate::wire::{IpFlow, UDP};

/// The frontend that the packet is sent to. An alias is one for the node's own sockets alone.
pub fn find_frontend<'a, F: Family>(snapshot: &'a Snapshot, client: Client, flow: &IpFlow<F>) -> Option<&'a Frontend> {
    let (address, port) = flow.tuple.dst();
    let address = address.into();
    let frontend = snapshot.frontends.lookup(&FrontendKey { address, port, protocol: flow.protocol })?;
    (client == Client::Node || !is_alias(address)).then_some(frontend)
}

/// The backends among which one is selected for this client, or why there are none.
pub fn reachable<'a, F: Family>(frontend: &'a Frontend, client: Client, flow: &IpFlow<F>) -> Result<&'a BackendSet, Verdict> {
    let source: IpAddr = F::to_ip(flow.tuple.saddr).into();
    if let Some(ranges) = &frontend.source_ranges
        && !ranges.iter().any(|range| range.contains(&source))
    {
        return Err(Verdict::Drop(DropReason::SourceRange));
    }
    let target = if matches!(client, Client::Outside { .. }) { &frontend.outside } else { &frontend.inside };
    match target {
        Target::Backends(set) => Ok(set),
        Target::NoBackend => Err(Verdict::Drop(DropReason::NoBackend)),
        Target::PolicyLocal => Err(Verdict::Drop(DropReason::PolicyLocal)),
    }
}

/// The backend of this address and port, if it is one of the set.
pub fn find(set: &BackendSet, (address, port): (IpAddr, u16)) -> Option<Backend> {
    set.backends.iter().find(|backend| (backend.address, backend.port) == (address, port)).copied()
}

/// Packets that cannot begin a flow, whatever they claim.
pub fn refuse_impossible<F: Family>(flow: &IpFlow<F>) -> Result<(), Verdict> {
    const RST: u8 = 0x04;
    if is_impossible(flow.tuple) {
        return Err(Verdict::Drop(DropReason::LandAttack));
    }
    if flow.protocol != UDP && flow.tcp_flags & RST != 0 {
        return Err(Verdict::Drop(DropReason::NoFlow));
    }
    Ok(())
}

/// The source is one that no station has, or that means nothing behind another link, or the destination itself.
pub fn is_impossible<F: Family>(tuple: Tuple<F>) -> bool {
    tuple.saddr == tuple.daddr
        || match F::to_ip(tuple.saddr).into() {
            IpAddr::V4(source) => source.is_multicast() || source.is_broadcast() || source.is_loopback() || source.octets()[0] == 0,
            IpAddr::V6(source) => {
                source.is_multicast()
                    || source.is_loopback()
                    || source.is_unspecified()
                    || source.is_unicast_link_local()
                    || source.to_ipv4_mapped().is_some()
            }
        }
}
