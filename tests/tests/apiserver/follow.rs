//! Objects that come, change and go.

use anyhow::{Result, ensure};
use ringway_model::Model;
use ringway_tests::kubernetes::ClusterOptions;
use serde_json::json;

use crate::bed::{Bed, bed, service, service_path, slice, slice_path};

#[test]
fn objects_and_their_labels_are_followed_live() -> Result<()> {
    bed("api_follow", ClusterOptions::default(), |bed| {
        bed.cluster.create(&service("before", 1))?;
        bed.cluster.create("apiVersion: v1\nkind: Node\nmetadata: {name: node2}\n")?;
        bed.start()?;
        bed.wait_fresh()?;
        bed.wait_for("Service default/before")?;
        bed.wait_for("Service default/kubernetes")?;
        bed.wait_for("Node /node2")?;
        bed.wait_for("ServiceCIDR /kubernetes")?;
        bed.cluster
            .create("apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.97.0.0/24]}\n")?;
        bed.wait_for("ServiceCIDR /more")?;
        bed.cluster.create(&[service("web", 2), slice("web-1", "web", "10.244.1.2", 8080)].join("---\n"))?;
        bed.wait_for("Service default/web")?;
        bed.wait_for("EndpointSlice default/web-1")?;

        for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
            bed.cluster.patch(&service_path("web"), &json!({"metadata": {"labels": {label: "x"}}}))?;
            bed.wait_gone("Service default/web")?;
            bed.cluster.patch(&service_path("web"), &json!({"metadata": {"labels": {label: null}}}))?;
            bed.wait_for("Service default/web")?;
            bed.cluster.patch(&slice_path("web-1"), &json!({"metadata": {"labels": {label: ""}}}))?;
            bed.wait_gone("EndpointSlice default/web-1")?;
            bed.cluster.patch(&slice_path("web-1"), &json!({"metadata": {"labels": {label: null}}}))?;
            bed.wait_for("EndpointSlice default/web-1")?;
        }

        let endpoints = json!([{"addresses": ["10.244.1.3"]}, {"addresses": ["10.244.1.4"]}]);
        bed.cluster.patch(&slice_path("web-1"), &json!({"endpoints": endpoints}))?;
        bed.wait("the endpoints change", |bed| {
            let slice = bed.tables.get("EndpointSlice default/web-1");
            ensure!(matches!(slice, Some(Model::EndpointSlice(slice)) if slice.endpoints.len() == 2), "{slice:?}");
            Ok(())
        })?;
        bed.cluster.patch(
            &service_path("web"),
            &json!({"spec": {"type": "ExternalName", "externalName": "a.test", "clusterIP": null, "clusterIPs": null}}),
        )?;
        bed.wait_gone("Service default/web")?;
        bed.cluster.delete(&service_path("before"))?;
        bed.wait_gone("Service default/before")?;
        bed.cluster.delete("/api/v1/nodes/node2")?;
        bed.wait_gone("Node /node2")?;
        let heard = bed.kind("Node")?.heard_age_s;
        ensure!(heard.is_some_and(|age| age < 30.0), "the watch was heard {heard:?} s ago");
        bed.wait_no_problem().map(drop)
    })
}

