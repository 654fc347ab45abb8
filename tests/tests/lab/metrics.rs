//! What Prometheus scrapes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use prometheus_parse::{Scrape, Value};
use ringway_tests::lab::{Net, RingwayOptions, Topology, wait_for};

use crate::http::get;
use crate::{VIP_80, VIP_URL, serving, web};

const PATIENCE: Duration = Duration::from_secs(5);

fn scrape(net: &Net) -> Result<Scrape> {
    let answer = get(&net.node1, "http://127.0.0.1:10249/metrics")?;
    ensure!(answer.code == 200 && answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{answer:?}");
    Scrape::parse(answer.body.lines().map(|line| Ok(line.to_owned()))).context("no Prometheus text")
}

/// The sum of the samples of this name whose labels have these values.
fn sum(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let wanted = |sample: &&prometheus_parse::Sample| {
        sample.metric == name && labels.iter().all(|(label, value)| sample.labels.get(label) == Some(value))
    };
    let samples: Vec<f64> = scrape
        .samples
        .iter()
        .filter(wanted)
        .map(|sample| match &sample.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => *value,
            // The count: the last bucket has all.
            Value::Histogram(buckets) => buckets.last().map_or(0.0, |bucket| bucket.count),
            Value::Summary(_) => f64::NAN,
        })
        .collect();
    ensure!(!samples.is_empty(), "no sample of {name} {labels:?}");
    Ok(samples.iter().sum())
}

#[test]
fn packets_flows_and_ports_move() -> Result<()> {
    serving("metrics_packets", Topology::new(), RingwayOptions::default(), &["b1"], |net, ringway| {
        let before = scrape(net)?;
        ensure!(sum(&before, "ringway_build_info", &[])? == 1.0);
        ensure!(sum(&before, "ringway_worker_up", &[])? == 2.0, "two workers");
        ensure!(sum(&before, "ringway_snat_ports_max", &[("address", "10.0.0.11")])? == 20_000.0);
        let _held = net.client.hold(VIP_80, 7)?;
        let load = net.client.requests("tcp", VIP_80, 2, 50)?;
        ensure!(load.errors == 0, "{load:?}");
        wait_for("the counters", PATIENCE, || {
            let after = scrape(net)?;
            let grown =
                |name: &str, labels: &[(&str, &str)]| Ok::<f64, anyhow::Error>(sum(&after, name, labels)? - sum(&before, name, labels)?);
            // Five packets a request in one direction at least.
            ensure!(grown("ringway_packets_total", &[("verdict", "uplink")])? > 250.0);
            ensure!(grown("ringway_worker_packets_total", &[])? > 250.0);
            ensure!(grown("ringway_socket_rx_packets_total", &[("device", "eth0")])? > 250.0);
            ensure!(grown("ringway_program_packets_total", &[])? > 250.0);
            ensure!(sum(&after, "ringway_flows", &[])? >= 7.0);
            ensure!(sum(&after, "ringway_snat_ports_in_use", &[("address", "10.0.0.11")])? >= 7.0);
            ensure!(sum(&after, "ringway_frames", &[])? == sum(&after, "ringway_frames_max", &[])?, "frames in all places");
            ensure!(sum(&after, "ringway_frames", &[("place", "lost")])? == 0.0);
            Ok(())
        })?;
        // A packet that is dropped has a reason.
        let dropped = |scrape: &Scrape| sum(scrape, "ringway_drops_total", &[("reason", "policy_local")]);
        let before = dropped(&scrape(net)?)?;
        ringway.publish(&[web(net, &["b1"])?.spec("externalTrafficPolicy: Local")])?;
        wait_for("a drop with its reason", PATIENCE, || {
            ensure!(net.client.curl_within(VIP_URL, Duration::from_millis(200)).is_err(), "still served");
            ensure!(dropped(&scrape(net)?)? > before, "not counted yet");
            Ok(())
        })
    })
}

