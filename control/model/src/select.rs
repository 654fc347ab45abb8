//! Which endpoints a packet may reach: contract §2, written straight from its text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Endpoint, EndpointSliceModel, IpFamily, Protocol};

/// An endpoint of one service port: the copy that counts if several slices hold it.
#[derive(Clone, Copy, Debug)]
pub struct PortEndpoint<'a> {
    pub address: IpAddr,
    pub port: u16,
    pub endpoint: &'a Endpoint,
    /// The endpoint's `nodeName` is this node.
    pub local: bool,
}

/// Where we are.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    pub node: &'a str,
    pub zone: Option<&'a str>,
}

/// The endpoints of one service port and family, by address and port (contract §1.6).
///
/// Equal `address:port` from several slices is one endpoint: a non-terminating copy beats a terminating one, else the last wins.
pub fn merge<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSliceModel>>,
    port_name: &str,
    protocol: Protocol,
    family: IpFamily,
    location: Location<'_>,
) -> Vec<PortEndpoint<'a>> {
    let mut merged: BTreeMap<(IpAddr, u16), &Endpoint> = BTreeMap::new();
    for slice in slices {
        for port in slice.ports.iter().filter(|port| *port.name == *port_name && port.protocol == protocol) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| IpFamily::of(&endpoint.address) == family) {
                let place = merged.entry((endpoint.address, port.port.get())).or_insert(endpoint);
                if place.terminating || !endpoint.terminating {
                    *place = endpoint;
                }
            }
        }
    }
    let is_local = |endpoint: &Endpoint| endpoint.node.as_deref() == Some(location.node);
    merged.into_iter().map(|((address, port), endpoint)| PortEndpoint { address, port, endpoint, local: is_local(endpoint) }).collect()
}

/// The lists of contract §2, as flags in the order of the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    pub cluster: Vec<bool>,
    /// All false unless one of the policies is Local.
    pub local: Vec<bool>,
    /// Any endpoint anywhere that is ready, or serving while it terminates.
    pub has_endpoints: bool,
}

/// Which endpoints of a service port may be reached from `location`.
pub fn select(endpoints: &[PortEndpoint<'_>], location: Location<'_>, any_policy_local: bool) -> Selected {
    let draining = |ep: &PortEndpoint<'_>| ep.endpoint.serving && ep.endpoint.terminating;
    let mode = Mode::of(endpoints, location);
    let cluster = first_not_empty(
        endpoints,
        |ep| ep.endpoint.ready && mode.takes(ep, location),
        |ep| draining(ep), // anywhere: topology is ignored
    );
    let local = if any_policy_local {
        first_not_empty(endpoints, |ep| ep.endpoint.ready && ep.local, |ep| draining(ep) && ep.local)
    } else {
        vec![false; endpoints.len()]
    };
    Selected { cluster, local, has_endpoints: endpoints.iter().any(|ep| ep.endpoint.ready || draining(ep)) }
}

/// Those that are `wanted`; if there is none, those of the `fallback`.
fn first_not_empty<'a>(
    endpoints: &[PortEndpoint<'a>],
    wanted: impl Fn(&PortEndpoint<'a>) -> bool,
    fallback: impl Fn(&PortEndpoint<'a>) -> bool,
) -> Vec<bool> {
    let flags: Vec<bool> = endpoints.iter().map(wanted).collect();
    if flags.contains(&true) { flags } else { endpoints.iter().map(fallback).collect() }
}

/// What the endpoints' hints ask for. Never partial: one ready endpoint without a hint, and all hints are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    SameNode,
    SameZone,
    Anywhere,
}

impl Mode {
    fn of(endpoints: &[PortEndpoint<'_>], location: Location<'_>) -> Mode {
        let ready = || endpoints.iter().filter(|ep| ep.endpoint.ready);
        if ready().all(|ep| !ep.endpoint.node_hints().is_empty()) && ready().any(|ep| Mode::SameNode.takes(ep, location)) {
            Mode::SameNode
        } else if ready().all(|ep| !ep.endpoint.zone_hints().is_empty()) && ready().any(|ep| Mode::SameZone.takes(ep, location)) {
            Mode::SameZone
        } else {
            Mode::Anywhere
        }
    }

    fn takes(self, ep: &PortEndpoint<'_>, location: Location<'_>) -> bool {
        match self {
            Mode::SameNode => ep.endpoint.node_hints().iter().any(|node| **node == *location.node),
            Mode::SameZone => location.zone.is_some_and(|zone| ep.endpoint.zone_hints().iter().any(|hint| **hint == *zone)),
            Mode::Anywhere => true,
        }
    }
}
