//! What a frame looks like after us: TTL, tags, padding, checksums.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{SlicedPacket, TransportSlice, VlanSlice};
use ringway_tests::lab::{Capture, Family, Frame, Net, RingwayOptions, Topology, address, wait_for};

use crate::{frames, serving};

/// Where the pod b1 is, the backend.
const BACKEND: &str = "10.244.2.2";
const PATIENCE: Duration = Duration::from_secs(2);
/// Of the router's port to node1: what node1 receives and sends.
const PORT: &str = "node1-eth0";

/// A UDP datagram of the client to the VIP, as the router forwards it.
fn datagram(net: &Net, hops: u8, vlan: Option<u16>, source_port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let ethernet = frames::to_node1(net)?;
    let ip = frames::ip(net.family(), address::CLIENT, address::VIP, hops)?;
    let mut frame = Vec::new();
    match vlan {
        None => ethernet.ip(ip).udp(source_port, 80).write(&mut frame, payload)?,
        Some(id) => ethernet.single_vlan(id.try_into()?).ip(ip).udp(source_port, 80).write(&mut frame, payload)?,
    }
    Ok(frame)
}

/// The payload of a datagram towards the backend b1, with TTL or hop limit and VLAN tag, if the frame is one; its checksums are verified.
fn towards_backend(family: Family, frame: &Frame) -> Option<(Vec<u8>, u8, Option<u16>)> {
    let packet = SlicedPacket::from_ethernet(&frame.bytes).ok()?;
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { return None };
    let header = udp.to_header();
    let net = packet.net.as_ref()?;
    let (destination, hops, checksum) = match family {
        Family::V4 => {
            let ip = net.ipv4_ref()?.header().to_header();
            let checksum =
                header.calc_checksum_ipv4(&ip, udp.payload()).ok().filter(|_| ip.calc_header_checksum() == ip.header_checksum)?;
            (ip.destination.to_vec(), ip.time_to_live, checksum)
        }
        Family::V6 => {
            let ip = net.ipv6_ref()?.header().to_header();
            (ip.destination.to_vec(), ip.hop_limit, header.calc_checksum_ipv6(&ip, udp.payload()).ok()?)
        }
    };
    if destination != frames::octets(family, BACKEND).ok()? || (header.destination_port, header.checksum) != (8080, checksum) {
        return None;
    }
    let tag = packet.vlan().map(|vlan| match vlan {
        VlanSlice::SingleVlan(single) => single.vlan_identifier().value(),
        VlanSlice::DoubleVlan(double) => double.outer.vlan_identifier().value(),
    });
    Some((udp.payload().to_vec(), hops, tag))
}

/// Sends `frame` to node1 and returns the datagram that it makes of it, with the frame.
fn through(net: &Net, frame: Vec<u8>, payload: &[u8]) -> Result<(Frame, u8, Option<u16>)> {
    let capture = Capture::start(&net.router, PORT, "", net.lab.artifact_dir())?;
    net.router.send_frames(PORT, &[frame])?;
    let found = capture.wait_frame("the datagram towards the backend", PATIENCE, |frame| {
        towards_backend(net.family(), frame).is_some_and(|(content, ..)| content == payload)
    })?;
    let (_, ttl, tag) = towards_backend(net.family(), &found).context("just found")?;
    Ok((found, ttl, tag))
}

fn wire(family: Family, name: &str, test: impl FnOnce(&Net) -> Result<()>) -> Result<()> {
    serving(name, Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, _| {
        // The router's and the node's neighbors are known from here on.
        net.client.curl(crate::VIP_URL)?;
        test(net)
    })
}

for_both!(ttl_is_decremented_and_checksums_are_right, |family| {
    wire(family, "wire_ttl", |net| {
        let (_, ttl, tag) = through(net, datagram(net, 10, None, 5001, b"ttl")?, b"ttl")?;
        ensure!(ttl == 9 && tag.is_none(), "TTL {ttl}, tag {tag:?}");
        Ok(())
    })
});