/// Those that can be told by their addresses: not in the host network, not ended, not elsewhere.
#[test]
fn pods_of_this_node_are_followed() -> Result<()> {
    bed("api_pods", ClusterOptions::default(), |bed| {
        let create = |bed: &Bed, name: &str, node: &str, more: &str| -> Result<()> {
            bed.cluster.create(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\n\
                 spec: {{nodeName: {node}, containers: [{{name: a, image: a}}]{more}}}\n"
            ))?;
            let status =
                json!({"status": {"phase": "Running", "podIP": "10.244.1.9", "podIPs": [{"ip": "10.244.1.9"}, {"ip": "fd00::9"}]}});
            bed.cluster.patch(&format!("/api/v1/namespaces/default/pods/{name}/status"), &status)
        };
        create(bed, "elsewhere", "node2", "")?;
        create(bed, "host", "node1", ", hostNetwork: true")?;
        create(bed, "early", "node1", "")?;
        bed.start()?;
        bed.wait_fresh()?;
        create(bed, "late", "node1", "")?;
        let wait_pods = |bed: &mut Bed, names: &[&str]| {
            bed.wait(&format!("the pods are {names:?}"), |bed| {
                let pods = bed.source()?.pods();
                let mut found: Vec<&str> = pods.iter().map(|pod| &*pod.name).collect();
                found.sort_unstable();
                ensure!(found == names && pods.iter().all(|pod| pod.ips.len() == 2), "{pods:?}");
                Ok(())
            })
        };
        wait_pods(bed, &["early", "late"])?;
        bed.cluster.patch("/api/v1/namespaces/default/pods/early/status", &json!({"status": {"phase": "Succeeded"}}))?;
        wait_pods(bed, &["late"])?;
        ensure!(!bed.tables.keys().any(|key| key.starts_with("Pod ")), "pods are no part of tables: {:?}", bed.tables.keys());
        bed.wait_no_problem()?;
        // Nobody says any more which of them are there.
        bed.cluster.kill(0);
        wait_pods(bed, &[])?;
        bed.cluster.launch(0, &[])?;
        bed.cluster.wait_ready(0)?;
        wait_pods(bed, &["late"])?;
        bed.cluster.delete("/api/v1/namespaces/default/pods/late?gracePeriodSeconds=0")?;
        wait_pods(bed, &[]).map(drop)
    })
}

/// An apiserver accepts addresses with leading zeros if it is asked to, as releases before 1.36 did; we do not know what they mean.
#[test]
fn a_bad_object_is_skipped_and_has_an_event() -> Result<()> {
    let options = ClusterOptions { more: vec!["--feature-gates=StrictIPCIDRValidation=false".into()], ..ClusterOptions::default() };
    bed("api_bad_object", options, |bed| {
        bed.cluster.create(&[service("good", 1), slice("good-1", "good", "10.244.1.2", 80)].join("---\n"))?;
        bed.start()?;
        bed.wait_fresh()?;
        bed.wait_for("EndpointSlice default/good-1")?;
        bed.cluster.create(&slice("bad-1", "bad", "10.244.001.9", 80))?;
        bed.wait_problem(&["EndpointSlice default/bad-1", "endpoints[0].addresses[0]", "10.244.001.9"])?;
        // Good at first, bad later: what was good stays.
        bed.cluster.patch(&slice_path("good-1"), &json!({"endpoints": [{"addresses": ["10.244.001.9"]}]}))?;
        bed.wait_problem(&["EndpointSlice default/good-1"])?;
        let kept = bed.tables.get("EndpointSlice default/good-1");
        ensure!(matches!(kept, Some(Model::EndpointSlice(slice)) if slice.endpoints[0].address.to_string() == "10.244.1.2"), "{kept:?}");
        bed.cluster.create(&service("other", 2))?;
        bed.wait_for("Service default/other")?;
        let kind = bed.kind("EndpointSlice")?;
        ensure!(kind.refused == 2 && bed.status()?.counts.refused_total >= 2, "{kind:?}");

        bed.wait("two events", |bed| {
            let events = bed.cluster.get("/apis/events.k8s.io/v1/namespaces/default/events")?;
            let ours: Vec<_> =
                events["items"].as_array().into_iter().flatten().filter(|it| it["reportingController"] == "ringway").collect();
            ensure!(ours.len() == 2, "{ours:#?}");
            for event in ours {
                let note = event["note"].as_str().unwrap_or_default();
                ensure!(event["regarding"]["kind"] == "EndpointSlice" && event["regarding"]["uid"].is_string(), "{event:#}");
                ensure!(event["reportingInstance"] == "node1" && event["type"] == "Warning" && note.contains("10.244.001.9"), "{event:#}");
            }
            Ok(())
        })?;
        ensure!(bed.status()?.counts.events_sent_total == 2, "{:?}", bed.status()?.counts);
        bed.cluster.patch(&slice_path("good-1"), &json!({"endpoints": [{"addresses": ["10.244.1.3"]}]}))?;
        bed.cluster.delete(&slice_path("bad-1"))?;
        bed.wait_no_problem().map(drop)
    })
}
