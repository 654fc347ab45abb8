//! Random clusters: plain descriptions of objects, their proptest strategies, and the manifests they stand for.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proto {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Debug)]
pub struct Port {
    pub name: &'static str,
    pub proto: Proto,
    pub port: u16,
    pub node_port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub kind: Type,
    /// Empty: headless.
    pub cluster_ips: Vec<&'static str>,
    pub external_ips: Vec<&'static str>,
    /// Address, and whether `ipMode` is Proxy.
    pub ingress: Vec<(&'static str, bool)>,
    pub ranges: Vec<&'static str>,
    pub ports: Vec<Port>,
    pub internal_local: bool,
    pub external_local: bool,
    /// ClientIP; its time-out in seconds, if one is given.
    pub affinity: Option<Option<u32>>,
    /// Second of creation.
    pub created: Option<u8>,
    pub other_proxy: bool,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: &'static str,
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
    pub node: Option<&'static str>,
    pub for_nodes: Option<Vec<&'static str>>,
    pub for_zones: Option<Vec<&'static str>>,
}

#[derive(Clone, Debug)]
pub struct Slice {
    pub service: usize,
    /// `addressType`: IPv6.
    pub v6: bool,
    /// Name, protocol, number (0: none).
    pub ports: Vec<(&'static str, Proto, u16)>,
    pub endpoints: Vec<Endpoint>,
    pub headless: bool,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub zone: Option<&'static str>,
    pub addresses: Vec<&'static str>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Event {
    Service(usize, Option<Service>),
    Slice(usize, Option<Slice>),
    Node(Option<Node>),
    Devices(Vec<&'static str>),
}

pub const SERVICES: usize = 4;
pub const SLICES: usize = 7;
pub const HERE: &str = "node-a";

const V4: [&str; 4] = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"];
const V6: [&str; 4] = ["fd00:1::1", "fd00:1::2", "fd00:1::3", "fd00:1::4"];
const VIPS: [&str; 7] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "172.16.0.1", "2001:db8::1", "2001:db8::2", "fd00::7"];
const CLUSTER_IPS: [&str; 4] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "192.0.2.1"];
const CLUSTER_IPS6: [&str; 4] = ["fd00:96::1", "fd00:96::2", "fd00:96::3", "2001:db8::1"];
const NODES: [&str; 3] = [HERE, "node-b", "node-c"];
const ZONES: [&str; 2] = ["east", "west"];

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = &'static str> + Clone {
    proptest::sample::select(texts)
}

