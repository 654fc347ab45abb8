//! What load balancers outside ask a node about a Service, and how many service ports have no endpoint here although their policy asks
//! for one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::cluster::Cluster;
use crate::model::{IpFamily, ServiceModel, TrafficPolicy};
use crate::select::{Location, Selected, merge};

/// The health check port of a Service on the node's addresses of one family (contract §1.7, §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub port: NonZeroU16,
    /// Addresses of endpoints of the family on this node that are ready. Terminating ones are not, though they may still get traffic.
    pub local_endpoints: usize,
}

/// Service ports with policy Local that have endpoints of one family, none of them here: their packets are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    pub internal: usize,
    pub external: usize,
}

impl NoLocalEndpoints {
    /// Takes in one port of a service.
    pub(super) fn count(&mut self, service: &ServiceModel, selected: &Selected) {
        let none_here = selected.has_endpoints && !selected.local.contains(&true);
        self.internal += usize::from(none_here && service.internal_policy == TrafficPolicy::Local);
        self.external += usize::from(none_here && service.external_policy == TrafficPolicy::Local);
    }

    /// Takes one version of a service out of the sum and the next one in.
    pub(super) fn replace(&mut self, before: NoLocalEndpoints, after: NoLocalEndpoints) {
        self.internal = self.internal + after.internal - before.internal;
        self.external = self.external + after.external - before.external;
    }
}

/// An endpoint counts once, however many of the service's ports it serves, as in kube-proxy (`LocalReadyEndpoints`). There each family
/// has a server of its own, since kubernetes 1.36 also where both listen to all addresses: what answers a probe is what serves clients
/// of that family.
pub(super) fn check(cluster: &Cluster, service: &ServiceModel, family: IpFamily, location: Location<'_>) -> Option<HealthCheck> {
    let port = service.health_check_node_port?;
    let mut local: BTreeSet<IpAddr> = BTreeSet::new();
    for port in &service.ports {
        let endpoints = merge(cluster.slices(&service.name), &port.name, port.protocol, family, location);
        local.extend(endpoints.iter().filter(|endpoint| endpoint.local && endpoint.endpoint.ready).map(|endpoint| endpoint.address));
    }
    Some(HealthCheck { port, local_endpoints: local.len() })
}
