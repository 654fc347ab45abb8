//! IPv6 extension headers (RFC 8200 section 4): what stands before TCP and UDP is walked over, and what we do not know is the kernel's.

use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::{IpHeaders, UdpHeader};
use ringway_tests::lab::{Capture, Family, Net, RingwayOptions, Topology, address, wait_for};

use crate::{VIP_URL, frames, serving, web};

const PORT: &str = "node1-eth0";
const PATIENCE: Duration = Duration::from_secs(2);

/// An extension header by its number: eight bytes, of which the first is the number of the next one.
type Extension = (u8, [u8; 7]);

/// Of options that are padding (PadN).
const HOP_BY_HOP: Extension = (0, [0, 1, 4, 0, 0, 0, 0]);
const DESTINATION: Extension = (60, [0, 1, 4, 0, 0, 0, 0]);
/// A routing header of an experimental type, at its end, and with a segment left.
const ROUTED: Extension = (43, [0, 253, 0, 0, 0, 0, 0]);
const TO_BE_ROUTED: Extension = (43, [0, 253, 1, 0, 0, 0, 0]);
/// A fragment that is the whole datagram (RFC 6946).
const ATOMIC: Extension = (44, [0, 0, 0, 0, 0, 0, 7]);
const AUTHENTICATION: Extension = (51, [0, 0, 0, 0, 0, 0, 1]);
const ENCRYPTION: Extension = (50, [0; 7]);
const MOBILITY: Extension = (135, [0, 0, 0, 0, 0, 0, 0]);
const NOTHING: Extension = (59, [0; 7]);
const UNKNOWN: Extension = (253, [0; 7]);

/// A datagram of the client behind these headers.
fn datagram(net: &Net, destination: &str, extensions: &[Extension], source_port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    const UDP: u8 = 17;
    let mut frame = Vec::new();
    frames::to_node1(net)?.ip(frames::ip(Family::V6, address::CLIENT, destination, 64)?).udp(source_port, 80).write(&mut frame, payload)?;
    let (ethernet, packet) = frame.split_at(frames::ETHERNET);
    let (mut ip, _) = IpHeaders::from_slice(packet)?;
    let IpHeaders::Ipv6(header, _) = &mut ip else { unreachable!() };
    let udp = UdpHeader::with_ipv6_checksum(source_port, 80, header, payload)?;
    let mut numbers: Vec<u8> = extensions.iter().map(|(number, _)| *number).chain([UDP]).collect();
    header.next_header = numbers.remove(0).into();
    let behind: Vec<u8> = extensions.iter().zip(&numbers).flat_map(|((_, rest), next)| [&[*next], &rest[..]].concat()).collect();
    header.set_payload_length(behind.len() + 8 + payload.len())?;
    Ok([ethernet, &header.to_bytes(), &behind, &udp.to_bytes(), payload].concat())
}

/// With a backend elsewhere, by the worker, and with one here, by `edge`, first packet and second.
fn to_each_backend(name: &str, options: RingwayOptions, test: impl Fn(&Net, &Capture, u16) -> Result<()>) -> Result<()> {
    serving(name, Topology::new().family(Family::V6), options, &["b1"], |net, ringway| {
        for (pod, source_port) in [("b1", 6_300), ("a1", 6_400)] {
            ringway.publish(&[web(net, &[pod])?])?;
            wait_for("the backend", PATIENCE, || {
                ensure!(net.client.curl(VIP_URL)?.starts_with(pod), "not yet");
                Ok(())
            })?;
            let capture = Capture::start(&net.pod(pod)?.namespace, "eth0", "ip6", net.lab.artifact_dir())?;
            test(net, &capture, source_port)?;
        }
        Ok(())
    })
}

