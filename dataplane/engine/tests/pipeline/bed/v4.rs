//! IPv4 at the node: addresses, and numbers of its headers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ringway_engine::family::V4;
use ringway_engine::flow::{FlowTable, FlowTables};

use super::{Addresses, ETHERNET_BYTES, Endpoint, POD_A, POD_B, PORT_C, PORT_D, Side};

pub type F = V4;
pub type Bed = super::node::Bed<F>;

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

pub const VIP: IpAddr = v4(192, 0, 2, 10);
/// Of the VIP's network, and nobody's.
pub const UNUSED: IpAddr = v4(192, 0, 2, 11);
pub const CLUSTER_IP: IpAddr = v4(10, 96, 0, 10);
pub const NODE: IpAddr = v4(10, 0, 0, 1);
pub const NODE2: IpAddr = v4(10, 0, 0, 2);
pub const ROUTER: IpAddr = v4(10, 0, 0, 254);
pub const CLIENT: IpAddr = v4(198, 51, 100, 7);
/// A client of another network, and that network.
pub const OTHER_CLIENT: IpAddr = v4(203, 0, 113, 9);
pub const OTHER_CLIENTS: &str = "203.0.113.0/24";
/// Some router on the way.
pub const HOP: IpAddr = v4(203, 0, 113, 1);
/// Routed pods of this node.
pub const A: IpAddr = v4(10, 1, 1, 10);
pub const B: IpAddr = v4(10, 1, 1, 11);
/// Pods of this node behind one bridge.
pub const C: IpAddr = v4(10, 1, 2, 21);
pub const D: IpAddr = v4(10, 1, 2, 22);
/// A pod of node 2.
pub const REMOTE: IpAddr = remote(5);
pub const OVERLAY_ADDRESS: IpAddr = v4(10, 1, 0, 0);
/// A pod behind the overlay device.
pub const OVERLAID: IpAddr = v4(10, 3, 0, 9);

/// A client's socket, and the frontend that most stories are about.
pub const CLIENT_END: Endpoint = (CLIENT, 40_000);
pub const WEB: Endpoint = (VIP, 80);

/// Clients, pods of node 2, stations on the nodes' network.
pub const fn client(number: u8) -> IpAddr {
    v4(198, 51, 100, number)
}

pub const fn remote(number: u8) -> IpAddr {
    v4(10, 2, 0, number)
}

pub const fn station(number: u8) -> IpAddr {
    v4(10, 0, 0, number)
}

/// A client for each number.
pub fn client_of(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0b00_0000 | number & 0x00ff_ffff).into()
}

/// Sources that no packet from elsewhere has.
pub const IMPOSSIBLE: [&str; 4] = ["127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1"];

pub const ETHERTYPE: [u8; 2] = [0x08, 0x00];
/// Offsets in an untagged frame without IP options: of the fields of the IP header, of the L4 header.
pub const TTL: usize = ETHERNET_BYTES + 8;
pub const PROTOCOL: usize = ETHERNET_BYTES + 9;
pub const SOURCE: usize = ETHERNET_BYTES + 12;
pub const L4: usize = ETHERNET_BYTES + 20;
/// What follows the IP header, in bytes, as that says.
pub fn set_payload_bytes(frame: &mut [u8], bytes: usize) {
    frame[ETHERNET_BYTES + 2..ETHERNET_BYTES + 4].copy_from_slice(&(20 + bytes as u16).to_be_bytes());
}

/// A datagram may come without a checksum.
pub const UDP_MAY_LACK_CHECKSUM: bool = true;

/// Types and codes of ICMP (RFC 792).
pub const ICMP: u8 = 1;
pub const ECHO: (u8, u8) = (8, 0);
pub const ECHO_REPLY: (u8, u8) = (0, 0);
pub const PORT_UNREACHABLE: (u8, u8) = (3, 3);
pub const TOO_BIG: (u8, u8) = (3, 4);
pub const TIME_EXCEEDED: (u8, u8) = (11, 0);
pub const PARAMETER_PROBLEM: (u8, u8) = (12, 0);
/// Of errors.
pub const ERRORS: [(u8, u8); 6] = [PORT_UNREACHABLE, TOO_BIG, (3, 13), TIME_EXCEEDED, (11, 1), PARAMETER_PROBLEM];
/// Of messages that are neither.
pub const OTHER_MESSAGE: (u8, u8) = (13, 0);
pub const REDIRECT: (u8, u8) = (5, 1);
/// An error quotes so many bytes at most, from the IP header on.
pub const QUOTED_MAX: usize = 548;

impl Side for F {
    const SIDE: Addresses = Addresses {
        vip: VIP,
        cluster_ip: CLUSTER_IP,
        node: NODE,
        node2: NODE2,
        router: ROUTER,
        overlay: OVERLAY_ADDRESS,
        overlay_gateway: v4(10, 3, 0, 0),
        pods: [(POD_A, A), (POD_B, B)],
        bridged: [(PORT_C, C), (PORT_D, D)],
        everything: "0.0.0.0/0",
        nodes: "10.0.0.0/24",
        remote_pods: "10.2.0.0/16",
        overlay_pods: "10.3.0.0/16",
        bridged_pods: "10.1.2.0/24",
    };

    fn flows(tables: &FlowTables) -> &Arc<FlowTable<F>> {
        &tables.v4
    }
}
