//! The router of the test, as both of its makers read it.
//!
//! ```text
//!  clients 198.51.100.7 .8 .9 ┐                          ┌───────────────────┐                  ┌ backend 10.244.2.5
//!  203.0.113.5 (MTU 1300) ────┴─ 192.0.2.254 ── left .1 ─┤ VIP 192.0.2.100   ├─ right 10.0.0.1 ─┴─ 10.0.0.2 (MTU 1400)
//!                                                        └───────────────────┘  source of requests
//! ```
//!
//! Addresses are named by IPv4; each has its twin ([`Family::of`]).

use std::net::IpAddr;

use ringway_engine::wire::{TCP, UDP};
use ringway_tests::lab::Family;

pub const VIP: &str = "192.0.2.100";
pub const BACKEND: &str = "10.244.2.5";
/// Of the router on its left and right; requests reach the backend from the latter.
pub const LEFT: &str = "192.0.2.1";
pub const RIGHT: &str = "10.0.0.1";
/// The hops behind them.
pub const LEFT_HOP: &str = "192.0.2.254";
pub const RIGHT_HOP: &str = "10.0.0.2";
/// To the right. The kernel sends there what connection tracking calls invalid, so that this can be told from what is dropped.
pub const SINK: &str = "10.0.0.66";

/// Of the router's devices and of the hops.
pub const LEFT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const RIGHT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const LEFT_HOP_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const RIGHT_HOP_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// The last one is behind a narrow link.
pub const CLIENTS: [&str; 4] = ["198.51.100.7", "198.51.100.8", "198.51.100.9", "203.0.113.5"];
const CLIENT_PORTS: [u16; 3] = [40_000, 40_001, 40_002];

/// Routes that lead through narrow links: prefix, gateway, MTU in bytes.
pub const NARROW: [(&str, &str, u32); 2] = [("203.0.113.0/24", LEFT_HOP, 1300), ("10.244.2.0/24", RIGHT_HOP, 1400)];

pub const WEB: (u8, u16) = (TCP, 80);
pub const DNS: (u8, u16) = (UDP, 53);
/// What they lead to.
pub const WEB_BACKEND_PORT: u16 = 8080;
pub const DNS_BACKEND_PORT: u16 = 5353;
/// This port of the VIP has no endpoint, and all others are nobody's.
pub const REFUSED_PORT: u16 = 82;
pub const UNSERVED_PORT: u16 = 84;

/// A side of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Left,
    Right,
}

/// A client's socket and what it sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub family: Family,
    pub protocol: u8,
    pub client: (IpAddr, u16),
    /// Port of the VIP.
    pub port: u16,
}

impl Flow {
    /// Port of the backend, if anybody serves it.
    pub fn backend_port(&self) -> Option<u16> {
        match (self.protocol, self.port) {
            WEB => Some(WEB_BACKEND_PORT),
            DNS => Some(DNS_BACKEND_PORT),
            _ => None,
        }
    }
}

/// An address by its name.
pub fn address(family: Family, name: &str) -> IpAddr {
    family.of(name).parse().unwrap_or_else(|_| panic!("{name} is no address"))
}

/// All flows of the test, those that lead somewhere first; how many those are.
pub fn flows() -> (Vec<Flow>, usize) {
    let refused = [(TCP, REFUSED_PORT), (UDP, REFUSED_PORT), (TCP, UNSERVED_PORT), (UDP, UNSERVED_PORT)];
    let of = |ports: &[(u8, u16)]| {
        let mut flows = Vec::new();
        for family in [Family::V4, Family::V6] {
            for (client, client_port) in CLIENTS.iter().flat_map(|client| CLIENT_PORTS.map(|port| (client, port))) {
                let client = (address(family, client), client_port);
                flows.extend(ports.iter().map(|&(protocol, port)| Flow { family, protocol, client, port }));
            }
        }
        flows
    };
    let mut flows = of(&[WEB, DNS]);
    let served = flows.len();
    flows.extend(of(&refused));
    (flows, served)
}
