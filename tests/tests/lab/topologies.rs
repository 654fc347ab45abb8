//! The lab itself, without `ringway`: whatever fails here is no fault of the product.

use anyhow::{Result, ensure};
use ringway_tests::lab::{Family, PodLink, Topology, address};

use crate::{ensure_refused, ensure_served, lab, lab_of};

fn everyone_reaches_every_pod(name: &str, topology: Topology) -> Result<()> {
    lab_of(name, topology.speaks(), |lab| {
        let net = topology.build(lab)?;
        for pod in &net.pods {
            let url = format!("http://{}:8080/", pod.address);
            let answer = net.client.curl(&url)?;
            ensure!(answer.starts_with(&format!("{} {}:", pod.name, address::CLIENT)), "the client got {answer} from {}", pod.name);
            net.node1.curl(&url)?;
            let a1 = net.pod("a1")?;
            let target = format!("{}:8080", pod.address);
            let expected = format!("{} {}:", pod.name, a1.address);
            for answer in
                [a1.namespace.udp(&target, 0)?, a1.namespace.udp_of_bytes(&target, 0, 60_000)?, a1.namespace.line(&target, 5_555)?]
            {
                ensure!(answer.starts_with(&expected), "a1 got {answer} from {}", pod.name);
            }
            ensure_served(&net.client.requests("sctp", &target, 1, 2)?, &[&pod.name], address::CLIENT)?;
            net.node1.exec(&["ping", "-c", "1", "-W", "2", &pod.address])?;
        }
        // To a pod, to a node, and out of a pod: what is closed is refused.
        let others = net.pods.iter().map(|pod| pod.address.as_str()).chain([address::NODE1, net.node2_address, address::CLIENT]);
        for other in others {
            for protocol in ["tcp", "udp"] {
                ensure_refused(&net.pod("a2")?.namespace, protocol, &format!("{other}:9999"))?;
            }
        }
        Ok(())
    })
}

for_both!(default_topology_connects, |family| everyone_reaches_every_pod("default_topology", Topology::new().family(family)));

for_both!(three_nodes_and_a_bridge_connect, |family| {
    let topology = Topology::new().node1_pods(&[PodLink::Bridge, PodLink::Routed, PodLink::Bridge]).node3();
    everyone_reaches_every_pod("three_nodes", topology.family(family))
});

for_both!(two_uplinks_connect, |family| {
    everyone_reaches_every_pod("two_uplinks_topology", Topology::new().two_uplinks().family(family))
});

for_both!(node_behind_router_connects, |family| {
    everyone_reaches_every_pod("behind_router_topology", Topology::new().node2_behind_router().family(family))
});

for_both!(overlay_connects, |family| lab_of("overlay_topology", family, |lab| {
    let net = Topology::new().overlay().family(family).build(lab)?;
    let answer = net.pod("a1")?.namespace.curl("http://10.244.2.2:8080/")?;
    ensure!(answer.starts_with("b1 10.244.1.2:"), "{answer}");
    let answer = net.node1.curl("http://10.244.2.2:8080/")?;
    ensure!(answer.starts_with("b1 10.244.1.0:"), "{answer}");
    Ok(())
}));

/// A host learns a narrow hop of the family in which it was told.
#[test]
fn paths_are_narrow_in_both_families() -> Result<()> {
    lab("narrow_topology", |lab| {
        let net = Topology::new().node2_behind_router().build(lab)?;
        net.router.ip("link set lan2 mtu 1300")?;
        for family in [Family::V4, Family::V6] {
            let client = net.client.speaking(family);
            ensure!(client.udp_of_bytes("10.244.2.2:8080", 0, 1_400).is_err(), "the first one tells");
            client.udp_of_bytes("10.244.2.2:8080", 0, 1_400)?;
            let route = client.ip("route get 10.244.2.2")?;
            ensure!(route.contains("mtu 1300") && route.starts_with("10.244.2.2 "), "{route}");
        }
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
