//! IPv6.

use std::net::Ipv6Addr;

#[path = "table.rs"]
mod table;

pub type F = crate::family::V6;

/// One of the addresses of a network: they differ in both words.
pub fn address(network: u8, number: u32) -> Ipv6Addr {
    let subnet = number.wrapping_mul(0x9e37_79b1) >> 24;
    Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(network) << 80 | u128::from(subnet) << 64 | u128::from(number))
}
