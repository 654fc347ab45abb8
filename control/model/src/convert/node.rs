//! Node → [`NodeModel`].

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::{Converted, Findings, Refused, check};
use crate::model::{Kind, Model, NodeModel};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Set by the cluster autoscaler before it drains and deletes a node (`utils/taints` there; kube-proxy's `pkg/proxy/healthcheck`).
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Set while the kubelet does not report, or by somebody who knows that the node is off.
const UNREACHABLE_TAINTS: [&str; 2] = ["node.kubernetes.io/unreachable", "node.kubernetes.io/out-of-service"];

pub(super) fn convert(node: &Node) -> Result<Converted, Refused> {
    let mut findings = Findings::of(Kind::Node, &node.metadata);
    let mut internal_ips = Vec::new();
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    for (index, address) in addresses.iter().enumerate().filter(|(_, address)| address.type_ == "InternalIP") {
        internal_ips.extend(findings.take(format!("status.addresses[{index}].address"), check::address(&address.address)));
    }
    let spec = node.spec.clone().unwrap_or_default();
    let mut cidrs = spec.pod_cidrs.unwrap_or_default();
    if cidrs.is_empty() {
        cidrs.extend(spec.pod_cidr.filter(|cidr| !cidr.is_empty()));
    }
    let mut pod_cidrs = Vec::new();
    for (index, cidr) in cidrs.iter().enumerate() {
        pod_cidrs.extend(findings.take(format!("spec.podCIDRs[{index}]"), check::cidr(cidr)));
    }
    let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL)).filter(|zone| !zone.is_empty());
    let taints: Vec<&str> = spec.taints.iter().flatten().map(|taint| taint.key.as_str()).collect();
    let model = NodeModel {
        name: findings.name.clone(),
        internal_ips,
        zone: zone.map(|zone| Arc::from(zone.as_str())),
        pod_cidrs,
        deleting: node.metadata.deletion_timestamp.is_some(),
        to_be_deleted: taints.contains(&TO_BE_DELETED_TAINT),
        unreachable: UNREACHABLE_TAINTS.iter().any(|taint| taints.contains(taint)),
    };
    findings.ours(Some(Model::Node(Arc::new(model))))
}
