//! Many services, many connections, tuples that collide.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Ringway, RingwayOptions, Service, Topology, address};

use crate::{VIP_80, lab, serving, web};

#[test]
fn thousand_services() -> Result<()> {
    lab("scale_services", |lab| {
        let net = Topology::new().build(lab)?;
        let service = |number: u16| -> Result<Service> {
            let cluster_ip = format!("10.97.{}.{}", number / 250, number % 250 + 1);
            let service = Service::new(&format!("s{number}")).cluster_ip(&cluster_ip).load_balancer_ip(address::VIP);
            Ok(service.tcp(10_000 + number, 8080).pods([net.pod(if number.is_multiple_of(2) { "a1" } else { "b1" })?]))
        };
        let mut services: Vec<Service> = (0..1000).map(service).collect::<Result<_>>()?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &services)?;
        let a2 = &net.pod("a2")?.namespace;
        for number in (0..1000_u16).step_by(77).chain([999]) {
            let expected = if number.is_multiple_of(2) { "a1 " } else { "b1 " };
            let (port, cluster_ip) = (10_000 + number, format!("10.97.{}.{}", number / 250, number % 250 + 1));
            for (client, address) in [(&net.client, address::VIP), (a2, address::VIP), (a2, &cluster_ip)] {
                let answer = client.line(&format!("{address}:{port}"), 0)?;
                ensure!(answer.starts_with(expected), "service {number} at {address}: {answer}");
            }
        }
        // One more acts as fast as the first.
        services.push(service(1000)?);
        let took = net.client.until("answer", "10.0.0.100:11000", Duration::from_secs(5), || ringway.publish(&services))?;
        ensure!(took < 1000.0, "the 1 001st service took {took} ms");
        Ok(())
    })
}

#[test]
fn five_thousand_connections() -> Result<()> {
    let topology = Topology::new();
    let name = "scale_connections";
    lab(name, |lab| {
        let net = topology.build(lab)?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["a1", "a2", "b1", "b2"])?])?;
        let mut held = net.client.hold(VIP_80, 5000)?;
        let report = held.exchange(Duration::from_secs(2))?;
        ensure!(report.errors == 0 && report.exchanges == 5000, "{report:?}");
        ensure!(report.servers.values().all(|count| *count > 1000), "{report:?}");
        let flows = ringway.ask("flows")?["flows"].as_array().map_or(0, Vec::len);
        ensure!(flows >= 5000, "flows shows {flows} flows");
        Ok(())
    })
}

/// Two services, one targetPort of one pod, one source port of the client: the replies must be told apart.
fn overlapping(name: &str, pod: &str, options: RingwayOptions) -> Result<()> {
    serving(name, Topology::new(), options, &[], |net, ringway| {
        let first = Service::new("first").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP).tcp(80, 8080).udp(80, 8080);
        let second = Service::new("second").cluster_ip(address::CLUSTER_IP2).load_balancer_ip(address::VIP).tcp(81, 8080).udp(81, 8080);
        let pods = [net.pod(pod)?];
        ringway.publish(&[first.pods(pods), second.pods(pods)])?;
        net.client.until("answer", "10.0.0.100:81", Duration::from_secs(2), || Ok(()))?;
        let a2 = &net.pod("a2")?.namespace;
        for (who, client, source_port) in [("client", &net.client, 4444), ("a2", a2, 4445), ("node", &net.node1, 4446)] {
            for port in [80, 81, 80, 81] {
                let target = format!("10.0.0.100:{port}");
                let answer = client.udp(&target, source_port)?;
                ensure!(answer.starts_with(pod), "{who} UDP {target}: {answer}");
            }
            for port in [80, 81] {
                let answer = client.line(&format!("10.0.0.100:{port}"), source_port)?;
                ensure!(answer.starts_with(pod), "{who} TCP port {port}: {answer}");
            }
        }
        Ok(())
    })
}

#[test]
fn overlapping_target_ports_of_a_pod_here() -> Result<()> {
    overlapping("scale_overlap_local", "a1", RingwayOptions::default())
}

#[test]
fn overlapping_target_ports_of_a_pod_here_delivered_directly() -> Result<()> {
    overlapping("scale_overlap_direct", "a1", RingwayOptions::direct())
}

#[test]
fn overlapping_target_ports_of_a_pod_elsewhere() -> Result<()> {
    overlapping("scale_overlap_remote", "b1", RingwayOptions::default())
}

/// A client that takes the same source port for its next connection: the old flow has seen its end, the SYN makes a new one.
#[test]
fn source_port_is_used_again_at_once() -> Result<()> {
    serving("scale_port_reuse", Topology::new(), RingwayOptions::default(), &["a1", "b1"], |net, _| {
        let a2 = &net.pod("a2")?.namespace;
        for (who, client, port) in [("client", &net.client, 5000), ("a2", a2, 5001), ("node", &net.node1, 5002)] {
            for round in 0..8 {
                let answer = client.line(VIP_80, port).with_context(|| format!("{who} round {round}"))?;
                ensure!(answer.starts_with("a1") || answer.starts_with("b1"), "{who} round {round}: {answer}");
            }
        }
        Ok(())
    })
}
