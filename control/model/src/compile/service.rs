//! One Service and its EndpointSlices to frontends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use ringway_engine::affinity::Affinity;
use ringway_engine::maglev::Maglev;
use ringway_engine::tables::{Backend, BackendSet, Frontend, FrontendKey, FrontendKind, ServicePortName, Target};

use super::health::{self, HealthCheck, NoLocalEndpoints};
use super::vips::Vip;
use crate::cluster::Cluster;
use crate::model::{Protocol, ServiceModel, ServicePort, SessionAffinity, TrafficPolicy};
use crate::select::{Location, PortEndpoint, Selected, merge, select};

/// The same on every node and in every version, or nodes that announce the same address would not agree on backends.
const MAGLEV_TABLE_SEED: u64 = 0x5269_6e67_7761_7900;

/// What one Service asks for, whether or not it gets it.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// By UDP frontend: the endpoints that serve, wherever they are. A flow to any other is a black hole.
    pub serving: BTreeMap<FrontendKey, Arc<BTreeSet<SocketAddrV4>>>,
    /// The Service's own addresses.
    pub vips: BTreeMap<Ipv4Addr, Vip>,
    pub health_check: Option<HealthCheck>,
    pub no_local: NoLocalEndpoints,
    /// Every set that the frontends share; the next version takes over those that are equal, with their Maglev tables.
    sets: Vec<Arc<BackendSet>>,
}

/// What is the same for all services.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    pub location: Location<'a>,
    /// Where NodePorts answer.
    pub node_port_addresses: &'a [Ipv4Addr],
}

pub(super) fn compile(cluster: &Cluster, service: &ServiceModel, here: Here<'_>, before: &Compiled) -> Compiled {
    let mut compiled = Compiled { health_check: health::check(cluster, service, here.location), ..Compiled::default() };
    let source_ranges = source_ranges(&service.source_ranges);
    for address in v4(&service.cluster_ips) {
        compiled.vips.entry(address).or_default().cluster_ip = true;
    }
    for address in v4(&service.load_balancer_ips).chain(v4(&service.external_ips)) {
        compiled.vips.entry(address).or_default().announced = true;
    }
    for port in &service.ports {
        let endpoints = endpoints_of(cluster, service, port, here.location);
        let selected = select(&endpoints, here.location, is_any_policy_local(service));
        compiled.no_local.count(service, &selected);
        let mut targets = Targets { endpoints: &endpoints, selected: &selected, before, sets: &mut compiled.sets };
        let name = Arc::new(ServicePortName {
            namespace: service.name.namespace.to_string(),
            name: service.name.name.to_string(),
            port: port.name.clone(),
        });
        let serving = Arc::new(serving(&endpoints));
        let affinity = match service.session_affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp { timeout_s } => Some(Affinity::new(&name, port.protocol.number(), timeout_s)),
        };
        for (kind, address, number) in addresses(service, port, here.node_port_addresses) {
            let (outside, inside) = targets.of(service, kind);
            let frontend = Frontend {
                service: Arc::clone(&name),
                kind,
                outside,
                inside,
                source_ranges: source_ranges.as_ref().filter(|_| kind == FrontendKind::LoadBalancerIp).map(Arc::clone),
                affinity,
            };
            let key = FrontendKey { address, port: number, protocol: port.protocol.number() };
            // The same address as two kinds (an externalIP that is also an LB IP): the first, for it is the stricter one.
            compiled.frontends.entry(key).or_insert(frontend);
            if port.protocol == Protocol::Udp {
                compiled.serving.entry(key).or_insert_with(|| Arc::clone(&serving));
            }
        }
    }
    compiled
}

pub(super) fn is_any_policy_local(service: &ServiceModel) -> bool {
    service.internal_policy == TrafficPolicy::Local || service.external_policy == TrafficPolicy::Local
}

pub(super) fn endpoints_of<'a>(
    cluster: &'a Cluster,
    service: &ServiceModel,
    port: &ServicePort,
    location: Location<'_>,
) -> Vec<PortEndpoint<'a>> {
    merge(cluster.slices(&service.name), &port.name, port.protocol, false, location)
}

fn serving(endpoints: &[PortEndpoint<'_>]) -> BTreeSet<SocketAddrV4> {
    let serving = endpoints.iter().filter(|endpoint| endpoint.endpoint.serving || endpoint.endpoint.ready);
    serving.filter_map(backend).map(|backend| SocketAddrV4::new(backend.address, backend.port)).collect()
}

/// All that clients may address for one service port; where two kinds have the same address and port, the first counts.
pub(super) fn addresses<'a>(
    service: &'a ServiceModel,
    port: &'a ServicePort,
    node_port_addresses: &'a [Ipv4Addr],
) -> impl Iterator<Item = (FrontendKind, Ipv4Addr, u16)> + 'a {
    let number = port.port.get();
    let own = move |kind, addresses: &'a [IpAddr]| v4(addresses).map(move |address| (kind, address, number));
    let node_ports = port
        .node_port
        .into_iter()
        .flat_map(move |node_port| node_port_addresses.iter().map(move |address| (FrontendKind::NodePort, *address, node_port.get())));
    own(FrontendKind::ClusterIp, &service.cluster_ips)
        .chain(own(FrontendKind::LoadBalancerIp, &service.load_balancer_ips))
        .chain(own(FrontendKind::ExternalIp, &service.external_ips))
        .chain(node_ports)
}

fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> {
    addresses.iter().filter_map(|address| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })
}

/// Contract §1.5: `None` is unrestricted.
fn source_ranges(ranges: &[IpNet]) -> Option<Arc<[Ipv4Net]>> {
    let mut ranges: Vec<Ipv4Net> = ranges
        .iter()
        .filter_map(|range| match range {
            IpNet::V4(v4) => Some(*v4),
            IpNet::V6(_) => None,
        })
        .collect();
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return None;
    }
    ranges.sort_unstable();
    ranges.dedup();
    Some(ranges.into())
}

/// Makes the targets of one service port; equal ones share their set.
struct Targets<'a> {
    endpoints: &'a [PortEndpoint<'a>],
    selected: &'a Selected,
    before: &'a Compiled,
    sets: &'a mut Vec<Arc<BackendSet>>,
}

impl Targets<'_> {
    /// Outside and inside.
    fn of(&mut self, service: &ServiceModel, kind: FrontendKind) -> (Target, Target) {
        // Only these are announced by several nodes at once.
        let maglev = matches!(kind, FrontendKind::LoadBalancerIp | FrontendKind::ExternalIp);
        match (kind, service.internal_policy, service.external_policy) {
            (FrontendKind::ClusterIp, TrafficPolicy::Local, _) => {
                let local = self.local();
                (local.clone(), local)
            }
            // The short cut: clients of this node use the Cluster list, which is nobody else's business, so no Maglev table.
            (FrontendKind::NodePort | FrontendKind::LoadBalancerIp | FrontendKind::ExternalIp, _, TrafficPolicy::Local) => {
                (self.local(), self.cluster(false))
            }
            (FrontendKind::ClusterIp, TrafficPolicy::Cluster, _)
            | (FrontendKind::NodePort | FrontendKind::LoadBalancerIp | FrontendKind::ExternalIp, _, TrafficPolicy::Cluster) => {
                let cluster = self.cluster(maglev);
                (cluster.clone(), cluster)
            }
        }
    }

    fn cluster(&mut self, maglev: bool) -> Target {
        match self.share(&self.selected.cluster, maglev) {
            Some(set) => Target::Backends(set),
            None => Target::NoBackend,
        }
    }

    /// Every node has local endpoints of its own, so nodes cannot agree and a Maglev table is no use.
    fn local(&mut self) -> Target {
        match self.share(&self.selected.local, false) {
            Some(set) => Target::Backends(set),
            None if self.selected.has_endpoints => Target::PolicyLocal,
            None => Target::NoBackend,
        }
    }

    /// The set of the flagged endpoints: this version's, else the one of the version before, else a new one. `None` if it is empty.
    fn share(&mut self, flags: &[bool], maglev: bool) -> Option<Arc<BackendSet>> {
        let backends: Box<[Backend]> =
            self.endpoints.iter().zip(flags).filter(|(_, selected)| **selected).filter_map(|(endpoint, _)| backend(endpoint)).collect();
        if backends.is_empty() {
            return None;
        }
        let equal = |set: &&Arc<BackendSet>| set.backends == backends && set.maglev.is_some() == maglev;
        if let Some(set) = self.sets.iter().find(equal) {
            return Some(Arc::clone(set));
        }
        let set = self.before.sets.iter().find(equal).map_or_else(|| Arc::new(build(backends, maglev)), Arc::clone);
        self.sets.push(Arc::clone(&set));
        Some(set)
    }
}

fn build(backends: Box<[Backend]>, maglev: bool) -> BackendSet {
    let identity = |backend: &Backend| {
        let ([a, b, c, d], [high, low]) = (backend.address.octets(), backend.port.to_be_bytes());
        [a, b, c, d, high, low]
    };
    // More backends than a table can number (65 535): random selection, as without a table.
    let maglev = maglev.then(|| Maglev::build(backends.iter().map(identity), MAGLEV_TABLE_SEED).ok()).flatten();
    BackendSet { backends, maglev }
}

fn backend(endpoint: &PortEndpoint<'_>) -> Option<Backend> {
    match endpoint.address {
        IpAddr::V4(address) => Some(Backend { address, port: endpoint.port, local: endpoint.local }),
        IpAddr::V6(_) => None,
    }
}
