//! The reference: the tables that contract §1 and §2 ask for, straight from their text, all from scratch, with no thought of cost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringway_engine::tables::{FrontendKey, FrontendKind};
use ringway_model::Vip;

use crate::describe::{Endpoint, HERE, Node, Port, Proto, SERVICES, SLICES, Service, Slice, Type, service_name};

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub services: [Option<Service>; SERVICES],
    pub slices: [Option<Slice>; SLICES],
    pub node: Option<Node>,
    pub devices: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    To { backends: BTreeSet<(IpAddr, u16, bool)>, maglev: bool },
    Reject,
    Drop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedFrontend {
    pub service: String,
    pub port: String,
    pub kind: FrontendKind,
    pub outside: Expected,
    pub inside: Expected,
    pub ranges: Option<BTreeSet<String>>,
    /// Seconds for which a client keeps its endpoint.
    pub sticky: Option<u32>,
}

/// The lowest holds: (no time of creation, time, name).
type Rank = (bool, Option<u8>, usize);

type Endpoints = BTreeMap<(IpAddr, u16), Endpoint>;

fn ready(ep: &Endpoint) -> bool {
    ep.ready != Some(false)
}

fn serving(ep: &Endpoint) -> bool {
    ep.serving != Some(false)
}

fn terminating(ep: &Endpoint) -> bool {
    ep.terminating == Some(true)
}

fn local(ep: &Endpoint) -> bool {
    ep.node == Some(HERE)
}

/// The view of one family: `text` is an address of it.
fn in_view(text: &str, v6: bool) -> Option<IpAddr> {
    let address: IpAddr = text.parse().unwrap();
    (address.is_ipv6() == v6).then_some(address)
}

/// §1.3
fn views(service: &Service) -> impl Iterator<Item = bool> {
    [false, true].into_iter().filter(|v6| service.cluster_ips.iter().any(|text| in_view(text, *v6).is_some()))
}

impl World {
    fn is_ours(service: &Service) -> bool {
        !service.other_proxy && service.kind != Type::ExternalName && !service.cluster_ips.is_empty()
    }

    fn ours(&self) -> impl Iterator<Item = (usize, &Service)> {
        let present = self.services.iter().enumerate().filter_map(|(index, service)| Some((index, service.as_ref()?)));
        present.filter(|(_, service)| World::is_ours(service))
    }

    /// §1.6
    fn endpoints(&self, service: usize, port: &Port, v6: bool) -> Endpoints {
        let mut copies: BTreeMap<(IpAddr, u16), Vec<Endpoint>> = BTreeMap::new();
        for slice in self.slices.iter().flatten().filter(|slice| slice.service == service && slice.v6 == v6 && !slice.headless) {
            for (_, _, number) in
                slice.ports.iter().filter(|(name, proto, number)| *name == port.name && *proto == port.proto && *number != 0)
            {
                for ep in &slice.endpoints {
                    copies.entry((ep.address.parse().unwrap(), *number)).or_default().push(ep.clone());
                }
            }
        }
        let choose = |copies: Vec<Endpoint>| copies.iter().rfind(|ep| !terminating(ep)).or(copies.last()).unwrap().clone();
        copies.into_iter().map(|(key, copies)| (key, choose(copies))).collect()
    }

    /// §2 `clusterEndpoints`
    fn cluster_list(&self, eps: &Endpoints) -> BTreeSet<(IpAddr, u16)> {
        let zone = self.node.as_ref().and_then(|node| node.zone);
        let names_node = |ep: &Endpoint| ep.for_nodes.iter().flatten().any(|node| *node == HERE);
        let names_zone = |ep: &Endpoint| ep.for_zones.iter().flatten().any(|name| Some(*name) == zone);
        let all_ready: Vec<&Endpoint> = eps.values().filter(|ep| ready(ep)).collect();
        let hinted = |hints: &Option<Vec<&str>>| hints.as_ref().is_some_and(|hints| !hints.is_empty());
        let same_node = all_ready.iter().all(|ep| hinted(&ep.for_nodes)) && all_ready.iter().any(|ep| names_node(ep));
        let same_zone = !same_node && all_ready.iter().all(|ep| hinted(&ep.for_zones)) && all_ready.iter().any(|ep| names_zone(ep));
        let within = |ep: &Endpoint| if same_node { names_node(ep) } else { !same_zone || names_zone(ep) };
        let list = keys(eps, |ep| ready(ep) && within(ep));
        if list.is_empty() { keys(eps, |ep| serving(ep) && terminating(ep)) } else { list }
    }

    /// §2 `localEndpoints`
    fn local_list(eps: &Endpoints) -> BTreeSet<(IpAddr, u16)> {
        let list = keys(eps, |ep| ready(ep) && local(ep));
        if list.is_empty() { keys(eps, |ep| serving(ep) && terminating(ep) && local(ep)) } else { list }
    }

    fn target(&self, eps: &Endpoints, policy_local: bool, maglev: bool) -> Expected {
        let list = if policy_local { World::local_list(eps) } else { self.cluster_list(eps) };
        let has_endpoints = eps.values().any(|ep| ready(ep) || serving(ep) && terminating(ep));
        if !list.is_empty() {
            let backends = list.into_iter().map(|key| (key.0, key.1, local(&eps[&key]))).collect();
            Expected::To { backends, maglev }
        } else if has_endpoints {
            assert!(policy_local, "policy Cluster reaches every endpoint");
            Expected::Drop
        } else {
            Expected::Reject
        }
    }

