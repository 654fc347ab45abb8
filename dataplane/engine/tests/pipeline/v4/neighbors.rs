//! Who asks for neighbors here: ARP (RFC 826).

use std::net::IpAddr;

use super::*;

/// An ARP request of the router's.
pub fn who_has(target: IpAddr) -> Vec<u8> {
    let (IpAddr::V4(sender), IpAddr::V4(target)) = (ROUTER, target) else { panic!("{target}") };
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &ROUTER_MAC, &sender.octets(), &[0; 6], &target.octets()].concat();
    [&[0xff; 6][..], &ROUTER_MAC, &[8, 6], &arp].concat()
}
