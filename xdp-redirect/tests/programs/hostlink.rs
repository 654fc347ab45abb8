//! Real packets: a node with a hostlink, and a pod behind a routed veth. The test takes the worker's part.

use std::io::ErrorKind;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use ringway_engine::flow::{FlowKey, FlowOp, FlowTable, Hook, NewFlow, Rewrite, flow_hash};
use ringway_engine::order::{Order, Upcall, order_mac, upcall_mac};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{LoadOptions, Programs};

use crate::namespace::{Namespace, in_namespace, ip, run};
use crate::packet::udp;
use crate::scratch::{End, NOW, Scratch, end, one_way, table_of, to};

const RW0: u32 = 80;
pub const RW1: u32 = 81;
const POD_DEVICE: u32 = 82;
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub const RW1_MAC: [u8; 6] = [2, 0, 0, 0, 1, 3];
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 5);
const WORKERS: u32 = 2;

pub struct Node {
    pub programs: Programs,
    table: FlowTable,
    pod: Namespace,
    _scratch: Scratch,
}

/// The hostlink as the agent makes it, a pod, all programs, strict reverse-path filtering.
pub fn node() -> Node {
    let pod = Namespace::new();
    ip("link set lo up");
    ip("link add name rw0 index 80 numrxqueues 2 numtxqueues 2 type veth peer name rw1 index 81 numrxqueues 2 numtxqueues 2");
    run("ethtool", "-K rw1 tx off");
    ip("link set rw1 address 02:00:00:00:01:03");
    ip(&format!(
        "link add name p0 index 82 address 02:00:00:00:01:02 type veth peer name eth0 address 02:00:00:00:01:01 netns {}",
        pod.tid
    ));
    for device in ["rw0", "rw1", "p0"] {
        // No frames but the test's: IPv6 would look for neighbors.
        ip(&format!("link set {device} addrgenmode none up"));
    }
    ip("address add 10.1.0.1/32 dev lo");
    ip("route add 10.1.0.5/32 dev p0 src 10.1.0.1");
    ip("neighbor add 10.1.0.5 lladdr 02:00:00:00:01:01 dev p0 nud permanent");
    let neighbor = upcall_mac(Upcall { hook: Hook::NodeOut, ifindex: RW1 }).map(|byte| format!("{byte:02x}")).join(":");
    ip(&format!("neighbor add 169.254.82.2 lladdr {neighbor} dev rw1 nud permanent"));
    ip("route add 203.0.113.10/32 via 169.254.82.2 dev rw1 onlink src 10.1.0.1");
    run("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.p0.rp_filter=1 net.ipv4.conf.rw1.rp_filter=1");
    pod.run(|| {
        ip("link set lo up");
        ip("link set eth0 up");
        ip("address add 10.1.0.5/32 dev eth0");
        ip("route add 10.1.0.1/32 dev eth0");
        ip("route add default via 10.1.0.1 dev eth0");
        ip("neighbor add 10.1.0.1 lladdr 02:00:00:00:01:02 dev eth0 nud permanent");
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
        .upsert(&FrontendKey { address: VIP, port: 80, protocol: 17 }, xdp_redirect::FrontendUse::default())
        .expect("a frontend");
    Node { table: table_of(&programs), programs, pod, _scratch: scratch }
}

impl Node {
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

    pub fn insert(&self, forward: (FlowKey, Rewrite), reverse: (FlowKey, Rewrite)) {
        self.table.insert(0, &NewFlow { forward, reverse, snat: false }, NOW).expect("room");
    }
}

pub fn socket(address: End) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddrV4::new(address.0, address.1)).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out");
    socket
}

