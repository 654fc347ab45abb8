//! Updates: SIGTERM with `--on-stop keep`, and the next start takes over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{RingwayOptions, Topology, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, VIP_URL, serving, web};

const BEAT: Duration = Duration::from_millis(20);

/// As long as the machine pauses by itself now and then.
const NO_PAUSE_MS: f64 = 250.0;

/// What a new pod of a DaemonSet needs at least.
const DOWN: Duration = Duration::from_millis(1_500);

for_both!(no_connection_breaks_when_the_process_is_replaced, |family| {
    let options = RingwayOptions::default().with(&["--on-stop", "keep"]);
    serving("update_keep", Topology::new().family(family), options, &["b1"], |net, ringway| {
        let mut by_worker = net.client.hold(VIP_80, 10)?;
        let mut from_pod = net.pod("a1")?.namespace.hold(VIP_80, 10)?;
        let mut from_node = net.node1.hold(CLUSTER_IP_80, 10)?;
        ringway.publish(&[web(net, &["a1"])?])?;
        wait_for("the backend here", Duration::from_secs(2), || {
            ensure!(net.client.curl(VIP_URL)?.starts_with("a1"), "not yet");
            Ok(())
        })?;
        let mut from_client = net.client.hold(VIP_80, 10)?;
        for round in 0..2 {
            for stream in [&mut by_worker, &mut from_pod, &mut from_node, &mut from_client] {
                stream.run_every(BEAT)?;
            }
            std::thread::sleep(Duration::from_millis(200));
            ringway.terminate()?;
            ensure!(net.node1.ip("link show dev rw0").is_ok(), "the hostlink is gone");
            ensure!(ringway.status().is_err(), "who answers?");
            std::thread::sleep(DOWN);
            ringway.start_again()?;
            std::thread::sleep(Duration::from_millis(300));
            for (name, stream) in [("pod", &mut from_pod), ("node", &mut from_node), ("client", &mut from_client)] {
                let report = stream.stop()?;
                ensure!(report.errors == 0 && report.exchanges > 50, "round {round}: flows of the {name} broke: {report:?}");
                ensure!(report.longest_gap_ms < NO_PAUSE_MS, "round {round}: flows of the {name} paused: {report:?}");
            }
            // Every packet of these needs a worker: they wait, and go on.
            let report = by_worker.stop()?;
            ensure!(report.errors == 0 && report.exchanges > 20, "round {round}: flows of the workers broke: {report:?}");
            ensure!(net.client.curl(VIP_URL)?.starts_with("a1"), "new connections go on");
        }
        Ok(())
    })
});

/// The capabilities that the DaemonSet asks for, as setpriv(1) wants them.
fn capabilities() -> Result<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/daemonset.yaml"))?;
    let daemonset: serde_json::Value = serde_saphyr::from_str(&text)?;
    let context = &daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    ensure!(context["capabilities"]["drop"] == serde_json::json!(["ALL"]), "{context}");
    let added = context["capabilities"]["add"].as_array().context("no capabilities")?;
    Ok(added.iter().filter_map(|name| name.as_str()).fold("-all".to_owned(), |list, name| format!("{list},+{}", name.to_lowercase())))
}

#[test]
fn the_daemonsets_capabilities_suffice_and_its_pods_replace_each_other() -> Result<()> {
    let capabilities = capabilities()?;
    // As a container runtime does: namespaces of its own for mounts and cgroups.
    let under = ["unshare", "--mount", "--cgroup", "--propagation", "slave", "setpriv", "--inh-caps=-all", "--bounding-set", &capabilities];
    let options = RingwayOptions::default().under(&under).with(&["--on-stop", "keep"]);
    serving("update_pods", Topology::new(), options, &["b1", "a1"], |net, ringway| {
        let mut streams = net.client.hold(VIP_80, 10)?;
        let log = ringway.log();
        for warning in ["pins live in a mount namespace", "not served to the node's own sockets", "cannot"] {
            ensure!(!log.contains(warning), "{warning}: {log}");
        }
        streams.run_every(BEAT)?;
        ringway.terminate()?;
        std::thread::sleep(DOWN);
        ringway.start_again()?;
        ensure!(ringway.log().contains("taken over"), "nothing was taken over: {}", ringway.log());
        let report = streams.stop()?;
        ensure!(report.errors == 0, "{report:?}");
        let report = streams.exchange(Duration::from_secs(5))?;
        ensure!(report.errors == 0 && report.servers.len() == 2, "{report:?}");
        // What the DaemonSet `ringway-cleanup` does.
        ringway.terminate()?;
        let output = ringway.run(&["cleanup"])?;
        ensure!(output.status.success(), "{output:?}");
        ensure!(
            net.node1.ip("link show dev rw0").is_err() && net.node1.ip("route show table all proto 82")?.is_empty(),
            "something is left"
        );
        ensure!(!std::fs::read_to_string("/proc/1/mountinfo")?.contains(&*ringway.state_dir().to_string_lossy()), "the bpffs is left");
        ringway.start_again()
    })
}
