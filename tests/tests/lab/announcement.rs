//! ARP for announced VIPs.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{Capture, Frame, Ringway, RingwayOptions, Service, Topology, address};

use crate::{VIP_URL, lab, serving, web};

const VIP: [u8; 4] = [10, 0, 0, 100];
const VIP2: [u8; 4] = [10, 0, 0, 101];

/// Sender and target protocol address of an ARP packet are the same (RFC 5227 section 3).
fn is_gratuitous(frame: &Frame, address: [u8; 4]) -> bool {
    frame.bytes.len() >= 42 && frame.bytes[12..14] == [8, 6] && frame.bytes[28..32] == address && frame.bytes[38..42] == address
}

#[test]
fn router_learns_our_mac_for_the_vip() -> Result<()> {
    serving("announce_arp", Topology::new(), RingwayOptions::default(), &["b1"], |net, _| {
        net.client.curl(VIP_URL)?;
        let neighbor = net.router.ip("neigh show 10.0.0.100")?;
        let mac = net.node1.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":");
        ensure!(neighbor.contains(&mac), "the router knows {neighbor}, our MAC is {mac}");
        Ok(())
    })
}

#[test]
fn every_new_address_is_announced_by_itself() -> Result<()> {
    lab("announce_gratuitous", |lab| {
        let net = Topology::new().build(lab)?;
        let capture = Capture::start(&net.router, "node1-eth0", "arp", lab.artifact_dir())?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["b1"])?])?;
        let patience = Duration::from_secs(2);
        let first = capture.wait_frame("gratuitous ARP at the start", patience, |frame| is_gratuitous(frame, VIP))?;
        ensure!(first.bytes[6..12] == net.node1.mac("eth0")?, "it carries another MAC: {first:?}");
        let second =
            Service::new("second").cluster_ip(address::CLUSTER_IP2).external_ip(address::VIP2).tcp(80, 8080).pods([net.pod("b1")?]);
        ringway.publish(&[web(&net, &["b1"])?, second])?;
        capture.wait_frame("gratuitous ARP of an address that appears", patience, |frame| is_gratuitous(frame, VIP2))?;
        Ok(())
    })
}

#[test]
fn nothing_is_answered_unless_asked_to_announce() -> Result<()> {
    let options = RingwayOptions { announce: false, ..RingwayOptions::default() };
    serving("announce_off", Topology::new(), options, &["b1"], |net, _| {
        ensure!(net.client.curl_within(VIP_URL, Duration::from_millis(500)).is_err(), "the VIP answers");
        let neighbor = net.router.ip("neigh show 10.0.0.100")?;
        ensure!(!neighbor.contains("lladdr"), "somebody answered ARP: {neighbor}");
        Ok(())
    })
}

#[test]
fn only_announced_addresses_are_answered() -> Result<()> {
    serving("announce_others", Topology::new(), RingwayOptions::default(), &["b1"], |net, _| {
        // The ClusterIP is no business of the LAN, and 10.0.0.102 is nobody's.
        for target in ["10.0.0.102", address::CLUSTER_IP] {
            net.router.ip(&format!("route replace {target}/32 dev lan0"))?;
            let _ = net.router.output(&["ping", "-c", "1", "-W", "1", target])?;
            let neighbor = net.router.ip(&format!("neigh show {target}"))?;
            ensure!(!neighbor.contains("lladdr"), "somebody answered ARP for {target}: {neighbor}");
        }
        // The kernel still answers for the node's own address.
        net.router.ip("neigh flush dev lan0")?;
        net.router.exec(&["ping", "-c", "1", "-W", "1", address::NODE1])?;
        Ok(())
    })
}
