//! The router made of the kernel: a namespace with nftables between two others, in which this process sends and receives raw frames.
//!
//! Nothing is a matter of time: all that a frame brings about is done in one queue of one CPU, and before the mark that is sent behind it.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns};
use nix::sys::socket::sockopt::{RcvBuf, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendmsg, setsockopt, socket};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use ringway_engine::wire::UDP;
use ringway_tests::lab::{Family, Lab, Namespace};

use crate::packet::{ETHERNET_BYTES, Ip};
use crate::plan::*;

/// A machine that is busy may not let us run for so long.
const PATIENCE_SECONDS: i64 = 5;
const MARK_PORT: [u8; 2] = 9_u16.to_be_bytes();

/// The router and a socket on either side.
pub struct Kernel {
    left: Wire,
    right: Wire,
    marks: u32,
}

/// A packet socket on the far end of one of the router's devices.
struct Wire {
    socket: OwnedFd,
    link: LinkAddr,
}

impl Kernel {
    /// This thread stays on one CPU from now on: the order of frames is that of one queue.
    pub fn new(lab: &Lab) -> Result<Kernel> {
        let router = lab.namespace("router")?;
        router.shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        for device in ["all", "default"] {
            // The engine leaves the judgement of sources to whoever delivers.
            router.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")?;
        }
        let left = wire(lab, &router, "left", LEFT_MAC, LEFT_HOP_MAC)?;
        let right = wire(lab, &router, "right", RIGHT_MAC, RIGHT_HOP_MAC)?;
        for family in [Family::V4, Family::V6] {
            let router = router.speaking(family);
            let nodad = if family == Family::V6 { "nodad" } else { "" };
            let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
            let mut lines = format!(
                "address add {LEFT}/24 dev left {nodad}\naddress add {RIGHT}/24 dev right {nodad}\naddress add {VIP}/32 dev lo {nodad}\n\
                 route add 198.51.100.0/24 via {LEFT_HOP}\n"
            );
            for (prefix, gateway, mtu) in NARROW {
                lines += &format!("route add {prefix} via {gateway} mtu {mtu}\n");
            }
            for (hop, device, lladdr) in
                [(LEFT_HOP, "left", LEFT_HOP_MAC), (RIGHT_HOP, "right", RIGHT_HOP_MAC), (SINK, "right", RIGHT_HOP_MAC)]
            {
                lines += &format!("neighbor add {hop} lladdr {} dev {device} nud permanent\n", mac(lladdr));
            }
            router.ip_batch(&lines)?;
        }
        router.nft(&format!("{}{}", rules(Family::V4), rules(Family::V6)))?;
        router.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")?;
        // Errors without a limit, and what is incomplete is remembered longer than the test takes.
        router.sysctl("net.ipv4.icmp_ratemask", "0")?;
        router.sysctl("net.ipv6.icmp.ratemask", "127")?;
        for key in ["net.ipv4.ipfrag_time", "net.ipv6.ip6frag_time", "net.netfilter.nf_conntrack_frag6_timeout"] {
            router.sysctl(key, "600")?;
        }
        let here = Pid::from_raw(0);
        let allowed = sched_getaffinity(here)?;
        let cpu = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap_or(false)).context("no CPU")?;
        let mut one = CpuSet::new();
        one.set(cpu)?;
        sched_setaffinity(here, &one)?;
        Ok(Kernel { left, right, marks: 0 })
    }

    /// Sends frames from one side; what leaves the router for it.
    pub fn run(&mut self, from: Side, frames: &[Vec<u8>]) -> Result<Vec<(Side, Vec<u8>)>> {
        let wire = if from == Side::Left { &self.left } else { &self.right };
        frames.iter().try_for_each(|frame| wire.send(frame))?;
        self.marks += 1;
        let mark = mark(self.marks);
        self.left.send(&mark)?;
        let mut seen = Vec::new();
        loop {
            let frame = self.right.receive(MsgFlags::empty())?.context("the mark did not come through")?;
            if frame.get(ETHERNET_BYTES + 20..) == mark.get(ETHERNET_BYTES + 20..) {
                break;
            }
            seen.push((Side::Right, frame));
        }
        // What the frames brought about on the left was there before the mark.
        while let Some(frame) = self.left.receive(MsgFlags::MSG_DONTWAIT)? {
            seen.push((Side::Left, frame));
        }
        seen.retain(|(_, frame)| !is_chatter(frame));
        Ok(seen)
    }
}

