//! Neighbor discovery (RFC 4861): solicitations for announced addresses are answered, all else is the kernel's.

use std::net::{IpAddr, Ipv6Addr};

use ringway_engine::flow::Hook;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::verdict::{DropReason, Verdict};

use super::*;

const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => panic!("{v4}"),
    }
}

/// To all nodes of the link.
fn message(kind: u8, target: IpAddr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into();
    let mut frame = icmp(ROUTER, all_nodes, (kind, 0), [0; 4], &octets(target));
    frame[TTL] = 255;
    frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame
}

/// The router's question for an address.
pub fn who_has(target: IpAddr) -> Vec<u8> {
    message(SOLICITATION, target)
}

#[test]
fn solicitations_are_answered_where_the_address_is_announced() {
    let mut bed = Bed::new();
    let out = bed.receive(&message(SOLICITATION, VIP));
    assert_eq!((out.verdict, macs(&out.frame)), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC)));
    let seen = read_icmp(&out.frame);
    assert_eq!((seen.src, seen.dst, seen.ttl, seen.kind, seen.rest), (VIP, ROUTER, 255, (ADVERTISEMENT, 0), [0x60, 0, 0, 0]));
    assert_eq!(seen.payload, [&octets(VIP)[..], &[2, 1], &UPLINK_MAC].concat());
    let mut far = message(SOLICITATION, VIP);
    far[TTL] = 254;
    assert_eq!(bed.receive(&far).verdict, Verdict::Drop(DropReason::Malformed));
    assert!(bed.flows.is_empty());
}

#[test]
fn all_else_is_the_kernels() {
    let mut bed = Bed::new();
    for (what, frame) in [
        ("another address", message(SOLICITATION, NODE)),
        ("not announced, though it is ours", message(SOLICITATION, CLUSTER_IP)),
        ("an advertisement", message(ADVERTISEMENT, VIP)),
        ("a router's", message(ROUTER_ADVERTISEMENT, VIP)),
        ("with an extension header", extended(&message(SOLICITATION, VIP), &[(HOP_BY_HOP, 1)])),
    ] {
        let out = bed.receive(&frame);
        assert_eq!((out.verdict, macs(&out.frame).0), (Verdict::Host, order_mac(Order::Received, UPLINK)), "{what}");
        assert_eq!(out.frame[6..], frame[6..], "{what}");
    }
    let frame = message(SOLICITATION, VIP);
    let out = bed.upcall(Hook::PodIn, POD_A, &frame);
    assert_eq!((out.verdict, &out.frame[6..]), (Verdict::Host, &frame[6..]), "a pod asks its own router");
}
