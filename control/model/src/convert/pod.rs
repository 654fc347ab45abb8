//! Pod → [`PodModel`].

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{Converted, Findings, Refused, check};
use crate::model::{Kind, Model, PodModel};

pub(super) fn convert(pod: &Pod) -> Result<Converted, Refused> {
    let mut findings = Findings::of(Kind::Pod, &pod.metadata);
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let addresses: Vec<&str> = match status.and_then(|status| status.pod_ips.as_deref()).filter(|ips| !ips.is_empty()) {
        Some(ips) => ips.iter().map(|ip| ip.ip.as_str()).collect(),
        None => status.and_then(|status| status.pod_ip.as_deref()).into_iter().collect(),
    };
    let mut ips = Vec::new();
    for (index, address) in addresses.iter().enumerate().filter(|(_, address)| !address.is_empty()) {
        ips.extend(findings.take(format!("status.podIPs[{index}].ip"), check::address(address)));
    }
    // One that has ended has given its addresses back, and one that is deleted does so at any moment.
    let has_ended = status.and_then(|status| status.phase.as_deref()).is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
    let is_going = has_ended || pod.metadata.deletion_timestamp.is_some();
    let in_host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let node = spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty());
    match node {
        Some(node) if !(is_going || in_host_network || addresses.is_empty()) => {
            let model = PodModel {
                namespace: Arc::from(findings.namespace.as_str()),
                name: Arc::from(findings.name.as_str()),
                node: Arc::from(node),
                ips,
            };
            findings.ours(Some(Model::Pod(Arc::new(model))))
        }
        _ => findings.not_ours(),
    }
}
