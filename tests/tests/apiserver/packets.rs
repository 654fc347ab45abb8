//! The whole process, following an apiserver, with real clients.

use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use prometheus_parse::{Scrape, Value as Sampled};
use ringway_tests::kubernetes::{Cluster, ClusterOptions};
use ringway_tests::lab::{self, Lab, Net, Pod, Ringway, RingwayOptions, Service, Topology, address, wait_for};
use serde_json::{Value, json};

use crate::bed::{PATIENCE, service_path, slice_path};

const CLUSTER_IP_URL: &str = "http://10.96.0.10/";
const CLUSTER_IP_80: &str = "10.96.0.10:80";

/// The control plane lives on node2, `ringway` on node1.
fn following(name: &str, servers: u16, test: impl FnOnce(&Net, &Cluster, &Ringway) -> Result<()>) -> Result<()> {
    let options = ClusterOptions { servers, ..ClusterOptions::default() };
    with_cluster(name, options, |net, cluster| {
        let urls = (0..usize::from(servers)).flat_map(|server| ["--apiserver".to_owned(), cluster.url(server)]);
        let kubeconfig = ["--kubeconfig".to_owned(), cluster.kubeconfig()?.display().to_string()];
        let options = RingwayOptions { sources: urls.chain(kubeconfig).collect(), ..RingwayOptions::default() };
        let ringway = Ringway::start(net, &options, &[])?;
        test(net, cluster, &ringway)?;
        ensure!(ringway.is_running(), "ringway ended: {}", ringway.log());
        Ok(())
    })
}

/// A control plane that knows both nodes and a service with the pods a1 and b1; no `ringway` yet.
pub fn with_cluster(name: &str, options: ClusterOptions, test: impl FnOnce(&Net, &Cluster) -> Result<()>) -> Result<()> {
    lab::run(name, |lab: &Rc<Lab>| {
        let net = Topology::new().build(lab)?;
        let cluster = Cluster::start(lab, &net.node2, "10.0.0.12", options)?;
        cluster.create(&service(&net, &["a1", "b1"])?)?;
        for (node, address) in [("node1", address::NODE1), ("node2", "10.0.0.12")] {
            cluster.create(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n"))?;
            let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
            cluster.patch(&format!("/api/v1/nodes/{node}/status"), &status)?;
        }
        test(&net, &cluster)
    })
}

fn service(net: &Net, pods: &[&str]) -> Result<String> {
    let pods: Vec<&Pod> = pods.iter().map(|name| net.pod(name)).collect::<Result<_>>()?;
    Ok(Service::web(address::VIP, address::CLUSTER_IP, pods).yaml())
}

/// The servers that answer a pod through the ClusterIP become these.
pub fn wait_servers(net: &Net, servers: &[&str]) -> Result<()> {
    wait_for(&format!("answers from {servers:?}"), PATIENCE, || {
        let load = net.pod("a2")?.namespace.requests("tcp", CLUSTER_IP_80, 1, 40)?;
        let names: Vec<&str> = load.servers.keys().map(String::as_str).collect();
        ensure!(load.errors == 0 && names == servers, "{load:?}");
        Ok(())
    })
}

pub fn wait_status(ringway: &Ringway, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
    wait_for(what, PATIENCE, || {
        let status = ringway.status()?;
        ensure!(is(&status), "{:#}; {:#}", status["apiserver"], status["problems"]);
        Ok(())
    })
}

/// What Prometheus finds on node1.
fn scrape(net: &Net) -> Result<Scrape> {
    let text = net.node1.exec(&["curl", "-sSf", "--noproxy", "*", "--max-time", "5", "http://127.0.0.1:10249/metrics"])?;
    Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).context("no Prometheus text")
}

/// The one sample of this name with these labels.
fn sample(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let wanted = |sample: &&prometheus_parse::Sample| {
        sample.metric == name && labels.iter().all(|(label, value)| sample.labels.get(label) == Some(value))
    };
    let mut found = scrape.samples.iter().filter(wanted);
    match (found.next().map(|sample| &sample.value), found.next()) {
        (Some(Sampled::Counter(value) | Sampled::Gauge(value) | Sampled::Untyped(value)), None) => Ok(*value),
        other => bail!("{name} {labels:?}: not one number but {other:?}"),
    }
}

/// Of all kinds but Pod, which is not kept on disk.
fn freshness(status: &Value) -> Vec<&str> {
    let kinds = status["apiserver"]["kinds"].as_array().into_iter().flatten().filter(|kind| kind["kind"] != "Pod");
    kinds.filter_map(|kind| kind["freshness"].as_str()).collect()
}

