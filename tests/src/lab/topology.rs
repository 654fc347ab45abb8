//! The networks that the tests run in.
//!
//! ```text
//!  client 192.0.2.10 ── router ──┬─ lan 10.0.0.0/24 ── node1 .11 (eth0) ── pods 10.244.1.x   `ringway` runs here
//!                       (switch  │                 ├── node2 .12 ── pods 10.244.2.x
//!                        and     │                 └── node3 .13 ── pods 10.244.3.x          (option)
//!                        router) ├─ lan 10.1.0.0/24 ── node1 .11 (eth1), node2 .12           (option: two uplinks)
//!                                └─ lan 10.2.0.0/24 ── node2 .12                             (option: node2 behind the router)
//! ```
//!
//! With the option *overlay*, node1 and node2 reach each other's pods through vxlan0, with the addresses 10.244.1.0 and 10.244.2.0.
//!
//! Each address has its twin of IPv6 ([`Family`]); routed pods have fe80::1 for their gateway there.
//!
//! Every veth is as `ip link add` makes it: offloads at their defaults. Every uplink has as many queues as the topology asks for.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use super::family::{Family, both};
use super::namespace::Namespace;
use super::process::Process;
use super::{Lab, servers};

/// Addresses that tests name.
pub mod address {
    pub const CLIENT: &str = "192.0.2.10";
    pub const NODE1: &str = "10.0.0.11";
    /// Inside the LAN of the nodes, so that the router asks for it by ARP.
    pub const VIP: &str = "10.0.0.100";
    pub const VIP2: &str = "10.0.0.101";
    pub const CLUSTER_IP: &str = "10.96.0.10";
    pub const CLUSTER_IP2: &str = "10.96.0.11";
}

/// How a pod is connected to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodLink {
    /// A veth with a host route, as Calico, Cilium and Coil make it.
    Routed,
    /// A port of the bridge `cni0`, as the reference plugins make it.
    Bridge,
}

/// Where node2 is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node2 {
    SameLan,
    SecondUplink,
    BehindRouter,
    Overlay,
}

/// What to build. The default: two queues, two routed pods on each of two nodes.
#[derive(Clone, Debug)]
pub struct Topology {
    queues: u32,
    pods: [Vec<PodLink>; 3],
    node2: Node2,
    node3: bool,
    serve: bool,
    family: Family,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// `a1`, `a2` … on node1, `b1` … on node2, `c1` … on node3.
    pub name: String,
    pub namespace: Namespace,
    pub address: String,
    /// Name of the node as Kubernetes knows it.
    pub node: &'static str,
    /// The host's side of its veth.
    pub device: String,
}

/// A built topology.
pub struct Net {
    pub lab: Rc<Lab>,
    pub client: Namespace,
    pub router: Namespace,
    pub node1: Namespace,
    pub node2: Namespace,
    pub node3: Option<Namespace>,
    pub pods: Vec<Pod>,
    pub node2_address: &'static str,
    /// The uplinks of node1.
    pub uplinks: Vec<&'static str>,
    pod_mtu: u32,
}

/// Port on which every pod's server answers, TCP and UDP.
pub const SERVER_PORT: u16 = 8080;

const NODES: [&str; 3] = ["node1", "node2", "node3"];

impl Default for Topology {
    fn default() -> Topology {
        let two = || vec![PodLink::Routed; 2];
        Topology { queues: 2, pods: [two(), two(), Vec::new()], node2: Node2::SameLan, node3: false, serve: true, family: Family::V4 }
    }
}

impl Topology {
    pub fn new() -> Topology {
        Topology::default()
    }

    /// Queues of the uplinks.
    pub fn queues(mut self, queues: u32) -> Topology {
        self.queues = queues;
        self
    }

    pub fn node1_pods(mut self, links: &[PodLink]) -> Topology {
        self.pods[0] = links.to_vec();
        self
    }

    pub fn node2_pods(mut self, count: usize) -> Topology {
        self.pods[1] = vec![PodLink::Routed; count];
        self
    }

    /// A third node with one pod.
    pub fn node3(mut self) -> Topology {
        self.node3 = true;
        self.pods[2] = vec![PodLink::Routed];
        self
    }

    /// node1 has a second uplink, and node2 is reached through it.
    pub fn two_uplinks(mut self) -> Topology {
        self.node2 = Node2::SecondUplink;
        self
    }

    /// node2 is not on node1's LAN.
    pub fn node2_behind_router(mut self) -> Topology {
        self.node2 = Node2::BehindRouter;
        self
    }

    /// The nodes reach each other's pods through a vxlan device, as flannel lays it out.
    pub fn overlay(mut self) -> Topology {
        self.node2 = Node2::Overlay;
        self
    }

    /// No servers in the pods.
    pub fn without_servers(mut self) -> Topology {
        self.serve = false;
        self
    }

    /// What the namespaces speak. Everything has addresses of both families.
    pub fn family(mut self, family: Family) -> Topology {
        self.family = family;
        self
    }

