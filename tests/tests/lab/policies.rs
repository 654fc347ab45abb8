//! Which endpoints clients reach: policies with their last resort, endpoints that are not ready, source ranges (contract §2).

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{Family, Namespace, Net, PodLink, Ringway, RingwayOptions, Service, Topology, address, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, ensure_refused, ensure_silence, lab_of};

const NODE_PORT: &str = "10.0.0.11:30080";
const PATIENCE: Duration = Duration::from_secs(3);
const TERMINATING: &str = "ready: false, serving: true, terminating: true";

fn web() -> Service {
    Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP).tcp_node_port(80, 8080, 30080)
}

/// These servers answer, all of them and no other; asked until a change has acted.
fn answered_by(client: &Namespace, target: &str, servers: &[&str]) -> Result<()> {
    wait_for("the endpoints", PATIENCE, || {
        let load = client.requests("tcp", target, 1, 30)?;
        let names: Vec<&str> = load.servers.keys().map(String::as_str).collect();
        ensure!(load.errors == 0 && names == servers, "{} → {target}: {load:?}, not {servers:?}", client.role());
        Ok(())
    })
}

/// Clients outside by every kind of address, and a pod and the node by the ClusterIP.
fn reached(net: &Net, outside: &[&str], inside: &[&str]) -> Result<()> {
    for target in [VIP_80, NODE_PORT] {
        answered_by(&net.client, target, outside)?;
    }
    for client in [&net.pod("a2")?.namespace, &net.node1] {
        answered_by(client, CLUSTER_IP_80, inside)?;
    }
    Ok(())
}

fn fall_back(family: Family, name: &str, options: RingwayOptions) -> Result<()> {
    lab_of(name, family, |lab| {
        let net = Topology::new().family(family).node1_pods(&[PodLink::Routed, PodLink::Bridge]).build(lab)?;
        let (a1, b1) = (net.pod("a1")?, net.pod("b1")?);
        let ringway = Ringway::start(&net, &options, &[web()])?;
        for (external, internal) in [("Cluster", "Cluster"), ("Local", "Cluster"), ("Cluster", "Local"), ("Local", "Local")] {
            let policies = || web().spec(&format!("externalTrafficPolicy: {external}")).spec(&format!("internalTrafficPolicy: {internal}"));
            let chosen =
                |policy: &str, local: &'static [&'static str], all: &'static [&'static str]| if policy == "Local" { local } else { all };
            // The local one drains and is the last resort of Local; Cluster has a better one.
            ringway.publish(&[policies().pods_that_are(TERMINATING, [a1]).pods([b1])])?;
            reached(&net, chosen(external, &["a1"], &["b1"]), chosen(internal, &["a1"], &["b1"]))?;
            // All drain.
            ringway.publish(&[policies().pods_that_are(TERMINATING, [a1, b1])])?;
            reached(&net, chosen(external, &["a1"], &["a1", "b1"]), chosen(internal, &["a1"], &["a1", "b1"]))?;
        }
        // Neither ready nor serving.
        ringway.publish(&[web().pods_that_are("ready: false, serving: false, terminating: true", [a1, b1])])?;
        net.client.until("refuse", VIP_80, PATIENCE, || Ok(()))?;
        ensure_refused(&net.client, "tcp", VIP_80)?;
        ensure_refused(&net.pod("a2")?.namespace, "tcp", CLUSTER_IP_80)?;
        // publishNotReadyAddresses: the slice then says ready, whatever the pod says.
        ringway.publish(&[web().spec("publishNotReadyAddresses: true").pods_that_are("ready: true, serving: false", [a1])])?;
        reached(&net, &["a1"], &["a1"])
    })
}

for_both!(terminating_endpoints_are_the_last_resort_of_every_policy, |family| {
    fall_back(family, "policies_fallback", RingwayOptions::default())
});

for_both!(terminating_endpoints_are_the_last_resort_with_direct_delivery, |family| {
    fall_back(family, "policies_direct", RingwayOptions::direct())
});

for_both!(source_ranges_hold_for_everybody_on_the_load_balancers_address_only, |family| {
    lab_of("policies_ranges", family, |lab| {
        let net = Topology::new().family(family).node1_pods(&[PodLink::Routed, PodLink::Bridge]).build(lab)?;
        let ranges = |list: &str| Ok::<_, anyhow::Error>(web().pods([net.pod("b1")?]).spec(&format!("loadBalancerSourceRanges: [{list}]")));
        let (a1, a2) = (&net.pod("a1")?.namespace, &net.pod("a2")?.namespace);
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[ranges("")?])?;
        let mut held = net.client.hold(VIP_80, 2)?;
        // A pod alone.
        ringway.publish(&[ranges(&format!("{}/32", net.pod("a1")?.address))?])?;
        net.client.until("refuse", VIP_80, PATIENCE, || Ok(()))?;
        answered_by(a1, VIP_80, &["b1"])?;
        for client in [&net.client, a2, &net.node1] {
            ensure_silence(client, "tcp", VIP_80)?;
        }
        for (client, target) in [(&net.client, NODE_PORT), (a2, CLUSTER_IP_80), (&net.node1, CLUSTER_IP_80)] {
            answered_by(client, target, &["b1"])?;
        }
        let report = held.exchange(Duration::from_secs(2))?;
        ensure!(report.errors == 0, "what was established before goes on: {report:?}");
        // Everybody, nobody, and no list any more.
        ringway.publish(&[ranges("192.0.2.0/24, 0.0.0.0/0")?])?;
        answered_by(&net.client, VIP_80, &["b1"])?;
        ringway.publish(&[ranges("203.0.113.7/32")?])?;
        net.client.until("refuse", VIP_80, PATIENCE, || Ok(()))?;
        ensure_silence(a1, "tcp", VIP_80)?;
        ringway.publish(&[ranges("")?])?;
        for client in [&net.client, a1, a2, &net.node1] {
            answered_by(client, VIP_80, &["b1"])?;
        }
        Ok(())
    })
});
