//! 200 MB of TCP through the VIP both ways, over unmodified veths with their offloads, two queues, two workers.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Capture, Family, Namespace, Net, PodLink, Ringway, RingwayOptions, Topology};
use sha2::{Digest, Sha256};

use crate::{CLUSTER_IP_URL, VIP_URL, lab_of, web};

const BYTES: usize = 200_000_000;
/// Slow even for a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Downloads and uploads `bytes` and compares checksums.
pub fn transfer(net: &Net, client: &Namespace, url: &str, bytes: usize) -> Result<()> {
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

/// Super-packets of more than 64 KiB: their length stands in no IPv6 header, but in a hop-by-hop option (RFC 2675) or nowhere in the
/// packet. Between ports of a bridge, for the kernel routes none that has the option.
fn big_tcp(name: &str, with_service: bool) -> Result<()> {
    lab_of(name, Family::V6, |lab| {
        let net = Topology::new().node1_pods(&[PodLink::Bridge; 2]).family(Family::V6).build(lab)?;
        let pods = net.pods_of(0).flat_map(|pod| [(&pod.namespace, "eth0"), (&net.node1, &pod.device)]);
        for (namespace, device) in pods.chain([(&net.node1, "cni0")]) {
            namespace.ip(&format!("link set dev {device} gso_max_size 180000 gro_max_size 180000"))?;
        }
        let _ringway = match with_service {
            true => Some(Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["a2"])?])?),
            false => None,
        };
        let direct = format!("http://{}:8080/", net.pod("a2")?.address);
        let url = if with_service { CLUSTER_IP_URL } else { &direct };
        let a1 = &net.pod("a1")?.namespace;
        let capture = Capture::start(a1, "eth0", "greater 65600", lab.artifact_dir())?;
        transfer(&net, a1, url, BYTES)?;
        ensure!(!capture.frames()?.is_empty(), "no packet was that large");
        transfer(&net, &net.node1, url, BYTES)
    })
}

#[test]
fn big_tcp_passes_without_us() -> Result<()> {
    big_tcp("bulk_big_direct", false)
}

#[test]
fn big_tcp_passes() -> Result<()> {
    big_tcp("bulk_big", true)
}
