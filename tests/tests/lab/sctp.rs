//! SCTP services, from raw sockets: no kernel of the lab has the module, nor may it need one.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{Namespace, PodLink, RingwayOptions, SERVER_PORT, Service, Topology, address, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, ensure_served, serving};

const PATIENCE: Duration = Duration::from_secs(3);

/// What the server sees of a client.
fn seen_as(client: &Namespace, target: &str) -> Result<String> {
    let load = client.requests("sctp", target, 1, 1)?;
    ensure!(load.errors == 0, "{}: {load:?}", client.role());
    Ok(load.seen_as.into_keys().next().unwrap_or_default())
}

fn associations(name: &str, topology: Topology, options: RingwayOptions) -> Result<()> {
    let topology = topology.node1_pods(&[PodLink::Routed, PodLink::Bridge, PodLink::Bridge]);
    serving(name, topology, options, &["a1"], |net, ringway| {
        for server in ["a1", "a2", "b1"] {
            let service = Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP);
            let service = service.sctp(80, SERVER_PORT).sctp_node_port(81, SERVER_PORT, 30_081).tcp(80, SERVER_PORT);
            ringway.publish(&[service.pods([net.pod(server)?])])?;
            wait_for("the backend", PATIENCE, || {
                let load = net.client.requests("sctp", VIP_80, 1, 1)?;
                ensure!(load.errors == 0 && load.servers.contains_key(server), "{load:?}");
                Ok(())
            })?;
            let outside = seen_as(&net.client, VIP_80)?;
            ensure!((outside == address::CLIENT) == (server != "b1"), "{server} sees the client as {outside}");
            ensure_served(&net.client.requests("sctp", VIP_80, 2, 20)?, &[server], &outside)?;
            ensure_served(&net.client.requests("sctp", "10.0.0.11:30081", 2, 20)?, &[server], &outside)?;
            for pod in ["a1", "a2", "a3"].into_iter().filter(|pod| *pod != server) {
                let pod = net.pod(pod)?;
                for target in [VIP_80, CLUSTER_IP_80] {
                    ensure_served(&pod.namespace.requests("sctp", target, 2, 20)?, &[server], &pod.address)?;
                }
            }
            let node = seen_as(&net.node1, CLUSTER_IP_80)?;
            ensure_served(&net.node1.requests("sctp", CLUSTER_IP_80, 2, 20)?, &[server], &node)?;
            // TCP of the same number is a service of its own.
            ensure_served(&net.client.requests("tcp", VIP_80, 2, 20)?, &[server], &outside)?;
        }
        let modules = std::fs::read_to_string("/proc/modules").unwrap_or_default();
        ensure!(!modules.contains("sctp"), "a module was loaded");
        let flows = ringway.ask("flows")?.to_string();
        ensure!(flows.contains("\"protocol\":\"SCTP\""), "{flows}");
        Ok(())
    })
}

for_both!(associations_pass, |family| { associations("sctp_edge", Topology::new().family(family), RingwayOptions::default()) });

for_both!(associations_pass_with_direct_delivery, |family| {
    associations("sctp_direct", Topology::new().family(family), RingwayOptions::direct())
});

for_both!(associations_pass_an_overlay, |family| {
    associations("sctp_overlay", Topology::new().family(family).overlay(), RingwayOptions::default())
});