for_both!(last_hop_ends_here, |family| {
    wire(family, "wire_ttl_ends", |net| {
        let frame = datagram(net, 1, None, 5002, b"last hop")?;
        let capture = Capture::start(&net.router, PORT, "icmp or icmp6", net.lab.artifact_dir())?;
        ensure!(through(net, frame, b"last hop").is_err(), "a packet with TTL 1 was forwarded");
        // Time exceeded (RFC 792, RFC 4443 section 3.3), and the packet as the client sent it.
        let addresses = [frames::octets(family, address::VIP)?, frames::octets(family, address::CLIENT)?].concat();
        let (at, kind) = match family {
            Family::V4 => (26, 11),
            Family::V6 => (22, 3),
        };
        capture.wait_frame("time exceeded", PATIENCE, |frame| {
            frame.bytes[at..].starts_with(&[&addresses[..], &[kind, 0]].concat()) && frame.bytes.ends_with(b"last hop")
        })?;
        Ok(())
    })
});

// A hop behind the translation ends: what it says is translated back, and quotes the packet as the client sent it.
for_both!(later_hops_are_told_of, |family| {
    let name = "wire_later_hop";
    serving(name, Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, ringway| {
        // By node2 on the way to b1, and by this node on the way to a1, which `edge` has translated before.
        for (pod, hops, source_port) in [("b1", 2, 5_010), ("a1", 1, 5_020)] {
            ringway.publish(&[crate::web(net, &[pod])?])?;
            wait_for("the backend", PATIENCE, || {
                ensure!(net.client.curl(crate::VIP_URL)?.starts_with(pod), "not yet");
                Ok(())
            })?;
            let (client, vip) = (frames::octets(family, address::CLIENT)?, frames::octets(family, address::VIP)?);
            let ports = [u16::to_be_bytes(source_port), u16::to_be_bytes(80)].concat();
            // Destination of the error; its type; addresses and ports in what it quotes.
            let (at, kind, quoted) = match family {
                Family::V4 => (30, 11, 54),
                Family::V6 => (38, 3, 70),
            };
            for round in ["first", "second"] {
                let capture = Capture::start(&net.router, PORT, "icmp or icmp6", net.lab.artifact_dir())?;
                net.router.send_frames(PORT, &[datagram(net, hops, None, source_port, round.as_bytes())?])?;
                capture.wait_frame(&format!("{pod}: time exceeded, {round} packet"), PATIENCE, |frame| {
                    frame.bytes[at..].starts_with(&[&client[..], &[kind, 0]].concat())
                        && frame.bytes.get(quoted..).is_some_and(|quote| quote.starts_with(&[&client[..], &vip, &ports].concat()))
                })?;
            }
        }
        Ok(())
    })
});

for_both!(vlan_tag_is_kept, |family| {
    wire(family, "wire_vlan", |net| {
        let (_, ttl, tag) = through(net, datagram(net, 64, Some(7), 5003, b"tagged")?, b"tagged")?;
        ensure!(tag == Some(7) && ttl == 63, "tag {tag:?}, TTL {ttl}");
        Ok(())
    })
});

for_both!(padding_is_trimmed, |family| {
    wire(family, "wire_padding", |net| {
        let mut frame = datagram(net, 64, None, 5004, b"x")?;
        // A NIC pads to 60 bytes, here longer and with something that would spoil a checksum over the whole frame.
        frame.resize(80, 0xee);
        let (sent, ..) = through(net, frame, b"x")?;
        ensure!(sent.len == frames::ETHERNET + frames::ip_bytes(family) + 8 + 1, "{} bytes on the wire", sent.len);
        Ok(())
    })
});

#[test]
fn udp_without_checksum_stays_without() -> Result<()> {
    wire(Family::V4, "wire_no_checksum", |net| {
        let mut frame = datagram(net, 64, None, 5005, b"no checksum")?;
        frame[40..42].fill(0);
        let capture = Capture::start(&net.router, PORT, "udp and dst host 10.244.2.2", net.lab.artifact_dir())?;
        net.router.send_frames(PORT, &[frame])?;
        let sent = capture.wait_frame("the datagram", PATIENCE, |frame| frame.bytes.ends_with(b"no checksum"))?;
        ensure!(sent.bytes[40..42] == [0, 0], "a checksum appeared: {:02x?}", &sent.bytes[40..42]);
        Ok(())
    })
}
