//! ARP and neighbor discovery for announced VIPs: what both have in common.

use std::time::Duration;

use anyhow::ensure;
use ringway_tests::lab::{Capture, Frame, Ringway, RingwayOptions, Service, Topology, address};

use crate::ndp::{ALL_NODES, Advertisement, OVERRIDE, SOLICITED};
use crate::{VIP_URL, frames, lab_of, serving, web};

/// Says unasked that this is the sender's address: gratuitous ARP, or a neighbor advertisement to all nodes.
fn announces(frame: &Frame, address: &[u8]) -> bool {
    match address.len() {
        // Sender and target protocol address are the same (RFC 5227 section 3).
        4 => frame.bytes.len() >= 42 && frame.bytes[12..14] == [8, 6] && frame.bytes[28..32] == *address && frame.bytes[38..42] == *address,
        _ => Advertisement::read(frame).is_some_and(|advertisement| {
            let is_unasked = advertisement.destination == ALL_NODES && advertisement.flags & (SOLICITED | OVERRIDE) == OVERRIDE;
            is_unasked && advertisement.target == address && advertisement.mac.is_some_and(|mac| frame.bytes[6..12] == mac)
        }),
    }
}

for_both!(router_learns_our_mac_for_the_vip, |family| {
    serving("announce_arp", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, _| {
        net.client.curl(VIP_URL)?;
        let neighbor = net.router.ip("neigh show 10.0.0.100")?;
        let mac = net.node1.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":");
        ensure!(neighbor.contains(&mac), "the router knows {neighbor}, our MAC is {mac}");
        Ok(())
    })
});

for_both!(every_new_address_is_announced_by_itself, |family| {
    lab_of("announce_gratuitous", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        let capture = Capture::start(&net.router, "node1-eth0", "arp or icmp6", lab.artifact_dir())?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["b1"])?])?;
        let patience = Duration::from_secs(2);
        let (vip, vip2) = (frames::octets(family, address::VIP)?, frames::octets(family, address::VIP2)?);
        let first = capture.wait_frame("announcement at the start", patience, |frame| announces(frame, &vip))?;
        ensure!(first.bytes[6..12] == net.node1.mac("eth0")?, "it carries another MAC: {first:?}");
        let second =
            Service::new("second").cluster_ip(address::CLUSTER_IP2).external_ip(address::VIP2).tcp(80, 8080).pods([net.pod("b1")?]);
        ringway.publish(&[web(&net, &["b1"])?, second])?;
        capture.wait_frame("announcement of an address that appears", patience, |frame| announces(frame, &vip2))?;
        Ok(())
    })
});

for_both!(nothing_is_answered_unless_asked_to_announce, |family| {
    let options = RingwayOptions { announce: false, ..RingwayOptions::default() };
    serving("announce_off", Topology::new().family(family), options, &["b1"], |net, _| {
        ensure!(net.client.curl_within(VIP_URL, Duration::from_millis(500)).is_err(), "the VIP answers");
        let neighbor = net.router.ip("neigh show 10.0.0.100")?;
        ensure!(!neighbor.contains("lladdr"), "somebody answered: {neighbor}");
        Ok(())
    })
});

for_both!(only_announced_addresses_are_answered, |family| {
    serving("announce_others", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, _| {
        // The ClusterIP is no business of the LAN, and 10.0.0.102 is nobody's.
        for target in ["10.0.0.102", address::CLUSTER_IP] {
            net.router.ip(&format!("route replace {target}/32 dev lan0"))?;
            let _ = net.router.output(&["ping", "-c", "1", "-W", "1", target])?;
            let neighbor = net.router.ip(&format!("neigh show {target}"))?;
            ensure!(!neighbor.contains("lladdr"), "somebody answered for {target}: {neighbor}");
        }
        // The kernel still answers for the node's own address.
        net.router.ip("neigh flush dev lan0")?;
        net.router.exec(&["ping", "-c", "1", "-W", "1", address::NODE1])?;
        Ok(())
    })
});
