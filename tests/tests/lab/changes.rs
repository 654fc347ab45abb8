//! What changes while `ringway` runs: manifests, routes, neighbors.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{RingwayOptions, Service, Topology, address, wait_for};

use crate::{VIP_80, VIP_URL, ensure_served, serving, web};

const PATIENCE: Duration = Duration::from_secs(3);

/// What the product promises.
const ACTS_WITHIN_MS: f64 = 100.0;

#[test]
fn manifests_act_within_100_ms() -> Result<()> {
    serving("changes_in_time", Topology::new(), RingwayOptions::default(), &["b1"], |net, ringway| {
        let web = web(net, &["b1"])?;
        let second = Service::new("second").cluster_ip(address::CLUSTER_IP2).load_balancer_ip(address::VIP).tcp(81, 8080);
        let second = second.pods([net.pod("b1")?]);
        let (mut appear, mut vanish) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            appear.push(net.client.until("answer", "10.0.0.100:81", PATIENCE, || ringway.publish(&[web.clone(), second.clone()]))?);
            vanish.push(net.client.until("refuse", "10.0.0.100:81", PATIENCE, || ringway.publish(std::slice::from_ref(&web)))?);
        }
        // The median: the machine that runs the tests may pause once.
        for (what, mut times) in [("appear", appear), ("vanish", vanish)] {
            times.sort_by(f64::total_cmp);
            ensure!(times[2] < ACTS_WITHIN_MS, "a service takes {times:?} ms to {what}");
        }
        Ok(())
    })
}

for_both!(endpoints_follow_the_manifests, |family| {
    serving("changes_endpoints", Topology::new().family(family), RingwayOptions::default(), &["a1"], |net, ringway| {
        for servers in [&["b1"][..], &["a2"], &["a1", "b2"], &["a1"]] {
            ringway.publish(&[web(net, servers)?])?;
            wait_for("the new backends", PATIENCE, || {
                let load = net.client.requests("tcp", VIP_80, 1, 30)?;
                let names: Vec<&str> = load.servers.keys().map(String::as_str).collect();
                ensure!(load.errors == 0 && names == servers, "{load:?}, not {servers:?}");
                Ok(())
            })?;
        }
        ringway.publish(&[])?;
        wait_for("an empty table", PATIENCE, || {
            ensure!(net.client.curl_within(VIP_URL, Duration::from_millis(200)).is_err(), "the VIP still answers");
            Ok(())
        })
    })
});

#[test]
fn bad_manifest_leaves_the_rest_in_force() -> Result<()> {
    serving("changes_bad_manifest", Topology::new(), RingwayOptions::default(), &["b1"], |net, ringway| {
        ringway.write_manifest("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: [\n")?;
        let invalid = Service::new("invalid").cluster_ip("10.96.0.300").tcp(80, 8080).yaml();
        let second = Service::new("second").cluster_ip(address::CLUSTER_IP2).load_balancer_ip(address::VIP).tcp(81, 8080);
        let second = second.pods([net.pod("b2")?]);
        ringway.write_manifest("mixed.yaml", &format!("{invalid}---\n{}", second.yaml()))?;
        net.client.until("answer", "10.0.0.100:81", PATIENCE, || Ok(()))?;
        ensure_served(&net.client.requests("tcp", VIP_80, 1, 20)?, &["b1"], address::NODE1)?;
        let log = ringway.log();
        for named in ["broken.yaml", "mixed.yaml", "invalid", "clusterIP"] {
            ensure!(log.contains(named), "the log does not name {named}: {log}");
        }
        // A file that was good and is broken now: its last good version stays.
        ringway.write_manifest("mixed.yaml", "{{{")?;
        std::thread::sleep(Duration::from_millis(150));
        ensure_served(&net.client.requests("tcp", "10.0.0.100:81", 1, 20)?, &["b2"], address::NODE1)?;
        ringway.remove_manifest("mixed.yaml")?;
        net.client.until("refuse", "10.0.0.100:81", PATIENCE, || Ok(()))?;
        ensure_served(&net.client.requests("tcp", VIP_80, 1, 20)?, &["b1"], address::NODE1)
    })
}

for_both!(routes_and_neighbors_are_followed, |family| {
    serving("changes_routes", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, _| {
        let mut held = net.client.hold(VIP_80, 4)?;
        let mut goes_on = |what: &str| -> Result<()> {
            std::thread::sleep(Duration::from_millis(100));
            let report = held.exchange(Duration::from_secs(2))?;
            ensure!(report.errors == 0, "{what}: {report:?}");
            Ok(())
        };
        // By the router instead of directly, in a table of its own as some network plugins have it.
        net.node1.ip_batch("route add 10.244.2.0/24 via 10.0.0.1 table 116\nrule add priority 2000 lookup 116\n")?;
        goes_on("a route in a table of its own")?;
        net.node1.ip("route del 10.244.2.0/24 via 10.0.0.12")?;
        goes_on("the other route gone")?;
        net.node1.ip_batch("route add 10.244.2.0/24 via 10.0.0.12\nrule del priority 2000\n")?;
        goes_on("the first route again")?;
        // The next hop gets another MAC.
        net.node2.ip("link set dev eth0 address 02:00:00:aa:bb:cc")?;
        net.node2.ip("neigh flush all")?;
        net.node1.ip("neigh replace 10.0.0.12 lladdr 02:00:00:aa:bb:cc dev eth0")?;
        net.router.ip("neigh flush dev lan0")?;
        goes_on("a new MAC of the next hop")?;
        // Forgotten by the kernel: the first packet waits for the answer.
        net.node1.ip("neigh del 10.0.0.12 dev eth0")?;
        goes_on("a neighbor that has to be asked for")
    })
});
