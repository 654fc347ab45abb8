//! The commands that look into the running process.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{RingwayOptions, Service, Topology, address, wait_for};

use crate::{VIP_80, VIP_URL, serving};

for_both!(every_command_shows_what_runs, |family| {
    serving("commands_tables", Topology::new().family(family), RingwayOptions::default(), &["a1", "b1"], |net, ringway| {
        let _held = net.client.hold(VIP_80, 6)?;
        net.client.curl(VIP_URL)?;
        let expected: [(&str, &[&str]); 6] = [
            ("status", &["ready", "node1", "10.0.0.11", "eth0", "copy", "10.0.0.100"]),
            ("services", &["default/web", "10.0.0.100:80", "10.96.0.10:80", "10.244.1.2:8080", "10.244.2.2:8080"]),
            ("backends", &["10.244.1.2", "10.244.2.2", "default/web"]),
            ("flows", &["192.0.2.10:", "10.0.0.100:80", "10.244.", "established"]),
            ("neighbors", &["10.0.0.12", "eth0"]),
            ("stats", &["uplink"]),
        ];
        for (command, words) in expected {
            let output = ringway.run(&[command])?;
            ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
            let text = family.named(&String::from_utf8_lossy(&output.stdout));
            let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
            ensure!(missing.is_empty(), "`ringway {command}` does not show {missing:?}:\n{text}");
            ringway.ask(command)?;
        }
        let status = ringway.status()?;
        let queues = status["uplinks"][0]["queues"].as_array().map(Vec::len);
        ensure!(queues == Some(2), "{queues:?} queues: {status}");
        let workers = status["workers"].as_array().context("no workers")?;
        ensure!(workers.len() == 2 && workers.iter().any(|worker| worker["packets"].as_u64() > Some(0)), "workers: {workers:?}");
        Ok(())
    })
});

#[test]
fn commands_say_that_nothing_runs() -> Result<()> {
    serving("commands_without_process", Topology::new(), RingwayOptions::default(), &[], |_, ringway| {
        ringway.terminate()?;
        let output = ringway.run(&["status"])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && !text.trim().is_empty(), "status without a process: {output:?}");
        ringway.start_again()
    })
}

// iperf3 with four streams: its control connection and the data go to the same frontend.
for_both!(iperf3_through_the_vip, |family| {
    serving("commands_iperf3", Topology::new().family(family), RingwayOptions::default(), &[], |net, ringway| {
        let pod = net.pod("b1")?;
        net.lab.adopt(pod.namespace.spawn("iperf3", &["iperf3", "-s"])?);
        let service = ringway_tests::lab::Service::new("iperf").load_balancer_ip("10.0.0.100").cluster_ip("10.96.0.10");
        ringway.publish(&[service.tcp(5201, 5201).udp(5201, 5201).pods([pod])])?;
        net.client.until("answer", "10.0.0.100:5201", std::time::Duration::from_secs(3), || Ok(()))?;
        for more in [&["-P", "4"][..], &["-R"], &["-u", "-b", "100M"]] {
            let text = net.client.exec(&[&["iperf3", "-c", "10.0.0.100", "-t", "1", "-J"], more].concat())?;
            let report: serde_json::Value = serde_json::from_str(&text)?;
            let end = &report["end"];
            let sum = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
            let mbits = sum["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
            ensure!(mbits > 20.0, "iperf3 {more:?}: {mbits:.1} Mbit/s: {end}");
        }
        Ok(())
    })
});

#[test]
fn pods_that_bypass_the_node_are_named() -> Result<()> {
    serving("misplaced", Topology::new(), RingwayOptions::default(), &["a1"], |_, ringway| {
        // An address of the LAN, as a pod on a macvlan has it.
        let pod = Service::new("macvlan").cluster_ip(address::CLUSTER_IP2).tcp(80, 8080).endpoint("10.0.0.50", "node1");
        ringway.publish(&[pod])?;
        // Two looks, each 10 s.
        wait_for("the pod is named", Duration::from_secs(30), || {
            let problems = ringway.status()?["problems"].to_string();
            ensure!(problems.contains("endpoint 10.0.0.50 of Service default/macvlan") && problems.contains("eth0"), "{problems}");
            ensure!(!problems.contains("10.244.1.2"), "{problems}");
            Ok(())
        })
    })
}
