//! A node on paper, with addresses of both families: its devices, its tables, one engine.

pub mod node;
mod tables;
pub mod v4;
pub mod v6;

use std::net::IpAddr;
use std::sync::Arc;

use ringway_engine::family::Family;
use ringway_engine::flow::{FlowTable, FlowTables, Tuple};
use ringway_engine::verdict::Verdict;

pub const UPLINK: u32 = 2;
pub const POD_A: u32 = 10;
pub const POD_B: u32 = 11;
pub const BRIDGE: u32 = 20;
pub const PORT_C: u32 = 21;
pub const PORT_D: u32 = 22;
pub const OVERLAY: u32 = 40;
pub const RW1: u32 = 30;

pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const RW1_MAC: [u8; 6] = [2, 0, 0, 0, 0, 30];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const NODE2_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const RST: u8 = 0x04;
pub const FIN: u8 = 0x01;

pub const ETHERNET_BYTES: usize = 14;

/// Address and port.
pub type Endpoint = (IpAddr, u16);

/// What the node's tables say of one family.
pub struct Addresses {
    /// Announced here.
    pub vip: IpAddr,
    /// All ports of it are ours.
    pub cluster_ip: IpAddr,
    pub node: IpAddr,
    pub node2: IpAddr,
    pub router: IpAddr,
    pub overlay: IpAddr,
    pub overlay_gateway: IpAddr,
    /// Routed pods of this node, by device, and pods behind one bridge, by port.
    pub pods: [(u32, IpAddr); 2],
    pub bridged: [(u32, IpAddr); 2],
    pub everything: &'static str,
    pub nodes: &'static str,
    pub remote_pods: &'static str,
    pub overlay_pods: &'static str,
    pub bridged_pods: &'static str,
}

/// A family at the node.
pub trait Side: Family {
    const SIDE: Addresses;

    fn flows(tables: &FlowTables) -> &Arc<FlowTable<Self>>;
}

pub fn pod_mac(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [2, 1, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., third, _, _, _, _, last] = v6.segments();
            [2, 6, third as u8, 0, (last >> 8) as u8, last as u8]
        }
    }
}

/// Source and destination, as tables have them.
pub fn ends<F: Family>(tuple: Tuple<F>) -> (Endpoint, Endpoint) {
    let ((src, src_port), (dst, dst_port)) = (tuple.src(), tuple.dst());
    ((src.into(), src_port), (dst.into(), dst_port))
}

/// An address of any family.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What came of one packet.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
}
