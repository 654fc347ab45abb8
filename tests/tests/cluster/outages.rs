//! Nodes and apiservers that go and come back.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::bed::{Bed, judge, wait_for};

/// The control plane notices, pods are started again.
const PATIENCE: Duration = Duration::from_secs(180);

fn is_ready(bed: &Bed, node: &str) -> Result<bool> {
    Ok(bed.kubectl(&format!("get node {node} -o jsonpath={{.status.conditions[?(@.type==\"Ready\")].status}}"))? == "True")
}

#[test]
fn a_node_that_is_cut_off_comes_back() -> Result<()> {
    let bed = Bed::open()?;
    let web = bed.web("story-cut", 6)?;
    bed.fabric("link set node2 down")?;
    let outage = (|| {
        wait_for("node2 is given up", PATIENCE, || {
            ensure!(!is_ready(&bed, "node2")?, "it is Ready");
            Ok(())
        })?;
        std::thread::sleep(Duration::from_secs(3));
        // Its endpoints are not ready any more: nobody is sent there.
        let words = ["load", "tcp", &web.load_balancer.to_string(), "20", "--rate", "100", "--for-ms", "5000"];
        let mut client = web.outside(&words)?;
        client.line()
    })();
    bed.fabric("link set node2 up")?;
    let during: serde_json::Value = serde_json::from_str(&outage?)?;
    println!("story a node is cut off, meanwhile, {}: {during}", bed.proxy());
    ensure!(bed.proxy() != "ringway" || during["errors"] == 0, "{during}");
    wait_for("node2 is Ready again", PATIENCE, || {
        ensure!(is_ready(&bed, "node2")?, "it is not");
        Ok(())
    })?;
    web.kubectl("rollout status deployment/web --timeout=180s")?;
    std::thread::sleep(Duration::from_secs(3));
    let report = web.loads(100)?.after(Duration::from_secs(5))?;
    judge(&bed, "a node is cut off, afterwards", &report, report.errors == 0 && report.requests > 300)
}

/// No flow table, no kernel state, the same addresses.
#[test]
fn a_node_reboots() -> Result<()> {
    let bed = Bed::open()?;
    let web = bed.web("story-reboot", 6)?;
    let boot = || bed.kubectl("get node node2 -o jsonpath={.status.nodeInfo.bootID}{.metadata.resourceVersion}");
    let before = boot()?;
    bed.cluster(&["stop-node", "node2"])?;
    std::thread::sleep(Duration::from_secs(2));
    bed.cluster(&["start-node", "node2"])?;
    wait_for("node2 speaks again", PATIENCE, || {
        ensure!(boot()? != before && is_ready(&bed, "node2")?, "it does not");
        Ok(())
    })?;
    bed.kubectl("-n kube-system rollout status daemonset/ringway --timeout=120s")
        .or_else(|error| if bed.proxy() == "ringway" { Err(error) } else { Ok(String::new()) })?;
    wait_for("all pods are back", PATIENCE, || web.kubectl("wait --for=condition=Ready pod --all --timeout=5s").map(drop))?;
    wait_for("all ways to the Service answer", Duration::from_secs(30), || {
        let report = web.loads(100)?.after(Duration::from_secs(1))?;
        ensure!(report.errors == 0 && report.requests > 50, "{report:?}");
        Ok(())
    })?;
    let report = web.loads(100)?.after(Duration::from_secs(5))?;
    judge(&bed, "a node has rebooted", &report, report.errors == 0 && report.requests > 300)
}

/// What is known goes on. `STORY_OUTAGE_SECONDS` says for how long, 60 unless given.
#[test]
fn the_apiserver_is_away() -> Result<()> {
    let bed = Bed::open()?;
    let web = bed.web("story-apiserver", 6)?;
    let seconds = std::env::var("STORY_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    // A client in a pod is reached through the apiserver: only those outside count.
    let load = |target: String| web.outside(&["load", "tcp", &target, "50", "--rate", "100", "--for-ms", &(seconds * 1_000).to_string()]);
    let mut clients = [load(web.load_balancer.to_string())?, load(web.node_port.to_string())?];
    bed.cluster(&["stop", "kube-apiserver"])?;
    let reports: Result<Vec<String>> = clients.iter_mut().map(crate::bed::Client::line).collect();
    bed.cluster(&["start", "kube-apiserver"])?;
    for report in reports? {
        let report: serde_json::Value = serde_json::from_str(&report)?;
        println!("story the apiserver is away for {seconds} s, {}: {report}", bed.proxy());
        ensure!(bed.proxy() != "ringway" || report["errors"] == 0, "{report}");
    }
    wait_for("the apiserver is back", PATIENCE, || bed.kubectl("get --raw /readyz").map(drop))?;
    web.kubectl("rollout restart deployment/web")?;
    web.kubectl("rollout status deployment/web --timeout=300s")?;
    std::thread::sleep(Duration::from_secs(7));
    let report = web.loads(100)?.after(Duration::from_secs(5))?;
    judge(&bed, "the apiserver was away, other pods afterwards", &report, report.errors == 0 && report.requests > 300)
}
