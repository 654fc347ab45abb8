//! One Service and its EndpointSlices to frontends, each family by itself (contract §1.3).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use litemap::LiteMap;
use ringway_engine::affinity::Affinity;
use ringway_engine::maglev::Maglev;
use ringway_engine::tables::{Backend, BackendSet, Frontend, FrontendKey, FrontendKind, ServicePortName, Target};

use super::health::{self, HealthCheck, NoLocalEndpoints};
use super::vips::Vip;
use crate::cluster::Cluster;
use crate::model::{IpFamily, PerFamily, Protocol, ServiceModel, ServicePort, SessionAffinity, TrafficPolicy};
use crate::select::{Location, PortEndpoint, Selected, merge, select};

/// The same on every node and in every version, or nodes that announce the same address would not agree on backends.
const MAGLEV_TABLE_SEED: u64 = 0x5269_6e67_7761_7900;

/// What one Service asks for, whether or not it gets it. Nearly all have one or two of each: maps that take no more room than that.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub frontends: LiteMap<FrontendKey, Arc<Frontend>>,
    /// By UDP frontend: the endpoints that serve, wherever they are. A flow to any other is a black hole.
    pub serving: LiteMap<FrontendKey, Arc<BTreeSet<SocketAddr>>>,
    /// The Service's own addresses.
    pub vips: LiteMap<IpAddr, Vip>,
    pub health_checks: PerFamily<Option<HealthCheck>>,
    pub no_local: PerFamily<NoLocalEndpoints>,
    /// Every set that the frontends share; the next version takes over those that are equal, with their Maglev tables.
    sets: Vec<Arc<BackendSet>>,
}

/// What is the same for all services.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    pub location: Location<'a>,
    /// Where NodePorts answer.
    pub node_port_addresses: &'a [IpAddr],
}

pub(super) fn compile(cluster: &Cluster, service: &ServiceModel, here: Here<'_>, before: &Compiled) -> Compiled {
    // Of a Service with ClusterIPs only, and a family for each: no more room than that.
    let frontends = service.cluster_ips.len() * service.ports.len();
    let mut compiled = Compiled {
        frontends: LiteMap::with_capacity(frontends),
        vips: LiteMap::with_capacity(service.cluster_ips.len()),
        sets: Vec::with_capacity(frontends),
        ..Compiled::default()
    };
    let names: Vec<Arc<ServicePortName>> = service.ports.iter().map(|port| Arc::new(name_of(service, port))).collect();
    for family in families(service) {
        let view = View { cluster, service, here, before, family, source_ranges: source_ranges(&service.source_ranges, family) };
        compiled.health_checks[family] = health::check(cluster, service, family, here.location);
        for address in of_family(&service.cluster_ips, family) {
            compiled.vips.entry(address).or_default().cluster_ip = true;
        }
        for address in of_family(&service.load_balancer_ips, family).chain(of_family(&service.external_ips, family)) {
            compiled.vips.entry(address).or_default().announced = true;
        }
        for (port, name) in service.ports.iter().zip(&names) {
            view.compile_port(port, name, &mut compiled);
        }
    }
    compiled
}

/// One Service in one family.
struct View<'a> {
    cluster: &'a Cluster,
    service: &'a ServiceModel,
    here: Here<'a>,
    before: &'a Compiled,
    family: IpFamily,
    source_ranges: Option<Arc<[IpNet]>>,
}

impl View<'_> {
    fn compile_port(&self, port: &ServicePort, name: &Arc<ServicePortName>, compiled: &mut Compiled) {
        let View { service, family, .. } = *self;
        let endpoints = endpoints_of(self.cluster, service, port, family, self.here.location);
        let selected = select(&endpoints, self.here.location, is_any_policy_local(service));
        compiled.no_local[family].count(service, &selected);
        let mut targets = Targets { endpoints: &endpoints, selected: &selected, before: self.before, sets: &mut compiled.sets };
        let serving = Arc::new(serving(&endpoints));
        let affinity = match service.session_affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp { timeout_s } => Some(Affinity::new(name, port.protocol.number(), timeout_s)),
        };
        for (kind, address, number) in addresses(service, port, family, self.here.node_port_addresses) {
            let (outside, inside) = targets.of(service, kind);
            let frontend = Frontend {
                service: Arc::clone(name),
                kind,
                outside,
                inside,
                source_ranges: self.source_ranges.as_ref().filter(|_| kind == FrontendKind::LoadBalancerIp).map(Arc::clone),
                affinity,
            };
            let key = FrontendKey { address, port: number, protocol: port.protocol.number() };
            // The same address as two kinds (an externalIP that is also an LB IP): the first, for it is the stricter one.
            compiled.frontends.entry(key).or_insert_with(|| Arc::new(frontend));
            if port.protocol == Protocol::Udp {
                compiled.serving.entry(key).or_insert_with(|| Arc::clone(&serving));
            }
        }
    }
}

