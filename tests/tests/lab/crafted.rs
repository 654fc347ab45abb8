//! Packets that no careful host sends, made by scapy (`crafted.py`): what arrives at a backend, and what ends with us.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use ringway_tests::lab::{Capture, Net, Ringway, RingwayOptions, Topology, address, wait_for};

use crate::service_cidrs::counter;
use crate::{VIP_80, VIP_URL, ensure_served, serving, web};

const PATIENCE: Duration = Duration::from_secs(3);
/// Longer than a fragment waits for its first one.
const LATE: Duration = Duration::from_millis(100);

/// Debian's own, which has the module.
const PYTHON: &str = "/usr/bin/python3";

/// One frame.
struct Case {
    name: String,
    arrives: bool,
    mark: Vec<u8>,
    frame: Vec<u8>,
}

fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}

fn octets(hex: &str) -> Result<Vec<u8>> {
    let digit = |at: usize| hex.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    (0..hex.len()).step_by(2).map(|at| digit(at).with_context(|| format!("{hex} is no frame"))).collect()
}

fn cases(net: &Net, first_port: u16) -> Result<Vec<Case>> {
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    let (source, destination) = (mac(net.router.mac("lan0")?), mac(net.node1.mac("eth0")?));
    let port = first_port.to_string();
    let words = [PYTHON, "-c", include_str!("crafted.py"), &source, &destination, address::CLIENT, address::VIP, &port];
    let text = net.router.exec(&words).context("scapy is needed: scripts/prepare.sh installs python3-scapy")?;
    let case = |line: &str| {
        let [name, fate, mark, frame] =
            line.split(' ').collect::<Vec<_>>().try_into().ok().with_context(|| format!("scapy said {line}"))?;
        Ok(Case { name: name.into(), arrives: fate == "arrives", mark: octets(mark)?, frame: octets(frame)? })
    };
    text.lines().map(case).collect()
}

/// Whether the checksum of a segment or datagram is right.
fn is_sound(frame: &[u8]) -> Result<bool> {
    let packet = SlicedPacket::from_ethernet(frame)?;
    let sums = match (packet.net.as_ref().context("no IP")?, packet.transport.as_ref().context("no segment")?) {
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            (udp.checksum(), udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload())?)
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            (udp.checksum(), udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload())?)
        }
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            (tcp.checksum(), tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())?)
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            (tcp.checksum(), tcp.to_header().calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())?)
        }
        other => anyhow::bail!("{other:?}"),
    };
    Ok(sums.0 == sums.1)
}

/// To a backend on another node, by the worker, and to one here, by `edge`.
fn to_backend(net: &Net, pod: &str, first_port: u16) -> Result<()> {
    let dir = net.lab.artifact_dir();
    let arrived = Capture::start(&net.pod(pod)?.namespace, "eth0", "", dir)?;
    let answered = Capture::start(&net.client, "eth0", "src host 10.0.0.100", dir)?;
    let cases = cases(net, first_port)?;
    let find = |capture: &Capture, mark: &[u8]| -> Result<Option<Vec<u8>>> {
        Ok(capture.frames()?.into_iter().find(|frame| contains(&frame.bytes, mark)).map(|frame| frame.bytes))
    };
    let await_all = |capture: &Capture, cases: Vec<&Case>| {
        cases.into_iter().try_for_each(|case| {
            let what = format!("{pod}: {}", case.name);
            wait_for(&what, PATIENCE, || find(capture, &case.mark)?.context("not seen")).map(drop)
        })
    };
    // The flow of the first is what errors are about.
    let (first, rest) = cases.split_first().context("no cases")?;
    net.router.send_frames("lan0", std::slice::from_ref(&first.frame))?;
    await_all(&arrived, vec![first])?;
    net.router.send_frames("lan0", &rest.iter().map(|case| case.frame.clone()).collect::<Vec<_>>())?;

    // The first pieces of small fragments have no room for a mark.
    let marked = || cases.iter().filter(|case| contains(&case.frame, &case.mark));
    await_all(&arrived, marked().filter(|case| case.arrives).collect())?;
    let named = |names: &'static [&str]| marked().filter(|case| names.contains(&case.name.as_str()));
    await_all(&answered, named(&["plain", "router-alert", "options", "tiny-udp"]).collect())?;
    std::thread::sleep(LATE);
    for case in marked().filter(|case| !case.arrives) {
        ensure!(find(&arrived, &case.mark)?.is_none(), "{pod}: {} arrived", case.name);
    }
    for case in named(&["udp-checksum", "overlap-payload"]) {
        ensure!(find(&answered, &case.mark)?.is_none(), "{pod}: {} was answered", case.name);
    }
    for case in named(&["plain", "udp-checksum", "tcp-checksum"]) {
        let frame = find(&arrived, &case.mark)?.context("was seen")?;
        ensure!(is_sound(&frame)? == (case.name == "plain"), "{pod}: {}: {frame:02x?}", case.name);
    }
    Ok(())
}

/// Fragments that lay on others, as the workers and as `edge` counted them.
fn overlaps(ringway: &Ringway) -> Result<(u64, u64)> {
    let stats = ringway.ask("stats")?;
    let by_workers = stats["drops"].as_array().and_then(|drops| drops.iter().find(|drop| drop["reason"] == "fragment_overlap"));
    let by_workers = by_workers.and_then(|drop| drop["packets"].as_u64()).context("no such reason")?;
    Ok((by_workers, counter(ringway, "edge_drop_overlap")?))
}

for_both!(crafted_packets_arrive_or_end, |family| {
    serving("crafted", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, ringway| {
        for (pod, first_port, seen_as) in [("b1", 20_000, address::NODE1), ("a1", 21_000, address::CLIENT)] {
            ringway.publish(&[web(net, &[pod])?])?;
            wait_for("the backend", PATIENCE, || {
                ensure!(net.client.curl(VIP_URL)?.starts_with(pod), "not yet");
                Ok(())
            })?;
            let before = overlaps(ringway)?;
            to_backend(net, pod, first_port)?;
            // Of each flow one that is dropped alone and seven that end a datagram or follow. To a pod here `edge` executes them, once it knows the flow.
            wait_for("all to be counted", PATIENCE, || {
                let count = overlaps(ringway)?;
                let (by_workers, by_edge) = (count.0 - before.0, count.1 - before.1);
                let is_by_whom = if pod == "a1" { by_edge >= 8 } else { by_edge == 0 };
                ensure!(by_workers + by_edge == 16 && is_by_whom, "{pod}: {by_workers} and {by_edge}");
                Ok(())
            })?;
            ensure_served(&net.client.requests("tcp", VIP_80, 2, 20)?, &[pod], seen_as)?;
        }
        Ok(())
    })
});
