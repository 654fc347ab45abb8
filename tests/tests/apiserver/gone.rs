//! Endpoints that are gone: clients with idle connections are told; of those that were only taken out of the Service, nobody.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringway_tests::kubernetes::{Cluster, ClusterOptions};
use ringway_tests::lab::{Idle, Net, Ringway, RingwayOptions, address, wait_for};
use serde_json::{Value, json};

use crate::bed::{PATIENCE, service_path, slice_path};
use crate::packets::{wait_servers, with_cluster};

/// What the product promises.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// A connection that is alive after this long is none that was ended.
const LEFT_ALONE: Duration = Duration::from_secs(3);

/// Each pod of the test is an object, too.
fn create_pods(net: &Net, cluster: &Cluster, names: &[&str]) -> Result<()> {
    for name in names {
        let pod = net.pod(name)?;
        cluster.create(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{nodeName: {}, containers: [{{name: a, image: a}}]}}\n",
            pod.node
        ))?;
        let status = json!({"status": {"phase": "Running", "podIP": pod.address, "podIPs": [{"ip": pod.address}]}});
        cluster.patch(&format!("{}/status", pod_path(name)), &status)?;
    }
    Ok(())
}

fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

/// The Service gets this endpoint only.
fn set_endpoint(net: &Net, cluster: &Cluster, name: &str) -> Result<()> {
    let (pod, object) = (net.pod(name)?, cluster.get(&pod_path(name))?);
    let target = json!({"kind": "Pod", "namespace": "default", "name": name, "uid": object["metadata"]["uid"]});
    let endpoints = json!([{"addresses": [pod.address], "nodeName": pod.node, "targetRef": target}]);
    cluster.patch(&slice_path("web-1"), &json!({"endpoints": endpoints}))
}

/// And serves by it.
fn serve(net: &Net, cluster: &Cluster, name: &str) -> Result<()> {
    set_endpoint(net, cluster, name)?;
    wait_servers(net, &[name])
}

fn delete_pod(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.delete(&format!("{}?gracePeriodSeconds=0", pod_path(name)))
}

/// Clients of every kind.
fn idle_clients(net: &Net) -> Result<Vec<(&'static str, Idle)>> {
    let (vip, cluster_ip) = (format!("{}:80", address::VIP), format!("{}:80", address::CLUSTER_IP));
    let pod = &net.pod("a2")?.namespace;
    Ok(vec![
        ("a client outside, TCP", net.client.idle("tcp", &vip)?),
        ("a client outside, UDP", net.client.idle("udp", &vip)?),
        ("a pod, TCP", pod.idle("tcp", &cluster_ip)?),
        ("a pod, UDP", pod.idle("udp", &cluster_ip)?),
        ("the node, TCP", net.node1.idle("tcp", &cluster_ip)?),
        ("the node, to a VIP", net.node1.idle("tcp", &vip)?),
    ])
}

fn run(name: &str, pod_delivery: &'static str, test: impl FnOnce(&Net, &Cluster, &Ringway) -> Result<()>) -> Result<()> {
    with_cluster(name, ClusterOptions::default(), |net, cluster| {
        let sources = ["--apiserver".to_owned(), cluster.url(0), "--kubeconfig".to_owned(), cluster.kubeconfig()?.display().to_string()];
        let options = RingwayOptions { sources: sources.into(), pod_delivery, ..RingwayOptions::default() };
        let ringway = Ringway::start(net, &options, &[])?;
        create_pods(net, cluster, &["a1", "b1", "b2"])?;
        let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": address::VIP}]}}});
        cluster.patch(&format!("{}/status", service_path("web")), &ingress)?;
        wait_for("the VIP is served", PATIENCE, || net.client.line(&format!("{}:80", address::VIP), 0).map(drop))?;
        test(net, cluster, &ringway)
    })
}

fn web_client(net: &Net) -> Result<Idle> {
    net.client.idle("tcp", &format!("{}:80", address::VIP))
}

fn are_told(net: &Net, cluster: &Cluster, from: &str, to: &str) -> Result<()> {
    serve(net, cluster, from)?;
    let mut clients = idle_clients(net)?;
    // As for a node that is lost: the process behind it says nothing any more.
    net.pod(from)?.namespace.ip("link set eth0 down")?;
    delete_pod(cluster, from)?;
    let start = Instant::now();
    set_endpoint(net, cluster, to)?;
    for (who, client) in &mut clients {
        let ended = client.ended(PATIENCE).with_context(|| format!("{who} of {from} is not told"))?;
        let expected = if who.ends_with("UDP") { "connection refused" } else { "connection reset" };
        ensure!(ended == expected, "{who} of {from}: {ended}");
        ensure!(start.elapsed() < TOLD_WITHIN, "{who} of {from}: told after {:?}", start.elapsed());
    }
    wait_servers(net, &[to])
}

#[test]
fn clients_of_a_pod_that_is_gone_are_told() -> Result<()> {
    run("api_gone", "edge", |net, cluster, _| {
        are_told(net, cluster, "b1", "a1")?;
        are_told(net, cluster, "a1", "b2")
    })
}

