//! What load balancers and probes are told: `/healthz`, `/livez`, health check ports of services.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Namespace, Net, Ringway, RingwayOptions, Service, Topology, address, wait_for};
use serde_json::{Value, json};

use crate::http::{Response, get, listen};
use crate::{VIP_URL, lab, serving, web};

const PATIENCE: Duration = Duration::from_secs(5);
const HEALTHZ: &str = "http://10.0.0.11:10256/healthz";
const LIVEZ: &str = "http://10.0.0.11:10256/livez";
const PORT_URL: &str = "http://10.0.0.11:32000/any/path";

/// The service of most tests with policy Local and a health check port.
fn local(net: &Net, pods: &[&str]) -> Result<Service> {
    Ok(web(net, pods)?.spec("externalTrafficPolicy: Local").spec("healthCheckNodePort: 32000"))
}

fn wait_answer(client: &Namespace, url: &str, expected: impl Fn(&Response) -> bool) -> Result<Response> {
    wait_for(url, PATIENCE, || {
        let response = get(client, url)?;
        ensure!(expected(&response), "{response:?}");
        Ok(response)
    })
}

fn wait_closed(client: &Namespace) -> Result<()> {
    wait_for("the port to close", PATIENCE, || {
        ensure!(get(client, PORT_URL).is_err(), "the port still answers");
        Ok(())
    })
}

for_both!(health_check_ports_follow_their_services, |family| {
    serving("health_ports", Topology::new().family(family), RingwayOptions::default(), &["a1"], |net, ringway| {
        ensure!(get(&net.client, PORT_URL).is_err(), "nobody asked for the port yet");
        ringway.publish(&[local(net, &["a1", "a2", "b1"])?])?;
        let answer = wait_answer(&net.client, PORT_URL, |answer| answer.code == 200)?;
        let expected = json!({"service": {"namespace": "default", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true});
        ensure!(answer.json()? == expected, "{answer:?}");
        ensure!(answer.header("X-Load-Balancing-Endpoint-Weight") == Some("2"), "{answer:?}");

        // Terminating endpoints get what comes, and load balancers are told to send no more.
        let terminating =
            local(net, &["a1"])?.yaml_speaking(family).replace("{ready: true}", "{ready: false, serving: true, terminating: true}");
        ringway.write_manifest("services.yaml", &terminating)?;
        let answer = wait_answer(&net.client, PORT_URL, |answer| answer.code == 503)?;
        ensure!(answer.json()?["localEndpoints"] == 0 && answer.json()?["serviceProxyHealthy"] == true, "{answer:?}");
        ensure!(answer.header("X-Load-Balancing-Endpoint-Weight") == Some("0"), "{answer:?}");
        ensure!(net.client.curl(VIP_URL)?.starts_with("a1"), "traffic goes on");

        // Only endpoints elsewhere.
        ringway.publish(&[local(net, &["b1"])?])?;
        wait_answer(&net.client, PORT_URL, |answer| answer.code == 503)?;

        for _ in 0..3 {
            ringway.publish(&[web(net, &["a1"])?])?;
            wait_closed(&net.client)?;
            ringway.publish(&[local(net, &["a1"])?])?;
            let answer = wait_answer(&net.client, PORT_URL, |answer| answer.code == 200)?;
            ensure!(answer.header("X-Load-Balancing-Endpoint-Weight") == Some("1"), "{answer:?}");
        }
        // The port changes hands within one change.
        ringway.publish(&[local(net, &["a1"])?.named("aaa")])?;
        wait_answer(&net.client, PORT_URL, |answer| answer.json().is_ok_and(|body| body["service"]["name"] == "aaa"))?;
        ringway.publish(&[])?;
        wait_closed(&net.client)
    })
});

#[test]
fn a_taken_health_check_port_is_one_services_problem() -> Result<()> {
    serving("health_port_taken", Topology::new(), RingwayOptions::default(), &["a1"], |net, ringway| {
        let mut stranger = listen(&net.node1, 32000)?;
        let other = Service::new("other").cluster_ip(address::CLUSTER_IP2).load_balancer_ip(address::VIP2).tcp(80, 8080);
        let other = other.pods([net.pod("a2")?]).spec("externalTrafficPolicy: Local").spec("healthCheckNodePort: 32001");
        ringway.publish(&[local(net, &["a1"])?, other])?;
        wait_answer(&net.client, "http://10.0.0.11:32001/", |answer| answer.code == 200)?;
        wait_for("the problem in status and log", PATIENCE, || {
            let status = ringway.status()?;
            let problems = status["problems"].as_array().context("problems")?.iter().filter_map(Value::as_str);
            let named = |text: &str| text.contains("default/web") && text.contains("32000");
            ensure!(problems.filter(|problem| named(problem)).count() == 1, "{status:#}");
            ensure!(ringway.log().lines().any(named), "the log does not say so");
            Ok(())
        })?;
        ensure!(net.client.curl(VIP_URL)?.starts_with("a1"), "the service itself is served");
        stranger.kill();
        wait_for("the port, tried again", Duration::from_secs(10), || {
            ensure!(get(&net.client, PORT_URL)?.code == 200, "not yet");
            Ok(())
        })?;
        wait_for("no problem any more", PATIENCE, || {
            let status = ringway.status()?;
            ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{status:#}");
            Ok(())
        })
    })
}

/// The Node object of node1 with further text in `metadata` and `spec`.
fn node1(metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: node1{metadata}}}\nspec: {{podCIDR: 10.244.1.0/24{spec}}}\n\
         status: {{addresses: [{{type: InternalIP, address: {}}}]}}\n",
        address::NODE1
    )
}

