//! The lab itself, without `ringway`: whatever fails here is no fault of the product.

use anyhow::{Result, ensure};
use ringway_tests::lab::{PodLink, Topology, address};

use crate::lab;

fn everyone_reaches_every_pod(name: &str, topology: Topology) -> Result<()> {
    lab(name, |lab| {
        let net = topology.build(lab)?;
        for pod in &net.pods {
            let url = format!("http://{}:8080/", pod.address);
            let answer = net.client.curl(&url)?;
            ensure!(answer.starts_with(&format!("{} {}:", pod.name, address::CLIENT)), "the client got {answer} from {}", pod.name);
            net.node1.curl(&url)?;
            let answer = net.pod("a1")?.namespace.udp(&format!("{}:8080", pod.address), 0)?;
            let expected = format!("{} {}:", pod.name, net.pod("a1")?.address);
            ensure!(answer.starts_with(&expected), "a1 got {answer} from {}", pod.name);
        }
        Ok(())
    })
}

#[test]
fn default_topology_connects() -> Result<()> {
    everyone_reaches_every_pod("default_topology", Topology::new())
}

#[test]
fn three_nodes_and_a_bridge_connect() -> Result<()> {
    everyone_reaches_every_pod("three_nodes", Topology::new().node1_pods(&[PodLink::Bridge, PodLink::Routed, PodLink::Bridge]).node3())
}

#[test]
fn two_uplinks_connect() -> Result<()> {
    everyone_reaches_every_pod("two_uplinks_topology", Topology::new().two_uplinks())
}

#[test]
fn node_behind_router_connects() -> Result<()> {
    everyone_reaches_every_pod("behind_router_topology", Topology::new().node2_behind_router())
}

#[test]
fn overlay_connects() -> Result<()> {
    lab("overlay_topology", |lab| {
        let net = Topology::new().overlay().build(lab)?;
        let answer = net.pod("a1")?.namespace.curl("http://10.244.2.2:8080/")?;
        ensure!(answer.starts_with("b1 10.244.1.2:"), "{answer}");
        let answer = net.node1.curl("http://10.244.2.2:8080/")?;
        ensure!(answer.starts_with("b1 10.244.1.0:"), "{answer}");
        Ok(())
    })
}

#[test]
fn failed_lab_leaves_evidence_and_nothing_else() -> Result<()> {
    let mut prefix = String::new();
    let outcome = lab("on_purpose", |lab| {
        let net = Topology::new().build(lab)?;
        lab.capture(&net.node1, "any")?;
        prefix = net.node1.name().trim_end_matches("node1").to_owned();
        net.client.curl("http://10.244.1.2:8080/")?;
        anyhow::bail!("on purpose")
    });
    ensure!(outcome.is_err(), "the failure was swallowed");
    let spaces = std::process::Command::new("ip").args(["netns", "list"]).output()?;
    ensure!(!String::from_utf8_lossy(&spaces.stdout).contains(&prefix), "namespaces of {prefix} are left");
    let message = format!("{:#}", outcome.unwrap_err());
    let Some(dir) = message.split("kept in ").nth(1).and_then(|rest| rest.split(':').next()) else {
        anyhow::bail!("the message does not say where: {message}")
    };
    let pcap = std::fs::metadata(format!("{dir}/node1-any.pcap"))?;
    ensure!(pcap.len() > 100, "the capture is empty");
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
