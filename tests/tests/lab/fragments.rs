//! Datagrams larger than the MTU: fragments there and back, for every kind of client and backend.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{IpFragOffset, IpHeaders, IpNumber, Ipv6FragmentHeader};
use ringway_tests::lab::{
    Capture, Family, Frame, Namespace, Net, PodLink, RingwayOptions, SERVER_PORT, Service, Topology, address, wait_for,
};

use crate::{CLUSTER_IP_80, VIP_80, frames, serving, web};

/// Two fragments, three, and nearly as many as a datagram can have: the answer is longer than the question.
const SIZES: [usize; 3] = [2_000, 4_000, 60_000];
const PATIENCE: Duration = Duration::from_secs(3);

/// The answer is the question behind the server's name and its client's address.
pub fn ensure_echoed(client: &Namespace, target: &str, bytes: usize, server: &str) -> Result<()> {
    let answer = client.udp_of_bytes(target, 0, bytes).with_context(|| format!("{} → {target}, {bytes} bytes", client.role()))?;
    let (words, echo) = answer.split_at(answer.len().saturating_sub(bytes));
    ensure!(words.starts_with(&format!("{server} ")) && echo.len() == bytes, "{}: {words} and {} bytes", client.role(), echo.len());
    ensure!(echo.as_bytes().chunks(4).all(|word| b"ping".starts_with(word)), "{}: spoiled on its way", client.role());
    Ok(())
}

fn large_datagrams(name: &str, topology: Topology, options: RingwayOptions) -> Result<()> {
    let topology = topology.node1_pods(&[PodLink::Routed, PodLink::Bridge, PodLink::Bridge]);
    serving(name, topology, options, &["a1"], |net, ringway| {
        // Also a backend in the node's own network namespace.
        net.lab.adopt(net.start_server(&net.node1, "host", SERVER_PORT)?);
        for server in ["a1", "a2", "b1", "host"] {
            let service = match server {
                "host" => Service::web(address::VIP, address::CLUSTER_IP, []).endpoint(address::NODE1, "node1"),
                pod => web(net, &[pod])?,
            };
            ringway.publish(&[service.spec("externalTrafficPolicy: Cluster").udp_node_port(81, SERVER_PORT, 30_081)])?;
            let outside = [VIP_80, "10.0.0.11:30081"];
            wait_for("the backend", PATIENCE, || outside.iter().try_for_each(|target| ensure_echoed(&net.client, target, 4, server)))?;
            let mut paths = vec![(&net.client, outside[0]), (&net.client, outside[1]), (&net.node1, CLUSTER_IP_80)];
            // The host's server, which listens on all addresses, would answer pods from the one that is nearest to them.
            for pod in ["a1", "a2", "a3"].iter().filter(|_| server != "host") {
                paths.extend([CLUSTER_IP_80, VIP_80].map(|target| (&net.pod(pod).expect("a pod").namespace, target)));
            }
            // Where pods have a smaller MTU, IPv6 divides a datagram only after the sender was told (RFC 8200 section 5).
            for (client, target) in paths.iter().filter(|_| net.family() == Family::V6) {
                let _ = client.udp_of_bytes(target, 0, SIZES[0]);
            }
            for bytes in SIZES {
                let failed: Vec<String> = paths
                    .iter()
                    .filter_map(|(client, target)| ensure_echoed(client, target, bytes, server).err())
                    .map(|error| format!("{error:#}"))
                    .collect();
                ensure!(failed.is_empty(), "backend {server}:\n{}", failed.join("\n"));
            }
        }
        // Those that have nothing to do with us.
        for (client, target) in [(&net.client, "10.0.0.11:8080"), (&net.pod("a2")?.namespace, "10.244.2.2:8080")] {
            ensure!(client.udp_of_bytes(target, 0, 60_000)?.len() > 60_000);
        }
        Ok(())
    })
}

for_both!(large_datagrams_pass, |family| { large_datagrams("fragments_edge", Topology::new().family(family), RingwayOptions::default()) });

for_both!(large_datagrams_pass_with_direct_delivery, |family| {
    large_datagrams("fragments_direct", Topology::new().family(family), RingwayOptions::direct())
});

for_both!(large_datagrams_pass_an_overlay, |family| {
    large_datagrams("fragments_overlay", Topology::new().family(family).overlay(), RingwayOptions::default())
});

for_both!(large_datagrams_pass_with_generic_xdp, |family| {
    large_datagrams("fragments_generic", Topology::new().family(family), RingwayOptions { mode: "generic", ..RingwayOptions::default() })
});

