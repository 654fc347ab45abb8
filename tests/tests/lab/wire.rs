//! What a frame looks like after us: TTL, tags, padding, checksums.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{Ipv4HeaderSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanSlice};
use ringway_tests::lab::{Capture, Frame, Net, RingwayOptions, Topology};

use crate::serving;

const CLIENT: [u8; 4] = [192, 0, 2, 10];
const VIP: [u8; 4] = [10, 0, 0, 100];
const PATIENCE: Duration = Duration::from_secs(2);
/// Of the router's port to node1: what node1 receives and sends.
const PORT: &str = "node1-eth0";

/// A UDP datagram of the client to the VIP, as the router forwards it.
fn datagram(net: &Net, ttl: u8, vlan: Option<u16>, source_port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(net.router.mac("lan0")?, net.node1.mac("eth0")?);
    let mut frame = Vec::new();
    match vlan {
        None => ethernet.ipv4(CLIENT, VIP, ttl).udp(source_port, 80).write(&mut frame, payload)?,
        Some(id) => {
            ethernet.single_vlan(id.try_into()?).ipv4(CLIENT, VIP, ttl).udp(source_port, 80).write(&mut frame, payload)?;
        }
    }
    Ok(frame)
}

/// The payload of a datagram towards the backend b1, with TTL and VLAN tag, if the frame is one; its checksums are verified.
fn towards_backend(frame: &Frame) -> Option<(Vec<u8>, u8, Option<u16>)> {
    let packet = SlicedPacket::from_ethernet(&frame.bytes).ok()?;
    let ip = packet.net.as_ref()?.ipv4_ref()?.header();
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { return None };
    if ip.destination() != [10, 244, 2, 2] || udp.destination_port() != 8080 {
        return None;
    }
    let tag = packet.vlan().map(|vlan| match vlan {
        VlanSlice::SingleVlan(single) => single.vlan_identifier().value(),
        VlanSlice::DoubleVlan(double) => double.outer.vlan_identifier().value(),
    });
    checksums_hold(ip, udp).then(|| (udp.payload().to_vec(), ip.ttl(), tag))
}

fn checksums_hold(ip: Ipv4HeaderSlice<'_>, udp: &etherparse::UdpSlice<'_>) -> bool {
    let header = ip.to_header();
    let udp_sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
    header.calc_header_checksum() == ip.header_checksum() && udp_sum.is_ok_and(|sum| sum == udp.checksum())
}

/// Sends `frame` to node1 and returns the datagram that it makes of it, with the frame.
fn through(net: &Net, frame: Vec<u8>, payload: &[u8]) -> Result<(Frame, u8, Option<u16>)> {
    let capture = Capture::start(&net.router, PORT, "", net.lab.artifact_dir())?;
    net.router.send_frames(PORT, &[frame])?;
    let found = capture.wait_frame("the datagram towards the backend", PATIENCE, |frame| {
        towards_backend(frame).is_some_and(|(content, ..)| content == payload)
    })?;
    let (_, ttl, tag) = towards_backend(&found).context("just found")?;
    Ok((found, ttl, tag))
}

fn wire(name: &str, test: impl FnOnce(&Net) -> Result<()>) -> Result<()> {
    serving(name, Topology::new(), RingwayOptions::default(), &["b1"], |net, _| {
        // The router's and the node's neighbors are known from here on.
        net.client.curl(crate::VIP_URL)?;
        test(net)
    })
}

#[test]
fn ttl_is_decremented_and_checksums_are_right() -> Result<()> {
    wire("wire_ttl", |net| {
        let (_, ttl, tag) = through(net, datagram(net, 10, None, 5001, b"ttl")?, b"ttl")?;
        ensure!(ttl == 9 && tag.is_none(), "TTL {ttl}, tag {tag:?}");
        Ok(())
    })
}

#[test]
fn last_hop_ends_here() -> Result<()> {
    wire("wire_ttl_ends", |net| {
        let frame = datagram(net, 1, None, 5002, b"last hop")?;
        let capture = Capture::start(&net.router, PORT, "icmp", net.lab.artifact_dir())?;
        ensure!(through(net, frame, b"last hop").is_err(), "a packet with TTL 1 was forwarded");
        // RFC 792: type 11, and the packet as the client sent it.
        capture.wait_frame("time exceeded", PATIENCE, |frame| {
            let is_of = |bytes: &[u8]| bytes[26..34] == [VIP, CLIENT].concat() && bytes[34..36] == [11, 0] && bytes.ends_with(b"last hop");
            frame.bytes.len() > 36 && is_of(&frame.bytes)
        })?;
        Ok(())
    })
}

#[test]
fn vlan_tag_is_kept() -> Result<()> {
    wire("wire_vlan", |net| {
        let (_, ttl, tag) = through(net, datagram(net, 64, Some(7), 5003, b"tagged")?, b"tagged")?;
        ensure!(tag == Some(7) && ttl == 63, "tag {tag:?}, TTL {ttl}");
        Ok(())
    })
}

#[test]
fn padding_is_trimmed() -> Result<()> {
    wire("wire_padding", |net| {
        let mut frame = datagram(net, 64, None, 5004, b"x")?;
        // A NIC pads to 60 bytes, here with something that would spoil a checksum over the whole frame.
        frame.resize(60, 0xee);
        let (sent, ..) = through(net, frame, b"x")?;
        ensure!(sent.len == 14 + 20 + 8 + 1, "{} bytes on the wire", sent.len);
        Ok(())
    })
}

#[test]
fn udp_without_checksum_stays_without() -> Result<()> {
    wire("wire_no_checksum", |net| {
        let mut frame = datagram(net, 64, None, 5005, b"no checksum")?;
        frame[40..42].fill(0);
        let capture = Capture::start(&net.router, PORT, "udp and dst host 10.244.2.2", net.lab.artifact_dir())?;
        net.router.send_frames(PORT, &[frame])?;
        let sent = capture.wait_frame("the datagram", PATIENCE, |frame| frame.bytes.ends_with(b"no checksum"))?;
        ensure!(sent.bytes[40..42] == [0, 0], "a checksum appeared: {:02x?}", &sent.bytes[40..42]);
        Ok(())
    })
}
