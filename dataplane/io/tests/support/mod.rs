//! A small network: this node between two others, each a network namespace of its own.
//!
//! ```text
//! client: ca ── up0 :node: rw0 ── cb :server
//! ```

pub mod engines;
pub mod redirect;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redirect::Redirect;
use ringway_io::{BindWanted, DataplaneConfig, FrameSize, Port, PortConfig, WorkerConfig, ethtool};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// The three namespaces; removed when dropped, also by a panic.
pub struct Network {
    prefix: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Network {
    pub fn new() -> Network {
        Network::with_mtu(1_500)
    }

    pub fn with_mtu(mtu: u32) -> Network {
        let prefix = format!("rwio{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let network = Network { prefix };
        let [client, node, server] = ["client", "node", "server"].map(|name| network.namespace(name));
        for namespace in [&client, &node, &server] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        ip(&format!(
            "-n {node} link add name up0 mtu {mtu} numrxqueues 1 numtxqueues 1 type veth peer name ca mtu {mtu} numrxqueues 1 numtxqueues 1 netns {client}"
        ));
        ip(&format!(
            "-n {node} link add name rw0 mtu {mtu} numrxqueues 1 numtxqueues 1 type veth peer name cb mtu {mtu} numrxqueues 1 numtxqueues 1 netns {server}"
        ));
        for (namespace, device) in [(&node, "up0"), (&node, "rw0"), (&client, "ca"), (&server, "cb")] {
            ip(&format!("-n {namespace} link set {device} addrgenmode none"));
            ip(&format!("-n {namespace} link set {device} up"));
        }
        ip(&format!("-n {client} address add {CLIENT}/24 dev ca"));
        ip(&format!("-n {server} address add {SERVER}/24 dev cb"));
        // An AF_XDP socket transmits what it is given: the checksums must be complete before we receive the packets.
        network.inside("client", || ethtool::set_tx_checksum("ca", false).expect("tx off"));
        network.inside("server", || ethtool::set_tx_checksum("cb", false).expect("tx off"));
        network
    }

    pub fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Runs `body` in a thread of the namespace.
    pub fn inside<R: Send>(&self, name: &str, body: impl FnOnce() -> R + Send) -> R {
        let path = format!("/run/netns/{}", self.namespace(name));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(&path).expect("the namespace is there");
                // SAFETY: the call takes a descriptor that lives through it, and concerns this thread only.
                let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "setns: {}", std::io::Error::last_os_error());
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The programs on both devices of the node, and a worker that serves them: `up0` as uplink 0, `rw0` as hostlink.
    pub fn worker(&self) -> (Vec<Redirect>, DataplaneConfig) {
        self.inside("node", || {
            let mut programs = Vec::new();
            let mut ports = Vec::new();
            for (port, ifname) in [(Port::Uplink(0), "up0"), (Port::Host, "rw0")] {
                let link = ethtool::link(ifname).expect("the device is there");
                let program = Redirect::attach(link.ifindex, 1).expect("XDP");
                ports.push(PortConfig {
                    port,
                    ifname: ifname.into(),
                    ifindex: link.ifindex,
                    queue: 0,
                    mode: BindWanted::Auto,
                    multi_buffer: link.mtu > FrameSize::default().mtu_max(),
                    xskmap: Some(program.slot(0)),
                });
                programs.push(program);
            }
            (programs, DataplaneConfig::new(vec![WorkerConfig { core: None, ports }]))
        })
    }

    pub fn udp(&self, name: &str, address: Ipv4Addr, port: u16) -> UdpSocket {
        self.inside(name, || {
            let socket = UdpSocket::bind(SocketAddr::new(IpAddr::V4(address), port)).expect("bind");
            socket.set_read_timeout(Some(Duration::from_secs(3))).expect("time-out");
            socket
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in ["client", "node", "server"] {
            let _ = Command::new("ip").args(["netns", "delete", &self.namespace(name)]).output();
        }
    }
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until `condition` holds; panics with `what` after five seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(5), "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
