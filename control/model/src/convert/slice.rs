//! EndpointSlice → [`EndpointSliceModel`] (contract §1.6).

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint as RawEndpoint, EndpointPort, EndpointSlice};
use k8s_openapi::jiff::Timestamp;

use super::{Converted, Findings, Refused, check, is_selected};
use crate::left::PodRef;
use crate::model::{Endpoint, EndpointSliceModel, Hints, IpFamily, Kind, Model, ServiceName, SlicePort};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const LAST_CHANGE_TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Limits of the API.
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 100;
const ADDRESSES_MAX: usize = 100;

pub(super) fn convert(slice: &EndpointSlice) -> Result<Converted, Refused> {
    let mut findings = Findings::of(Kind::EndpointSlice, &slice.metadata);
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL)).filter(|name| !name.is_empty());
    let (true, Some(service)) = (is_selected(&slice.metadata), service) else { return findings.not_ours() };
    let family = match slice.address_type.as_str() {
        "IPv4" => IpFamily::V4,
        "IPv6" => IpFamily::V6,
        "FQDN" => return findings.not_ours(),
        "" => {
            findings.error("addressType", "missing: IPv4, IPv6 or FQDN");
            return Err(findings.refuse());
        }
        other => {
            findings.error("addressType", format!("{other:?} is no address type: IPv4, IPv6 or FQDN"));
            return Err(findings.refuse());
        }
    };
    let model = EndpointSliceModel {
        name: Arc::clone(&findings.name),
        service: ServiceName { namespace: Arc::clone(&findings.namespace), name: service.as_str().into() },
        family,
        ports: ports(slice.ports.as_deref().unwrap_or_default(), &mut findings),
        endpoints: endpoints(slice.endpoints.as_deref().unwrap_or_default(), family, &mut findings),
        last_change_trigger: last_change_trigger(slice),
    };
    findings.ours(Some(Model::EndpointSlice(Arc::new(model))))
}

/// A measurement depends on it, no packet: one that cannot be read is as good as none.
fn last_change_trigger(slice: &EndpointSlice) -> Option<Timestamp> {
    slice.metadata.annotations.as_ref()?.get(LAST_CHANGE_TRIGGER_ANNOTATION)?.parse().ok()
}

fn ports(raw: &[EndpointPort], findings: &mut Findings) -> Vec<SlicePort> {
    if raw.len() > PORTS_MAX {
        findings.error("ports", format!("{} ports: at most {PORTS_MAX}", raw.len()));
    }
    let mut ports = Vec::new();
    let mut names = HashSet::new();
    for (index, port) in raw.iter().enumerate() {
        let field = format!("ports[{index}]");
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            findings.take(format!("{field}.name"), check::dns_label(name));
        }
        if !names.insert(name) {
            findings.error(format!("{field}.name"), format!("{name:?} is the name of two ports"));
        }
        let protocol = findings.take(format!("{field}.protocol"), check::protocol(port.protocol.as_deref()));
        // A port without a number stands for all of the pod's ports, which a proxy cannot serve.
        let Some(number) = port.port.filter(|number| *number != 0) else { continue };
        let number = findings.take(format!("{field}.port"), check::port(number));
        if let (Some(protocol), Some(port)) = (protocol, number) {
            ports.push(SlicePort { name: name.into(), protocol, port });
        }
    }
    ports.shrink_to_fit();
    ports
}

fn endpoints(raw: &[RawEndpoint], family: IpFamily, findings: &mut Findings) -> Box<[Endpoint]> {
    if raw.len() > ENDPOINTS_MAX {
        findings.error("endpoints", format!("{} endpoints: at most {ENDPOINTS_MAX}, use several slices", raw.len()));
    }
    raw.iter().enumerate().filter_map(|(index, endpoint)| convert_endpoint(index, endpoint, family, findings)).collect()
}

fn convert_endpoint(index: usize, raw: &RawEndpoint, family: IpFamily, findings: &mut Findings) -> Option<Endpoint> {
    let field = format!("endpoints[{index}]");
    if raw.addresses.is_empty() || raw.addresses.len() > ADDRESSES_MAX {
        findings.error(format!("{field}.addresses"), format!("{} addresses: 1 to {ADDRESSES_MAX}", raw.addresses.len()));
        return None;
    }
    let mut first = None;
    for (position, text) in raw.addresses.iter().enumerate() {
        let place = format!("{field}.addresses[{position}]");
        let address = findings.take(place.as_str(), check::ordinary_address(text))?;
        if IpFamily::of(&address) != family {
            findings.error(place, format!("{text:?} is not of the slice's addressType"));
            return None;
        }
        first = first.or(Some(address));
    }
    let address: IpAddr = first?;
    let conditions = raw.conditions.as_ref();
    let shared = |text: &String| Arc::<str>::from(text.as_str());
    let hints = raw.hints.as_ref().map_or_else(Hints::default, |hints| Hints {
        nodes: hints.for_nodes.iter().flatten().map(|node| shared(&node.name)).collect(),
        zones: hints.for_zones.iter().flatten().map(|zone| shared(&zone.name)).collect(),
    });
    Some(Endpoint {
        address,
        ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        node: raw.node_name.as_ref().map(shared),
        pod: pod(raw),
        zone: raw.zone.as_ref().map(shared),
        hints: Some(hints).filter(|hints| *hints != Hints::default()).map(Box::new),
    })
}

/// The pod that an endpoint is, in the slice's namespace.
fn pod(raw: &RawEndpoint) -> Option<PodRef> {
    let target = raw.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    Some(PodRef { name: target.name.as_deref()?.into(), uid: PodRef::uid_of(target.uid.as_deref()?)? })
}