    fn node_port_address(&self, v6: bool) -> Option<IpAddr> {
        let internal = self.node.as_ref().and_then(|node| node.addresses.iter().find_map(|address| in_view(address, v6)));
        internal.or(self.devices.iter().find_map(|address| in_view(address, v6)))
    }

    /// Every address that a service port asks for in one view, in the order of which counts.
    fn addresses(&self, service: &Service, port: &Port, v6: bool) -> Vec<(FrontendKind, IpAddr, u16)> {
        let mut all = Vec::new();
        let own = |texts: &[&str]| texts.iter().filter_map(|text| in_view(text, v6)).collect::<Vec<_>>();
        all.extend(own(&service.cluster_ips).into_iter().map(|address| (FrontendKind::ClusterIp, address, port.port)));
        all.extend(ingress(service, v6).map(|address| (FrontendKind::LoadBalancerIp, address, port.port)));
        all.extend(own(&service.external_ips).into_iter().map(|address| (FrontendKind::ExternalIp, address, port.port)));
        if service.kind != Type::ClusterIp
            && let (Some(address), Some(number)) = (self.node_port_address(v6), port.node_port)
        {
            all.push((FrontendKind::NodePort, address, number));
        }
        all
    }

    fn frontend(&self, (index, service): (usize, &Service), port: &Port, v6: bool, kind: FrontendKind) -> ExpectedFrontend {
        let eps = self.endpoints(index, port, v6);
        let maglev = matches!(kind, FrontendKind::LoadBalancerIp | FrontendKind::ExternalIp) && !service.external_local;
        let policy_local = if kind == FrontendKind::ClusterIp { service.internal_local } else { service.external_local };
        let outside = self.target(&eps, policy_local, maglev);
        let short_cut = kind != FrontendKind::ClusterIp;
        let inside = self.target(&eps, policy_local && !short_cut, maglev);
        let ranges = if kind == FrontendKind::LoadBalancerIp { ranges(service, v6) } else { None };
        let sticky = service.affinity.map(|timeout| timeout.unwrap_or(10_800));
        ExpectedFrontend { service: service_name(index), port: port.name.into(), kind, outside, inside, ranges, sticky }
    }

    pub fn frontends(&self) -> BTreeMap<FrontendKey, ExpectedFrontend> {
        let mut held: BTreeMap<FrontendKey, (Rank, ExpectedFrontend)> = BTreeMap::new();
        for (index, service) in self.ours() {
            let rank = (service.created.is_none(), service.created, index);
            for (port, v6) in service.ports.iter().flat_map(|port| views(service).map(move |v6| (port, v6))) {
                for (kind, address, number) in self.addresses(service, port, v6) {
                    let protocol = match port.proto {
                        Proto::Tcp => 6,
                        Proto::Udp => 17,
                        Proto::Sctp => 132,
                    };
                    let key = FrontendKey { address, port: number, protocol };
                    if held.get(&key).is_none_or(|(holder, _)| rank < *holder) {
                        held.insert(key, (rank, self.frontend((index, service), port, v6, kind)));
                    }
                }
            }
        }
        held.into_iter().map(|(key, (_, frontend))| (key, frontend)).collect()
    }

    /// §2, existing flows: the backends that the flows of each UDP frontend may go on with.
    pub fn serving(&self, frontends: &BTreeMap<FrontendKey, ExpectedFrontend>) -> BTreeSet<(FrontendKey, (IpAddr, u16))> {
        let udp = frontends.iter().filter(|(key, _)| key.protocol == 17);
        udp.flat_map(|(key, frontend)| {
            let (index, service) = self.ours().find(|(index, _)| service_name(*index) == frontend.service).unwrap();
            let port = service.ports.iter().find(|port| port.name == frontend.port).unwrap();
            keys(&self.endpoints(index, port, key.address.is_ipv6()), |ep| ready(ep) || serving(ep))
                .into_iter()
                .map(|backend| (*key, backend))
        })
        .collect()
    }

    /// §2: an undefined port is a ClusterIP's business only.
    pub fn vips(&self) -> BTreeMap<IpAddr, Vip> {
        let mut vips = BTreeMap::<IpAddr, Vip>::new();
        for (service, v6) in self.ours().flat_map(|(_, service)| views(service).map(move |v6| (service, v6))) {
            for address in service.cluster_ips.iter().filter_map(|text| in_view(text, v6)) {
                vips.entry(address).or_default().cluster_ip = true;
            }
            for address in ingress(service, v6).chain(service.external_ips.iter().filter_map(|text| in_view(text, v6))) {
                vips.entry(address).or_default().announced = true;
            }
        }
        for own in self.node.iter().flat_map(|node| &node.addresses).chain(&self.devices) {
            vips.remove(&own.parse().unwrap());
        }
        vips
    }
}

fn keys(eps: &Endpoints, wanted: impl Fn(&Endpoint) -> bool) -> BTreeSet<(IpAddr, u16)> {
    eps.iter().filter(|(_, ep)| wanted(ep)).map(|(key, _)| *key).collect()
}

/// §1.4
fn ingress(service: &Service, v6: bool) -> impl Iterator<Item = IpAddr> {
    let counts = service.kind == Type::LoadBalancer;
    service.ingress.iter().filter(move |(_, proxy)| counts && !proxy).filter_map(move |(text, _)| in_view(text, v6))
}

/// §1.5
fn ranges(service: &Service, v6: bool) -> Option<BTreeSet<String>> {
    let own: BTreeSet<String> = service.ranges.iter().filter(|range| range.contains(':') == v6).map(ToString::to_string).collect();
    (!own.is_empty() && !own.iter().any(|range| range.ends_with("/0"))).then_some(own)
}
