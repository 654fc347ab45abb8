//! Kubernetes manifests of services, as a user would write them.

use std::fmt::Write;

use super::family::Family;
use super::topology::{Pod, SERVER_PORT};

/// A Service with an EndpointSlice for each of its families. Its addresses are written in IPv4; those of IPv6 are their twins.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    /// As in YAML.
    labels: String,
    external_name: Option<String>,
    cluster_ip: Option<String>,
    load_balancer_ips: Vec<String>,
    external_ips: Vec<String>,
    /// Protocol, port, targetPort, nodePort.
    ports: Vec<(&'static str, u16, u16, Option<u16>)>,
    endpoints: Vec<Endpoint>,
    extra_spec: String,
    /// In the order of `ipFamilies`; empty: what the node speaks.
    families: Vec<Family>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: String,
    pub node: String,
    /// As in YAML: `ready: true`.
    pub conditions: String,
    /// In the slice of this family alone.
    pub family: Option<Family>,
}

impl From<&Pod> for Endpoint {
    fn from(pod: &Pod) -> Endpoint {
        Endpoint { address: pod.address.clone(), node: pod.node.to_owned(), conditions: "ready: true".to_owned(), family: None }
    }
}

impl Service {
    pub fn new(name: &str) -> Service {
        Service {
            name: name.to_owned(),
            labels: String::new(),
            external_name: None,
            cluster_ip: None,
            load_balancer_ips: Vec::new(),
            external_ips: Vec::new(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            extra_spec: String::new(),
            families: Vec::new(),
        }
    }

    /// HTTP and UDP on port 80 of a VIP and a ClusterIP, to the pods' servers: what most tests need.
    pub fn web<'a>(vip: &str, cluster_ip: &str, pods: impl IntoIterator<Item = &'a Pod>) -> Service {
        Service::new("web").cluster_ip(cluster_ip).load_balancer_ip(vip).tcp(80, SERVER_PORT).udp(80, SERVER_PORT).pods(pods)
    }

    pub fn named(mut self, name: &str) -> Service {
        self.name = name.to_owned();
        self
    }

    /// A label of the Service, such as `service.kubernetes.io/headless: ""`.
    pub fn label(mut self, label: &str) -> Service {
        self.labels = label.to_owned();
        self
    }

    /// Its type is ExternalName: the name of another host, and no address.
    pub fn external_name(mut self, host: &str) -> Service {
        self.external_name = Some(host.to_owned());
        self
    }

    pub fn cluster_ip(mut self, address: &str) -> Service {
        self.cluster_ip = Some(address.to_owned());
        self
    }

    pub fn load_balancer_ip(mut self, address: &str) -> Service {
        self.load_balancer_ips.push(address.to_owned());
        self
    }

    pub fn external_ip(mut self, address: &str) -> Service {
        self.external_ips.push(address.to_owned());
        self
    }

    pub fn tcp(self, port: u16, target: u16) -> Service {
        self.port("TCP", port, target, None)
    }

    pub fn udp(self, port: u16, target: u16) -> Service {
        self.port("UDP", port, target, None)
    }

    pub fn sctp(self, port: u16, target: u16) -> Service {
        self.port("SCTP", port, target, None)
    }

    pub fn sctp_node_port(self, port: u16, target: u16, node_port: u16) -> Service {
        self.port("SCTP", port, target, Some(node_port))
    }

    pub fn tcp_node_port(self, port: u16, target: u16, node_port: u16) -> Service {
        self.port("TCP", port, target, Some(node_port))
    }

    pub fn udp_node_port(self, port: u16, target: u16, node_port: u16) -> Service {
        self.port("UDP", port, target, Some(node_port))
    }

    fn port(mut self, protocol: &'static str, port: u16, target: u16, node_port: Option<u16>) -> Service {
        self.ports.push((protocol, port, target, node_port));
        self
    }

