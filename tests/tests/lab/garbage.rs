//! Garbage on the wire: nothing of it may stop us, leak a frame, or reach somebody as something else.

use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use ringway_tests::lab::{Capture, Net, RingwayOptions, Topology, address};

use crate::{VIP_80, ensure_served, serving, web};

const CLIENT: [u8; 4] = [192, 0, 2, 10];
const VIP: [u8; 4] = [10, 0, 0, 100];
const NODE: [u8; 4] = [10, 0, 0, 11];
const PORT: &str = "node1-eth0";

/// Good TCP and UDP frames to the VIP, to be spoiled.
fn good_frames(net: &Net) -> Result<Vec<Vec<u8>>> {
    let ethernet = || -> Result<_> { Ok(PacketBuilder::ethernet2(net.router.mac("lan0")?, net.node1.mac("eth0")?)) };
    let (mut syn, mut udp, mut tagged) = (Vec::new(), Vec::new(), Vec::new());
    ethernet()?.ipv4(CLIENT, VIP, 64).tcp(6000, 80, 1, 1024).syn().write(&mut syn, b"")?;
    ethernet()?.ipv4(CLIENT, VIP, 64).udp(6001, 80).write(&mut udp, b"payload")?;
    ethernet()?.single_vlan(9.try_into()?).ipv4(CLIENT, VIP, 64).udp(6002, 80).write(&mut tagged, b"payload")?;
    Ok(vec![syn, udp, tagged])
}

fn garbage(net: &Net) -> Result<Vec<Vec<u8>>> {
    const IP: usize = 14;
    let mut frames = Vec::new();
    for good in good_frames(net)? {
        // Every truncation: AF_PACKET refuses less than an Ethernet header.
        frames.extend((IP..good.len()).map(|len| good[..len].to_vec()));
        // Every byte behind the addresses with each of its bits turned over.
        for at in 12..good.len().min(62) {
            for bit in 0..8 {
                let mut frame = good.clone();
                frame[at] ^= 1 << bit;
                frames.push(frame);
            }
        }
        // IP total lengths that contradict the frame, header lengths beyond it.
        for total in [0u16, 19, 20, 27, 1500, u16::MAX] {
            let mut frame = good.clone();
            frame[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
            frames.push(frame);
        }
        for words in 0..16 {
            let mut frame = good.clone();
            frame[IP] = 0x40 | words;
            frames.push(frame);
        }
    }
    let ethernet = || -> Result<_> { Ok(PacketBuilder::ethernet2(net.router.mac("lan0")?, net.node1.mac("eth0")?)) };
    // Land attacks, and sources that cannot be.
    for source in [VIP, NODE, [127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1], [255, 255, 255, 255]] {
        for protocol in ["tcp", "udp"] {
            let ip = ethernet()?.ipv4(source, VIP, 64);
            let mut frame = Vec::new();
            match protocol {
                "tcp" => ip.tcp(80, 80, 1, 1024).syn().write(&mut frame, b"")?,
                _ => ip.udp(80, 80).write(&mut frame, b"land")?,
            }
            frames.push(frame);
        }
    }
    // To our SNAT ports, without a flow, and to ports of the VIP that nobody serves.
    for (destination, port) in [(NODE, 10_001), (NODE, 29_999), (VIP, 9), (VIP, 0)] {
        let mut frame = Vec::new();
        ethernet()?.ipv4(CLIENT, destination, 64).tcp(6100, port, 1, 1024).ack(1).write(&mut frame, b"stray")?;
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn garbage_stops_nobody() -> Result<()> {
    serving("garbage_frames", Topology::new(), RingwayOptions::default(), &["a1", "b1"], |net, _| {
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
}

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
            let mut header = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, CLIENT, VIP)?;
            // Four no-operations (RFC 791 section 3.1).
            header.options = [1u8, 1, 1, 1].into();
            let ip = etherparse::IpHeaders::Ipv4(header, Default::default());
            PacketBuilder::ethernet2(net.router.mac("lan0")?, net.node1.mac("eth0")?)
                .ip(ip)
                .udp(source_port, 80)
                .write(&mut frame, b"options")?;
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
        let mut frames = Vec::new();
        for (operation, target_mac, destination) in [(1u8, [0; 6], [0xff; 6]), (2, our_mac, our_mac)] {
            let mut frame = Vec::new();
            frame.extend_from_slice(&destination);
            frame.extend_from_slice(&liar);
            frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
            frame.extend_from_slice(&liar);
            frame.extend_from_slice(&VIP);
            frame.extend_from_slice(&target_mac);
            frame.extend_from_slice(&VIP);
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
