//! Kubernetes manifests of services, as a user would write them.

use std::fmt::Write;

use super::topology::{Pod, SERVER_PORT};

/// A Service with its EndpointSlice.
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
}

/// One endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: String,
    pub node: String,
    /// As in YAML: `ready: true`.
    pub conditions: String,
}

impl From<&Pod> for Endpoint {
    fn from(pod: &Pod) -> Endpoint {
        Endpoint { address: pod.address.clone(), node: pod.node.to_owned(), conditions: "ready: true".to_owned() }
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
        self.endpoints.push(Endpoint { address: address.to_owned(), node: node.to_owned(), conditions: "ready: true".to_owned() });
        self
    }

    /// A further line of `spec`, such as `externalTrafficPolicy: Local`.
    pub fn spec(mut self, line: &str) -> Service {
        let _ = writeln!(self.extra_spec, "  {line}");
        self
    }

    /// Two documents: the Service and its EndpointSlice.
    pub fn yaml(&self) -> String {
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
        if let Some(address) = &self.cluster_ip {
            let _ = writeln!(text, "  clusterIP: {address}\n  clusterIPs: [{address}]");
        }
        if !self.external_ips.is_empty() {
            let _ = writeln!(text, "  externalIPs: [{}]", self.external_ips.join(", "));
        }
        text += &self.extra_spec;
        text += "  ports:\n";
        for (protocol, port, target, node_port) in &self.ports {
            let node_port = node_port.map_or_else(String::new, |port| format!(", nodePort: {port}"));
            let port_name = port_name(protocol, *port);
            let _ = writeln!(text, "  - {{name: {port_name}, protocol: {protocol}, port: {port}, targetPort: {target}{node_port}}}");
        }
        if !self.load_balancer_ips.is_empty() {
            let ingress: Vec<String> = self.load_balancer_ips.iter().map(|address| format!("{{ip: {address}}}")).collect();
            let _ = writeln!(text, "status:\n  loadBalancer:\n    ingress: [{}]", ingress.join(", "));
        }
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports:\n"
        );
        for (protocol, port, target, _) in &self.ports {
            let _ = writeln!(text, "- {{name: {}, protocol: {protocol}, port: {target}}}", port_name(protocol, *port));
        }
        if self.endpoints.is_empty() {
            text += "endpoints: []\n";
        } else {
            text += "endpoints:\n";
        }
        for endpoint in &self.endpoints {
            let Endpoint { address, node, conditions } = endpoint;
            let _ = writeln!(text, "- {{addresses: [{address}], nodeName: {node}, conditions: {{{conditions}}}}}");
        }
        text
    }
}

fn port_name(protocol: &str, port: u16) -> String {
    format!("{}-{port}", protocol.to_lowercase())
}

/// A Node object.
pub(super) fn node_yaml(name: &str, address: &str, pod_cidr: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDR: {pod_cidr}, podCIDRs: [{pod_cidr}]}}\n\
         status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
    )
}
