//! IPv4.

use std::net::Ipv4Addr;

#[path = "table.rs"]
mod table;

pub type F = crate::family::V4;

/// One of the addresses of a network.
pub fn address(network: u8, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network) << 24 | number)
}
