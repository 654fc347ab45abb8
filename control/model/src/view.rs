//! What people see of services: `ringway services` and `ringway backends`.

use std::net::{IpAddr, SocketAddr};

use ringway_engine::tables::{FrontendKind, Target};
use serde::{Deserialize, Serialize};

use crate::model::{Protocol, ServiceType, TrafficPolicy};

/// One port of one Service, in both families.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortView {
    pub namespace: String,
    pub name: String,
    /// Empty for an unnamed port.
    pub port_name: String,
    #[serde(rename = "type")]
    pub service_type: ServiceType,
    pub protocol: Protocol,
    pub internal_traffic_policy: TrafficPolicy,
    pub external_traffic_policy: TrafficPolicy,
    /// Seconds, with session affinity ClientIP.
    pub affinity_timeout_s: Option<u32>,
    pub frontends: Vec<FrontendView>,
    pub endpoints: Vec<EndpointView>,
}

/// One address and port that clients use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendView {
    pub kind: FrontendKindView,
    pub address: IpAddr,
    pub port: u16,
    /// What clients outside meet, and what pods here and the node itself meet.
    pub outside: TargetView,
    pub inside: TargetView,
    /// Clients that may use a load-balancer address, of its family; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<String>,
    /// Another service holds this address, protocol and port (`namespace/name`), so this is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}

/// [`FrontendKind`] in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrontendKindView {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    #[serde(rename = "LoadBalancerIP")]
    LoadBalancerIp,
    #[serde(rename = "ExternalIP")]
    ExternalIp,
}

impl From<FrontendKind> for FrontendKindView {
    fn from(kind: FrontendKind) -> FrontendKindView {
        match kind {
            FrontendKind::ClusterIp => FrontendKindView::ClusterIp,
            FrontendKind::NodePort => FrontendKindView::NodePort,
            FrontendKind::LoadBalancerIp => FrontendKindView::LoadBalancerIp,
            FrontendKind::ExternalIp => FrontendKindView::ExternalIp,
        }
    }
}

/// Where a frontend leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TargetView {
    /// `address:port` of each backend, `[address]:port` in IPv6.
    Backends(Vec<String>),
    /// No endpoint anywhere: rejected.
    Reject,
    /// Policy Local without a local endpoint: dropped.
    Drop,
}

impl From<&Target> for TargetView {
    fn from(target: &Target) -> TargetView {
        match target {
            Target::Backends(set) => TargetView::Backends(
                set.backends.iter().map(|backend| SocketAddr::new(backend.address, backend.port).to_string()).collect(),
            ),
            Target::NoBackend => TargetView::Reject,
            Target::PolicyLocal => TargetView::Drop,
        }
    }
}

/// One endpoint of a service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    pub address: IpAddr,
    pub port: u16,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub local: bool,
    pub node: Option<String>,
    pub zone: Option<String>,
    /// In the list of policy Cluster, in the list of policy Local (contract §2).
    pub in_cluster_list: bool,
    pub in_local_list: bool,
}
