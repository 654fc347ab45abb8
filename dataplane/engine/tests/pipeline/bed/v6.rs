//! IPv6 at the node: addresses, and numbers of its headers.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ringway_engine::family::V6;
use ringway_engine::flow::{FlowTable, FlowTables};

use super::{Addresses, ETHERNET_BYTES, Endpoint, POD_A, POD_B, PORT_C, PORT_D, Side};

pub type F = V6;
pub type Bed = super::node::Bed<F>;

const fn v6(network: [u16; 4], station: u16) -> IpAddr {
    let [a, b, c, d] = network;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, station))
}

pub const VIP: IpAddr = v6([0x2001, 0xdb8, 0, 0], 0x10);
/// Of the VIP's network, and nobody's.
pub const UNUSED: IpAddr = v6([0x2001, 0xdb8, 0, 0], 0x11);
pub const CLUSTER_IP: IpAddr = v6([0xfd96, 0, 0, 0], 0x10);
pub const NODE: IpAddr = station(1);
pub const NODE2: IpAddr = station(2);
/// Routers have addresses of the link only.
pub const ROUTER: IpAddr = v6([0xfe80, 0, 0, 0], 0xfe);
pub const CLIENT: IpAddr = client(7);
/// A client of another network, and that network.
pub const OTHER_CLIENT: IpAddr = v6([0x2001, 0xdb8, 2, 0], 9);
pub const OTHER_CLIENTS: &str = "2001:db8:2::/48";
/// Some router on the way.
pub const HOP: IpAddr = v6([0x2001, 0xdb8, 2, 0], 1);
/// Routed pods of this node.
pub const A: IpAddr = v6([0xfd00, 1, 1, 0], 0x10);
pub const B: IpAddr = v6([0xfd00, 1, 1, 0], 0x11);
/// Pods of this node behind one bridge.
pub const C: IpAddr = v6([0xfd00, 1, 2, 0], 0x21);
pub const D: IpAddr = v6([0xfd00, 1, 2, 0], 0x22);
/// A pod of node 2.
pub const REMOTE: IpAddr = remote(5);
pub const OVERLAY_ADDRESS: IpAddr = v6([0xfd00, 1, 0, 0], 0);
/// A pod behind the overlay device.
pub const OVERLAID: IpAddr = v6([0xfd00, 3, 0, 0], 9);

/// A client's socket, and the frontend that most stories are about.
pub const CLIENT_END: Endpoint = (CLIENT, 40_000);
pub const WEB: Endpoint = (VIP, 80);

/// Clients, pods of node 2, stations on the nodes' network.
pub const fn client(number: u8) -> IpAddr {
    v6([0x2001, 0xdb8, 1, 0], number as u16)
}

pub const fn remote(number: u8) -> IpAddr {
    v6([0xfd00, 2, 0, 0], number as u16)
}

pub const fn station(number: u8) -> IpAddr {
    v6([0xfd00, 0, 0, 0], number as u16)
}

/// A client for each number; they differ in both words.
pub fn client_of(number: u32) -> IpAddr {
    v6([0x2001, 0xdb8, 0x100, number as u16], (number >> 16) as u16)
}

/// Sources that no packet from elsewhere has.
pub const IMPOSSIBLE: [&str; 5] = ["::1", "::", "fe80::7", "ff02::1", "::ffff:198.51.100.7"];

pub const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
/// Offsets in an untagged frame without extension headers: of the fields of the IP header, of the L4 header.
pub const TTL: usize = ETHERNET_BYTES + 7;
pub const PROTOCOL: usize = ETHERNET_BYTES + 6;
pub const SOURCE: usize = ETHERNET_BYTES + 8;
pub const L4: usize = ETHERNET_BYTES + 40;
/// What follows the IP header, in bytes, as that says.
pub fn set_payload_bytes(frame: &mut [u8], bytes: usize) {
    frame[ETHERNET_BYTES + 4..ETHERNET_BYTES + 6].copy_from_slice(&(bytes as u16).to_be_bytes());
}

/// A datagram may come without a checksum (RFC 8200 §8.1).
pub const UDP_MAY_LACK_CHECKSUM: bool = false;

/// Types and codes of ICMPv6 (RFC 4443).
pub const ICMP: u8 = 58;
pub const ECHO: (u8, u8) = (128, 0);
pub const ECHO_REPLY: (u8, u8) = (129, 0);
pub const PORT_UNREACHABLE: (u8, u8) = (1, 4);
pub const TOO_BIG: (u8, u8) = (2, 0);
pub const TIME_EXCEEDED: (u8, u8) = (3, 0);
pub const PARAMETER_PROBLEM: (u8, u8) = (4, 0);
/// Of errors.
pub const ERRORS: [(u8, u8); 6] = [PORT_UNREACHABLE, TOO_BIG, (1, 1), TIME_EXCEEDED, (3, 1), PARAMETER_PROBLEM];
/// Of messages that are neither.
pub const OTHER_MESSAGE: (u8, u8) = (139, 0);
pub const REDIRECT: (u8, u8) = (137, 0);
/// An error quotes so many bytes at most, from the IP header on.
pub const QUOTED_MAX: usize = 1232;

impl Side for F {
    const SIDE: Addresses = Addresses {
        vip: VIP,
        cluster_ip: CLUSTER_IP,
        node: NODE,
        node2: NODE2,
        router: ROUTER,
        overlay: OVERLAY_ADDRESS,
        overlay_gateway: v6([0xfd00, 3, 0, 0], 0),
        pods: [(POD_A, A), (POD_B, B)],
        bridged: [(PORT_C, C), (PORT_D, D)],
        everything: "::/0",
        nodes: "fd00::/64",
        remote_pods: "fd00:2::/32",
        overlay_pods: "fd00:3::/32",
        bridged_pods: "fd00:1:2::/64",
    };

    fn flows(tables: &FlowTables) -> &Arc<FlowTable<F>> {
        &tables.v6
    }
}