/// A datagram of the client in fragments of `bytes`, as the router sends them to node1.
fn fragments(net: &Net, source_port: u16, id: u16, bytes: usize) -> Result<Vec<Vec<u8>>> {
    let headers = frames::ip(net.family(), address::CLIENT, address::VIP, 64)?;
    let mut whole = Vec::new();
    frames::to_node1(net)?.ip(headers).udp(source_port, 80).write(&mut whole, &b"ping".repeat(1_000))?;
    let (ethernet, packet) = whole.split_at(frames::ETHERNET);
    let (mut headers, payload) = IpHeaders::from_slice(packet)?;
    let pieces = payload.payload.chunks(bytes).enumerate();
    pieces
        .map(|(number, piece)| {
            let offset = IpFragOffset::try_new(u16::try_from(number * bytes / 8)?)?;
            let has_more = (number + 1) * bytes < payload.payload.len();
            match &mut headers {
                IpHeaders::Ipv4(ip, _) => {
                    (ip.identification, ip.dont_fragment) = (id, false);
                    (ip.fragment_offset, ip.more_fragments) = (offset, has_more);
                }
                IpHeaders::Ipv6(ip, extensions) => {
                    ip.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
                    extensions.fragment = Some(Ipv6FragmentHeader::new(IpNumber::UDP, offset, has_more, id.into()));
                }
            }
            headers.set_payload_len(piece.len())?;
            if let IpHeaders::Ipv4(ip, _) = &mut headers {
                ip.header_checksum = ip.calc_header_checksum();
            }
            let mut frame = ethernet.to_vec();
            headers.write(&mut frame)?;
            frame.extend_from_slice(piece);
            Ok(frame)
        })
        .collect()
}

/// The first fragment of a datagram to this port.
fn is_first_to(family: Family, frame: &[u8], port: u16) -> bool {
    let port = port.to_be_bytes();
    match family {
        Family::V4 => frame[36..38] == port && frame[20] & 0x1f == 0 && frame[21] == 0,
        // Behind a fragment header (RFC 8200 section 4.5).
        Family::V6 => frame[20] == 44 && frame[64..66] == port && frame[56] == 0 && frame[57] & 0xf8 == 0,
    }
}

/// From the wire, in other orders than they were sent in, some twice, some not at all.
fn fragments_in_disorder(family: Family, name: &str, options: RingwayOptions) -> Result<()> {
    serving(name, Topology::new().family(family), options, &["b1"], |net, ringway| {
        let capture = Capture::start(&net.client, "eth0", "udp and src host 10.0.0.100", net.lab.artifact_dir())?;
        let mut port = 7_000;
        for server in ["b1", "a1"] {
            ringway.publish(&[web(net, &[server])?])?;
            wait_for("the backend", PATIENCE, || ensure_echoed(&net.client, VIP_80, 4, server))?;
            type Disorder = fn(&mut Vec<Vec<u8>>);
            let disorders: [(&str, Disorder, bool); 5] = [
                ("the last one first", |frames| frames.reverse(), true),
                ("the first two exchanged", |frames| frames.swap(0, 1), true),
                ("the first one last", |frames| frames.rotate_left(1), true),
                ("each twice", |frames| *frames = frames.iter().flat_map(|frame| [frame.clone(), frame.clone()]).collect(), true),
                ("one missing", |frames| _ = frames.remove(1), false),
            ];
            // The second time round the flow is there.
            for round in 0..2u16 {
                for (number, (what, disorder, complete)) in disorders.iter().enumerate() {
                    let source_port = port + number as u16;
                    let mut frames = fragments(net, source_port, 100 + round * 10 + number as u16, 256)?;
                    disorder(&mut frames);
                    let answers = || -> Result<usize> {
                        let is_answer = |frame: &Frame| is_first_to(family, &frame.bytes, source_port);
                        Ok(capture.frames()?.iter().filter(|frame| is_answer(frame)).count())
                    };
                    let before = answers()?;
                    net.router.send_frames("lan0", &frames)?;
                    let wait = if *complete { PATIENCE } else { Duration::from_millis(300) };
                    let came = wait_for("an answer", wait, || {
                        ensure!(answers()? > before, "none came");
                        Ok(())
                    });
                    ensure!(came.is_ok() == *complete, "{what}, backend {server}, round {round}: {came:?}");
                }
            }
            port += 100;
        }
        Ok(())
    })
}

for_both!(fragments_may_come_in_any_order, |family| { fragments_in_disorder(family, "fragments_disorder", RingwayOptions::default()) });

for_both!(fragments_may_come_in_any_order_with_direct_delivery, |family| {
    fragments_in_disorder(family, "fragments_disorder_direct", RingwayOptions::direct())
});
