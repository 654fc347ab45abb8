//! ServiceCIDR → [`ServiceCidrModel`].

use std::sync::Arc;

use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::{Converted, Findings, Refused, check};
use crate::model::{Kind, Model, ServiceCidrModel};

pub(super) fn convert(object: &ServiceCIDR) -> Result<Converted, Refused> {
    let mut findings = Findings::of(Kind::ServiceCidr, &object.metadata);
    let mut cidrs: Vec<ipnet::IpNet> = Vec::new();
    let texts = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    if texts.is_empty() {
        findings.error("spec.cidrs", "missing: one range, or one of each family");
    }
    for (index, text) in texts.iter().enumerate() {
        let field = format!("spec.cidrs[{index}]");
        let Some(cidr) = findings.take(field.as_str(), check::cidr(text)) else { continue };
        if cidrs.iter().any(|other| other.addr().is_ipv4() == cidr.addr().is_ipv4()) {
            findings.error(field, "a second range of the same family: at most one of each");
        }
        cidrs.push(cidr);
    }
    let model = ServiceCidrModel { name: findings.name.clone(), cidrs };
    findings.ours(Some(Model::ServiceCidr(Arc::new(model))))
}
