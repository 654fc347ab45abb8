//! Pods as clients: translated at the pod's own device, the source kept.

use anyhow::{Result, ensure};
use ringway_tests::lab::{Family, PodLink, RingwayOptions, Topology, address};

use crate::{CLUSTER_IP_80, CLUSTER_IP_URL, VIP_80, VIP_URL, ensure_served, serving};

fn a1_is_served_by(family: Family, name: &str, links: &[PodLink], servers: &[&str]) -> Result<()> {
    serving(name, Topology::new().family(family).node1_pods(links), RingwayOptions::default(), servers, |net, _| {
        let (a1, address) = (&net.pod("a1")?.namespace, &net.pod("a1")?.address);
        for url in [VIP_URL, CLUSTER_IP_URL] {
            let answer = a1.curl(url)?;
            ensure!(answer.contains(&format!(" {address}:")), "{url}: {answer}");
        }
        for target in [VIP_80, CLUSTER_IP_80] {
            ensure_served(&a1.requests("tcp", target, 4, 200)?, servers, address)?;
            ensure_served(&a1.requests("udp", target, 4, 200)?, servers, address)?;
        }
        Ok(())
    })
}

for_both!(routed_pod_reaches_a_neighbor, |family| { a1_is_served_by(family, "pod_routed_local", &[PodLink::Routed; 2], &["a2"]) });

for_both!(routed_pod_reaches_other_nodes, |family| { a1_is_served_by(family, "pod_routed_remote", &[PodLink::Routed; 2], &["b1", "b2"]) });

for_both!(bridged_pod_reaches_a_port_of_the_same_bridge, |family| {
    a1_is_served_by(family, "pod_bridge_local", &[PodLink::Bridge; 2], &["a2"])
});

for_both!(bridged_pod_reaches_a_routed_one, |family| {
    a1_is_served_by(family, "pod_bridge_routed", &[PodLink::Bridge, PodLink::Routed], &["a2", "b1"])
});

for_both!(routed_pod_reaches_a_bridged_one, |family| {
    a1_is_served_by(family, "pod_routed_bridge", &[PodLink::Routed, PodLink::Bridge], &["a2"])
});

/// A pod that is its own backend: the source becomes the address that it called, or the pod would answer itself directly.
fn hairpin(family: Family, name: &str, link: PodLink) -> Result<()> {
    serving(name, Topology::new().family(family).node1_pods(&[link; 2]), RingwayOptions::default(), &["a1"], |net, _| {
        let a1 = &net.pod("a1")?.namespace;
        for protocol in ["tcp", "udp"] {
            ensure_served(&a1.requests(protocol, VIP_80, 2, 50)?, &["a1"], address::VIP)?;
            ensure_served(&a1.requests(protocol, CLUSTER_IP_80, 2, 50)?, &["a1"], address::CLUSTER_IP)?;
        }
        Ok(())
    })
}

for_both!(routed_pod_reaches_itself, |family| { hairpin(family, "pod_hairpin_routed", PodLink::Routed) });

for_both!(bridged_pod_reaches_itself, |family| { hairpin(family, "pod_hairpin_bridge", PodLink::Bridge) });

for_both!(pod_reaches_a_backend_in_the_host_network, |family| {
    serving("pod_to_host_network", Topology::new().family(family), RingwayOptions::default(), &[], |net, ringway| {
        net.lab.adopt(net.start_server(&net.node1, "host1", 8080)?);
        net.lab.adopt(net.start_server(&net.node2, "host2", 8080)?);
        let service = crate::web(net, &[])?.endpoint(address::NODE1, "node1").endpoint("10.0.0.12", "node2");
        ringway.publish(&[service])?;
        let a1 = &net.pod("a1")?.namespace;
        a1.until("answer", VIP_80, std::time::Duration::from_secs(2), || Ok(()))?;
        ensure_served(&a1.requests("tcp", VIP_80, 2, 100)?, &["host1", "host2"], &net.pod("a1")?.address)
    })
});

for_both!(pod_that_appears_is_client_and_backend_at_once, |family| {
    serving("pod_appears", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, ringway| {
        for link in [PodLink::Routed, PodLink::Bridge] {
            net.add_pod(0, link, true)?;
            let pod = net.pods.last().cloned().expect("just added");
            // The first packet of a pod comes long after its device in a cluster; here give netlink 50 ms.
            std::thread::sleep(std::time::Duration::from_millis(50));
            ensure_served(&pod.namespace.requests("tcp", VIP_80, 2, 50)?, &["b1"], &pod.address)?;
            ringway.publish(&[crate::web(net, &[&pod.name])?])?;
            let patience = std::time::Duration::from_secs(2);
            ringway_tests::lab::wait_for("the new backend", patience, || {
                let answer = net.client.curl(VIP_URL)?;
                ensure!(answer.starts_with(&pod.name), "answer: {answer}");
                Ok(())
            })?;
            ensure_served(&net.client.requests("tcp", VIP_80, 2, 50)?, &[&pod.name], address::CLIENT)?;
            ringway.publish(&[crate::web(net, &["b1"])?])?;
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        Ok(())
    })
});

for_both!(pod_that_went_is_forgotten, |family| {
    serving("pod_goes", Topology::new().family(family), RingwayOptions::default(), &["a1", "a2"], |net, ringway| {
        ensure_served(&net.client.requests("tcp", VIP_80, 2, 50)?, &["a1", "a2"], address::CLIENT)?;
        net.remove_pod("a2")?;
        ringway.publish(&[crate::web(net, &["a1"])?])?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        ensure_served(&net.client.requests("tcp", VIP_80, 2, 50)?, &["a1"], address::CLIENT)
    })
});
