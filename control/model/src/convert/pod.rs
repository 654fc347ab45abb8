//! Pod → [`PodModel`].

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{Converted, Findings, Refused, check};
use crate::model::{Kind, Model, PodModel};

pub(super) fn convert(pod: &Pod) -> Result<Converted, Refused> {
    let mut findings = Findings::of(Kind::Pod, &pod.metadata);
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    // `podIP` is the first of `podIPs` (kubernetes 1.16 and later keep both).
    let pod_ips = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
    let mut ips = Vec::new();
    for (index, ip) in pod_ips.iter().enumerate().filter(|(_, ip)| !ip.ip.is_empty()) {
        ips.extend(findings.take(format!("status.podIPs[{index}].ip"), check::address(&ip.ip)));
    }
    // One that has ended has given its addresses back, and one that is deleted does so at any moment.
    let has_ended = status.and_then(|status| status.phase.as_deref()).is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
    let is_going = has_ended || pod.metadata.deletion_timestamp.is_some();
    let in_host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    match spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty()) {
        Some(_) if !is_going && !in_host_network && (!ips.is_empty() || !findings.problems.is_empty()) => {
            let model = PodModel { namespace: Arc::clone(&findings.namespace), name: Arc::clone(&findings.name), ips };
            findings.ours(Some(Model::Pod(Arc::new(model))))
        }
        _ => findings.not_ours(),
    }
}