fn some_of(texts: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> + Clone {
    proptest::sample::subsequence(texts, 0..=most)
}

fn proto() -> impl Strategy<Value = Proto> {
    prop_oneof![4 => Just(Proto::Tcp), 2 => Just(Proto::Udp), 1 => Just(Proto::Sctp)]
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let port = (proto(), prop_oneof![Just(80u16), Just(81), Just(30080)], option::of(prop_oneof![Just(30080u16), Just(30081)]));
    vec(port, 1..=3).prop_map(|ports| {
        let names = ["http", "dns", "admin"];
        let mut kept: Vec<Port> = Vec::new();
        for ((proto, port, node_port), name) in ports.into_iter().zip(names) {
            let node_port = node_port.filter(|number| !kept.iter().any(|other| other.proto == proto && other.node_port == Some(*number)));
            if !kept.iter().any(|other| other.proto == proto && other.port == port) {
                kept.push(Port { name, proto, port, node_port });
            }
        }
        kept
    })
}

fn service() -> impl Strategy<Value = Service> {
    let kind =
        prop_oneof![3 => Just(Type::ClusterIp), 3 => Just(Type::NodePort), 6 => Just(Type::LoadBalancer), 1 => Just(Type::ExternalName)];
    let (four, six) = (|| one_of(&CLUSTER_IPS), || one_of(&CLUSTER_IPS6));
    let cluster_ips = prop_oneof![
        1 => Just(Vec::new()),
        4 => four().prop_map(|four| vec![four]),
        4 => six().prop_map(|six| vec![six]),
        8 => (four(), six()).prop_flat_map(|(four, six)| Just(vec![four, six]).prop_shuffle()),
    ];
    let ingress = vec((one_of(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"]), prop::bool::weighted(0.2)), 0..=3);
    let ranges = some_of(&["10.0.0.0/8", "203.0.113.0/24", "2001:db8::/32", "fd00::/8", "0.0.0.0/0", "::/0"], 3);
    let affinity = option::of(option::of(prop_oneof![Just(1), Just(10_800), Just(86_400)]));
    (
        (kind, cluster_ips, some_of(&VIPS, 3), ingress, ranges, ports()),
        (any::<bool>(), any::<bool>(), affinity, option::of(0u8..3), prop::bool::weighted(0.05)),
    )
        .prop_map(
            |(
                (kind, cluster_ips, external_ips, ingress, ranges, ports),
                (internal_local, external_local, affinity, created, other_proxy),
            )| Service {
                kind,
                cluster_ips,
                external_ips,
                ingress,
                ranges,
                ports,
                internal_local,
                external_local,
                affinity,
                created,
                other_proxy,
            },
        )
}

fn condition() -> impl Strategy<Value = Option<bool>> {
    prop_oneof![2 => Just(None), 2 => Just(Some(true)), 3 => Just(Some(false))]
}

fn endpoint(addresses: &'static [&'static str]) -> impl Strategy<Value = Endpoint> {
    // Mostly there: one endpoint without a hint makes all others' useless.
    let hints = |names: &'static [&'static str]| {
        let some = proptest::sample::subsequence(names, 1..=2);
        prop_oneof![1 => Just(None), 1 => Just(Some(Vec::new())), 10 => some.prop_map(Some)]
    };
    (one_of(addresses), condition(), condition(), condition(), option::of(one_of(&NODES)), hints(&NODES), hints(&ZONES)).prop_map(
        |(address, ready, serving, terminating, node, for_nodes, for_zones)| Endpoint {
            address,
            ready,
            serving,
            terminating,
            node,
            for_nodes,
            for_zones,
        },
    )
}

fn slice() -> impl Strategy<Value = Slice> {
    let names = proptest::sample::subsequence(&["http", "dns", "admin"], 1..=3);
    let numbers = vec((proto(), prop_oneof![1 => Just(0u16), 4 => Just(8080), 4 => Just(9090)]), 3);
    let of = |v6: bool, addresses| vec(endpoint(addresses), 0..=4).prop_map(move |endpoints| (v6, endpoints));
    // Few services and one protocol more often than not, so that slices meet services.
    (0..SERVICES, names, numbers, prop_oneof![of(false, &V4), of(true, &V6)], prop::bool::weighted(0.05)).prop_map(
        |(service, names, numbers, (v6, endpoints), headless)| {
            let ports = names.into_iter().zip(numbers).map(|(name, (proto, number))| (name, proto, number)).collect();
            Slice { service, v6, ports, endpoints, headless }
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let node = (option::of(one_of(&ZONES)), some_of(&["fd00::7", "172.16.0.1", "172.16.0.2", "fd00::8"], 3).prop_shuffle());
    prop_oneof![
        5 => (0..SERVICES, prop::option::weighted(0.85, service())).prop_map(|(index, service)| Event::Service(index, service)),
        8 => (0..SLICES, prop::option::weighted(0.85, slice())).prop_map(|(index, slice)| Event::Slice(index, slice)),
        2 => prop::option::weighted(0.8, node.prop_map(|(zone, addresses)| Node { zone, addresses })).prop_map(Event::Node),
        1 => some_of(&["172.16.0.1", "172.16.0.2", "192.0.2.1", "fd00::7", "2001:db8::1"], 4).prop_shuffle().prop_map(Event::Devices),
    ]
}

/// Batches of events: what happens within a batch is applied at once.
pub fn history() -> impl Strategy<Value = Vec<Vec<Event>>> {
    vec(vec(event(), 1..=6), 1..=6)
}

impl Proto {
    fn text(self) -> &'static str {
        match self {
            Proto::Tcp => "TCP",
            Proto::Udp => "UDP",
            Proto::Sctp => "SCTP",
        }
    }
}

impl Service {
    pub fn manifest(&self, index: usize) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| json!({"name": port.name, "protocol": port.proto.text(), "port": port.port, "nodePort": port.node_port}))
            .collect();
        let ingress: Vec<Value> =
            self.ingress.iter().map(|(ip, proxy)| json!({"ip": ip, "ipMode": if *proxy { "Proxy" } else { "VIP" }})).collect();
        let labels = if self.other_proxy { json!({"service.kubernetes.io/service-proxy-name": "other"}) } else { json!({}) };
        let kind = match self.kind {
            Type::ClusterIp => "ClusterIP",
            Type::NodePort => "NodePort",
            Type::LoadBalancer => "LoadBalancer",
            Type::ExternalName => "ExternalName",
        };
        let timeout = self.affinity.flatten().map(|seconds| json!({"clientIP": {"timeoutSeconds": seconds}}));
        let policy = |local| if local { "Local" } else { "Cluster" };
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": service_name(index),
                "labels": labels,
                "creationTimestamp": self.created.map(|second| format!("2026-01-01T00:00:{second:02}Z")),
            },
            "spec": {
                "type": kind,
                "clusterIP": self.cluster_ips.first().unwrap_or(&"None"),
                "clusterIPs": self.cluster_ips,
                "externalIPs": self.external_ips,
                "loadBalancerSourceRanges": self.ranges,
                "ports": ports,
                "internalTrafficPolicy": policy(self.internal_local),
                "externalTrafficPolicy": policy(self.external_local),
                "sessionAffinity": if self.affinity.is_some() { "ClientIP" } else { "None" },
                "sessionAffinityConfig": timeout,
            },
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }
}

impl Slice {
    pub fn manifest(&self, index: usize) -> Value {
        let hint =
            |names: &Option<Vec<&str>>| names.as_ref().map(|names| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>());
        let endpoints: Vec<Value> = self
            .endpoints
            .iter()
            .map(|endpoint| {
                json!({
                    "addresses": [endpoint.address],
                    "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
                    "nodeName": endpoint.node,
                    "hints": {"forNodes": hint(&endpoint.for_nodes), "forZones": hint(&endpoint.for_zones)},
                })
            })
            .collect();
        let ports: Vec<Value> =
            self.ports.iter().map(|(name, proto, number)| json!({"name": name, "protocol": proto.text(), "port": number})).collect();
        let mut labels = json!({"kubernetes.io/service-name": service_name(self.service)});
        if self.headless {
            labels["service.kubernetes.io/headless"] = json!("");
        }
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": format!("slice-{index}"), "labels": labels},
            "addressType": if self.v6 { "IPv6" } else { "IPv4" },
            "ports": ports,
            "endpoints": endpoints,
        })
    }
}

impl Node {
    pub fn manifest(&self) -> Value {
        let addresses: Vec<Value> = self.addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        let labels = self.zone.map_or(json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": HERE, "labels": labels}, "status": {"addresses": addresses}})
    }
}

pub fn service_name(index: usize) -> String {
    format!("service-{index}")
}
