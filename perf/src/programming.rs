//! From a change at the apiserver to traffic: Ringway beside kubernetes' own kube-proxy in nftables mode, one after the other on the same
//! node, with the same objects in the same apiserver.

use std::fmt::Write;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringway_tests::kubernetes::{Cluster, ClusterOptions, KubeProxy, Stored};
use ringway_tests::lab::{self, Lab, Net, Ringway, RingwayOptions, Topology, address};
use serde_json::json;

use crate::rounds::{machine, median};

/// The service whose traffic is watched; its endpoint is pod a1, its client pod a2.
const PROBE: &str = "10.96.255.250:80";
const PROBE_ADDRESS: &str = "10.96.255.250";
const PROBE_SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/probe-1";
/// Of 10.96.0.0/16 without its ends.
const SERVICES_MAX: u32 = 59_000;
/// kube-proxy needs minutes at 10 000 services.
const PATIENCE: Duration = Duration::from_secs(300);
/// Changes whose way through Ringway its own histogram tells.
const CHANGES: u32 = 500;
const NODE2: &str = "10.0.0.12";

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Arguments {
    /// Services in the cluster
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of each
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// Ringway only: kube-proxy needs a quarter of an hour and more for tens of thousands of services
    #[arg(long)]
    alone: bool,
}

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments { services: 10_000, endpoints: 10, alone: false }
    }
}

pub fn run(arguments: Arguments, rounds: usize) -> Result<()> {
    let Arguments { services, endpoints, alone } = arguments;
    println!("## Programming: {services} services with {} endpoints\n\n{}\n", services * endpoints, machine());
    lab::run("perf-programming", |lab: &Rc<Lab>| {
        let net = Topology::new().build(lab)?;
        let cluster = Cluster::start(lab, &net.node2, NODE2, ClusterOptions::default())?;
        fill(&cluster, arguments)?;
        println!("| | start → first answer | memory | endpoint appears → answer | endpoint goes → refusal |\n|---|---|---|---|---|");
        let ringway = Subject::measure("Ringway", &net, &cluster, rounds, || {
            let options =
                RingwayOptions { sources: vec!["--kubeconfig".into(), path(&cluster.kubeconfig()?)], ..RingwayOptions::default() };
            Ringway::start(&net, &options, &[])
        })?;
        println!("\n{}", start_lines(&ringway));
        changes(&net, &cluster, &ringway, arguments)?;
        ringway.terminate()?;
        if alone {
            return Ok(());
        }
        drop(Subject::measure("kube-proxy, nftables", &net, &cluster, rounds, || KubeProxy::start(&cluster, &net.node1, "node1"))?);
        Ok(())
    })
}

/// A process that programs services on node1.
trait Subject: Sized {
    fn resident_kib(&self) -> Result<u64>;

    /// Prints a row.
    fn measure(name: &str, net: &Net, cluster: &Cluster, rounds: usize, start: impl FnOnce() -> Result<Self>) -> Result<Self> {
        set_probe(cluster, true)?;
        let began = Instant::now();
        let subject = start()?;
        until_served(net).with_context(|| format!("{name} does not serve"))?;
        let cold = began.elapsed();
        let (mut appears, mut goes) = (Vec::new(), Vec::new());
        let client = &net.pod("a2")?.namespace;
        for round in 1..=rounds {
            eprintln!("programming: {name}: round {round} of {rounds}");
            goes.push(client.until("refuse", PROBE, PATIENCE, || set_probe(cluster, false))?);
            std::thread::sleep(Duration::from_millis(500));
            appears.push(client.until("answer", PROBE, PATIENCE, || set_probe(cluster, true))?);
            std::thread::sleep(Duration::from_millis(500));
        }
        let memory_mb = subject.resident_kib()? * 1024 / 1_000_000;
        let (appears, goes) = (median(appears), median(goes));
        println!("| {name} | {:.2} s | {memory_mb} MB | {appears:.1} ms | {goes:.1} ms |", cold.as_secs_f64());
        Ok(subject)
    }
}

impl Subject for Ringway {
    fn resident_kib(&self) -> Result<u64> {
        self.memory_kib()
    }
}

impl Subject for KubeProxy {
    fn resident_kib(&self) -> Result<u64> {
        self.memory_kib()
    }
}

/// What Ringway says of its start: how long it needed for the tables once it had the last page of the objects, or that it did not wait
/// for the last page.
fn start_lines(ringway: &Ringway) -> String {
    let log = ringway.log();
    let of_start = |line: &&str| ["ready: ", "not all objects"].iter().any(|words| line.contains(words));
    log.lines().filter(of_start).map(|line| format!("    {line}\n")).collect()
}

