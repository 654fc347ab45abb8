//! Ranges of ClusterIPs: an address within them that no Service has goes nowhere (contract §2).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Capture, Family, Net, Ringway, RingwayOptions, Service, Topology, address, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, ensure_silence, lab_of};

/// For the node's own sockets that use the load balancer's address.
fn vip_alias(family: Family) -> &'static str {
    match family {
        Family::V4 => "169.254.82.4",
        Family::V6 => "fd52:696e:6777:6179::4",
    }
}

const PATIENCE: Duration = Duration::from_secs(3);

fn cidr(name: &str, cidr: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: {name}}}\nspec: {{cidrs: [{cidr}]}}\n")
}

fn routes(net: &Net) -> Result<Vec<String>> {
    let text = net.node1.ip("route show proto 82")?;
    let mut routes: Vec<String> = text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    routes.sort();
    Ok(routes)
}

fn wait_for_routes(net: &Net, expected: &[&str]) -> Result<()> {
    wait_for("routes", PATIENCE, || {
        let routes = routes(net)?;
        ensure!(routes == expected, "{routes:?}, not {expected:?}");
        Ok(())
    })
}

/// Packets that a BPF program counted under this name.
pub fn counter(ringway: &Ringway, name: &str) -> Result<u64> {
    let stats = ringway.ask("stats")?;
    let programs = stats["programs"].as_array().context("stats has no programs")?;
    let counter = programs.iter().find(|counter| counter["name"] == name).with_context(|| format!("no counter {name}"))?;
    counter["packets"].as_u64().context("no number")
}

for_both!(what_no_service_has_goes_nowhere, |family| {
    lab_of("cidr_unallocated", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        net.router.ip_batch("route add 10.96.0.0/16 via 10.0.0.11\nroute add 10.97.0.0/16 via 10.0.0.11\n")?;
        let options = RingwayOptions::default().with(&["--service-cidr", "10.97.0.0/24"]);
        let web = Service::web(address::VIP, address::CLUSTER_IP, [net.pod("b1")?]);
        let ringway = Ringway::start(&net, &options, &[web])?;
        wait_for_routes(&net, &["10.96.0.10", "10.97.0.0/24", vip_alias(family)])?;
        // A range of the other family beside it.
        let other = if family == Family::V4 { ", \"fd11::/108\"" } else { "" };
        ringway.write_manifest("cidr.yaml", &cidr("kubernetes", &format!("10.96.0.0/16{other}")))?;
        wait_for_routes(&net, &["10.96.0.0/16", "10.97.0.0/24", vip_alias(family)])?;

        // Nothing may leave the node towards such an address: by the default route it would come back from the router, again and again.
        let mac = net.node1.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":");
        let filter = format!("ether src {mac} and (dst net 10.96.0.0/16 or dst net 10.97.0.0/16)");
        let mut capture = Capture::start(&net.router, "node1-eth0", &filter, lab.state_dir())?;
        ensure_silence(&net.pod("a1")?.namespace, "tcp", "10.96.5.5:80")?;
        ensure_silence(&net.client, "udp", "10.97.0.5:80")?;
        ensure_silence(&net.node1, "tcp", "10.97.0.5:80")?;
        capture.stop();
        let left = capture.frames()?;
        ensure!(left.is_empty(), "{} packets left the node: {:02x?}", left.len(), left.first());
        ensure!(counter(&ringway, "node_out_drop_forwarded")? > 1 && counter(&ringway, "node_out_drop_miss")? > 0, "not counted");

        for client in [&net.client, &net.pod("a1")?.namespace, &net.node1] {
            let load = client.requests("tcp", if client.role() == "client" { VIP_80 } else { CLUSTER_IP_80 }, 1, 5)?;
            ensure!(load.errors == 0, "{} is not served: {load:?}", client.role());
        }
        ringway.remove_manifest("cidr.yaml")?;
        wait_for_routes(&net, &["10.96.0.10", "10.97.0.0/24", vip_alias(family)])
    })
});

// Connections of the node go on while a range takes its address over and gives it back.
for_both!(ranges_come_and_go_under_a_connection_and_leave_others_routes_alone, |family| {
    lab_of("cidr_live", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        net.node1.ip("route add 10.98.0.0/16 via 10.0.0.1 proto static")?;
        let web = Service::web(address::VIP, address::CLUSTER_IP, [net.pod("b1")?]);
        let other = Service::new("other").cluster_ip("10.98.0.10").tcp(80, 8080).pods([net.pod("b1")?]);
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web, other])?;
        let mut held = net.node1.hold(CLUSTER_IP_80, 2)?;
        held.run_every(Duration::from_millis(1))?;
        for _ in 0..3 {
            ringway.write_manifest("cidr.yaml", &cidr("kubernetes", "10.96.0.0/16"))?;
            wait_for_routes(&net, &["10.96.0.0/16", "10.98.0.10", vip_alias(family)])?;
            ringway.remove_manifest("cidr.yaml")?;
            wait_for_routes(&net, &["10.96.0.10", "10.98.0.10", vip_alias(family)])?;
        }
        let report = held.stop()?;
        ensure!(report.errors == 0 && report.longest_gap_ms < 150.0, "{report:?}");

        ringway.write_manifest("cidr.yaml", &cidr("taken", "10.98.0.0/16"))?;
        wait_for("the conflict", PATIENCE, || {
            let problems = ringway.status()?["problems"].to_string();
            ensure!(problems.contains("10.98.0.0/16"), "{problems}");
            Ok(())
        })?;
        wait_for_routes(&net, &["10.96.0.10", "10.98.0.10", vip_alias(family)])?;
        ensure!(net.node1.ip("route show 10.98.0.0/16")?.contains("proto static"), "the route of others is gone");
        ensure!(net.node1.requests("tcp", "10.98.0.10:80", 1, 5)?.errors == 0);
        Ok(())
    })
});
