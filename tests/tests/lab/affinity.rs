//! Session affinity with real clients: a client sticks to one pod, whichever address and worker it meets, until it falls silent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Family, Namespace, Net, PodLink, Ringway, RingwayOptions, Service, Topology, address, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, lab_of};

/// NodePort of port 80.
const NODE_PORT: &str = "10.0.0.11:30080";
const PATIENCE: Duration = Duration::from_secs(3);

fn sticky(net: &Net, timeout_s: u32) -> Result<Service> {
    let service = Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP);
    let service = service.tcp_node_port(80, 8080, 30080).udp_node_port(80, 8080, 30080).pods(&net.pods);
    Ok(if timeout_s == 0 {
        service
    } else {
        service.spec("sessionAffinity: ClientIP").spec(&format!("sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {timeout_s}}}}}"))
    })
}

/// The pod that answers this many requests, all of them, at all of these addresses.
fn one_server(client: &Namespace, protocol: &str, targets: &[&str]) -> Result<String> {
    let mut server: Option<String> = None;
    for target in targets {
        let load = client.requests(protocol, target, 3, 15)?;
        ensure!(load.errors == 0 && load.servers.len() == 1, "{} → {protocol} {target}: {load:?}", client.role());
        let name = load.servers.into_keys().next().context("no server")?;
        ensure!(server.as_ref().is_none_or(|server| *server == name), "{} → {protocol} {target}: {name}, not {server:?}", client.role());
        server = Some(name);
    }
    server.context("no target")
}

fn many_servers(client: &Namespace, target: &str) -> Result<()> {
    let load = client.requests("tcp", target, 1, 30)?;
    ensure!(load.errors == 0 && load.servers.len() > 1, "{} → {target}: {load:?}", client.role());
    Ok(())
}

fn run(family: Family, name: &str, options: RingwayOptions) -> Result<()> {
    lab_of(name, family, |lab| {
        let net = Topology::new().family(family).node1_pods(&[PodLink::Routed, PodLink::Bridge]).build(lab)?;
        net.router.ip("route add 10.96.0.0/16 via 10.0.0.11")?;
        let ringway = Ringway::start(&net, &options, &[sticky(&net, 10_800)?])?;
        let all = [VIP_80, CLUSTER_IP_80, NODE_PORT];
        let clients = [&net.client, &net.pod("a1")?.namespace, &net.pod("a2")?.namespace, &net.node1];
        let mut before = Vec::new();
        for client in clients {
            // The node's NodePort and the others are reached from different addresses of the node.
            let targets = if client.role() == "node1" { &all[..2] } else { &all[..] };
            before.push((client, targets, one_server(client, "tcp", targets)?));
            one_server(client, "udp", targets)?;
        }
        let affinity = &ringway.status()?["limits"]["affinity"];
        ensure!(affinity["count"].as_u64() >= Some(8) && affinity["max"].as_u64() > Some(1000), "{affinity}");

        // The table outlives the process.
        ringway.kill();
        ringway.start_again()?;
        for (client, targets, server) in &before {
            let after = one_server(client, "tcp", targets)?;
            ensure!(after == *server, "{}: {server} before the restart, {after} after it", client.role());
        }

        ringway.publish(&[sticky(&net, 0)?])?;
        wait_for("affinity switched off", PATIENCE, || clients.iter().try_for_each(|client| many_servers(client, VIP_80)))?;
        ringway.publish(&[sticky(&net, 10_800)?])?;
        wait_for("affinity switched on", PATIENCE, || clients.iter().try_for_each(|client| one_server(client, "tcp", &[VIP_80]).map(drop)))
    })
}

for_both!(a_client_sticks_to_one_pod, |family| { run(family, "affinity", RingwayOptions::default()) });

for_both!(a_client_sticks_to_one_pod_with_direct_delivery, |family| { run(family, "affinity_direct", RingwayOptions::direct()) });

for_both!(a_pod_that_goes_is_replaced_and_silence_ends_it, |family| {
    lab_of("affinity_ends", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[sticky(&net, 1)?])?;
        let mut servers = std::collections::BTreeSet::new();
        wait_for("another pod after the time-out", Duration::from_secs(20), || {
            servers.insert(one_server(&net.client, "tcp", &[VIP_80])?);
            std::thread::sleep(Duration::from_millis(1100));
            ensure!(servers.len() > 1, "after a second of silence it is always {servers:?}");
            Ok(())
        })?;
        ringway.publish(&[sticky(&net, 10_800)?])?;
        let first = one_server(&net.client, "tcp", &[VIP_80])?;
        let rest: Vec<_> = net.pods.iter().filter(|pod| pod.name != first).collect();
        let without = Service::web(address::VIP, address::CLUSTER_IP, rest).spec("sessionAffinity: ClientIP");
        ringway.publish(&[without])?;
        wait_for("another pod", PATIENCE, || {
            let next = one_server(&net.client, "tcp", &[VIP_80])?;
            ensure!(next != first, "still {first}");
            Ok(())
        })
    })
});
