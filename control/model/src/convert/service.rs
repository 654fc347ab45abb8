//! Service → [`ServiceModel`] (contract §1.1 to §1.5, §1.7).

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort as RawPort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Converted, Findings, Refused, check, is_selected};
use crate::model::{IpFamily, Kind, Model, ServiceModel, ServiceName, ServicePort, ServiceType, SessionAffinity, TrafficPolicy};

/// Kubernetes' default and limit of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT_S: i32 = 10_800;
const AFFINITY_MAX_S: i32 = 86_400;

/// "false": connections to endpoints that are gone are left to time out.
pub const RESET_GONE_ANNOTATION: &str = "ringway.dev/reset-gone-endpoints";

pub(super) fn convert(service: &Service) -> Result<Converted, Refused> {
    let mut findings = Findings::of(Kind::Service, &service.metadata);
    let Some(spec) = &service.spec else {
        findings.error("spec", "missing");
        return Err(findings.refuse());
    };
    if !is_selected(&service.metadata) {
        return findings.not_ours();
    }
    let service_type = match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => return findings.not_ours(),
        Some(other) => {
            findings.error("spec.type", format!("{other:?} is no type: ClusterIP, NodePort, LoadBalancer or ExternalName"));
            return Err(findings.refuse());
        }
    };
    match spec.cluster_ip.as_deref().or(spec.cluster_ips.as_deref().and_then(|ips| ips.first()).map(String::as_str)) {
        Some("None") => return findings.not_ours(),
        None | Some("") => {
            findings.notice("spec.clusterIP", "empty: the Service is not served, for nothing allocates an address to a manifest");
            return findings.not_ours();
        }
        Some(_) => {}
    }
    let cluster_ips = cluster_ips(spec, &mut findings);
    let external_ips = external_ips(spec, &cluster_ips, &mut findings);
    let external_policy = external_policy(spec, service_type, external_ips.is_empty(), &mut findings);
    let model = ServiceModel {
        name: ServiceName { namespace: Arc::clone(&findings.namespace), name: Arc::clone(&findings.name) },
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
        service_type,
        load_balancer_ips: load_balancer_ips(service, service_type, &cluster_ips, &mut findings),
        cluster_ips,
        source_ranges: source_ranges(spec, service_type, &mut findings),
        ports: ports(spec, service_type, &mut findings),
        internal_policy: policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &mut findings),
        session_affinity: session_affinity(spec, &mut findings),
        reset_gone: reset_gone(service, &mut findings),
        health_check_node_port: health_check_node_port(spec, service_type, external_policy, &mut findings),
        external_ips,
        external_policy,
    };
    findings.ours(Some(Model::Service(Arc::new(model))))
}

/// Idle clients of a backend that is gone would wait for minutes; whoever knows better says so.
fn reset_gone(service: &Service, findings: &mut Findings) -> bool {
    match service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(RESET_GONE_ANNOTATION)).map(String::as_str) {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => {
            findings
                .notice(format!("metadata.annotations[{RESET_GONE_ANNOTATION}]"), format!("{other:?} is neither true nor false: ignored"));
            true
        }
    }
}

fn cluster_ips(spec: &ServiceSpec, findings: &mut Findings) -> Vec<IpAddr> {
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    if list.is_empty() {
        return findings.take("spec.clusterIP", check::service_address(first)).into_iter().collect();
    }
    if !first.is_empty() && first != list[0] {
        findings.error("spec.clusterIP", format!("{first:?} is not spec.clusterIPs[0], {:?}", list[0]));
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, text) in list.iter().enumerate() {
        let field = format!("spec.clusterIPs[{index}]");
        let Some(address) = findings.take(field.as_str(), check::service_address(text)) else { continue };
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            findings.error(field, "a second address of the same family: at most one of each");
        }
        addresses.push(address);
    }
    addresses.shrink_to_fit();
    addresses
}

/// A Service without a ClusterIP of a family is not served in it (contract §1.3).
fn note_if_not_served(field: &str, address: IpAddr, cluster_ips: &[IpAddr], findings: &mut Findings) {
    let family = IpFamily::of(&address);
    if !cluster_ips.is_empty() && !cluster_ips.iter().any(|cluster_ip| IpFamily::of(cluster_ip) == family) {
        findings.notice(field, format!("has no effect: the Service has no {family} ClusterIP"));
    }
}

fn external_ips(spec: &ServiceSpec, cluster_ips: &[IpAddr], findings: &mut Findings) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        let Some(address) = findings.take(field.as_str(), check::ordinary_address(text)) else { continue };
        note_if_not_served(&field, address, cluster_ips, findings);
        addresses.push(address);
    }
    addresses
}

fn load_balancer_ips(service: &Service, service_type: ServiceType, cluster_ips: &[IpAddr], findings: &mut Findings) -> Vec<IpAddr> {
    let ingress: &[LoadBalancerIngress] = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|load_balancer| load_balancer.ingress.as_deref())
        .unwrap_or_default();
    let mut addresses = Vec::new();
    for (index, entry) in ingress.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        let Some(text) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) else { continue };
        let address = findings.take(format!("{field}.ip"), check::service_address(text));
        match (entry.ip_mode.as_deref(), address) {
            (None | Some("VIP"), Some(address)) => {
                addresses.push(address);
                if service_type == ServiceType::LoadBalancer {
                    note_if_not_served(&format!("{field}.ip"), address, cluster_ips, findings);
                }
            }
            (None | Some("VIP" | "Proxy"), _) => {}
            (Some(other), _) => findings.error(format!("{field}.ipMode"), format!("{other:?} is no mode: VIP or Proxy")),
        }
    }
    if service_type != ServiceType::LoadBalancer && !ingress.is_empty() {
        findings.notice("status.loadBalancer.ingress", "has no effect: spec.type is not LoadBalancer");
        addresses.clear();
    }
    addresses
}

