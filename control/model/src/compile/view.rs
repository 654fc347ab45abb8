//! The compiler's state as people see it.

use ringway_engine::tables::FrontendKey;

use super::Compiler;
use super::service::{addresses, endpoints_of, families, is_any_policy_local};
use crate::model::{IpFamily, ServiceModel, ServicePort, SessionAffinity};
use crate::select::{PortEndpoint, Selected, select};
use crate::view::{EndpointView, FrontendView, ServicePortView, TargetView};

impl Compiler {
    pub(super) fn view_service(&self, service: &ServiceModel) -> Vec<ServicePortView> {
        service.ports.iter().map(|port| self.view_port(service, port)).collect()
    }

    fn view_port(&self, service: &ServiceModel, port: &ServicePort) -> ServicePortView {
        ServicePortView {
            namespace: service.name.namespace.to_string(),
            name: service.name.name.to_string(),
            port_name: port.name.to_string(),
            service_type: service.service_type,
            protocol: port.protocol,
            internal_traffic_policy: service.internal_policy,
            external_traffic_policy: service.external_policy,
            affinity_timeout_s: match service.session_affinity {
                SessionAffinity::None => None,
                SessionAffinity::ClientIp { timeout_s } => Some(timeout_s),
            },
            frontends: self.view_frontends(service, port),
            endpoints: families(service).flat_map(|family| self.view_endpoints(service, port, family)).collect(),
        }
    }

    fn view_endpoints(&self, service: &ServiceModel, port: &ServicePort, family: IpFamily) -> Vec<EndpointView> {
        let location = self.here().location;
        let endpoints = endpoints_of(&self.cluster, service, port, family, location);
        let selected = select(&endpoints, location, is_any_policy_local(service));
        endpoints.iter().enumerate().map(|(index, endpoint)| view_endpoint(endpoint, &selected, index)).collect()
    }

    fn view_frontends(&self, service: &ServiceModel, port: &ServicePort) -> Vec<FrontendView> {
        let Some(compiled) = self.compiled.get(&service.name) else { return Vec::new() };
        let view = |(kind, address, number)| {
            let key = FrontendKey { address, port: number, protocol: port.protocol.number() };
            // Another port of the same Service, or another kind of the same address, may be what counts.
            let frontend = compiled.frontends.get(&key).filter(|frontend| frontend.kind == kind && frontend.service.port == port.name)?;
            let ranges = frontend.source_ranges.iter().flat_map(|ranges| ranges.iter());
            Some(FrontendView {
                kind: kind.into(),
                address,
                port: number,
                outside: TargetView::from(&frontend.outside),
                inside: TargetView::from(&frontend.inside),
                source_ranges: ranges.map(ToString::to_string).collect(),
                held_by: self.claims.holder(&key).filter(|holder| **holder != service.name).map(ToString::to_string),
            })
        };
        let all = |family| addresses(service, port, family, &self.node_port_addresses);
        families(service).flat_map(all).filter_map(view).collect()
    }
}

fn view_endpoint(endpoint: &PortEndpoint<'_>, selected: &Selected, index: usize) -> EndpointView {
    EndpointView {
        address: endpoint.address,
        port: endpoint.port,
        ready: endpoint.endpoint.ready,
        serving: endpoint.endpoint.serving,
        terminating: endpoint.endpoint.terminating,
        local: endpoint.local,
        node: endpoint.endpoint.node.as_ref().map(ToString::to_string),
        zone: endpoint.endpoint.zone.as_ref().map(ToString::to_string),
        in_cluster_list: selected.cluster[index],
        in_local_list: selected.local[index],
    }
}