fn until_served(net: &Net) -> Result<()> {
    let began = Instant::now();
    while let Err(error) = net.pod("a2")?.namespace.line(PROBE, 0) {
        ensure!(began.elapsed() < PATIENCE, "{error:#}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The probe's only endpoint is there, or is not.
fn set_probe(cluster: &Cluster, is_there: bool) -> Result<()> {
    let endpoint = json!([{"addresses": ["10.244.1.2"], "conditions": {"ready": true}, "nodeName": "node1"}]);
    cluster.patch(PROBE_SLICE, &json!({"endpoints": if is_there { endpoint } else { json!([]) }}))
}

/// Changes services one after the other, and prints how long the process needed: its histogram counts from taking a change to the last
/// worker acting on it.
fn changes(net: &Net, cluster: &Cluster, ringway: &Ringway, arguments: Arguments) -> Result<()> {
    let before = histogram(net)?;
    let mut config = String::new();
    for change in 0..CHANGES {
        let index = change.wrapping_mul(7_919) % arguments.services;
        let endpoints = json!({ "endpoints": endpoints(index, arguments.endpoints, change % 2 == 1) });
        let url = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/service-{index}-1");
        patch(cluster, &mut config, &url, &endpoints.to_string());
    }
    send(net, cluster, &config)?;
    std::thread::sleep(Duration::from_secs(1));
    let after = histogram(net)?;
    ensure!(ringway.is_running(), "ringway ended: {}", ringway.log());
    let total = after.last().zip(before.last()).map_or(0, |((_, after), (_, before))| after - before);
    println!("\n{CHANGES} changed EndpointSlices, one after the other, in {total} publications of Ringway:\n");
    for ((bound, after), (_, before)) in after.iter().zip(&before).filter(|((bound, _), _)| bound.as_str() < "0.05") {
        println!("- within {bound} s: {:.1} %", (after - before) as f64 * 100.0 / total.max(1) as f64);
    }
    println!();
    Ok(())
}

/// Upper bounds and cumulated counts.
fn histogram(net: &Net) -> Result<Vec<(String, u64)>> {
    let text = net.node1.curl("http://127.0.0.1:10249/metrics")?;
    let buckets = text.lines().filter_map(|line| {
        let (labels, count) = line.strip_prefix("kubeproxy_sync_proxy_rules_duration_seconds_bucket{")?.split_once("} ")?;
        let bound = labels.split("le=\"").nth(1)?.trim_end_matches('"');
        Some((bound.to_owned(), count.parse().ok()?))
    });
    Ok(buckets.collect())
}

/// Creates the nodes and all objects.
fn fill(cluster: &Cluster, arguments: Arguments) -> Result<()> {
    for (node, address) in [("node1", address::NODE1), ("node2", NODE2)] {
        cluster
            .create(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\nspec: {{podCIDR: 10.244.{}.0/24}}\n", &node[4..]))?;
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        cluster.patch(&format!("/api/v1/nodes/{node}/status"), &status)?;
    }
    ensure!(arguments.services <= SERVICES_MAX, "at most {SERVICES_MAX} services have a ClusterIP here");
    let began = Instant::now();
    let services = (0..arguments.services).flat_map(|index| {
        let address = format!("10.96.{}.{}", 16 + index / 250, 1 + index % 250);
        objects(&format!("service-{index}"), &address, &endpoints(index, arguments.endpoints, true))
    });
    cluster.store(objects("probe", PROBE_ADDRESS, &json!([])).into_iter().chain(services))?;
    eprintln!("programming: {} objects stored in {:.0} s", 3 * arguments.services, began.elapsed().as_secs_f64());
    let last = arguments.services.saturating_sub(1);
    cluster.get(&format!("/api/v1/namespaces/default/services/service-{last}")).map(drop)
}

/// A service, its slice and its ClusterIP. (Without the last one, a controller of the apiserver would be busy making it.)
fn objects(name: &str, address: &str, endpoints: &serde_json::Value) -> [Stored; 3] {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": format!("{name}-1"), "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    });
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    let ip_address = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address, "labels": labels},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": name}},
    });
    [
        Stored { key: format!("ipaddresses/{address}"), object: ip_address },
        Stored { key: format!("endpointslices/default/{name}-1"), object: slice },
        Stored { key: format!("services/specs/default/{name}"), object: service },
    ]
}

/// Endpoints on other nodes; the first may be missing.
fn endpoints(index: u32, count: u32, all: bool) -> serde_json::Value {
    let endpoint = |number: u32| {
        let number = index * count + number;
        let address = format!("10.{}.{}.{}", 128 + (number >> 16), (number >> 8) & 255, number & 255);
        let uid = format!("5ba1c9ee-0000-4000-8000-{number:012x}");
        let pod = json!({"kind": "Pod", "namespace": "default", "name": format!("web-{index}-5d4f8c7b9-{number:05x}"), "uid": uid});
        json!({
            "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("worker-{}", number % 100), "targetRef": pod, "zone": format!("zone-{}", number % 3),
        })
    };
    (u32::from(!all)..count).map(endpoint).collect()
}

/// One request in the words of curl's configuration.
fn patch(cluster: &Cluster, config: &mut String, path: &str, body: &str) {
    let dir = cluster.dir().display();
    let quoted = body.replace('\\', "\\\\").replace('"', "\\\"");
    let _ = write!(
        config,
        "next\nurl = \"{}{path}\"\nrequest = \"PATCH\"\nheader = \"Content-Type: application/merge-patch+json\"\ndata-binary = \"{quoted}\"\nfail\nnoproxy = \"*\"\n\
         cacert = \"{dir}/ca.crt\"\ncert = \"{dir}/admin.crt\"\nkey = \"{dir}/admin.key\"\noutput = \"/dev/null\"\n",
        cluster.url(0)
    );
}

/// Sends them one after the other over a connection that stays open.
fn send(net: &Net, cluster: &Cluster, config: &str) -> Result<()> {
    let file = cluster.dir().join("requests");
    std::fs::write(&file, config.trim_start_matches("next\n")).with_context(|| format!("cannot write {}", file.display()))?;
    let mut curl = net.node2.command("curl");
    curl.args(["--silent", "--show-error", "--config", &path(&file)]);
    let output = curl.stdin(Stdio::null()).stdout(Stdio::null()).output().context("cannot start curl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "curl: {}", said.lines().take(3).collect::<Vec<_>>().join("; "));
    Ok(())
}

fn path(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}
