//! Real packets: a node with a hostlink, and a pod behind a routed veth. The test takes the worker's part.

use std::io::ErrorKind;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use ringway_engine::flow::{FlowKey, FlowOp, FlowTable, Hook, NewFlow, Rewrite, flow_hash};
use ringway_engine::order::{Order, Upcall, order_mac, upcall_mac};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{LoadOptions, Programs};

use crate::namespace::{Namespace, in_namespace, run};
use crate::packet::udp;
use crate::scratch::{Addresses, End, NOW, Scratch, end, for_both_families, ip, one_way, table_of, to};

const RW0: u32 = 80;
pub const RW1: u32 = 81;
const POD_DEVICE: u32 = 82;
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub const RW1_MAC: [u8; 6] = [2, 0, 0, 0, 1, 3];
const WORKERS: u32 = 2;

pub fn vip<F: Addresses>() -> F::Ip {
    ip::<F>("203.0.113.10")
}

pub fn node_ip<F: Addresses>() -> F::Ip {
    ip::<F>("10.1.0.1")
}

fn pod_ip<F: Addresses>() -> F::Ip {
    ip::<F>("10.1.0.5")
}

pub struct Node<F: Addresses> {
    pub programs: Programs,
    table: FlowTable<F>,
    pod: Namespace,
    _scratch: Scratch,
}

/// The hostlink as the agent makes it, a pod, all programs, strict reverse-path filtering.
pub fn node<F: Addresses>() -> Node<F> {
    let (node, pod_address, vip) = (node_ip::<F>(), pod_ip::<F>(), vip::<F>());
    let (gateway, dad) = if F::IS_V6 { ("fe80::5252:1", "nodad") } else { ("169.254.82.2", "noprefixroute") };
    let pod = Namespace::new();
    ip_link("set lo up");
    ip_link("add name rw0 index 80 numrxqueues 2 numtxqueues 2 type veth peer name rw1 index 81 numrxqueues 2 numtxqueues 2");
    run("ethtool", "-K rw1 tx off");
    ip_link("set rw1 address 02:00:00:00:01:03");
    ip_link(&format!(
        "add name p0 index 82 address 02:00:00:00:01:02 type veth peer name eth0 address 02:00:00:00:01:01 netns {}",
        pod.tid
    ));
    for device in ["rw0", "rw1", "p0"] {
        // No frames but the test's: IPv6 would look for neighbors, and report that a router listens to all routers' groups.
        ip_link(&format!("set {device} addrgenmode none multicast off"));
        ip_link(&format!("set {device} up"));
    }
    ip_of::<F>(&format!("address add {node} dev lo {dad}"));
    ip_of::<F>(&format!("route add {pod_address} dev p0 src {node}"));
    ip_of::<F>(&format!("neighbor add {pod_address} lladdr 02:00:00:00:01:01 dev p0 nud permanent"));
    let neighbor = upcall_mac(Upcall { hook: Hook::NodeOut, ifindex: RW1 }).map(|byte| format!("{byte:02x}")).join(":");
    ip_of::<F>(&format!("neighbor add {gateway} lladdr {neighbor} dev rw1 nud permanent"));
    ip_of::<F>(&format!("route add {vip} via {gateway} dev rw1 onlink src {node}"));
    run("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.p0.rp_filter=1 net.ipv4.conf.rw1.rp_filter=1");
    run("sysctl", "-qw net.ipv6.conf.all.forwarding=1");
    pod.run(move || {
        ip_link("set lo up");
        ip_link("set eth0 addrgenmode none multicast off");
        ip_link("set eth0 up");
        ip_of::<F>(&format!("address add {pod_address} dev eth0 {dad}"));
        ip_of::<F>(&format!("route add {node} dev eth0"));
        ip_of::<F>(&format!("route add default via {node} dev eth0"));
        ip_of::<F>(&format!("neighbor add {node} lladdr 02:00:00:00:01:02 dev eth0 nud permanent"));
    });

    let scratch = Scratch::new();
    let (programs, _) = Programs::load(LoadOptions { rw1_ifindex: RW1, workers: WORKERS, ..scratch.options() }).expect("programs");
    programs.attach_hostlink(RW0).expect("hostlink");
    programs.attach_deliver(RW1).expect("deliver");
    programs.attach_edge_node(RW1).expect("edge at rw1");
    programs.attach_edge_pod(POD_DEVICE).expect("edge at the pod");
    programs.device_macs.upsert(RW1, RW1_MAC).expect("a device");
    programs.device_macs.upsert(POD_DEVICE, DEVICE_MAC).expect("a device");
    programs
        .frontends
        .upsert(&FrontendKey { address: vip.into(), port: 80, protocol: 17 }, xdp_redirect::FrontendUse::default())
        .expect("a frontend");
    Node { table: table_of(&programs), programs, pod, _scratch: scratch }
}

