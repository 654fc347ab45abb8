//! Nobody serves: refused at once where no endpoint exists at all, silent where a policy forbids those that do (contract §2).

use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use ringway_tests::lab::{Family, Namespace, Net, PodLink, RingwayOptions, Service, Topology, address, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, ensure_refused, ensure_silence, frames, lab_of, serving};

const NODE_PORT: &str = "10.0.0.11:30080";

/// A routed pod, a bridged one, and the node.
fn inside(net: &Net) -> Result<[&Namespace; 3]> {
    Ok([&net.pod("a1")?.namespace, &net.pod("a2")?.namespace, &net.node1])
}

fn topology(family: Family) -> Topology {
    Topology::new().family(family).node1_pods(&[PodLink::Routed, PodLink::Bridge])
}

for_both!(without_endpoints_everybody_is_refused, |family| {
    lab_of("refusals_no_endpoints", family, |lab| {
        let net = topology(family).build(lab)?;
        net.router.ip("route add 10.96.0.0/16 via 10.0.0.11")?;
        let web = Service::web(address::VIP, address::CLUSTER_IP, []).tcp_node_port(81, 8080, 30080).udp_node_port(81, 8080, 30080);
        let _ringway = ringway_tests::lab::Ringway::start(&net, &RingwayOptions::default(), &[web])?;
        for protocol in ["tcp", "udp"] {
            for target in [VIP_80, CLUSTER_IP_80, NODE_PORT] {
                ensure_refused(&net.client, protocol, target)?;
                ensure_refused(&net.pod("a1")?.namespace, protocol, target)?;
                ensure_refused(&net.pod("a2")?.namespace, protocol, target)?;
                ensure_refused(&net.node1, protocol, target)?;
            }
        }
        Ok(())
    })
});

for_both!(undefined_ports_of_a_cluster_ip_are_refused, |family| {
    serving("refusals_undefined", topology(family), RingwayOptions::default(), &["b1"], |net, ringway| {
        net.router.ip("route add 10.96.0.0/16 via 10.0.0.11")?;
        for client in inside(net)?.into_iter().chain([&net.client]) {
            for protocol in ["tcp", "udp"] {
                ensure_refused(client, protocol, "10.96.0.10:81")?;
            }
            ensure!(client.requests("tcp", CLUSTER_IP_80, 1, 5)?.errors == 0, "{} is not served", client.role());
        }
        ensure!(ringway.ask("stats")?["verdicts"]["refused"].as_u64() >= Some(24), "the refusals are not counted");
        Ok(())
    })
});

// As after the loss of the flow table: a segment of a connection that only the pod remembers. It begins nothing, so the kernel routes it
// to the hostlink first.
for_both!(a_segment_in_midstream_is_refused_by_the_way_of_the_kernel, |family| {
    serving("refusals_midstream", topology(family), RingwayOptions::default(), &["a2"], |net, ringway| {
        for name in ["a1", "a2"] {
            let pod = net.pod(name)?;
            // Makes the pod ask for its gateway's MAC.
            ensure_refused(&pod.namespace, "tcp", "10.96.0.10:82")?;
            let device = if name == "a1" { pod.device.as_str() } else { "cni0" };
            let builder = PacketBuilder::ethernet2(pod.namespace.mac("eth0")?, net.node1.mac(device)?);
            let builder = builder.ip(frames::ip(family, &pod.address, address::CLUSTER_IP, 64)?).tcp(40_000, 82, 1, 1024).ack(7);
            let mut frame = Vec::new();
            builder.write(&mut frame, b"data")?;
            let refused = || -> Result<u64> { Ok(ringway.ask("stats")?["verdicts"]["refused"].as_u64().unwrap_or_default()) };
            let before = refused()?;
            pod.namespace.send_frames("eth0", &[frame])?;
            wait_for("a refusal", Duration::from_secs(2), || {
                ensure!(refused()? == before + 1, "{name}: {} refusals", refused()? - before);
                Ok(())
            })?;
        }
        Ok(())
    })
});

for_both!(a_policy_that_forbids_all_endpoints_is_silent, |family| {
    lab_of("refusals_policy", family, |lab| {
        let net = topology(family).build(lab)?;
        let web = Service::web(address::VIP, address::CLUSTER_IP, [net.pod("b1")?]).spec("externalTrafficPolicy: Local");
        let ringway = ringway_tests::lab::Ringway::start(&net, &RingwayOptions::default(), std::slice::from_ref(&web))?;
        ensure_silence(&net.client, "tcp", VIP_80)?;
        // The short cut: clients of this node use all endpoints.
        for client in inside(&net)? {
            ensure!(client.requests("tcp", VIP_80, 1, 5)?.errors == 0, "{} is not served", client.role());
        }
        ringway.publish(&[web.spec("internalTrafficPolicy: Local")])?;
        wait_for("the policy", Duration::from_secs(3), || {
            inside(&net)?.into_iter().try_for_each(|client| ensure_silence(client, "tcp", CLUSTER_IP_80))
        })
    })
});