#[test]
fn kube_proxys_names_tell_of_programming() -> Result<()> {
    serving("metrics_programming", Topology::new(), RingwayOptions::default(), &["a1"], |net, ringway| {
        let first = scrape(net)?;
        ensure!(sum(&first, "kubeproxy_network_programming_duration_seconds", &[])? == 0.0, "what was there at start is not observed");
        let now = || -> Result<f64> { Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64()) };
        let last = sum(&first, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", &[])?;
        ensure!(now()? - last < 60.0, "the start is a sync: {last}");
        ensure!(sum(&first, "kubeproxy_sync_proxy_rules_service_changes_total", &[])? == 1.0);

        // The controller notes what led to the change; here a quarter of a second ago.
        let trigger = std::process::Command::new("date").args(["-u", "-d", "-0.25 seconds", "+%Y-%m-%dT%H:%M:%S.%NZ"]).output()?;
        let trigger = String::from_utf8(trigger.stdout)?;
        let annotated = |pods: &[&str]| -> Result<String> {
            let labels = "labels: {kubernetes.io/service-name: web}";
            let annotation = format!("{labels}, annotations: {{endpoints.kubernetes.io/last-change-trigger-time: '{}'}}", trigger.trim());
            Ok(web(net, pods)?.spec("externalTrafficPolicy: Local").yaml().replace(labels, &annotation))
        };
        std::thread::sleep(Duration::from_millis(300));
        ringway.write_manifest("services.yaml", &annotated(&["b1"])?)?;
        let after = wait_for("the change", PATIENCE, || {
            let after = scrape(net)?;
            ensure!(sum(&after, "kubeproxy_network_programming_duration_seconds", &[])? == 1.0, "not observed yet");
            Ok(after)
        })?;
        let grown = |name: &str| Ok::<f64, anyhow::Error>(sum(&after, name, &[])? - sum(&first, name, &[])?);
        ensure!(grown("kubeproxy_sync_proxy_rules_duration_seconds")? >= 1.0);
        ensure!(grown("kubeproxy_sync_proxy_rules_endpoint_changes_total")? == 1.0);
        ensure!(grown("kubeproxy_sync_proxy_rules_service_changes_total")? == 1.0);
        ensure!(sum(&after, "kubeproxy_sync_proxy_rules_endpoint_changes_pending", &[])? == 0.0);
        ensure!(grown("ringway_generation")? >= 1.0);
        let no_local = |policy| sum(&after, "kubeproxy_sync_proxy_rules_no_local_endpoints_total", &[("traffic_policy", policy)]);
        // TCP and UDP, both of whose endpoints are elsewhere.
        ensure!((no_local("external")?, no_local("internal")?) == (2.0, 0.0));
        // The node's own changes publish too, at any moment: once, the two are equal.
        wait_for("every worker to act on the last generation", PATIENCE, || {
            let now = scrape(net)?;
            ensure!(sum(&now, "ringway_generation", &[])? == sum(&now, "ringway_acting_generation", &[])?);
            Ok(())
        })?;

        ringway.write_manifest(
            "wrong.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: wrong}\nspec: {clusterIP: nonsense, ports: [{port: 80}]}\n",
        )?;
        wait_for("the problem", PATIENCE, || {
            ensure!(sum(&scrape(net)?, "ringway_problems", &[("severity", "error"), ("kind", "service")])? >= 1.0);
            Ok(())
        })
    })
}

#[test]
fn probes_are_counted_and_the_mode_is_said() -> Result<()> {
    serving("metrics_probes", Topology::new(), RingwayOptions::default(), &["a1"], |net, ringway| {
        let mode = get(&net.node1, "http://127.0.0.1:10249/proxyMode")?;
        ensure!(mode.code == 200 && mode.body == "ringway", "{mode:?}");
        let alive = get(&net.node1, "http://127.0.0.1:10249/healthz")?;
        ensure!(alive.code == 200 && alive.body == "ok", "{alive:?}");
        ensure!(get(&net.client, "http://10.0.0.11:10249/metrics").is_err(), "only the node itself sees the metrics by default");
        get(&net.node1, "http://127.0.0.1:10256/healthz")?;
        ringway.remove_manifest("nodes.yaml")?;
        wait_for("503", PATIENCE, || {
            ensure!(get(&net.node1, "http://127.0.0.1:10256/healthz")?.code == 503);
            Ok(())
        })?;
        get(&net.node1, "http://127.0.0.1:10256/livez")?;
        let after = scrape(net)?;
        ensure!(sum(&after, "kubeproxy_proxy_healthz_total", &[("code", "200")])? >= 1.0);
        ensure!(sum(&after, "kubeproxy_proxy_healthz_total", &[("code", "503")])? >= 1.0);
        ensure!(sum(&after, "kubeproxy_proxy_livez_total", &[("code", "200")])? == 1.0);
        Ok(())
    })
}
