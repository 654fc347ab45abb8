//! A rolling update: pods come, say that they end, and go, under requests from everybody. kubernetes' suite accepts five failures
//! of a hundred there; here none is accepted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{Family, Net, PodLink, Ringway, RingwayOptions, RunningLoad, SERVER_PORT, Service, Topology, address, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, ensure_no_frame_leaked, lab_of};

const NODE_PORT: &str = "10.0.0.11:30080";
const LOAD: Duration = Duration::from_millis(4_500);

/// Between a pod's appearance in its state and the next step of the rollout.
const STEP: Duration = Duration::from_millis(250);

fn web(net: &Net, ready: &[&str], terminating: &[&str]) -> Result<Service> {
    let pods = |names: &[&str]| names.iter().map(|name| net.pod(name)).collect::<Result<Vec<_>>>();
    let service = Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP);
    let service = service.tcp_node_port(80, SERVER_PORT, 30080).udp_node_port(80, SERVER_PORT, 30080);
    Ok(service.pods(pods(ready)?).pods_that_are("ready: false, serving: true, terminating: true", pods(terminating)?))
}

/// Requests by everybody, each over a new connection.
fn start_loads(net: &Net) -> Result<Vec<(String, RunningLoad)>> {
    let (pod, bridged) = (&net.pod("a1")?.namespace, &net.pod("a2")?.namespace);
    let loads = [
        (&net.client, "tcp", VIP_80),
        (&net.client, "udp", VIP_80),
        (&net.client, "tcp", NODE_PORT),
        (pod, "tcp", CLUSTER_IP_80),
        (bridged, "udp", CLUSTER_IP_80),
        (&net.node1, "tcp", CLUSTER_IP_80),
    ];
    let start = |(number, (client, protocol, target)): (usize, (_, &str, &str))| {
        let client: &ringway_tests::lab::Namespace = client;
        let load = client.start_load(&format!("load{number}"), protocol, target, 2, LOAD)?;
        Ok((format!("{} → {protocol} {target}", client.role()), load))
    };
    loads.into_iter().enumerate().map(start).collect()
}

fn roll(family: Family, name: &str, options: RingwayOptions) -> Result<()> {
    lab_of(name, family, |lab| {
        let topology = Topology::new().family(family).without_servers().node1_pods(&[PodLink::Routed, PodLink::Bridge]).node2_pods(2);
        let net = topology.build(lab)?;
        let mut servers = BTreeMap::new();
        let serve = |name| -> Result<_> { net.start_server(&net.pod(name)?.namespace, name, SERVER_PORT) };
        for name in ["a1", "b1"] {
            servers.insert(name, serve(name)?);
        }
        let ringway = Ringway::start(&net, &options, &[web(&net, &["a1", "b1"], &[])?])?;
        wait_for("the service", Duration::from_secs(3), || net.client.line(VIP_80, 0).map(drop))?;
        let loads = start_loads(&net)?;
        // All pods of the old set by those of the new one and back, one at a time.
        for (old, new, rest) in [("a1", "b2", "b1"), ("b1", "a2", "b2"), ("b2", "a1", "a2"), ("a2", "b1", "a1")] {
            servers.insert(new, serve(new)?);
            ringway.publish(&[web(&net, &[old, new, rest], &[])?])?;
            std::thread::sleep(STEP);
            ringway.publish(&[web(&net, &[new, rest], &[old])?])?;
            std::thread::sleep(STEP);
            ringway.publish(&[web(&net, &[new, rest], &[])?])?;
            std::thread::sleep(STEP);
            // It served until now, as those do that answer SIGTERM with a delay.
            servers.remove(old);
        }
        for (who, load) in loads {
            let load = load.finish()?;
            ensure!(load.errors == 0, "{who}: {load:?}");
            let names: Vec<&str> = load.servers.keys().map(String::as_str).collect();
            ensure!(names == ["a1", "a2", "b1", "b2"], "{who}: {:?}", load.servers);
        }
        ensure_no_frame_leaked(&ringway)
    })
}

for_both!(a_rolling_update_fails_nobody, |family| { roll(family, "rollout", RingwayOptions::default()) });

for_both!(a_rolling_update_fails_nobody_with_direct_delivery, |family| { roll(family, "rollout_direct", RingwayOptions::direct()) });