#[test]
fn a_node_about_to_go_is_no_target() -> Result<()> {
    serving("health_node", Topology::new(), RingwayOptions::default(), &["a1"], |net, ringway| {
        let answer = get(&net.client, HEALTHZ)?;
        ensure!(answer.code == 200 && answer.header("content-type") == Some("application/json"), "{answer:?}");
        let body = answer.json()?;
        let names: Vec<&str> = body.as_object().context("an object")?.keys().map(String::as_str).collect();
        ensure!(names == ["currentTime", "healthy", "lastUpdated", "nodeEligible"], "{body}");
        ensure!(body["healthy"] == true && body["nodeEligible"] == true, "{body}");
        let tainted = node1("", ", taints: [{key: ToBeDeletedByClusterAutoscaler, value: '1', effect: NoSchedule}]");
        let deleted = node1(", deletionTimestamp: '2026-11-22T05:00:00Z'", "");
        for leaving in [tainted, deleted] {
            ringway.write_manifest("nodes.yaml", &leaving)?;
            let answer = wait_answer(&net.client, HEALTHZ, |answer| answer.code == 503)?;
            ensure!(answer.json()?["nodeEligible"] == false && answer.json()?["healthy"] == true, "{answer:?}");
            let alive = get(&net.client, LIVEZ)?;
            ensure!(alive.code == 200 && alive.json()?.get("nodeEligible").is_none(), "{alive:?}");
            ringway.write_manifest("nodes.yaml", &node1("", ""))?;
            wait_answer(&net.client, HEALTHZ, |answer| answer.code == 200)?;
        }
        ensure!(net.client.curl(VIP_URL)?.starts_with("a1"), "what comes is served");
        ringway.remove_manifest("nodes.yaml")?;
        wait_answer(&net.client, HEALTHZ, |answer| answer.code == 503)?;
        Ok(())
    })
}