impl Wire {
    fn send(&self, frame: &[u8]) -> Result<()> {
        let parts = [std::io::IoSlice::new(frame)];
        sendmsg(self.socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), Some(&self.link))
            .with_context(|| format!("cannot send {} bytes", frame.len()))?;
        Ok(())
    }

    /// `None` if nothing is there; the socket waits for [`PATIENCE_SECONDS`] if it may.
    fn receive(&self, flags: MsgFlags) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; 4096];
        match recv(self.socket.as_raw_fd(), &mut frame, flags) {
            Ok(len) => {
                frame.truncate(len);
                Ok(Some(frame))
            }
            Err(nix::errno::Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error).context("cannot receive"),
        }
    }
}

/// A device of the router, and a socket in the namespace behind it, where nobody answers anything.
fn wire(lab: &Lab, router: &Namespace, device: &str, mac: [u8; 6], peer_mac: [u8; 6]) -> Result<Wire> {
    let far = lab.namespace(device)?;
    far.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    router.ip(&format!(
        "link add {device} address {} type veth peer name far address {} netns {}",
        text(mac),
        text(peer_mac),
        far.name()
    ))?;
    // What the kernel itself answers would leave with unfinished checksums.
    router.exec(&["ethtool", "-K", device, "tx", "off"])?;
    router.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")?;
    far.ip("link set far up")?;
    router.ip(&format!("link set {device} up"))?;
    // A namespace is entered by threads: the socket outlives the one that opened it.
    let path = format!("/run/netns/{}", far.name());
    let open = std::thread::spawn(move || -> Result<Wire> {
        setns(std::fs::File::open(&path).with_context(|| path.clone())?, CloneFlags::CLONE_NEWNET)?;
        let link = nix::ifaddrs::getifaddrs()?
            .filter(|interface| interface.interface_name == "far")
            .find_map(|interface| interface.address?.as_link_addr().copied())
            .context("the device is gone")?;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE_SECONDS, 0))?;
        setsockopt(&socket, RcvBuf, &(1 << 20))?;
        Ok(Wire { socket, link })
    });
    open.join().map_err(|_| anyhow::anyhow!("opening a socket panicked"))?
}

/// What makes the router of one family.
fn rules(family: Family) -> String {
    let ip = family.word();
    let (web, dns) = (WEB.1, DNS.1);
    let (hops, echo) = match family {
        Family::V4 => ("ip ttl", "icmp type echo-request"),
        Family::V6 => ("ip6 hoplimit", "icmpv6 type echo-request"),
    };
    family.of(&format!(
        "table {ip} router {{
            chain invalid {{
                type filter hook prerouting priority mangle; ct state invalid {hops} set 64 {ip} daddr set {SINK}
            }}
            chain services {{
                type nat hook prerouting priority dstnat
                {ip} daddr {VIP} tcp dport {web} dnat to {BACKEND}:{WEB_BACKEND_PORT}
                {ip} daddr {VIP} udp dport {dns} dnat to {BACKEND}:{DNS_BACKEND_PORT}
            }}
            chain sources {{ type nat hook postrouting priority srcnat; oifname right ct status dnat masquerade; }}
            chain closed {{
                type filter hook input priority filter; policy drop
                {ip} daddr {VIP} tcp dport {REFUSED_PORT} reject with tcp reset
                {ip} daddr {VIP} udp dport {REFUSED_PORT} reject
                {ip} daddr {VIP} {echo} accept
            }}
        }}\n"
    ))
}

/// A datagram that the router forwards to the right, and does nothing else with.
fn mark(number: u32) -> Vec<u8> {
    let payload = [&MARK_PORT[..], &MARK_PORT, &[0, 12, 0, 0], &number.to_be_bytes()].concat();
    let mut ip = Ip {
        source: address(Family::V4, LEFT_HOP),
        destination: address(Family::V4, SINK),
        ttl: 64,
        tos: 0,
        id: 0,
        dont_fragment: true,
        options: Vec::new(),
        extensions: Vec::new(),
        protocol: UDP,
        payload,
    };
    ip.seal();
    [&LEFT_MAC[..], &LEFT_HOP_MAC, &[8, 0], &ip.bytes()].concat()
}

/// What the router's kernel says of itself: groups that it joins, its wish for other routers, a shorter way (RFC 4861).
fn is_chatter(frame: &[u8]) -> bool {
    const ICMPV6: u8 = 58;
    let is_to_many = frame.first().is_none_or(|byte| byte & 1 != 0);
    let is_discovery =
        frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&ICMPV6) && matches!(frame.get(54), Some(133..=137));
    is_to_many || is_discovery
}
