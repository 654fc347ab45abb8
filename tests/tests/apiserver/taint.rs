//! The startup taint of a node: there until packets flow, and nobody else's is touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_agent::apiserver::{IsReady, STARTUP_TAINT};
use ringway_tests::kubernetes::{Cluster, ClusterOptions};
use ringway_tests::lab::{Ringway, RingwayOptions, wait_for};
use serde_json::json;

use crate::bed::{Bed, PATIENCE, bed};
use crate::packets::with_cluster;

const NODE: &str = "/api/v1/nodes/node1";
const OTHER: &str = "example.com/maintenance";

fn node(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec:\n  taints:\n  - {{key: {OTHER}, effect: NoExecute, value: disk}}\n  \
         - {{key: {STARTUP_TAINT}, effect: NoSchedule}}\n  - {{key: {STARTUP_TAINT}, effect: NoExecute}}\n"
    )
}

/// What may be done with nodes beside reading them: nothing unless it is granted.
fn grant_nodes(cluster: &Cluster) -> Result<()> {
    cluster.create(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: taints}\n\
         rules: [{apiGroups: [\"\"], resources: [nodes], verbs: [get, patch]}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: taints}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: taints}\nsubjects: [{kind: User, name: ringway}]\n",
    )
}

/// The keys of a node's taints, without those that the apiserver itself adds.
fn taints(bed: &Bed, path: &str) -> Result<Vec<String>> {
    let node = bed.cluster.get(path)?;
    let taints = node["spec"]["taints"].as_array().context("no taints")?;
    let keys = taints.iter().filter_map(|taint| taint["key"].as_str()).filter(|key| !key.starts_with("node.kubernetes.io/"));
    Ok(keys.map(str::to_owned).collect())
}

fn wait_removed(bed: &mut Bed) -> Result<()> {
    bed.wait("the taint is removed", |bed| {
        let taints = taints(bed, NODE)?;
        ensure!(taints == [OTHER], "{taints:?}");
        Ok(())
    })
    .map(drop)
}

#[test]
fn the_startup_taint_goes_when_packets_flow_and_others_stay() -> Result<()> {
    bed("api_taint", ClusterOptions::default(), |bed| {
        grant_nodes(&bed.cluster)?;
        bed.cluster.create(&node("node1"))?;
        bed.cluster.create(&node("node2"))?;
        let flows = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&flows);
        let is_ready: IsReady = Arc::new(move || {
            let flows = theirs.load(Ordering::Relaxed);
            Box::pin(async move { flows })
        });
        bed.start_removing_taint(is_ready)?;
        bed.wait_fresh()?;
        std::thread::sleep(Duration::from_millis(1_500));
        ensure!(taints(bed, NODE)?.len() == 3, "removed before packets flow");
        flows.store(true, Ordering::Relaxed);
        wait_removed(bed)?;
        ensure!(bed.cluster.get(NODE)?["spec"]["taints"][0]["value"] == "disk", "the other taint was changed");
        ensure!(taints(bed, "/api/v1/nodes/node2")?.len() == 3, "another node's taint is gone");
        // The node comes back with it, as one that is registered anew does.
        bed.cluster.patch(
            NODE,
            &json!({"spec": {"taints": [{"key": OTHER, "effect": "NoExecute"}, {"key": STARTUP_TAINT, "effect": "NoSchedule"}]}}),
        )?;
        wait_removed(bed)?;
        bed.wait_no_problem().map(drop)
    })
}

#[test]
fn a_taint_that_may_not_be_removed_is_named_until_it_may() -> Result<()> {
    bed("api_taint_forbidden", ClusterOptions::default(), |bed| {
        bed.cluster.create(&node("node1"))?;
        bed.start_removing_taint(Arc::new(|| Box::pin(async { true })))?;
        bed.wait_problem(&["cannot remove the taint", STARTUP_TAINT, "node1", "forbidden"])?;
        grant_nodes(&bed.cluster)?;
        wait_removed(bed)?;
        bed.wait_no_problem().map(drop)
    })
}

/// Ready is one thing, to know what to serve another: pods that start on a node without services fail.
#[test]
fn the_taint_stays_until_services_are_known() -> Result<()> {
    let options = ClusterOptions { granted: false, ..ClusterOptions::default() };
    with_cluster("api_taint_services", options, |net, cluster| {
        cluster.create(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: nodes}\n\
             rules: [{apiGroups: [\"\"], resources: [nodes], verbs: [list, watch, get, patch]}]\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: nodes}\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nodes}\nsubjects: [{kind: User, name: ringway}]\n",
        )?;
        cluster.patch(NODE, &json!({"spec": {"taints": [{"key": STARTUP_TAINT, "effect": "NoSchedule"}]}}))?;
        let is_tainted = || -> Result<bool> { Ok(cluster.get(NODE)?["spec"]["taints"].to_string().contains(STARTUP_TAINT)) };
        let sources = ["--remove-taint".into(), "--kubeconfig".into(), cluster.kubeconfig()?.display().to_string()];
        let ringway = Ringway::prepare(net, &RingwayOptions { sources: sources.into(), ..RingwayOptions::default() }, &[])?;
        ringway.launch()?;
        wait_for("the workers run", PATIENCE, || {
            let status = ringway.status()?;
            ensure!(status["workers"][0]["state"] == "running", "{status:#}");
            Ok(())
        })?;
        std::thread::sleep(Duration::from_secs(3));
        ensure!(is_tainted()?, "removed without a service: {:#}", ringway.status()?);
        cluster.grant()?;
        wait_for("the taint is removed", PATIENCE, || {
            ensure!(!is_tainted()?, "it is there");
            Ok(())
        })?;
        net.pod("a2")?.namespace.curl("http://10.96.0.10/").context("removed before the service is served").map(drop)
    })
}
