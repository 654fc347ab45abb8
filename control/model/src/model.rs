//! The model: what we keep of Kubernetes objects once they are known to be right.
//!
//! Addresses of both families live side by side here; [`crate::Compiler`] tells them apart (contract §1.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::left::PodRef;

/// The kinds that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Service,
    EndpointSlice,
    Node,
    ServiceCidr,
    Pod,
}

impl Kind {
    /// Its objects live in namespaces.
    pub fn is_namespaced(self) -> bool {
        matches!(self, Kind::Service | Kind::EndpointSlice | Kind::Pod)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Node => "Node",
            Kind::ServiceCidr => "ServiceCIDR",
            Kind::Pod => "Pod",
        })
    }
}

/// Names one object of a cluster. `namespace` is empty for a Node and a ServiceCIDR. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    pub kind: Kind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// Namespace and name of a Service. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An IP family. A Service is seen once in each that it has a ClusterIP of, and nothing of the other matters there (contract §1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    #[default]
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    pub const BOTH: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

    pub fn of(address: &IpAddr) -> IpFamily {
        if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
    }

    /// The address that stands for all of the family.
    pub fn unspecified(self) -> IpAddr {
        match self {
            IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
            IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The name in EndpointSlices (`addressType`), Services (`ipFamilies`) and metrics.
    pub fn label(self) -> &'static str {
        match self {
            IpFamily::V4 => "IPv4",
            IpFamily::V6 => "IPv6",
        }
    }
}

/// One of something for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    pub v4: T,
    pub v6: T,
}

impl<T> Index<IpFamily> for PerFamily<T> {
    type Output = T;

    fn index(&self, family: IpFamily) -> &T {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }
}

impl<T> IndexMut<IpFamily> for PerFamily<T> {
    fn index_mut(&mut self, family: IpFamily) -> &mut T {
        match family {
            IpFamily::V4 => &mut self.v4,
            IpFamily::V6 => &mut self.v6,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A transport protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The IP protocol number, as in [`ringway_engine::tables::FrontendKey`].
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// `spec.type` of a Service that has a ClusterIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// `sessionAffinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SessionAffinity {
    #[default]
    None,
    /// A client sticks to its endpoint until it has been silent for this long.
    ClientIp { timeout_s: u32 },
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Empty for an unnamed port.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: NonZeroU16,
    pub node_port: Option<NonZeroU16>,
}

/// A Service that is ours to serve: not headless, not an ExternalName, not another proxy's (contract §1.1, §1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceModel {
    pub name: ServiceName,
    pub created: Option<Timestamp>,
    pub service_type: ServiceType,
    /// At most one of each family.
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// Ingress addresses with `ipMode` VIP (contract §1.4).
    pub load_balancer_ips: Vec<IpAddr>,
    /// As written, both families (contract §1.5).
    pub source_ranges: Vec<IpNet>,
    pub ports: Vec<ServicePort>,
    pub internal_policy: TrafficPolicy,
    /// `Cluster` unless clients outside can reach the Service at all.
    pub external_policy: TrafficPolicy,
    pub session_affinity: SessionAffinity,
    /// Only with type LoadBalancer and external policy Local (contract §1.7).
    pub health_check_node_port: Option<NonZeroU16>,
    /// Connections to endpoints that are gone are reset; unless the Service's annotation says otherwise.
    #[serde(default = "yes")]
    pub reset_gone: bool,
}

/// One port of an EndpointSlice that has a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlicePort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: NonZeroU16,
}

/// One endpoint of a slice; conditions with their defaults filled in (contract §1.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The first address: the others do not count.
    pub address: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    /// What of it is a pod.
    pub pod: Option<PodRef>,
    /// `None` if neither holds a name.
    pub hints: Option<Box<Hints>>,
}

/// Names in an endpoint's `hints.forNodes` and `hints.forZones`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hints {
    pub nodes: Vec<Arc<str>>,
    pub zones: Vec<Arc<str>>,
}

impl Endpoint {
    pub fn node_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }

    pub fn zone_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }
}

/// An EndpointSlice of a Service that may be ours. Two are equal if they lead to the same endpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointSliceModel {
    /// Name of the slice; its namespace is the service's.
    pub name: Arc<str>,
    pub service: ServiceName,
    /// Of all endpoints. Objects kept by a version that did not know it lack it; nothing but a metric depends on it.
    #[serde(default)]
    pub family: IpFamily,
    pub ports: Vec<SlicePort>,
    pub endpoints: Box<[Endpoint]>,
    /// When what led to this version happened, as the slice's controller noted it in the annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`. It says nothing about endpoints and is no part of equality, nor kept on disk.
    #[serde(skip)]
    pub last_change_trigger: Option<Timestamp>,
}

impl PartialEq for EndpointSliceModel {
    fn eq(&self, other: &EndpointSliceModel) -> bool {
        let EndpointSliceModel { name, service, family, ports, endpoints, last_change_trigger: _ } = self;
        (name, service, family, ports, endpoints) == (&other.name, &other.service, &other.family, &other.ports, &other.endpoints)
    }
}

impl Eq for EndpointSliceModel {}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeModel {
    pub name: Arc<str>,
    /// In the order of `status.addresses`.
    pub internal_ips: Vec<IpAddr>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    pub pod_cidrs: Vec<IpNet>,
    /// The object has a deletionTimestamp.
    pub deleting: bool,
    /// It has the taint `ToBeDeletedByClusterAutoscaler`, with whatever effect.
    pub to_be_deleted: bool,
    /// It has one of the taints by which the control plane says that nobody there answers.
    #[serde(default)]
    pub unreachable: bool,
}

impl NodeModel {
    /// Whether load balancers may go on to send new connections here (KEP-3836).
    pub fn is_eligible(&self) -> bool {
        !self.deleting && !self.to_be_deleted
    }
}

/// A ServiceCIDR: a range from which ClusterIPs are allocated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidrModel {
    pub name: Arc<str>,
    /// At most one of each family.
    pub cidrs: Vec<IpNet>,
}

/// A running Pod with addresses of its own; one in the host network has the node's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodModel {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// In the order of `status.podIPs`; not empty.
    pub ips: Vec<IpAddr>,
}

/// A converted object. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Model {
    Service(Arc<ServiceModel>),
    EndpointSlice(Arc<EndpointSliceModel>),
    Node(Arc<NodeModel>),
    ServiceCidr(Arc<ServiceCidrModel>),
    Pod(Arc<PodModel>),
}

impl Model {
    pub fn object_ref(&self) -> ObjectRef {
        let (kind, namespace, name) = match self {
            Model::Service(service) => (Kind::Service, Some(&service.name.namespace), &service.name.name),
            Model::EndpointSlice(slice) => (Kind::EndpointSlice, Some(&slice.service.namespace), &slice.name),
            Model::Node(node) => (Kind::Node, None, &node.name),
            Model::ServiceCidr(cidr) => (Kind::ServiceCidr, None, &cidr.name),
            Model::Pod(pod) => (Kind::Pod, Some(&pod.namespace), &pod.name),
        };
        ObjectRef { kind, namespace: namespace.cloned().unwrap_or_default(), name: Arc::clone(name) }
    }
}

/// What objects mean that were kept before there was such a field.
fn yes() -> bool {
    true
}

/// What the [`crate::Compiler`] eats, wherever the object came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is new or has a new version.
    Upsert(Model),
    Delete(ObjectRef),
}