    /// The same, asked for.
    pub fn speaks(&self) -> Family {
        self.family
    }

    pub fn build(self, lab: &Rc<Lab>) -> Result<Net> {
        let router = lab.namespace("router")?;
        router.shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        // Answers may come back by another LAN than the question left by.
        router.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
        router.sysctl("net.ipv4.conf.default.rp_filter", "0")?;
        let client = lab.namespace("client")?;
        self.wire(&router, "clients", &client, "eth0")?;
        router.ip_batch(&both("address add 192.0.2.1/24 dev clients\nlink set clients up\n"))?;
        client.ip_batch(&both("address add 192.0.2.10/24 dev eth0\nlink set eth0 up\nroute add default via 192.0.2.1\n"))?;
        make_lan(&router, "lan0", "10.0.0.1/24")?;

        let node1 = make_node(lab, NODES[0])?;
        self.join(&router, "lan0", &node1, "eth0", "10.0.0.11/24")?;
        node1.ip_batch(&both("route add default via 10.0.0.1"))?;
        let mut uplinks = vec!["eth0"];

        let node2 = make_node(lab, NODES[1])?;
        let (node2_address, node2_hop, node1_from_node2) = match self.node2 {
            Node2::SameLan | Node2::Overlay => {
                self.join(&router, "lan0", &node2, "eth0", "10.0.0.12/24")?;
                ("10.0.0.12", "10.0.0.12", "10.0.0.11")
            }
            Node2::SecondUplink => {
                make_lan(&router, "lan1", "10.1.0.1/24")?;
                self.join(&router, "lan1", &node1, "eth1", "10.1.0.11/24")?;
                self.join(&router, "lan1", &node2, "eth0", "10.1.0.12/24")?;
                uplinks.push("eth1");
                ("10.1.0.12", "10.1.0.12", "10.1.0.11")
            }
            Node2::BehindRouter => {
                make_lan(&router, "lan2", "10.2.0.1/24")?;
                self.join(&router, "lan2", &node2, "eth0", "10.2.0.12/24")?;
                ("10.2.0.12", "10.0.0.1", "10.2.0.1")
            }
        };
        node2.ip_batch(&both(&format!("route add default via {}", node2_address.replace(".12", ".1"))))?;
        if self.node2 == Node2::Overlay {
            lay_overlay(&node1, 1, &node2, 2)?;
            lay_overlay(&node2, 2, &node1, 1)?;
        } else {
            node1.ip_batch(&both(&format!("route add 10.244.2.0/24 via {node2_hop}")))?;
            node2.ip_batch(&both(&format!("route add 10.244.1.0/24 via {node1_from_node2}")))?;
        }
        router.ip_batch(&both(&format!("route add 10.244.1.0/24 via 10.0.0.11\nroute add 10.244.2.0/24 via {node2_address}\n")))?;

        let node3 = if self.node3 {
            let node3 = make_node(lab, NODES[2])?;
            self.join(&router, "lan0", &node3, "eth0", "10.0.0.13/24")?;
            node3.ip_batch(&both("route add default via 10.0.0.1\nroute add 10.244.1.0/24 via 10.0.0.11\n"))?;
            for host in [&node1, &router] {
                host.ip_batch(&both("route add 10.244.3.0/24 via 10.0.0.13"))?;
            }
            Some(node3)
        } else {
            None
        };

        let pod_mtu = if self.node2 == Node2::Overlay { OVERLAY_MTU } else { 1500 };
        let [client, router, node1, node2] = [client, router, node1, node2].map(|namespace| namespace.speaking(self.family));
        let node3 = node3.map(|node3| node3.speaking(self.family));
        let mut net = Net { lab: Rc::clone(lab), client, router, node1, node2, node3, pods: Vec::new(), node2_address, uplinks, pod_mtu };
        for (node, links) in self.pods.iter().enumerate() {
            for link in links {
                net.add_pod(node, *link, self.serve)?;
            }
        }
        Ok(net)
    }

    /// A veth with the topology's queues on both sides: a switch port keeps the queue that a frame came by.
    fn wire(&self, a: &Namespace, a_device: &str, b: &Namespace, b_device: &str) -> Result<()> {
        let queues = format!("numtxqueues {0} numrxqueues {0}", self.queues);
        a.ip(&format!("link add {a_device} {queues} type veth peer name {b_device} netns {} {queues}", b.name())).map(drop)
    }

    fn join(&self, router: &Namespace, lan: &str, node: &Namespace, device: &str, address: &str) -> Result<()> {
        let port = format!("{}-{device}", node.role());
        self.wire(router, &port, node, device)?;
        router.ip_batch(&format!("link set {port} master {lan}\nlink set {port} up\n"))?;
        node.ip_batch(&both(&format!("address add {address} dev {device}\nlink set {device} up\n")))
    }
}

