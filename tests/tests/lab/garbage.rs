//! Garbage on the wire: nothing of it may stop us, leak a frame, or reach somebody as something else.

use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::IpHeaders;
use ringway_tests::lab::{Capture, Family, Net, RingwayOptions, Topology, address};

use crate::{VIP_80, ensure_served, frames, serving, web};

const PORT: &str = "node1-eth0";

/// Good TCP and UDP frames to the VIP, to be spoiled.
fn good_frames(net: &Net) -> Result<Vec<Vec<u8>>> {
    let ip = || frames::ip(net.family(), address::CLIENT, address::VIP, 64);
    let (mut syn, mut udp, mut tagged) = (Vec::new(), Vec::new(), Vec::new());
    frames::to_node1(net)?.ip(ip()?).tcp(6000, 80, 1, 1024).syn().write(&mut syn, b"")?;
    frames::to_node1(net)?.ip(ip()?).udp(6001, 80).write(&mut udp, b"payload")?;
    frames::to_node1(net)?.single_vlan(9.try_into()?).ip(ip()?).udp(6002, 80).write(&mut tagged, b"payload")?;
    Ok(vec![syn, udp, tagged])
}

fn garbage(net: &Net) -> Result<Vec<Vec<u8>>> {
    const IP: usize = frames::ETHERNET;
    let family = net.family();
    // Of the length in the IP header.
    let length = IP + if family == Family::V4 { 2 } else { 4 };
    let mut frames = Vec::new();
    for good in good_frames(net)? {
        // Every truncation: AF_PACKET refuses less than an Ethernet header.
        frames.extend((IP..good.len()).map(|len| good[..len].to_vec()));
        // Every byte behind the addresses with each of its bits turned over.
        for at in 12..good.len().min(IP + frames::ip_bytes(family) + 28) {
            for bit in 0..8 {
                let mut frame = good.clone();
                frame[at] ^= 1 << bit;
                frames.push(frame);
            }
        }
        // Lengths that contradict the frame, headers longer than it or of another version.
        for total in [0u16, 19, 20, 27, 1500, u16::MAX] {
            let mut frame = good.clone();
            frame[length..length + 2].copy_from_slice(&total.to_be_bytes());
            frames.push(frame);
        }
        for first in 0..=u8::MAX {
            let mut frame = good.clone();
            frame[IP] = first;
            frames.push(frame);
        }
        // Every protocol that there is, and, in IPv6, every extension header.
        let protocol = IP + if family == Family::V4 { 9 } else { 6 };
        for number in 0..=u8::MAX {
            let mut frame = good.clone();
            frame[protocol] = number;
            frames.push(frame);
        }
    }
    // Land attacks, and sources that cannot be.
    let impossible: [&str; 4] = match family {
        Family::V4 => ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"],
        Family::V6 => ["::1", "::", "ff02::1", "fe80::1"],
    };
    for source in [address::VIP, address::NODE1].into_iter().chain(impossible) {
        for protocol in ["tcp", "udp"] {
            let ip = frames::to_node1(net)?.ip(frames::ip(family, source, address::VIP, 64)?);
            let mut frame = Vec::new();
            match protocol {
                "tcp" => ip.tcp(80, 80, 1, 1024).syn().write(&mut frame, b"")?,
                _ => ip.udp(80, 80).write(&mut frame, b"land")?,
            }
            frames.push(frame);
        }
    }
    // To our SNAT ports, without a flow, and to ports of the VIP that nobody serves.
    for (destination, port) in [(address::NODE1, 10_001), (address::NODE1, 29_999), (address::VIP, 9), (address::VIP, 0)] {
        let mut frame = Vec::new();
        frames::to_node1(net)?
            .ip(frames::ip(family, address::CLIENT, destination, 64)?)
            .tcp(6100, port, 1, 1024)
            .ack(1)
            .write(&mut frame, b"stray")?;
        frames.push(frame);
    }
    Ok(frames)
}

for_both!(garbage_stops_nobody, |family| {
    serving("garbage_frames", Topology::new().family(family), RingwayOptions::default(), &["a1", "b1"], |net, _| {
        net.lab.adopt(net.start_server(&net.node1, "sshd", 22)?);
        let mut ssh = net.client.hold("10.0.0.11:22", 4)?;
        let mut held = net.client.hold(VIP_80, 8)?;
        let frames = garbage(net)?;
        for _ in 0..3 {
            net.router.send_frames(PORT, &frames)?;
            let report = ssh.exchange(Duration::from_secs(2))?;
            ensure!(report.errors == 0, "the node's own connections suffer: {report:?}");
            let report = held.exchange(Duration::from_secs(2))?;
            ensure!(report.errors == 0, "established connections suffer: {report:?}");
        }
        let load = net.client.requests("tcp", VIP_80, 4, 100)?;
        ensure!(load.errors == 0 && load.servers.len() == 2, "new connections suffer: {load:?}");
        Ok(())
    })
});

#[test]
fn ip_options_are_served() -> Result<()> {
    serving("garbage_ip_options", Topology::new(), RingwayOptions::default(), &["b1"], |net, ringway| {
        for (pod, source_port) in [("b1", 6200), ("a1", 6201)] {
            ringway.publish(&[web(net, &[pod])?])?;
            std::thread::sleep(Duration::from_millis(150));
            net.client.curl(crate::VIP_URL)?;
            let server = net.pod(pod)?;
            let capture = Capture::start(&server.namespace, "eth0", "udp port 8080", net.lab.artifact_dir())?;
            let mut frame = Vec::new();
            let mut ip = frames::ip(Family::V4, address::CLIENT, address::VIP, 64)?;
            if let IpHeaders::Ipv4(header, _) = &mut ip {
                // Four no-operations (RFC 791 section 3.1).
                header.options = [1u8, 1, 1, 1].into();
            }
            frames::to_node1(net)?.ip(ip).udp(source_port, 80).write(&mut frame, b"options")?;
            net.router.send_frames(PORT, &[frame])?;
            capture.wait_frame("the datagram with options", Duration::from_secs(2), |frame| frame.bytes.ends_with(b"options"))?;
        }
        Ok(())
    })
}

#[test]
fn somebody_else_claims_the_vip() -> Result<()> {
    serving("garbage_arp", Topology::new(), RingwayOptions::default(), &["b1"], |net, _| {
        net.client.curl(crate::VIP_URL)?;
        let liar = [0x02, 0, 0, 0xba, 0xad, 1];
        let our_mac = net.node1.mac("eth0")?;
        let vip = frames::octets(Family::V4, address::VIP)?;
        let mut frames = Vec::new();
        for (operation, target_mac, destination) in [(1u8, [0; 6], [0xff; 6]), (2, our_mac, our_mac)] {
            let mut frame = Vec::new();
            frame.extend_from_slice(&destination);
            frame.extend_from_slice(&liar);
            frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
            frame.extend_from_slice(&liar);
            frame.extend_from_slice(&vip);
            frame.extend_from_slice(&target_mac);
            frame.extend_from_slice(&vip);
            frames.push(frame.clone());
            // Cut short, and with lengths that are no Ethernet addresses.
            frames.push(frame[..30].to_vec());
            frame[18] = 200;
            frames.push(frame);
        }
        for _ in 0..10 {
            net.router.send_frames(PORT, &frames)?;
        }
        ensure_served(&net.client.requests("tcp", VIP_80, 2, 50)?, &["b1"], address::NODE1)
    })
}