fn source_ranges(spec: &ServiceSpec, service_type: ServiceType, findings: &mut Findings) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    for (index, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        ranges.extend(findings.take(format!("spec.loadBalancerSourceRanges[{index}]"), check::cidr(text.trim())));
    }
    if service_type != ServiceType::LoadBalancer && !ranges.is_empty() {
        findings.notice("spec.loadBalancerSourceRanges", "has no effect: spec.type is not LoadBalancer");
    }
    ranges
}

fn ports(spec: &ServiceSpec, service_type: ServiceType, findings: &mut Findings) -> Vec<ServicePort> {
    let raw = spec.ports.as_deref().unwrap_or_default();
    if raw.is_empty() {
        findings.error("spec.ports", "missing: a Service has at least one port");
    }
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut ports = Vec::new();
    for (index, port) in raw.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && raw.len() > 1 {
            findings.error(format!("{field}.name"), "missing: ports have names if there is more than one");
        } else if !name.is_empty() {
            findings.take(format!("{field}.name"), check::dns_label(name));
            if !names.insert(name) {
                findings.error(format!("{field}.name"), format!("{name:?} is the name of two ports"));
            }
        }
        let Some(port) = convert_port(port, &field, service_type, findings) else { continue };
        if !numbers.insert((port.protocol, port.port)) {
            findings.error(format!("{field}.port"), format!("{}/{} is in the list twice", port.port, port.protocol));
        }
        if let Some(node_port) = port.node_port
            && !node_ports.insert((port.protocol, node_port))
        {
            findings.error(format!("{field}.nodePort"), format!("{node_port}/{} is in the list twice", port.protocol));
        }
        ports.push(port);
    }
    ports.shrink_to_fit();
    ports
}

fn convert_port(raw: &RawPort, field: &str, service_type: ServiceType, findings: &mut Findings) -> Option<ServicePort> {
    let protocol = findings.take(format!("{field}.protocol"), check::protocol(raw.protocol.as_deref()));
    let number = findings.take(format!("{field}.port"), check::port(raw.port));
    if let Some(IntOrString::Int(target)) = raw.target_port {
        findings.take(format!("{field}.targetPort"), check::port(target));
    }
    let mut node_port: Option<NonZeroU16> = None;
    if let Some(number) = raw.node_port.filter(|number| *number != 0) {
        node_port = findings.take(format!("{field}.nodePort"), check::port(number));
        if service_type == ServiceType::ClusterIp {
            findings.notice(format!("{field}.nodePort"), "has no effect: spec.type is ClusterIP");
            node_port = None;
        }
    } else if service_type == ServiceType::NodePort {
        findings.notice(format!("{field}.nodePort"), "empty: no port of the node is served, for nothing allocates one to a manifest");
    }
    Some(ServicePort { name: raw.name.as_deref().unwrap_or_default().into(), protocol: protocol?, port: number?, node_port })
}

fn policy(field: &str, text: Option<&str>, findings: &mut Findings) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            findings.error(field, format!("{other:?} is no policy: Cluster or Local"));
            TrafficPolicy::Cluster
        }
    }
}

/// It means something only where clients outside can reach the Service: NodePort, LoadBalancer, or externalIPs.
fn external_policy(spec: &ServiceSpec, service_type: ServiceType, no_external_ips: bool, findings: &mut Findings) -> TrafficPolicy {
    const FIELD: &str = "spec.externalTrafficPolicy";
    let policy = policy(FIELD, spec.external_traffic_policy.as_deref(), findings);
    if policy == TrafficPolicy::Local && service_type == ServiceType::ClusterIp && no_external_ips {
        findings.notice(FIELD, "has no effect: spec.type is ClusterIP and there are no externalIPs");
        return TrafficPolicy::Cluster;
    }
    policy
}

fn session_affinity(spec: &ServiceSpec, findings: &mut Findings) -> SessionAffinity {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => SessionAffinity::None,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let timeout_s = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_DEFAULT_S);
            match u32::try_from(timeout_s) {
                Ok(seconds) if (1..=AFFINITY_MAX_S).contains(&timeout_s) => SessionAffinity::ClientIp { timeout_s: seconds },
                _ => {
                    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
                    findings.error(field, format!("{timeout_s} is out of range: 1 to {AFFINITY_MAX_S}"));
                    SessionAffinity::None
                }
            }
        }
        Some(other) => {
            findings.error("spec.sessionAffinity", format!("{other:?} is no affinity: None or ClientIP"));
            SessionAffinity::None
        }
    }
}

fn health_check_node_port(
    spec: &ServiceSpec,
    service_type: ServiceType,
    external_policy: TrafficPolicy,
    findings: &mut Findings,
) -> Option<NonZeroU16> {
    const FIELD: &str = "spec.healthCheckNodePort";
    let number = spec.health_check_node_port.filter(|number| *number != 0)?;
    let port = findings.take(FIELD, check::port(number))?;
    if service_type == ServiceType::LoadBalancer && external_policy == TrafficPolicy::Local {
        return Some(port);
    }
    findings.notice(FIELD, "has no effect: only with type LoadBalancer and externalTrafficPolicy Local");
    None
}