impl Net {
    /// What the namespaces speak.
    pub fn family(&self) -> Family {
        self.node1.family()
    }

    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.name == name).with_context(|| format!("the topology has no pod {name}"))
    }

    /// Addresses of all pods of a node (0 = node1).
    pub fn pods_of(&self, node: usize) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.node == NODES[node])
    }

    /// Adds a pod to a node (0 = node1), with its server if `serve`.
    pub fn add_pod(&mut self, node: usize, link: PodLink, serve: bool) -> Result<()> {
        let host =
            [Some(&self.node1), Some(&self.node2), self.node3.as_ref()][node].context("the topology has no node3")?.speaking(Family::V4);
        let number = self.pods_of(node).count() + 1;
        ensure!(number <= 120, "a node has at most 120 pods");
        let name = format!("{}{number}", ["a", "b", "c"][node]);
        let subnet = format!("10.244.{}", node + 1);
        // Bridged pods have the upper half: they would ask for routed ones of their own subnet by ARP.
        let address = match link {
            PodLink::Routed => format!("{subnet}.{}", number + 1),
            PodLink::Bridge => format!("{subnet}.{}", number + 129),
        };
        let device = format!("veth-{name}");
        let namespace = self.lab.namespace(&name)?;
        let mtu = self.pod_mtu;
        host.ip(&format!("link add {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}", namespace.name()))?;
        match link {
            PodLink::Routed => {
                let twin = Family::V6.of(&address);
                host.ip_batch(&format!(
                    "address add 169.254.1.1/32 dev {device} scope link\naddress add fe80::1/64 dev {device} nodad\nlink set {device} up\n\
                     route add {address}/32 dev {device} scope link\nroute add {twin}/128 dev {device}\n"
                ))?;
                namespace.ip_batch(&format!(
                    "address add {address}/32 dev eth0\naddress add {twin}/128 dev eth0 nodad\nlink set eth0 up\n\
                     route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 src {address}\n\
                     route add default via fe80::1 dev eth0 src {twin}\n"
                ))?;
            }
            PodLink::Bridge => {
                if host.ip("link show dev cni0").is_err() {
                    host.ip("link add cni0 type bridge")?;
                    host.ip_batch(&both(&format!("address add {subnet}.129/25 dev cni0\nlink set cni0 up\n")))?;
                }
                host.ip_batch(&format!("link set {device} master cni0\nlink set {device} up\n"))?;
                let lines = format!("address add {address}/25 dev eth0\nlink set eth0 up\nroute add default via {subnet}.129\n");
                namespace.ip_batch(&both(&lines))?;
            }
        }
        if serve {
            self.lab.adopt(servers::start(&namespace, &name, SERVER_PORT)?);
        }
        let namespace = namespace.speaking(self.family());
        self.pods.push(Pod { name, namespace, address, node: NODES[node], device });
        Ok(())
    }

    /// A server that is no pod: on a node, or on the client. Give it to [`Lab::adopt`], or keep it.
    pub fn start_server(&self, namespace: &Namespace, name: &str, port: u16) -> Result<Process> {
        servers::start(namespace, name, port)
    }

    /// Deletes a pod: its namespace, and with it its device and routes.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pod(name)?;
        pod.namespace.delete();
        self.pods.retain(|pod| pod.name != name);
        Ok(())
    }
}

/// A node forwards, and filters by reverse path strictly: what Ringway must live with.
fn make_node(lab: &Lab, role: &str) -> Result<Namespace> {
    let node = lab.namespace(role)?;
    node.shell(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 \
         net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 net.ipv6.conf.all.forwarding=1",
    )?;
    Ok(node)
}

/// What is left of 1 500 bytes by the headers of vxlan.
const OVERLAY_MTU: u32 = 1450;

/// The device of node 10.0.0.1`own` in a vxlan, and its way to the pods of 10.0.0.1`other`.
fn lay_overlay(node: &Namespace, own: u8, peer: &Namespace, other: u8) -> Result<()> {
    let mac = |number| format!("02:00:00:0a:00:{number:02x}");
    let device = format!("link add vxlan0 address {} mtu {OVERLAY_MTU} type vxlan", mac(own));
    node.ip(&format!("{device} id 1 dstport 8472 local 10.0.0.1{own} nolearning"))?;
    node.ip_batch(&both(&format!(
        "address add 10.244.{own}.0/32 dev vxlan0\nlink set vxlan0 up\n\
         route add 10.244.{other}.0/24 via 10.244.{other}.0 dev vxlan0 onlink\n\
         neighbor add 10.244.{other}.0 lladdr {} dev vxlan0 nud permanent\n",
        mac(other)
    )))?;
    node.shell(&format!("bridge fdb append {} dev vxlan0 dst 10.0.0.1{other}", mac(other)))
        .with_context(|| format!("the way to {}", peer.name()))
        .map(drop)
}

fn make_lan(router: &Namespace, name: &str, address: &str) -> Result<()> {
    router.ip(&format!("link add {name} type bridge"))?;
    router.ip_batch(&both(&format!("address add {address} dev {name}\nlink set {name} up\n")))
}