impl<F: Addresses> Node<F> {
    pub fn count(&self, name: &str) -> u64 {
        self.programs.counters.get(name).expect("counters").expect("a counter of this name")
    }

    /// Waits for a counter to reach a value.
    pub fn wait_for(&self, name: &str, value: u64) {
        for _ in 0..200 {
            if self.count(name) >= value {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.count(name), value, "{name} among {:?}", self.nonzero());
    }

    pub fn nonzero(&self) -> Vec<(&str, u64)> {
        let mut counters = self.programs.counters.read().expect("counters");
        counters.retain(|(_, value)| *value > 0);
        counters
    }

    pub fn insert(&self, forward: (FlowKey<F>, Rewrite<F>), reverse: (FlowKey<F>, Rewrite<F>)) {
        self.table.insert(0, &NewFlow { forward, reverse, snat: false }, NOW).expect("room");
    }
}

/// ip(8) for addresses of the family.
pub fn ip_of<F: Addresses>(arguments: &str) {
    let family = if F::IS_V6 { "-6" } else { "-4" };
    run("ip", &format!("{family} {arguments}"));
}

fn ip_link(arguments: &str) {
    run("ip", &format!("link {arguments}"));
}

pub fn addr<F: Addresses>(end: End<F>) -> SocketAddr {
    (end.0.into(), end.1).into()
}

pub fn socket<F: Addresses>(address: End<F>) -> UdpSocket {
    let socket = UdpSocket::bind(addr::<F>(address)).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out");
    socket
}

pub fn receive<F: Addresses>(socket: &UdpSocket) -> Option<(String, End<F>)> {
    let mut buffer = [0; 2048];
    match socket.recv_from(&mut buffer) {
        Ok((len, from)) => {
            let address = F::ip_of(from.ip()).expect("an address of this family");
            Some((String::from_utf8_lossy(&buffer[..len]).into_owned(), (address, from.port())))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        other => panic!("{other:?}"),
    }
}

/// Sends a whole frame out of a device, as a worker does.
fn send_frame(ifindex: u32, frame: &[u8]) {
    // SAFETY: no memory involved; the result is a new descriptor.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all zeroes are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = ifindex as i32;
    let len = mem::size_of_val(&address) as u32;
    // SAFETY: frame and address come with their sizes and outlive the call.
    let sent = unsafe { libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, std::ptr::from_ref(&address).cast(), len) };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}

fn with_macs(mut frame: Vec<u8>, destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame
}

/// Frames per queue that XDP on rw0 saw.
fn queues_of_rw0() -> Vec<u64> {
    let statistics = run("ethtool", "-S rw0");
    let of = |queue: u32| {
        let line = statistics.lines().find_map(|line| line.trim().strip_prefix(&format!("rx_queue_{queue}_xdp_packets: ")));
        line.expect("a counter of the queue").trim().parse().expect("a number")
    };
    (0..WORKERS).map(of).collect()
}

fn a_pods_first_packets_reach_the_queue_of_their_worker<F: Addresses>() {
    in_namespace(|| {
        let node = node::<F>();
        let before = queues_of_rw0();
        let mut wanted = vec![0; WORKERS as usize];
        for port in 40000..40020 {
            let key = FlowKey::<F>::new((pod_ip::<F>(), port), (vip::<F>(), 80), POD_DEVICE, Hook::PodIn, 17);
            wanted[(flow_hash(node.programs.seed(), &key) as u32 % WORKERS) as usize] += 1;
            node.pod.run(move || socket::<F>((pod_ip::<F>(), port)).send_to(b"first", addr::<F>((vip::<F>(), 80))).expect("send"));
        }
        for counter in ["pod_in_upcall", "node_out_own_upcall", "hostlink_redirect"] {
            node.wait_for(counter, 20);
        }
        let seen = queues_of_rw0().iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>();
        assert_eq!(seen, wanted);
    });
}

fn a_pods_flow_is_translated_both_ways_at_its_device<F: Addresses>() {
    in_namespace(|| {
        let node = node::<F>();
        let (pod, backend) = ((pod_ip::<F>(), 40000), (node_ip::<F>(), 8080));
        node.insert(
            (FlowKey::new(pod, (vip::<F>(), 80), POD_DEVICE, Hook::PodIn, 17), to(pod, backend, FlowOp::Pass)),
            (FlowKey::new(backend, pod, POD_DEVICE, Hook::PodOut, 17), to((vip::<F>(), 80), pod, FlowOp::Pass)),
        );
        let server = socket::<F>(backend);
        let client = node.pod.run(move || socket::<F>(pod));
        client.send_to(b"question", addr::<F>((vip::<F>(), 80))).expect("send");
        assert_eq!(receive::<F>(&server), Some(("question".into(), pod)), "{:?}", node.nonzero());
        server.send_to(b"answer", addr::<F>(pod)).expect("send");
        assert_eq!(receive::<F>(&client), Some(("answer".into(), (vip::<F>(), 80))), "{:?}", node.nonzero());
        assert_eq!((node.count("pod_in_hit"), node.count("pod_out_hit")), (1, 1));
    });
}

fn a_pod_reaches_itself_through_the_vip<F: Addresses>() {
    in_namespace(|| {
        let node = node::<F>();
        let (client_end, server_end) = ((pod_ip::<F>(), 40000), (pod_ip::<F>(), 8080));
        let peer = |src, dst| Rewrite { ifindex: POD_DEVICE, dmac: POD_MAC, ..to(src, dst, FlowOp::Peer) };
        node.insert(
            (FlowKey::new(client_end, (vip::<F>(), 80), POD_DEVICE, Hook::PodIn, 17), peer((vip::<F>(), 40000), server_end)),
            (FlowKey::new(server_end, (vip::<F>(), 40000), POD_DEVICE, Hook::PodIn, 17), peer((vip::<F>(), 80), client_end)),
        );
        let (client, server) = node.pod.run(move || (socket::<F>(client_end), socket::<F>(server_end)));
        client.send_to(b"question", addr::<F>((vip::<F>(), 80))).expect("send");
        assert_eq!(receive::<F>(&server), Some(("question".into(), (vip::<F>(), 40000))), "{:?}", node.nonzero());
        server.send_to(b"answer", addr::<F>((vip::<F>(), 40000))).expect("send");
        assert_eq!(receive::<F>(&client), Some(("answer".into(), (vip::<F>(), 80))), "{:?}", node.nonzero());
    });
}

fn the_nodes_own_connection_goes_out_at_rw1_and_comes_back_there<F: Addresses>() {
    in_namespace(|| {
        let node = node::<F>();
        let (own, snat, backend) = ((node_ip::<F>(), 33000), (node_ip::<F>(), 10007), (pod_ip::<F>(), 8080));
        node.insert(
            (
                FlowKey::new(own, (vip::<F>(), 80), 0, Hook::NodeOut, 17),
                Rewrite { ifindex: POD_DEVICE, ..to(snat, backend, FlowOp::Neigh) },
            ),
            (
                FlowKey::new(backend, snat, POD_DEVICE, Hook::PodIn, 17),
                Rewrite { ifindex: RW1, dmac: RW1_MAC, ..to((vip::<F>(), 80), own, FlowOp::Received) },
            ),
        );
        let client = socket::<F>(own);
        let server = node.pod.run(move || socket::<F>(backend));
        client.send_to(b"question", addr::<F>((vip::<F>(), 80))).expect("send");
        assert_eq!(receive::<F>(&server), Some(("question".into(), snat)), "{:?}", node.nonzero());
        server.send_to(b"answer", addr::<F>(snat)).expect("send");
        assert_eq!(receive::<F>(&client), Some(("answer".into(), (vip::<F>(), 80))), "{:?}", node.nonzero());
        assert_eq!(node.count("deliver_returned"), 1);
    });
}

fn orders_reach_the_pod_and_the_stack<F: Addresses>() {
    in_namespace(|| {
        let node = node::<F>();
        let (client, backend) = (end::<F>("198.51.100.7", 5000), (pod_ip::<F>(), 8080));
        let in_pod = node.pod.run(move || socket::<F>(backend));

        send_frame(RW0, &with_macs(udp(client, backend), order_mac(Order::Neigh, POD_DEVICE), RW1_MAC));
        assert_eq!(receive::<F>(&in_pod), Some(("odd payload".into(), client)), "Neigh: {:?}", node.nonzero());
        // The mark ends at the pod's device, where `edge` looks and does not take it again.
        assert_eq!(node.count("pod_out_miss"), 1);

        send_frame(RW0, &with_macs(udp(client, backend), order_mac(Order::Peer, POD_DEVICE), POD_MAC));
        assert_eq!(receive::<F>(&in_pod), Some(("odd payload".into(), client)), "Peer: {:?}", node.nonzero());
        assert_eq!(node.count("pod_out_miss"), 1, "straight into the pod");

        // As if received from the pod: to the node, and not taken a second time though it is for a frontend.
        let on_node = socket::<F>((node_ip::<F>(), 9000));
        let from_pod = (pod_ip::<F>(), 40000);
        send_frame(RW0, &with_macs(udp(from_pod, (node_ip::<F>(), 9000)), order_mac(Order::Received, POD_DEVICE), POD_MAC));
        assert_eq!(receive::<F>(&on_node), Some(("odd payload".into(), from_pod)), "Received: {:?}", node.nonzero());
        send_frame(RW0, &with_macs(udp(from_pod, (vip::<F>(), 80)), order_mac(Order::Received, POD_DEVICE), POD_MAC));
        node.wait_for("pod_in_loop_guard", 1);
        // There it is forwarded by the route via rw1, where the second guard stops it.
        node.wait_for("node_out_drop_forwarded", 1);

        send_frame(RW0, &with_macs(udp(from_pod, (vip::<F>(), 80)), order_mac(Order::Probe, RW1), RW1_MAC));
        node.wait_for("deliver_probe", 1);
    });
}

fn a_first_packet_that_comes_back_is_translated_as_all_that_follow<F: Addresses>() {
    in_namespace(|| {
        let node = node::<F>();
        let (pod, backend) = ((pod_ip::<F>(), 40000), (node_ip::<F>(), 8080));
        let server = socket::<F>(backend);
        node.table
            .insert(0, &one_way(FlowKey::new(pod, (vip::<F>(), 80), POD_DEVICE, Hook::PodIn, 17), to(pod, backend, FlowOp::Pass)), NOW)
            .expect("room");
        send_frame(RW0, &with_macs(udp(pod, (vip::<F>(), 80)), order_mac(Order::Received, POD_DEVICE), POD_MAC));
        assert_eq!(receive::<F>(&server), Some(("odd payload".into(), pod)), "{:?}", node.nonzero());
        assert_eq!(node.count("pod_in_hit"), 1);
    });
}

for_both_families! {
    a_pods_first_packets_reach_the_queue_of_their_worker
    a_pods_flow_is_translated_both_ways_at_its_device
    a_pod_reaches_itself_through_the_vip
    the_nodes_own_connection_goes_out_at_rw1_and_comes_back_there
    orders_reach_the_pod_and_the_stack
    a_first_packet_that_comes_back_is_translated_as_all_that_follow
}