#[test]
fn noise_and_silence_do_not_keep_probes_waiting() -> Result<()> {
    serving("health_noise", Topology::new(), RingwayOptions::default(), &["a1"], |net, _| {
        // 300 connections that say nothing, and as many that say nonsense.
        let flood = "for i in $(seq 300); do exec {fd}<>/dev/tcp/10.0.0.11/10256; done; \
                     for i in $(seq 300); do head -c 200 /dev/urandom > /dev/tcp/10.0.0.11/10256; done; echo flooding; sleep 60";
        let mut flooder = net.client.spawn("flood", &["bash", "-c", flood])?;
        ensure!(flooder.line(Duration::from_secs(30))? == "flooding", "the flood");
        for _ in 0..10 {
            let answer = get(&net.client, HEALTHZ)?;
            ensure!(answer.code == 200, "{answer:?}");
        }
        Ok(())
    })
}

#[test]
fn who_has_the_port_is_said_before_anything_is_touched() -> Result<()> {
    lab("health_address_taken", |lab| {
        let net = Topology::new().build(lab)?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["a1"])?])?;
        ringway.terminate()?;
        let manifests = net.lab.state_dir().join("manifests");
        let arguments = ["--uplink", "eth0", "--node-name", "node1", "--manifests", &manifests.to_string_lossy()];
        for (port, flag) in [(10256, "--healthz-bind-address"), (10249, "--metrics-bind-address")] {
            let mut stranger = listen(&net.node1, port)?;
            for command in ["check", "run"] {
                let output = ringway.run(&[&[command], &arguments[..]].concat())?;
                let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                ensure!(!output.status.success() && text.contains(flag) && text.contains("kube-proxy"), "{command}: {text}");
            }
            let off = ringway.run(&[&["check", flag, ""], &arguments[..]].concat())?;
            ensure!(off.status.success(), "an empty address switches it off: {off:?}");
            stranger.kill();
        }
        ensure!(net.node1.ip("link show dev rw0").is_err(), "something was made");
        Ok(())
    })
}

#[test]
fn ready_means_that_a_packet_of_ours_came_back() -> Result<()> {
    serving("health_ready", Topology::new(), RingwayOptions::default(), &["b1"], |net, ringway| {
        const READYZ: &str = "http://10.0.0.11:10256/readyz";
        let ready = wait_answer(&net.client, READYZ, |answer| answer.code == 200)?;
        ensure!(ready.json()? == json!({"ready": true, "reasons": []}), "{ready:?}");
        let echoes = |ringway: &Ringway| -> Result<u64> {
            let stats = ringway.ask("stats")?;
            let drops = stats["drops"].as_array().context("drops")?;
            drops.iter().find(|drop| drop["reason"] == "echo").and_then(|drop| drop["packets"].as_u64()).context("no reason echo")
        };
        ensure!(echoes(ringway)? >= 2, "one for each worker");
        // Somebody has put a queue without room before what goes to the workers.
        net.node1.exec(&["tc", "qdisc", "replace", "dev", "rw1", "root", "pfifo", "limit", "0"])?;
        let broken = wait_answer(&net.client, READYZ, |answer| answer.code == 503)?;
        ensure!(broken.body.contains("worker 0") && broken.body.contains("worker 1"), "{broken:?}");
        ensure!(get(&net.client, LIVEZ)?.code == 200, "a new start would not help");
        net.node1.exec(&["tc", "qdisc", "del", "dev", "rw1", "root"])?;
        wait_answer(&net.client, READYZ, |answer| answer.code == 200)?;
        Ok(())
    })
}

#[test]
fn health_check_ports_answer_on_the_node_ports_addresses() -> Result<()> {
    let options = RingwayOptions::default().with(&["--nodeport-addresses", "10.0.0.0/24"]);
    serving("health_addresses", Topology::new(), options, &["a1"], |net, ringway| {
        ringway.publish(&[local(net, &["a1"])?])?;
        wait_answer(&net.client, PORT_URL, |answer| answer.code == 200)?;
        ensure!(get(&net.node1, "http://127.0.0.1:32000/").is_err(), "it answers on the loopback, which is not in the list");
        ensure!(get(&net.node1, "http://127.0.0.1:10256/livez")?.code == 200, "/livez has an address of its own");
        Ok(())
    })
}
