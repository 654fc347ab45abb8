//! Limits are explicit: what does not fit is dropped and counted, what is there goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Ringway, RingwayOptions, Service, Topology, address, wait_for};

use crate::{VIP_80, VIP_URL, ensure_served, serving, web};

/// Packets dropped for a reason, over all workers.
fn drops(ringway: &Ringway, reason: &str) -> Result<u64> {
    let stats = ringway.ask("stats")?;
    let rows = stats["drops"].as_array().with_context(|| format!("stats has no drops: {stats}"))?;
    let row = rows.iter().find(|row| row["reason"] == reason).with_context(|| format!("stats has no {reason}: {stats}"))?;
    row["packets"].as_u64().with_context(|| format!("no number: {row}"))
}

#[test]
fn full_flow_table() -> Result<()> {
    let options = RingwayOptions::default().with(&["--flows-max", "64"]);
    serving("limits_flows", Topology::new(), options, &["b1"], |net, ringway| {
        let mut held = net.client.hold(VIP_80, 20)?;
        // Each datagram from a port of its own, so a flow of its own.
        let load = net.client.requests("udp", VIP_80, 4, 200);
        ensure!(load?.requests > 0, "no datagram was answered");
        wait_for("drops by a full table", Duration::from_secs(2), || {
            let dropped = drops(ringway, "flow_table_full")?;
            ensure!(dropped > 0, "none");
            Ok(())
        })?;
        let report = held.exchange(Duration::from_secs(2))?;
        ensure!(report.errors == 0, "established connections suffer: {report:?}");
        Ok(())
    })
}

#[test]
fn exhausted_snat_ports() -> Result<()> {
    let options = RingwayOptions { workers: 1, ..RingwayOptions::default() }.with(&["--snat-ports", "20000-20007"]);
    serving("limits_snat_ports", Topology::new(), options, &["b1"], |net, ringway| {
        let mut held = net.client.hold(VIP_80, 8)?;
        ensure!(net.client.curl_within(VIP_URL, Duration::from_millis(500)).is_err(), "a ninth connection was served by eight ports");
        ensure!(drops(ringway, "snat_ports_exhausted")? > 0, "not counted");
        let report = held.exchange(Duration::from_secs(2))?;
        ensure!(report.errors == 0, "established connections suffer: {report:?}");
        // The ports are per backend: another one has all of them.
        ringway.publish(&[web(net, &["b2"])?])?;
        wait_for("the other backend", Duration::from_secs(2), || {
            ensure!(net.client.curl_within(VIP_URL, Duration::from_millis(500))?.starts_with("b2"), "not yet");
            Ok(())
        })
    })
}

for_both!(next_hop_that_does_not_answer, |family| {
    serving("limits_neighbor", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, ringway| {
        let lost = Service::new("lost").cluster_ip(address::CLUSTER_IP2).load_balancer_ip(address::VIP).tcp(81, 8080).udp(81, 8080);
        ringway.publish(&[web(net, &["b1"])?, lost.endpoint("10.0.0.77", "node9")])?;
        std::thread::sleep(Duration::from_millis(200));
        for _ in 0..3 {
            let _ = net.client.curl_within("http://10.0.0.100:81/", Duration::from_millis(400));
        }
        wait_for("drops for want of a neighbor", Duration::from_secs(5), || {
            ensure!(drops(ringway, "neighbor_unresolved")? > 0, "none");
            Ok(())
        })?;
        ensure_served(&net.client.requests("tcp", VIP_80, 2, 50)?, &["b1"], address::NODE1)?;
        // It appears: the next packets find it.
        net.node2.ip("address add 10.0.0.77/32 dev eth0")?;
        net.node1.ip("neigh flush dev eth0")?;
        net.lab.adopt(net.start_server(&net.node2, "late", 8080)?);
        wait_for("the late next hop", Duration::from_secs(5), || {
            let answer = net.client.curl_within("http://10.0.0.100:81/", Duration::from_millis(1500))?;
            ensure!(answer.starts_with("late"), "answer: {answer}");
            Ok(())
        })
    })
});

for_both!(first_packet_waits_for_the_neighbor, |family| {
    serving("limits_hold", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, _| {
        net.client.curl(VIP_URL)?;
        net.node1.ip("neigh flush dev eth0")?;
        // Less than the second after which TCP would repeat the SYN.
        let answer = net.client.curl_within(VIP_URL, Duration::from_millis(700))?;
        ensure!(answer.starts_with("b1"), "answer: {answer}");
        Ok(())
    })
});

#[test]
fn idle_process_sleeps() -> Result<()> {
    serving("limits_idle", Topology::new(), RingwayOptions::default(), &["a1", "b1"], |net, ringway| {
        // Also after traffic.
        net.client.requests("tcp", VIP_80, 4, 100)?;
        std::thread::sleep(Duration::from_secs(1));
        let window = Duration::from_secs(3);
        let before = ringway.cpu_ns()?;
        std::thread::sleep(window);
        let share = (ringway.cpu_ns()? - before) as f64 / window.as_nanos() as f64;
        ensure!(share < 0.01, "an idle process uses {:.2} % of a core", share * 100.0);
        Ok(())
    })
}
