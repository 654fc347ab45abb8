//! 200 MB of TCP through the VIP both ways, over unmodified veths with their offloads, two queues, two workers.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Family, Namespace, Net, PodLink, Ringway, RingwayOptions, Topology};
use sha2::{Digest, Sha256};

use crate::{CLUSTER_IP_URL, VIP_URL, lab_of, web};

const BYTES: usize = 200_000_000;
/// Slow even for a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Downloads and uploads `bytes` and compares checksums.
fn transfer(net: &Net, client: &Namespace, url: &str, bytes: usize) -> Result<()> {
    let seconds = PATIENCE.as_secs();
    let curl = format!("curl -sS --noproxy '*' --max-time {seconds}");

    // What the server sends, without a network in between.
    let expected = net.pod("a1")?.namespace.shell(&format!("{curl} http://127.0.0.1:8080/bulk/{bytes} | sha256sum"))?;
    let received = client.shell(&format!("{curl} {url}bulk/{bytes} | sha256sum"))?;
    ensure!(received == expected, "download: {received} is not {expected}");
    upload(net, client, url, bytes)
}

pub fn upload(net: &Net, client: &Namespace, url: &str, bytes: usize) -> Result<()> {
    let file = net.lab.artifact_dir().join("upload");
    let mut content = Vec::with_capacity(bytes);
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    while content.len() < bytes {
        // xorshift64: any bytes that do not repeat.
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        content.extend_from_slice(&word.to_le_bytes());
    }
    content.truncate(bytes);
    std::fs::File::create(&file)?.write_all(&content).context("cannot write the file to upload")?;
    let hash: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    let curl = format!("curl -sS --noproxy '*' --max-time {}", PATIENCE.as_secs());
    let answer = client.shell(&format!("{curl} --data-binary @{} {url}sink", file.display()))?;
    std::fs::remove_file(&file)?;
    ensure!(answer.trim() == format!("{bytes} {hash}"), "upload: {answer} is not {bytes} {hash}");
    Ok(())
}

fn bulk(name: &str, topology: Topology, options: RingwayOptions, pods: &[&str], from_pod: bool) -> Result<()> {
    lab_of(name, topology.speaks(), |lab| {
        let net = topology.build(lab)?;
        let _ringway = Ringway::start(&net, &options, &[web(&net, pods)?])?;
        if from_pod {
            transfer(&net, &net.pod("a1")?.namespace, CLUSTER_IP_URL, BYTES)
        } else {
            transfer(&net, &net.client, VIP_URL, BYTES)
        }
    })
}

for_both!(client_to_another_node, |family| {
    bulk("bulk_remote", Topology::new().family(family), RingwayOptions::default(), &["b1"], false)
});

for_both!(client_to_pod_here_by_edge, |family| {
    bulk("bulk_edge", Topology::new().family(family), RingwayOptions::default(), &["a1"], false)
});

for_both!(client_to_pod_here_directly, |family| {
    bulk("bulk_direct", Topology::new().family(family), RingwayOptions::direct(), &["a1"], false)
});

#[test]
fn pod_to_neighbor() -> Result<()> {
    bulk("bulk_pod_local", Topology::new(), RingwayOptions::default(), &["a2"], true)
}

#[test]
fn pod_to_neighbor_on_a_bridge() -> Result<()> {
    bulk("bulk_pod_bridge", Topology::new().node1_pods(&[PodLink::Bridge; 2]), RingwayOptions::default(), &["a2"], true)
}

for_both!(pod_to_another_node, |family| {
    bulk("bulk_pod_remote", Topology::new().family(family), RingwayOptions::default(), &["b1"], true)
});

#[test]
fn pod_to_itself() -> Result<()> {
    bulk("bulk_pod_hairpin", Topology::new(), RingwayOptions::default(), &["a1"], true)
}

/// Super-packets of more than 64 KiB, which have no length in the IPv6 header but one in a hop-by-hop option (RFC 2675) or none at all.
fn big_tcp(name: &str, pods: &[&str]) -> Result<()> {
    lab_of(name, Family::V6, |lab| {
        let net = Topology::new().family(Family::V6).build(lab)?;
        let sizes = "gso_max_size 180000 gro_max_size 180000";
        for pod in &net.pods {
            pod.namespace.ip(&format!("link set dev eth0 {sizes}"))?;
            let node = if pod.node == "node1" { &net.node1 } else { &net.node2 };
            node.ip(&format!("link set dev {} {sizes}", pod.device))?;
        }
        for node in [&net.node1, &net.node2] {
            node.ip(&format!("link set dev eth0 {sizes}"))?;
        }
        let _ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, pods)?])?;
        transfer(&net, &net.pod("a1")?.namespace, CLUSTER_IP_URL, BYTES)?;
        transfer(&net, &net.node1, CLUSTER_IP_URL, BYTES)
    })
}

#[test]
fn big_tcp_to_a_neighbor() -> Result<()> {
    big_tcp("bulk_big_local", &["a2"])
}

#[test]
fn big_tcp_to_another_node() -> Result<()> {
    big_tcp("bulk_big_remote", &["b1"])
}