#[test]
fn clients_reach_services_as_the_apiserver_has_them() -> Result<()> {
    following("api_packets", 1, |net, cluster, ringway| {
        wait_servers(net, &["a1", "b1"])?;
        net.node1.curl(CLUSTER_IP_URL).context("from the node itself")?;
        let endpoints = json!([{"addresses": [net.pod("b2")?.address], "nodeName": "node2"}]);
        cluster.patch(&slice_path("web-1"), &json!({"endpoints": endpoints}))?;
        wait_servers(net, &["b2"])?;

        let label = "service.kubernetes.io/service-proxy-name";
        cluster.patch(&service_path("web"), &json!({"metadata": {"labels": {label: "other"}}}))?;
        wait_for("not served", PATIENCE, || {
            let served = net.pod("a2")?.namespace.curl_within(CLUSTER_IP_URL, std::time::Duration::from_millis(300));
            ensure!(served.is_err(), "still served");
            Ok(())
        })?;
        cluster.patch(&service_path("web"), &json!({"metadata": {"labels": {label: null}}}))?;
        wait_servers(net, &["b2"])?;
        let text = String::from_utf8(ringway.run(&["status"])?.stdout)?;
        for part in ["https://10.0.0.12:6443", "up, in force", "given", "EndpointSlice", "fresh"] {
            ensure!(text.contains(part), "no {part} in {text}");
        }
        let server = ("url", "https://10.0.0.12:6443");
        wait_for("metrics of the apiserver", PATIENCE, || {
            let scrape = scrape(net)?;
            for name in ["ringway_apiserver_up", "ringway_apiserver_in_force"] {
                ensure!(sample(&scrape, name, &[server])? == 1.0, "{name}");
            }
            let latency = sample(&scrape, "ringway_apiserver_latency_seconds", &[server])?;
            ensure!(latency > 0.0 && latency < PATIENCE.as_secs_f64(), "{latency}");
            for (kind, objects) in [("Service", 2.0), ("EndpointSlice", 1.0), ("Node", 2.0), ("ServiceCIDR", 1.0), ("Pod", 0.0)] {
                ensure!(sample(&scrape, "ringway_watch_fresh", &[("kind", kind)])? == 1.0, "{kind}");
                ensure!(sample(&scrape, "ringway_watch_objects", &[("kind", kind)])? == objects, "{kind}");
                // An idle watch has a bookmark each minute.
                let age = sample(&scrape, "ringway_watch_age_seconds", &[("kind", kind)])?;
                ensure!((0.0..120.0).contains(&age), "{kind}: {age}");
            }
            Ok(())
        })?;
        let changes = |scrape: &Scrape| sample(scrape, "ringway_watch_changes_total", &[("kind", "Service")]);
        let before = changes(&scrape(net)?)?;
        cluster.patch(&service_path("web"), &json!({"spec": {"sessionAffinity": "ClientIP"}}))?;
        wait_for("the change is counted", PATIENCE, || {
            let after = changes(&scrape(net)?)?;
            ensure!(after == before + 1.0, "{before}, then {after}");
            Ok(())
        })?;
        cluster.kill(0);
        wait_for("its death is seen", PATIENCE, || {
            let scrape = scrape(net)?;
            ensure!(sample(&scrape, "ringway_apiserver_up", &[server])? == 0.0, "up");
            ensure!(sample(&scrape, "ringway_apiserver_in_force", &[server])? == 0.0, "in force");
            ensure!(sample(&scrape, "ringway_apiserver_errors_total", &[])? >= 1.0, "no error is counted");
            Ok(())
        })
    })
}

/// Each is right by itself.
#[test]
fn a_service_whose_address_is_taken_has_an_event() -> Result<()> {
    following("api_packets_event", 1, |_, cluster, ringway| {
        for (name, number) in [("first", 21), ("second", 22)] {
            cluster.create(&format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
                 spec: {{clusterIP: 10.96.0.{number}, externalIPs: [192.0.2.99], ports: [{{port: 80}}]}}\n"
            ))?;
            // Which is older is told by seconds.
            std::thread::sleep(std::time::Duration::from_millis(1_100));
        }
        wait_for("an event", PATIENCE, || {
            let events = cluster.get("/apis/events.k8s.io/v1/namespaces/default/events")?;
            let ours: Vec<&Value> =
                events["items"].as_array().into_iter().flatten().filter(|it| it["reportingController"] == "ringway").collect();
            ensure!(ours.len() == 1, "{ours:#?}");
            let (event, service) = (ours[0], cluster.get(&service_path("second"))?);
            ensure!(event["reason"] == "NotProgrammed" && event["regarding"]["uid"] == service["metadata"]["uid"], "{event:#}");
            ensure!(event["note"].as_str().is_some_and(|note| note.contains("192.0.2.99:80/TCP is Service default/first's")), "{event:#}");
            Ok(())
        })?;
        cluster.delete(&service_path("first"))?;
        wait_status(ringway, "it is programmed", |status| !status["problems"].to_string().contains("192.0.2.99"))
    })
}