pub fn receive(socket: &UdpSocket) -> Option<(String, End)> {
    let mut buffer = [0; 2048];
    match socket.recv_from(&mut buffer) {
        Ok((len, std::net::SocketAddr::V4(from))) => {
            Some((String::from_utf8_lossy(&buffer[..len]).into_owned(), (*from.ip(), from.port())))
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

#[test]
fn a_pods_first_packets_reach_the_queue_of_their_worker() {
    in_namespace(|| {
        let node = node();
        let before = queues_of_rw0();
        let mut wanted = vec![0; WORKERS as usize];
        for port in 40000..40020 {
            let key = FlowKey::new((POD, port), (VIP, 80), POD_DEVICE, Hook::PodIn, 17);
            wanted[(flow_hash(node.programs.seed(), &key) as u32 % WORKERS) as usize] += 1;
            node.pod.run(move || socket((POD, port)).send_to(b"first", (VIP, 80)).expect("send"));
        }
        for counter in ["pod_in_upcall", "node_out_own_upcall", "hostlink_redirect"] {
            node.wait_for(counter, 20);
        }
        let seen = queues_of_rw0().iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>();
        assert_eq!(seen, wanted);
    });
}

#[test]
fn a_pods_flow_is_translated_both_ways_at_its_device() {
    in_namespace(|| {
        let node = node();
        let (pod, backend) = ((POD, 40000), (NODE, 8080));
        node.insert(
            (FlowKey::new(pod, (VIP, 80), POD_DEVICE, Hook::PodIn, 17), to(pod, backend, FlowOp::Pass)),
            (FlowKey::new(backend, pod, POD_DEVICE, Hook::PodOut, 17), to((VIP, 80), pod, FlowOp::Pass)),
        );
        let server = socket(backend);
        let client = node.pod.run(move || socket(pod));
        client.send_to(b"question", (VIP, 80)).expect("send");
        assert_eq!(receive(&server), Some(("question".into(), pod)), "{:?}", node.nonzero());
        server.send_to(b"answer", pod).expect("send");
        assert_eq!(receive(&client), Some(("answer".into(), (VIP, 80))), "{:?}", node.nonzero());
        assert_eq!((node.count("pod_in_hit"), node.count("pod_out_hit")), (1, 1));
    });
}

#[test]
fn a_pod_reaches_itself_through_the_vip() {
    in_namespace(|| {
        let node = node();
        let (client_end, server_end) = ((POD, 40000), (POD, 8080));
        let peer = |src, dst| Rewrite { ifindex: POD_DEVICE, dmac: POD_MAC, ..to(src, dst, FlowOp::Peer) };
        node.insert(
            (FlowKey::new(client_end, (VIP, 80), POD_DEVICE, Hook::PodIn, 17), peer((VIP, 40000), server_end)),
            (FlowKey::new(server_end, (VIP, 40000), POD_DEVICE, Hook::PodIn, 17), peer((VIP, 80), client_end)),
        );
        let (client, server) = node.pod.run(move || (socket(client_end), socket(server_end)));
        client.send_to(b"question", (VIP, 80)).expect("send");
        assert_eq!(receive(&server), Some(("question".into(), (VIP, 40000))), "{:?}", node.nonzero());
        server.send_to(b"answer", (VIP, 40000)).expect("send");
        assert_eq!(receive(&client), Some(("answer".into(), (VIP, 80))), "{:?}", node.nonzero());
    });
}

#[test]
fn the_nodes_own_connection_goes_out_at_rw1_and_comes_back_there() {
    in_namespace(|| {
        let node = node();
        let (own, snat, backend) = ((NODE, 33000), (NODE, 10007), (POD, 8080));
        node.insert(
            (FlowKey::new(own, (VIP, 80), 0, Hook::NodeOut, 17), Rewrite { ifindex: POD_DEVICE, ..to(snat, backend, FlowOp::Neigh) }),
            (
                FlowKey::new(backend, snat, POD_DEVICE, Hook::PodIn, 17),
                Rewrite { ifindex: RW1, dmac: RW1_MAC, ..to((VIP, 80), own, FlowOp::Received) },
            ),
        );
        let client = socket(own);
        let server = node.pod.run(move || socket(backend));
        client.send_to(b"question", (VIP, 80)).expect("send");
        assert_eq!(receive(&server), Some(("question".into(), snat)), "{:?}", node.nonzero());
        server.send_to(b"answer", snat).expect("send");
        assert_eq!(receive(&client), Some(("answer".into(), (VIP, 80))), "{:?}", node.nonzero());
        assert_eq!(node.count("deliver_returned"), 1);
    });
}

#[test]
fn orders_reach_the_pod_and_the_stack() {
    in_namespace(|| {
        let node = node();
        let (client, backend) = (end("198.51.100.7", 5000), (POD, 8080));
        let in_pod = node.pod.run(move || socket(backend));

        send_frame(RW0, &with_macs(udp(client, backend), order_mac(Order::Neigh, POD_DEVICE), RW1_MAC));
        assert_eq!(receive(&in_pod), Some(("odd payload".into(), client)), "Neigh: {:?}", node.nonzero());
        // The mark ends at the pod's device, where `edge` looks and does not take it again.
        assert_eq!(node.count("pod_out_miss"), 1);

        send_frame(RW0, &with_macs(udp(client, backend), order_mac(Order::Peer, POD_DEVICE), POD_MAC));
        assert_eq!(receive(&in_pod), Some(("odd payload".into(), client)), "Peer: {:?}", node.nonzero());
        assert_eq!(node.count("pod_out_miss"), 1, "straight into the pod");

        // As if received from the pod: to the node, and not taken a second time though it is for a frontend.
        let on_node = socket((NODE, 9000));
        let from_pod = (POD, 40000);
        send_frame(RW0, &with_macs(udp(from_pod, (NODE, 9000)), order_mac(Order::Received, POD_DEVICE), POD_MAC));
        assert_eq!(receive(&on_node), Some(("odd payload".into(), from_pod)), "Received: {:?}", node.nonzero());
        send_frame(RW0, &with_macs(udp(from_pod, (VIP, 80)), order_mac(Order::Received, POD_DEVICE), POD_MAC));
        node.wait_for("pod_in_loop_guard", 1);
        // There it is forwarded by the route via rw1, where the second guard stops it.
        node.wait_for("node_out_drop_forwarded", 1);

        send_frame(RW0, &with_macs(udp(from_pod, (VIP, 80)), order_mac(Order::Probe, RW1), RW1_MAC));
        node.wait_for("deliver_probe", 1);
    });
}

#[test]
fn a_first_packet_that_comes_back_is_translated_as_all_that_follow() {
    in_namespace(|| {
        let node = node();
        let (pod, backend) = ((POD, 40000), (NODE, 8080));
        let server = socket(backend);
        node.table
            .insert(0, &one_way(FlowKey::new(pod, (VIP, 80), POD_DEVICE, Hook::PodIn, 17), to(pod, backend, FlowOp::Pass)), NOW)
            .expect("room");
        send_frame(RW0, &with_macs(udp(pod, (VIP, 80)), order_mac(Order::Received, POD_DEVICE), POD_MAC));
        assert_eq!(receive(&server), Some(("odd payload".into(), pod)), "{:?}", node.nonzero());
        assert_eq!(node.count("pod_in_hit"), 1);
    });
}
