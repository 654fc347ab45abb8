//! Packets that span the frames of the workers: devices with an MTU of 9 000, or as large as it can be.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{
    Capture, Family, Namespace, Net, PodLink, Ringway, RingwayOptions, SERVER_PORT, Service, Topology, address, wait_for,
};

use crate::bulk::transfer;
use crate::fragments::ensure_echoed;
use crate::{CLUSTER_IP_80, CLUSTER_IP_URL, VIP_80, VIP_URL, ensure_no_frame_leaked, lab_of, web};

const MTU: u32 = 9_000;
/// Datagrams of one frame, of several, and fragments of which each but the last has several.
const SIZES: [usize; 3] = [1_000, 8_900, 60_000];
/// Some thousand packets of the MTU each way.
const BYTES: usize = 30_000_000;
const PATIENCE: Duration = Duration::from_secs(5);

/// Gives every device of the topology an MTU, bridges after their ports.
fn widen(net: &Net, mtu: u32) -> Result<()> {
    let pods = net.pods.iter().map(|pod| &pod.namespace);
    for namespace in [&net.client, &net.router, &net.node1, &net.node2].into_iter().chain(pods) {
        namespace.shell(&format!(
            "for kind in veth bridge; do for device in $(ip -br link show type $kind | cut -d' ' -f1 | cut -d@ -f1); do \
             ip link set $device mtu {mtu} || exit 1; done; done"
        ))?;
    }
    Ok(())
}

/// Nothing was dropped but our own probe of the hostlink.
fn ensure_nothing_dropped(ringway: &Ringway) -> Result<()> {
    ensure_no_frame_leaked(ringway)?;
    let stats = ringway.ask("stats")?;
    let rows = stats["drops"].as_array().context("stats has no drops")?;
    let dropped: Vec<_> = rows.iter().filter(|row| row["packets"] != 0 && row["reason"] != "echo").collect();
    ensure!(dropped.is_empty(), "dropped: {dropped:?}");
    for socket in stats["sockets"].as_array().context("stats has no sockets")? {
        for counter in ["rx_dropped", "rx_ring_full", "rx_invalid", "tx_invalid"] {
            ensure!(socket[counter] == 0, "{counter}: {socket}");
        }
    }
    Ok(())
}

/// Datagrams of all sizes for every kind of client and backend.
fn jumbo(family: Family, name: &str, mtu: u32, topology: Topology, options: RingwayOptions) -> Result<()> {
    lab_of(name, family, |lab| {
        let net = topology.family(family).node1_pods(&[PodLink::Routed, PodLink::Routed, PodLink::Bridge]).build(lab)?;
        widen(&net, mtu)?;
        let ringway = Ringway::start(&net, &options, &[web(&net, &["a1"])?])?;
        net.lab.adopt(net.start_server(&net.node1, "host", SERVER_PORT)?);
        let large = Capture::start(&net.client, "eth0", "udp and src host 10.0.0.100 and greater 8900", net.lab.artifact_dir())?;
        for server in ["b1", "a1", "host"] {
            let service = match server {
                "host" => Service::web(address::VIP, address::CLUSTER_IP, []).endpoint(address::NODE1, "node1"),
                pod => web(&net, &[pod])?,
            };
            ringway.publish(&[service])?;
            wait_for("the backend", PATIENCE, || ensure_echoed(&net.client, VIP_80, 4, server))?;
            let mut paths: Vec<(&Namespace, &str)> = vec![(&net.client, VIP_80), (&net.node1, CLUSTER_IP_80)];
            for pod in ["a1", "a2", "a3"].iter().filter(|_| server != "host") {
                paths.extend([CLUSTER_IP_80, VIP_80].map(|target| (&net.pod(pod).expect("a pod").namespace, target)));
            }
            for (client, target) in paths {
                for bytes in SIZES {
                    ensure_echoed(client, target, bytes, server)?;
                }
            }
            ensure!(!large.frames()?.is_empty(), "no answer of {server} was as large");
        }
        if options.mode == "generic" {
            // Generic XDP meets what segmentation offload has put together, which is larger than any hop takes: no bulk.
            return ensure_nothing_dropped(&ringway);
        }
        for (server, client, url) in
            [("b1", &net.client, VIP_URL), ("a1", &net.client, VIP_URL), ("b1", &net.pod("a2")?.namespace, CLUSTER_IP_URL)]
        {
            ringway.publish(&[web(&net, &[server])?])?;
            wait_for("the backend", PATIENCE, || ensure_echoed(&net.client, VIP_80, 4, server))?;
            transfer(&net, client, url, BYTES)?;
        }
        ensure_nothing_dropped(&ringway)
    })
}

for_both!(large_packets_pass, |family| { jumbo(family, "jumbo_edge", MTU, Topology::new(), RingwayOptions::default()) });

for_both!(large_packets_pass_with_direct_delivery, |family| {
    jumbo(family, "jumbo_direct", MTU, Topology::new(), RingwayOptions::direct())
});

for_both!(large_packets_pass_with_generic_xdp, |family| {
    jumbo(family, "jumbo_generic", MTU, Topology::new(), RingwayOptions { mode: "generic", ..RingwayOptions::default() })
});

for_both!(the_largest_packets_pass, |family| { jumbo(family, "jumbo_largest", 65_535, Topology::new(), RingwayOptions::direct()) });

// The way on is narrower: a sender that may divide is told, and what it forbids nobody to divide is divided here, in IPv4.
for_both!(a_narrower_hop_is_told_of_or_divided_for, |family| {
    lab_of("jumbo_narrow", family, |lab| {
        let net = Topology::new().family(family).two_uplinks().build(lab)?;
        widen(&net, MTU)?;
        for (namespace, device) in [(&net.node1, "eth1"), (&net.node2, "eth0")] {
            namespace.ip(&format!("link set {device} mtu 5000"))?;
        }
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["b1"])?])?;
        wait_for("the backend", PATIENCE, || ensure_echoed(&net.client, VIP_80, 4, "b1"))?;
        ensure!(net.client.udp_of_bytes(VIP_80, 5_555, 8_900).is_err(), "the first one is answered by an error");
        // The server has to learn of the narrow link from its first answer.
        wait_for("both know", PATIENCE, || ensure_echoed(&net.client, VIP_80, 8_900, "b1"))?;
        if family == Family::V4 {
            net.client.ip("route flush cache")?;
            net.client.sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
            ensure_echoed(&net.client, VIP_80, 8_900, "b1")?;
        }
        ensure_nothing_dropped(&ringway)
    })
});

// The workers are replaced by such as take the large packets; flows go on.
for_both!(an_uplink_whose_mtu_grows_is_followed, |family| {
    lab_of("jumbo_grows", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        let ringway = Ringway::start(&net, &RingwayOptions::direct(), &[web(&net, &["a1"])?])?;
        wait_for("the backend", PATIENCE, || ensure_echoed(&net.client, VIP_80, 1_000, "a1"))?;
        widen(&net, MTU)?;
        wait_for("larger frames", PATIENCE, || ensure_echoed(&net.client, VIP_80, 8_900, "a1"))?;
        ensure_no_frame_leaked(&ringway)
    })
});
