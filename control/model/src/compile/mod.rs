//! The objects in force to frontends, at a cost that follows the change: only touched services are compiled, and only what became
//! different is published.

mod claims;
mod health;
mod service;
mod view;
mod vips;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use ringway_engine::tables::{Frontend, FrontendKey};

use crate::cluster::{Changed, Cluster, Touched};
use crate::left::{Leaving, Left};
use crate::model::{Change, EndpointSliceModel, IpFamily, PerFamily, Protocol, ServiceModel, ServiceName};
use crate::problem::{Problem, Severity};
use crate::select::Location;
use crate::view::ServicePortView;
use claims::{Claims, Rank};
use service::{Compiled, Here};
use vips::Vips;

pub use health::{HealthCheck, NoLocalEndpoints};
pub use vips::Vip;

/// On which addresses of the node NodePorts answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The first InternalIP of each family of this node's Node object; without one, the first device address of the family.
    #[default]
    Primary,
    /// Every device address in one of these.
    Within(Vec<IpNet>),
}

/// What does not change while the process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--node-name`: the Node that is us; endpoints with this `nodeName` are local.
    pub node_name: String,
    pub node_port_addresses: NodePortAddresses,
}

/// What a batch of changes means for the tables. Empty parts: nothing to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// For [`ringway_engine::tables::Frontends::with`]; `None` removes.
    pub frontends: Vec<(FrontendKey, Option<Arc<Frontend>>)>,
    /// VIPs that appeared, changed, or (`None`) went.
    pub vips: Vec<(IpAddr, Option<Vip>)>,
    /// UDP frontends and backends that stopped serving them: their flows must go at once, for UDP has no end of its own and clients
    /// would send into a black hole (contract §2, existing flows). TCP flows go on while their pod lives.
    pub stopped: Vec<(FrontendKey, SocketAddr)>,
    /// Endpoints that left their Service, with a pod whose end would be that of their connections.
    pub left: Vec<Left>,
    /// All ranges of the ServiceCIDRs, if they became different.
    pub service_cidrs: Option<BTreeSet<IpNet>>,
    /// Health check ports that appeared, changed what they say, or (`None`) went.
    pub health_checks: Vec<((ServiceName, IpFamily), Option<HealthCheck>)>,
    /// What the batch was made of, whether or not the tables became different.
    pub changed: Changed,
}

/// Holds the objects in force and what was last made of them.
#[derive(Debug, Default)]
pub struct Compiler {
    settings: Settings,
    cluster: Cluster,
    device_addresses: Vec<IpAddr>,
    /// Derived from the settings, our Node and the device addresses.
    node_port_addresses: Vec<IpAddr>,
    compiled: HashMap<ServiceName, Compiled>,
    claims: Claims,
    published: HashMap<FrontendKey, Arc<Frontend>>,
    /// Of the UDP frontends in `published`.
    serving: HashMap<FrontendKey, Arc<BTreeSet<SocketAddr>>>,
    vips: Vips,
    service_cidrs: BTreeSet<IpNet>,
    /// The sums over `compiled`.
    no_local: PerFamily<NoLocalEndpoints>,
}

impl Compiler {
    pub fn new(settings: Settings) -> Compiler {
        Compiler { settings, ..Compiler::default() }
    }