#[test]
fn pods_that_bypass_the_node_are_named() -> Result<()> {
    following("api_packets_pods", 1, |_, cluster, ringway| {
        // An address of the LAN, as a pod on a macvlan has it; one here with a device of its own; one elsewhere.
        for (name, node, address) in [("client", "node1", "10.0.0.51"), ("a1", "node1", "10.244.1.2"), ("b1", "node2", "10.0.0.52")] {
            cluster.create(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\n\
                 spec: {{nodeName: {node}, containers: [{{name: a, image: a}}]}}\n"
            ))?;
            let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
            cluster.patch(&format!("/api/v1/namespaces/default/pods/{name}/status"), &status)?;
        }
        wait_status(ringway, "the pod is named", |status| {
            status["problems"].to_string().contains("Pod default/client (10.0.0.51) is on this node, but its route leads to eth0")
        })?;
        let problems = ringway.status()?["problems"].to_string();
        ensure!(!problems.contains("10.244.1.2") && !problems.contains("10.0.0.52"), "{problems}");
        cluster.delete("/api/v1/namespaces/default/pods/client?gracePeriodSeconds=0")?;
        wait_status(ringway, "it is gone", |status| !status["problems"].to_string().contains("default/client"))
    })
}

#[test]
fn a_node_that_starts_without_apiserver_serves() -> Result<()> {
    following("api_packets_stale", 1, |net, cluster, ringway| {
        wait_servers(net, &["a1", "b1"])?;
        ringway.terminate()?;
        cluster.kill(0);
        ringway.start_again()?;
        wait_servers(net, &["a1", "b1"])?;
        wait_status(ringway, "stale", |status| status["ready"] == true && freshness(status).iter().all(|it| *it == "stale"))?;
        let output = ringway.run(&["status"])?;
        ensure!(String::from_utf8_lossy(&output.stdout).contains("stale: as an earlier process knew them"), "{output:?}");

        cluster.launch(0, &[])?;
        cluster.wait_ready(0)?;
        cluster.delete(&service_path("web"))?;
        cluster.delete(&slice_path("web-1"))?;
        cluster.create(&service(net, &["a1"])?)?;
        wait_servers(net, &["a1"])?;
        wait_status(ringway, "fresh", |status| freshness(status).iter().all(|it| *it == "fresh"))?;
        ringway.kill();
        ringway.start_again()?;
        wait_servers(net, &["a1"])
    })
}

#[test]
fn traffic_goes_on_while_apiservers_die_and_come_back() -> Result<()> {
    following("api_packets_loss", 2, |net, cluster, ringway| {
        wait_servers(net, &["a1", "b1"])?;
        let is_in_force = |status: &Value, server: usize| {
            let candidates = status["apiserver"]["candidates"].as_array().cloned().unwrap_or_default();
            candidates.iter().any(|it| it["in_force"] == true && it["url"] == cluster.url(server).as_str())
        };
        let chosen = usize::from(is_in_force(&ringway.status()?, 1));
        cluster.kill(chosen);
        let endpoints = json!([{"addresses": [net.pod("a1")?.address], "nodeName": "node1"}]);
        cluster.patch(&slice_path("web-1"), &json!({"endpoints": endpoints}))?;
        wait_servers(net, &["a1"])?;
        wait_status(ringway, "the other is in force", |status| is_in_force(status, 1 - chosen))?;
        cluster.kill(1 - chosen);
        wait_status(ringway, "no apiserver is known", |status| status["problems"].to_string().contains("no apiserver answers"))?;
        wait_servers(net, &["a1"])?;
        cluster.launch(chosen, &[])?;
        cluster.wait_ready(chosen)?;
        let endpoints = json!([{"addresses": [net.pod("b1")?.address], "nodeName": "node2"}]);
        cluster.patch(&slice_path("web-1"), &json!({"endpoints": endpoints}))?;
        wait_servers(net, &["b1"])
    })
}