#[test]
fn clients_of_a_pod_that_is_gone_are_told_with_direct_delivery() -> Result<()> {
    run("api_gone_direct", "direct", |net, cluster, _| are_told(net, cluster, "a1", "b2"))
}

/// While the process was away, so that nobody saw them leave.
#[test]
fn clients_of_a_pod_that_went_meanwhile_are_told() -> Result<()> {
    run("api_gone_meanwhile", "edge", |net, cluster, ringway| {
        serve(net, cluster, "b1")?;
        wait_for("the endpoint is kept on disk", PATIENCE, || {
            let text = std::fs::read_to_string(ringway.state_dir().join("objects.json"))?;
            let uid = cluster.get(&pod_path("b1"))?["metadata"]["uid"].to_string();
            ensure!(text.contains("\"b1\"") && !uid.is_empty(), "not yet");
            Ok(())
        })?;
        let mut clients = idle_clients(net)?;
        clients.retain(|(who, _)| !who.ends_with("UDP"));
        ringway.kill();
        net.pod("b1")?.namespace.ip("link set eth0 down")?;
        delete_pod(cluster, "b1")?;
        set_endpoint(net, cluster, "a1")?;
        ringway.start_again()?;
        for (who, client) in &mut clients {
            let ended = client.ended(PATIENCE).with_context(|| format!("{who} is not told"))?;
            ensure!(ended == "connection reset", "{who}: {ended}");
        }
        wait_servers(net, &["a1"])
    })
}

#[test]
fn connections_to_a_pod_that_lives_go_on() -> Result<()> {
    run("api_gone_alive", "edge", |net, cluster, _| {
        serve(net, cluster, "b1")?;
        let mut clients = idle_clients(net)?;
        clients.retain(|(who, _)| !who.ends_with("UDP"));
        serve(net, cluster, "a1")?;
        std::thread::sleep(LEFT_ALONE);
        for (who, client) in &mut clients {
            ensure!(client.ended(Duration::from_millis(10)).is_err(), "{who}: the connection has ended");
        }
        Ok(())
    })
}

#[test]
fn a_service_may_keep_its_connections() -> Result<()> {
    run("api_gone_kept", "edge", |net, cluster, ringway| {
        serve(net, cluster, "b1")?;
        let annotations = json!({"ringway.dev/reset-gone-endpoints": "false"});
        // With something that is seen when it acts.
        cluster.patch(&service_path("web"), &json!({"metadata": {"annotations": annotations}, "spec": {"externalIPs": ["192.0.2.77"]}}))?;
        wait_for("the Service's new version", PATIENCE, || {
            let services = String::from_utf8(ringway.run(&["services"])?.stdout)?;
            ensure!(services.contains("192.0.2.77"), "{services}");
            Ok(())
        })?;
        let mut client = web_client(net)?;
        delete_pod(cluster, "b1")?;
        serve(net, cluster, "a1")?;
        std::thread::sleep(LEFT_ALONE);
        ensure!(client.ended(Duration::from_millis(10)).is_err(), "the connection has ended");
        Ok(())
    })
}

#[test]
fn a_node_out_of_reach_takes_its_terminating_pods_with_it() -> Result<()> {
    run("api_gone_node", "edge", |net, cluster, _| {
        serve(net, cluster, "b1")?;
        let mut client = web_client(net)?;
        let slice: Value = cluster.get(&slice_path("web-1"))?;
        let mut endpoint = slice["endpoints"][0].clone();
        endpoint["conditions"] = json!({"ready": false, "serving": false, "terminating": true});
        cluster.patch(&slice_path("web-1"), &json!({"endpoints": [endpoint]}))?;
        ensure!(client.ended(LEFT_ALONE).is_err(), "one that ends is left alone");
        let taint = json!({"spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}});
        cluster.patch("/api/v1/nodes/node2", &taint)?;
        ensure!(client.ended(PATIENCE)? == "connection reset", "another end");
        Ok(())
    })
}

#[test]
fn without_the_right_to_ask_connections_are_left_alone() -> Result<()> {
    run("api_gone_forbidden", "edge", |net, cluster, ringway| {
        serve(net, cluster, "b1")?;
        cluster.patch(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/ringway",
            &json!({"rules": [
                {"apiGroups": [""], "resources": ["services", "nodes", "pods"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
                {"apiGroups": ["networking.k8s.io"], "resources": ["servicecidrs"], "verbs": ["list", "watch"]},
            ]}),
        )?;
        let mut client = web_client(net)?;
        delete_pod(cluster, "b1")?;
        serve(net, cluster, "a1")?;
        wait_for("the missing right is named", PATIENCE, || {
            let problems = ringway.status()?["problems"].to_string();
            ensure!(problems.contains("verb") && problems.contains("`get`") && problems.contains("`pods`"), "{problems}");
            Ok(())
        })?;
        ensure!(client.ended(LEFT_ALONE).is_err(), "the connection has ended");
        Ok(())
    })
}