    /// Takes a batch of changes in; compiles each touched service once.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Update {
        let zone_before = self.zone();
        let mut touched = Touched::default();
        for change in changes {
            self.cluster.apply(change, &mut touched);
        }
        let lost_node = touched.nodes.iter().any(|name| self.cluster.node(name).is_some_and(|node| node.unreachable));
        let left = if lost_node {
            touched.leaving.left(&self.cluster, self.cluster.services().map(|service| &service.name))
        } else {
            touched.leaving.left(&self.cluster, touched.services.iter())
        };
        let mut services = touched.services;
        if touched.nodes.contains(self.settings.node_name.as_str()) {
            if self.zone() != zone_before {
                services.extend(self.cluster.services().map(|service| service.name.clone()));
            }
            services.extend(self.refresh_addresses());
        } else if !touched.nodes.is_empty() {
            self.refresh_hosts();
        }
        let service_cidrs = if touched.service_cidrs { self.refresh_service_cidrs() } else { None };
        Update { changed: touched.changed, left, service_cidrs, ..self.compile(services) }
    }

    /// The addresses of the node's devices, the most important of each family first (the first uplink's). Call it whenever they change.
    pub fn set_device_addresses(&mut self, addresses: Vec<IpAddr>) -> Update {
        self.device_addresses = addresses;
        let services = self.refresh_addresses();
        self.compile(services)
    }

    /// The endpoints of these slices that have left since, with a pod whose end would be that of their connections.
    pub fn left_since(&self, earlier: &[Arc<EndpointSliceModel>]) -> Vec<Left> {
        let mut leaving = Leaving::default();
        for slice in earlier {
            let now = self.cluster.slices(&slice.service).find(|now| now.name == slice.name);
            leaving.compare(slice, now.map(Arc::as_ref));
        }
        leaving.left(&self.cluster, std::iter::empty())
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// All VIPs, by address.
    pub fn vips(&self) -> impl Iterator<Item = (IpAddr, Vip)> {
        self.vips.published()
    }

    /// Whether the backend serves this UDP frontend, wherever it is: a flow to one that does not is a black hole.
    pub fn serves(&self, key: &FrontendKey, backend: &SocketAddr) -> bool {
        self.serving.get(key).is_some_and(|serving| serving.contains(backend))
    }

    /// Number of Services in force.
    pub fn services_len(&self) -> usize {
        self.compiled.len()
    }

    /// Service ports whose policy is Local and whose endpoints of a family are all elsewhere.
    pub fn no_local_endpoints(&self) -> PerFamily<NoLocalEndpoints> {
        self.no_local
    }

    /// The addresses on which NodePorts answer.
    pub fn node_port_addresses(&self) -> &[IpAddr] {
        &self.node_port_addresses
    }

    /// What is wrong between objects (each alone is right): clashing frontends, no address for NodePorts.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.claims.clashes().map(|(key, holder, service)| clash(key, holder, service)).collect();
        problems.extend(IpFamily::BOTH.into_iter().filter(|family| self.lacks_node_port_address(*family)).map(|family| Problem {
            kind: Some("Node".into()),
            name: Some(self.settings.node_name.clone()),
            ..Problem::new(Severity::Notice, no_address(family))
        }));
        problems
    }

    /// Every service port with its frontends and endpoints, by namespace, name and port.
    pub fn view(&self) -> Vec<ServicePortView> {
        let mut services: Vec<_> = self.cluster.services().collect();
        services.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        services.into_iter().flat_map(|service| self.view_service(service)).collect()
    }

    /// Whether nothing is left: for tests that end in "everything is empty".
    pub fn is_empty(&self) -> bool {
        self.cluster.is_empty()
            && self.compiled.is_empty()
            && self.claims.is_empty()
            && self.published.is_empty()
            && self.serving.is_empty()
            && self.vips.is_empty()
            && self.service_cidrs.is_empty()
            && self.no_local == PerFamily::default()
    }

    fn zone(&self) -> Option<Arc<str>> {
        self.cluster.node(&self.settings.node_name).and_then(|node| node.zone.clone())
    }

    fn node_port_services(&self) -> impl Iterator<Item = &Arc<ServiceModel>> {
        self.cluster.services().filter(|service| service.ports.iter().any(|port| port.node_port.is_some()))
    }

    fn lacks_node_port_address(&self, family: IpFamily) -> bool {
        let is_wanted = || self.node_port_services().any(|service| service::families(service).any(|served| served == family));
        !self.node_port_addresses.iter().any(|address| IpFamily::of(address) == family) && is_wanted()
    }

    /// The ranges from which ClusterIPs are allocated: an address within them that no Service has is nobody's (contract §2).
    fn refresh_service_cidrs(&mut self) -> Option<BTreeSet<IpNet>> {
        let cidrs: BTreeSet<IpNet> = self.cluster.service_cidrs().collect();
        (cidrs != self.service_cidrs).then(|| {
            self.service_cidrs.clone_from(&cidrs);
            cidrs
        })
    }

    /// Addresses of nodes and of our devices belong to hosts, even if a Service claims one (a load balancer that hands out nodes' addresses
    /// does): as VIPs they would be cut off.
    fn refresh_hosts(&mut self) {
        let internal = self.cluster.nodes().flat_map(|node| &node.internal_ips);
        self.vips.set_hosts(internal.chain(&self.device_addresses).copied().collect());
    }

    /// Derives the node's addresses anew; returns the services that depend on what changed.
    fn refresh_addresses(&mut self) -> Vec<ServiceName> {
        let addresses: Vec<IpAddr> = match &self.settings.node_port_addresses {
            NodePortAddresses::Primary => {
                let internal = self.cluster.node(&self.settings.node_name).map_or(&[][..], |node| &node.internal_ips);
                let first = |family| internal.iter().chain(&self.device_addresses).copied().find(|address| IpFamily::of(address) == family);
                IpFamily::BOTH.into_iter().filter_map(first).collect()
            }
            NodePortAddresses::Within(nets) => {
                let wanted = |address: &&IpAddr| nets.iter().any(|net| net.contains(*address));
                let mut addresses: Vec<IpAddr> = self.device_addresses.iter().filter(wanted).copied().collect();
                addresses.sort_unstable();
                addresses.dedup();
                addresses
            }
        };
        self.refresh_hosts();
        if addresses == self.node_port_addresses {
            return Vec::new();
        }
        self.node_port_addresses = addresses;
        self.node_port_services().map(|service| service.name.clone()).collect()
    }

    fn compile(&mut self, services: impl IntoIterator<Item = ServiceName>) -> Update {
        let (mut keys, mut update) = (BTreeSet::new(), Update::default());
        for name in services {
            self.compile_service(&name, &mut keys, &mut update);
        }
        update.vips = self.vips.publish();
        for key in keys {
            self.publish(key, &mut update);
        }
        update
    }

    /// Adds to `update` what is different for one key since it was last published.
    fn publish(&mut self, key: FrontendKey, update: &mut Update) {
        let holder = self.claims.holder(&key).and_then(|service| self.compiled.get(service));
        let frontend = holder.and_then(|compiled| compiled.frontends.get(&key));
        if frontend != self.published.get(&key) {
            update.frontends.push((key, frontend.cloned()));
            match frontend {
                Some(frontend) => self.published.insert(key, Arc::clone(frontend)),
                None => self.published.remove(&key),
            };
        }
        let serving = holder.and_then(|compiled| compiled.serving.get(&key));
        let before = match serving {
            Some(serving) => self.serving.insert(key, Arc::clone(serving)),
            None => self.serving.remove(&key),
        };
        let stopped =
            before.iter().flat_map(|before| before.iter()).filter(|backend| serving.is_none_or(|serving| !serving.contains(backend)));
        update.stopped.extend(stopped.map(|backend| (key, *backend)));
    }

    /// Compiles one service (or takes it out), and adds the keys whose frontend may have changed and its health check if that did.
    fn compile_service(&mut self, name: &ServiceName, keys: &mut BTreeSet<FrontendKey>, update: &mut Update) {
        let before = self.compiled.remove(name).unwrap_or_default();
        let service = self.cluster.service(name).cloned();
        let after =
            service.as_ref().map_or_else(Compiled::default, |service| service::compile(&self.cluster, service, self.here(), &before));
        self.vips.replace(&before.vips, &after.vips);
        for family in IpFamily::BOTH {
            self.no_local[family].replace(before.no_local[family], after.no_local[family]);
            if before.health_checks[family] != after.health_checks[family] {
                update.health_checks.push(((name.clone(), family), after.health_checks[family]));
            }
        }
        for key in before.frontends.keys() {
            self.claims.remove(*key, name);
        }
        if let Some(service) = &service {
            let rank = Rank::of(service);
            for key in after.frontends.keys() {
                self.claims.add(*key, &rank);
            }
        }
        keys.extend(before.frontends.keys().chain(after.frontends.keys()));
        if service.is_some() {
            self.compiled.insert(name.clone(), after);
        }
    }

    fn here(&self) -> Here<'_> {
        let zone = self.cluster.node(&self.settings.node_name).and_then(|node| node.zone.as_deref());
        Here { location: Location { node: &self.settings.node_name, zone }, node_port_addresses: &self.node_port_addresses }
    }
}

fn no_address(family: IpFamily) -> String {
    format!(
        "no {family} address of this node is known, so no NodePort answers over {family}: give the Node an InternalIP in status.addresses"
    )
}

fn clash(key: &FrontendKey, holder: &ServiceName, service: &ServiceName) -> Problem {
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.number() == key.protocol);
    let protocol = protocol.map_or_else(|| key.protocol.to_string(), |protocol| protocol.to_string());
    Problem {
        kind: Some("Service".into()),
        namespace: Some(service.namespace.to_string()),
        name: Some(service.name.to_string()),
        ..Problem::new(
            Severity::Error,
            format!(
                "{}/{protocol} is Service {holder}'s, which is older or sorts first: change one of the two",
                SocketAddr::new(key.address, key.port)
            ),
        )
    }
}
