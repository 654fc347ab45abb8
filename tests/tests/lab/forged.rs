//! Segments that somebody makes up who knows the addresses and ports of a connection, but not where it stands; and what a real one may carry.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{Ethernet2Header, PacketBuilderStep};
use ringway_tests::lab::{Capture, Family, Frame, Net, Ringway, RingwayOptions, Topology, address, wait_for};
use serde_json::Value;

use crate::{VIP_80, frames, serving};

/// Of the router's port to node1: what node1 receives and sends.
pub const PORT: &str = "node1-eth0";
const PATIENCE: Duration = Duration::from_secs(2);

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// The only flow.
fn flow(ringway: &Ringway) -> Result<Value> {
    let flows = ringway.ask("flows")?;
    let flow = flows["flows"].as_array().and_then(|flows| flows.first()).with_context(|| format!("{flows}"))?;
    Ok(flow.clone())
}

/// Port at the end of `ADDRESS:PORT`.
pub fn port_of(end: &Value) -> Result<u16> {
    let end = end.as_str().context("no address and port")?;
    let (_, port) = end.rsplit_once(':').context("no port")?;
    Ok(port.parse()?)
}

/// From a port of an address to that of another.
pub type Ends<'a> = ((&'a str, u16), (&'a str, u16));

/// Behind the Ethernet header that is given.
pub fn segment(
    ethernet: PacketBuilderStep<Ethernet2Header>,
    family: Family,
    ends: Ends<'_>,
    flags: u8,
    (sequence, acknowledged): (u32, u32),
) -> Result<Vec<u8>> {
    let ((source, source_port), (destination, destination_port)) = ends;
    let ip = ethernet.ip(frames::ip(family, source, destination, 64)?);
    let mut tcp = ip.tcp(source_port, destination_port, sequence, 1024);
    tcp = if flags & FIN != 0 { tcp.fin() } else { tcp };
    tcp = if flags & SYN != 0 { tcp.syn() } else { tcp };
    tcp = if flags & RST != 0 { tcp.rst() } else { tcp };
    tcp = if flags & ACK != 0 { tcp.ack(acknowledged) } else { tcp };
    let mut frame = Vec::new();
    tcp.write(&mut frame, b"")?;
    Ok(frame)
}

/// Sequence and acknowledgment numbers of the client's last segment from this port.
pub fn client_stands_at(net: &Net, capture: &Capture, port: u16) -> Result<(u32, u32)> {
    let l4 = frames::ETHERNET + frames::ip_bytes(net.family());
    let [high, low] = port.to_be_bytes();
    let is_clients = |frame: &&Frame| frame.bytes.get(l4..l4 + 4) == Some(&[high, low, 0, 80]);
    let captured = capture.frames()?;
    let last = captured.iter().rev().find(is_clients).context("no segment of the client")?;
    let word = |at: usize| last.bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    Ok((word(l4 + 4), word(l4 + 8)))
}

fn connections_survive(family: Family, name: &str, options: RingwayOptions, pod: &str) -> Result<()> {
    let options = options.with(&["--timeout-tcp-closed", "1"]);
    serving(name, Topology::new().family(family), options, &[pod], |net, ringway| {
        let capture = Capture::start(&net.router, PORT, "tcp", net.lab.artifact_dir())?;
        let mut held = net.client.hold(VIP_80, 1)?;
        let made = flow(ringway)?;
        let client = port_of(&made["client"])?;
        let (sequence, acknowledged) = client_stands_at(net, &capture, client)?;
        let outside = ((address::CLIENT, client), (address::VIP, 80));
        let inside = match made["nat_binding"].is_null() {
            true => None,
            false => Some((("10.244.2.2", 8080), (address::NODE1, port_of(&made["nat_binding"])?))),
        };
        // A younger flow that begins anew keeps its backend and its source.
        sleep(Duration::from_millis(2_200));
        let mut forged = Vec::new();
        for flags in [RST, RST | ACK, FIN | ACK, FIN, SYN] {
            // From a quarter of the numbers away to three quarters.
            for away in (0x4000_0000..=0xc000_0000).step_by(0x0fff_ffff) {
                let (sequence, acknowledged) = (sequence.wrapping_add(away), acknowledged.wrapping_add(away));
                forged.push(segment(frames::to_node1(net)?, family, outside, flags, (sequence, acknowledged))?);
                if let Some(inside) = inside {
                    forged.push(segment(frames::to_node1(net)?, family, inside, flags, (acknowledged, sequence))?);
                }
            }
        }
        net.router.send_frames(PORT, &forged)?;
        sleep(Duration::from_millis(2_500));
        // A worker may see a SYN before what another one still has of the other side, some of which answers it: then its client is asked.
        let now = wait_for("the flow as it was", Duration::from_secs(15), || {
            let now = flow(ringway)?;
            let is_same = (&now["client"], &now["nat_binding"]) == (&made["client"], &made["nat_binding"]);
            ensure!(is_same && now["state"] == "established", "{now}");
            Ok(now)
        })?;
        ensure!(now["age_s"].as_f64() > Some(4.5), "another flow: {now}");
        let report = held.exchange(PATIENCE)?;
        ensure!(report.errors == 0, "{report:?}");
        // Its own end counts.
        drop(held);
        wait_for("the end of the flow", PATIENCE, || {
            let flows = ringway.ask("flows")?;
            let flows = flows["flows"].as_array().context("no flows")?;
            ensure!(flows.iter().all(|flow| flow["state"] == "closed"), "{flows:?}");
            Ok(())
        })
    })
}

for_both!(a_connection_to_a_pod_elsewhere_survives_forged_segments, |family| {
    connections_survive(family, "forged_remote", RingwayOptions::default(), "b1")
});

for_both!(a_connection_to_a_pod_here_survives_forged_segments, |family| {
    connections_survive(family, "forged_edge", RingwayOptions::default(), "a1")
});

for_both!(a_connection_to_a_pod_here_survives_forged_segments_with_direct_delivery, |family| {
    connections_survive(family, "forged_direct", RingwayOptions::direct(), "a1")
});

/// A TCP header from the sequence number on, without its checksum, and what follows: what nobody on the way may change.
fn untouched(net: &Net, frame: &[u8]) -> Option<(u8, Vec<u8>)> {
    let l4 = frames::ETHERNET + frames::ip_bytes(net.family());
    let ecn = match net.family() {
        Family::V4 => frame.get(15)? & 3,
        Family::V6 => frame.get(15)? >> 4 & 3,
    };
    Some((ecn, [frame.get(l4 + 4..l4 + 16)?, frame.get(l4 + 18..)?].concat()))
}

/// Header and payload of segments with what TCP has learned over the years.
fn elaborate(net: &Net, source_port: u16) -> Result<Vec<(&'static str, Vec<u8>)>> {
    use etherparse::TcpHeader;
    let header = |sequence: u32, options: &[u8]| -> Result<TcpHeader> {
        let mut header = TcpHeader::new(source_port, 80, sequence, 29_200);
        header.set_options_raw(options)?;
        Ok(header)
    };
    // MSS, SACK permitted, timestamps, window scaling (RFC 7323), a Fast Open cookie (RFC 7413).
    const SYN_OPTIONS: [u8; 32] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 14, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    // Two blocks of SACK (RFC 2018).
    const SACK: [u8; 20] = [1, 1, 5, 18, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0];
    let mut fast_open = header(5_000, &SYN_OPTIONS)?;
    (fast_open.syn, fast_open.ece, fast_open.cwr) = (true, true, true);
    let mut urgent = header(5_021, &[])?;
    (urgent.ack, urgent.psh, urgent.urg, urgent.urgent_pointer, urgent.acknowledgment_number) = (true, true, true, 3, 77);
    let mut sack = header(5_030, &SACK)?;
    (sack.ack, sack.ece, sack.acknowledgment_number) = (true, true, 77);
    // The byte before the next one (RFC 1122 section 4.2.3.6).
    let mut keep_alive = header(5_029, &[])?;
    (keep_alive.ack, keep_alive.acknowledgment_number) = (true, 77);
    let segments: [(&str, TcpHeader, &[u8]); 4] = [
        ("Fast Open with ECN", fast_open, b"data with the SYN"),
        ("urgent data", urgent, b"urgent"),
        ("SACK and ECE", sack, b"sack"),
        ("a keep-alive", keep_alive, b"k"),
    ];
    let frame = |(what, header, payload): (&'static str, TcpHeader, &[u8])| -> Result<_> {
        let mut ip = frames::ip(net.family(), address::CLIENT, address::VIP, 64)?;
        // "Congestion experienced" (RFC 3168).
        match &mut ip {
            etherparse::IpHeaders::Ipv4(ip, _) => ip.ecn = etherparse::IpEcn::CongestionExperienced,
            etherparse::IpHeaders::Ipv6(ip, _) => ip.traffic_class = 3,
        }
        let mut frame = Vec::new();
        frames::to_node1(net)?.ip(ip).tcp_header(header).write(&mut frame, payload)?;
        Ok((what, frame))
    };
    segments.into_iter().map(frame).collect()
}

fn all_passes(family: Family, name: &str, options: RingwayOptions, pod: &str) -> Result<()> {
    serving(name, Topology::new().family(family), options, &[pod], |net, _| {
        net.client.curl(crate::VIP_URL)?;
        let capture = Capture::start(&net.pod(pod)?.namespace, "eth0", "tcp dst port 8080 or ip6", net.lab.artifact_dir())?;
        for (what, frame) in elaborate(net, 7_000)? {
            net.router.send_frames(PORT, std::slice::from_ref(&frame))?;
            let sent = untouched(net, &frame);
            capture.wait_frame(what, PATIENCE, |frame| untouched(net, &frame.bytes) == sent)?;
        }
        Ok(())
    })
}

for_both!(what_tcp_has_learned_passes_to_pods_elsewhere, |family| {
    all_passes(family, "tcp_options_remote", RingwayOptions::default(), "b1")
});

for_both!(what_tcp_has_learned_passes_to_pods_here, |family| { all_passes(family, "tcp_options_edge", RingwayOptions::default(), "a1") });

for_both!(what_tcp_has_learned_passes_with_direct_delivery, |family| {
    all_passes(family, "tcp_options_direct", RingwayOptions::direct(), "a1")
});