fn known_headers(name: &str, options: RingwayOptions) -> Result<()> {
    to_each_backend(name, options, |net, capture, source_port| {
        let chains: [(&str, &[Extension]); 8] = [
            ("hop-by-hop options", &[HOP_BY_HOP]),
            ("destination options", &[DESTINATION]),
            ("both", &[HOP_BY_HOP, DESTINATION]),
            ("a routing header at its end", &[ROUTED]),
            ("an atomic fragment", &[ATOMIC]),
            ("an atomic fragment with options", &[HOP_BY_HOP, ATOMIC, DESTINATION]),
            ("all in the recommended order", &[HOP_BY_HOP, DESTINATION, ROUTED, ATOMIC, DESTINATION]),
            ("six", &[HOP_BY_HOP, DESTINATION, DESTINATION, DESTINATION, DESTINATION, DESTINATION]),
        ];
        for (number, (what, chain)) in chains.iter().enumerate() {
            for round in ["first", "second"] {
                let payload = format!("{what}, {round}").into_bytes();
                net.router.send_frames(PORT, &[datagram(net, address::VIP, chain, source_port + number as u16, &payload)?])?;
                capture.wait_frame(&format!("{what}, the {round} packet"), PATIENCE, |frame| frame.bytes.ends_with(&payload))?;
            }
        }
        Ok(())
    })
}

#[test]
fn known_headers_are_walked_over() -> Result<()> {
    known_headers("extensions_known", RingwayOptions::default())
}

#[test]
fn known_headers_are_walked_over_with_direct_delivery() -> Result<()> {
    known_headers("extensions_direct", RingwayOptions::direct())
}

#[test]
fn unknown_headers_reach_no_backend() -> Result<()> {
    to_each_backend("extensions_unknown", RingwayOptions::default(), |net, capture, source_port| {
        let chains: [(&str, &[Extension]); 8] = [
            ("a segment left", &[TO_BE_ROUTED]),
            ("authentication", &[AUTHENTICATION]),
            ("encryption", &[ENCRYPTION]),
            ("mobility", &[MOBILITY]),
            ("no next header", &[NOTHING]),
            ("unknown", &[UNKNOWN]),
            ("unknown behind known ones", &[HOP_BY_HOP, DESTINATION, UNKNOWN]),
            ("seven", &[HOP_BY_HOP, DESTINATION, DESTINATION, DESTINATION, DESTINATION, DESTINATION, DESTINATION]),
        ];
        let mut sent: Vec<Vec<u8>> =
            chains.iter().map(|(what, chain)| datagram(net, address::VIP, chain, source_port, what.as_bytes())).collect::<Result<_>>()?;
        // A checksum of zero means none in IPv4; IPv6 has to have one (RFC 8200 section 8.1).
        let mut without_checksum = datagram(net, address::VIP, &[], source_port, b"no checksum")?;
        without_checksum[60..62].fill(0);
        sent.push(without_checksum);
        // Cut within the chain.
        let whole = datagram(net, address::VIP, &[HOP_BY_HOP, DESTINATION], source_port, b"cut")?;
        sent.extend((frames::ETHERNET + 40..whole.len()).map(|len| whole[..len].to_vec()));
        net.router.send_frames(PORT, &sent)?;
        let last = datagram(net, address::VIP, &[], source_port, b"the end")?;
        net.router.send_frames(PORT, &[last])?;
        capture.wait_frame("a good datagram behind them", PATIENCE, |frame| frame.bytes.ends_with(b"the end"))?;
        let captured = capture.frames()?;
        for (what, _) in chains.iter().chain([&("no checksum", &[][..]), &("cut", &[])]) {
            ensure!(!captured.iter().any(|frame| frame.bytes.ends_with(what.as_bytes())), "{what}: came to the backend");
        }
        Ok(())
    })
}

/// The kernel says so of its own addresses (RFC 4443 section 3.4), also where they are our SNAT addresses.
#[test]
fn unknown_headers_to_the_node_are_the_kernels() -> Result<()> {
    serving("extensions_node", Topology::new().family(Family::V6), RingwayOptions::default(), &["b1"], |net, _| {
        net.client.curl(VIP_URL)?;
        let capture = Capture::start(&net.router, PORT, "icmp6", net.lab.artifact_dir())?;
        net.router.send_frames(PORT, &[datagram(net, address::NODE1, &[UNKNOWN], 6_500, b"whose?")?])?;
        capture.wait_frame("parameter problem, unrecognized next header", PATIENCE, |frame| {
            frame.bytes[54..].starts_with(&[4, 1]) && frame.bytes.ends_with(b"whose?")
        })?;
        Ok(())
    })
}