/// The families in which the Service is served: those of its ClusterIPs, as in kube-proxy, where a Service without one of a family does not
/// exist for it, NodePorts and all.
pub(super) fn families(service: &ServiceModel) -> impl Iterator<Item = IpFamily> + use<'_> {
    IpFamily::BOTH.into_iter().filter(|family| of_family(&service.cluster_ips, *family).next().is_some())
}

fn name_of(service: &ServiceModel, port: &ServicePort) -> ServicePortName {
    ServicePortName { namespace: Arc::clone(&service.name.namespace), name: Arc::clone(&service.name.name), port: Arc::clone(&port.name) }
}

pub(super) fn is_any_policy_local(service: &ServiceModel) -> bool {
    service.internal_policy == TrafficPolicy::Local || service.external_policy == TrafficPolicy::Local
}

pub(super) fn endpoints_of<'a>(
    cluster: &'a Cluster,
    service: &ServiceModel,
    port: &ServicePort,
    family: IpFamily,
    location: Location<'_>,
) -> Vec<PortEndpoint<'a>> {
    merge(cluster.slices(&service.name), &port.name, port.protocol, family, location)
}

fn serving(endpoints: &[PortEndpoint<'_>]) -> BTreeSet<SocketAddr> {
    let serving = endpoints.iter().filter(|endpoint| endpoint.endpoint.serving || endpoint.endpoint.ready);
    serving.map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port)).collect()
}

/// All that clients may address for one service port in one family; where two kinds have the same address and port, the first counts.
pub(super) fn addresses<'a>(
    service: &'a ServiceModel,
    port: &'a ServicePort,
    family: IpFamily,
    node_port_addresses: &'a [IpAddr],
) -> impl Iterator<Item = (FrontendKind, IpAddr, u16)> + 'a {
    let on = move |kind, addresses: &'a [IpAddr], number| of_family(addresses, family).map(move |address| (kind, address, number));
    let own = move |kind, addresses: &'a [IpAddr]| on(kind, addresses, port.port.get());
    let node_port = port.node_port.into_iter();
    let node_ports = node_port.flat_map(move |node_port| on(FrontendKind::NodePort, node_port_addresses, node_port.get()));
    own(FrontendKind::ClusterIp, &service.cluster_ips)
        .chain(own(FrontendKind::LoadBalancerIp, &service.load_balancer_ips))
        .chain(own(FrontendKind::ExternalIp, &service.external_ips))
        .chain(node_ports)
}

fn of_family(addresses: &[IpAddr], family: IpFamily) -> impl Iterator<Item = IpAddr> {
    addresses.iter().copied().filter(move |address| IpFamily::of(address) == family)
}

/// Contract §1.5: `None` is unrestricted.
fn source_ranges(ranges: &[IpNet], family: IpFamily) -> Option<Arc<[IpNet]>> {
    let mut ranges: Vec<IpNet> = ranges.iter().copied().filter(|range| IpFamily::of(&range.addr()) == family).collect();
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
            self.endpoints.iter().zip(flags).filter(|(_, selected)| **selected).map(|(endpoint, _)| backend(endpoint)).collect();
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
    // More backends than a table can number (65 535): random selection, as without a table.
    let maglev = maglev.then(|| Maglev::build(backends.iter().map(identity), MAGLEV_TABLE_SEED).ok()).flatten();
    BackendSet { backends, maglev }
}

/// Address and port as they stand in packets.
fn identity(backend: &Backend) -> Vec<u8> {
    let port = backend.port.to_be_bytes();
    match backend.address {
        IpAddr::V4(v4) => [&v4.octets()[..], &port].concat(),
        IpAddr::V6(v6) => [&v6.octets()[..], &port].concat(),
    }
}

fn backend(endpoint: &PortEndpoint<'_>) -> Backend {
    Backend { address: endpoint.address, port: endpoint.port, local: endpoint.local }
}