    pub fn pods<'a>(mut self, pods: impl IntoIterator<Item = &'a Pod>) -> Service {
        self.endpoints.extend(pods.into_iter().map(Endpoint::from));
        self
    }

    /// Pods in another state, such as `ready: false, serving: true, terminating: true`.
    pub fn pods_that_are<'a>(mut self, conditions: &str, pods: impl IntoIterator<Item = &'a Pod>) -> Service {
        let endpoints = pods.into_iter().map(Endpoint::from);
        self.endpoints.extend(endpoints.map(|endpoint| Endpoint { conditions: conditions.to_owned(), ..endpoint }));
        self
    }

    pub fn endpoint(mut self, address: &str, node: &str) -> Service {
        let (address, node) = (address.to_owned(), node.to_owned());
        self.endpoints.push(Endpoint { address, node, conditions: "ready: true".to_owned(), family: None });
        self
    }

    /// Pods of one family of a Service that has both.
    pub fn pods_of<'a>(mut self, family: Family, pods: impl IntoIterator<Item = &'a Pod>) -> Service {
        self.endpoints.extend(pods.into_iter().map(|pod| Endpoint { family: Some(family), ..Endpoint::from(pod) }));
        self
    }

    /// `ipFamilies`, instead of the one that the node speaks. What [`Service::spec`] says is not translated then.
    pub fn families(mut self, families: &[Family]) -> Service {
        self.families = families.to_vec();
        self
    }

    /// A further line of `spec`, such as `externalTrafficPolicy: Local`.
    pub fn spec(mut self, line: &str) -> Service {
        let _ = writeln!(self.extra_spec, "  {line}");
        self
    }

    /// The Service and its EndpointSlices; of IPv4 unless [`Service::families`] says more.
    pub fn yaml(&self) -> String {
        self.yaml_speaking(Family::V4)
    }

    /// The same; of this family unless [`Service::families`] says more.
    pub fn yaml_speaking(&self, family: Family) -> String {
        let families = if self.families.is_empty() { &[family][..] } else { &self.families };
        let of_all = |addresses: &[String]| -> String {
            let twins = addresses.iter().flat_map(|address| families.iter().map(|family| family.of(address)));
            twins.collect::<Vec<_>>().join(", ")
        };
        let name = &self.name;
        let has_node_port = self.ports.iter().any(|port| port.3.is_some());
        let kind = match (&self.external_name, self.load_balancer_ips.is_empty(), has_node_port) {
            (Some(_), ..) => "ExternalName",
            (None, false, _) => "LoadBalancer",
            (None, true, true) => "NodePort",
            (None, true, false) => "ClusterIP",
        };
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default, labels: {{{}}}}}\nspec:\n  type: {kind}\n",
            self.labels
        );
        if let Some(host) = &self.external_name {
            let _ = writeln!(text, "  externalName: {host}");
        }
        if families != [Family::V4] {
            let names: Vec<&str> = families.iter().map(|family| family.kubernetes()).collect();
            let policy = if names.len() == 1 { "SingleStack" } else { "RequireDualStack" };
            let _ = writeln!(text, "  ipFamilies: [{}]\n  ipFamilyPolicy: {policy}", names.join(", "));
        }
        if let Some(address) = &self.cluster_ip {
            let all = of_all(std::slice::from_ref(address));
            let _ = writeln!(text, "  clusterIP: {}\n  clusterIPs: [{all}]", families[0].of(address));
        }
        if !self.external_ips.is_empty() {
            let _ = writeln!(text, "  externalIPs: [{}]", of_all(&self.external_ips));
        }
        text += &if self.families.is_empty() { family.of(&self.extra_spec) } else { self.extra_spec.clone() };
        text += "  ports:\n";
        for (protocol, port, target, node_port) in &self.ports {
            let node_port = node_port.map_or_else(String::new, |port| format!(", nodePort: {port}"));
            let port_name = port_name(protocol, *port);
            let _ = writeln!(text, "  - {{name: {port_name}, protocol: {protocol}, port: {port}, targetPort: {target}{node_port}}}");
        }
        if !self.load_balancer_ips.is_empty() {
            let all = of_all(&self.load_balancer_ips);
            let ingress: Vec<String> = all.split(", ").map(|address| format!("{{ip: {address}}}")).collect();
            let _ = writeln!(text, "status:\n  loadBalancer:\n    ingress: [{}]", ingress.join(", "));
        }
        for (number, family) in families.iter().enumerate() {
            self.write_slice(&mut text, number + 1, *family);
        }
        text
    }

    fn write_slice(&self, text: &mut String, number: usize, family: Family) {
        let name = &self.name;
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{number}, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {}\nports:\n",
            family.kubernetes()
        );
        for (protocol, port, target, _) in &self.ports {
            let _ = writeln!(text, "- {{name: {}, protocol: {protocol}, port: {target}}}", port_name(protocol, *port));
        }
        let endpoints: Vec<&Endpoint> = self.endpoints.iter().filter(|endpoint| endpoint.family.is_none_or(|own| own == family)).collect();
        *text += if endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" };
        for Endpoint { address, node, conditions, .. } in endpoints {
            let _ = writeln!(text, "- {{addresses: [{}], nodeName: {node}, conditions: {{{conditions}}}}}", family.of(address));
        }
    }
}

fn port_name(protocol: &str, port: u16) -> String {
    format!("{}-{port}", protocol.to_lowercase())
}

/// A Node object with its addresses and pods of these families, the first one first.
pub(super) fn node_yaml(name: &str, address: &str, pod_cidr: &str, families: &[Family]) -> String {
    let cidrs: Vec<String> = families.iter().map(|family| family.of(pod_cidr)).collect();
    let address = |family: &Family| format!("{{type: InternalIP, address: {}}}", family.of(address));
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDR: {}, podCIDRs: [{}]}}\n\
         status: {{addresses: [{}]}}\n",
        cidrs[0],
        cidrs.join(", "),
        families.iter().map(address).collect::<Vec<_>>().join(", ")
    )
}
