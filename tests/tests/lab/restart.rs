//! Ends and starts: kill -9, SIGTERM, cleanup, preflight.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Capture, Family, Net, Ringway, RingwayOptions, Topology, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, VIP_URL, lab, lab_of, serving, web};

const BEAT: Duration = Duration::from_millis(20);

/// The machine pauses by itself now and then; a flow that has to wait for the new process waits longer than `DOWN`.
const NO_PAUSE_MS: f64 = 250.0;
const DOWN: Duration = Duration::from_millis(700);

for_both!(connections_survive_kill_and_restart, |family| {
    serving("restart_kill", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, ringway| {
        let mut by_worker = net.client.hold(VIP_80, 10)?;
        let mut by_edge_from_pod = net.pod("a1")?.namespace.hold(VIP_80, 10)?;
        ringway.publish(&[web(net, &["a1"])?])?;
        wait_for("the backend here", Duration::from_secs(2), || {
            ensure!(net.client.curl(VIP_URL)?.starts_with("a1"), "not yet");
            Ok(())
        })?;
        let mut by_edge_from_client = net.client.hold(VIP_80, 10)?;
        let mut by_edge_from_node = net.node1.hold(CLUSTER_IP_80, 10)?;
        for _ in 0..2 {
            for stream in [&mut by_edge_from_pod, &mut by_edge_from_client, &mut by_edge_from_node] {
                stream.run_every(BEAT)?;
            }
            ringway.kill();
            std::thread::sleep(DOWN);
            // While nobody decides, what needs a decision is dropped; the kernel must not answer it with a reset.
            ensure!(net.client.curl_within(VIP_URL, Duration::from_millis(200)).is_err(), "a new connection was served by nobody");
            ringway.start_again()?;
            for (name, stream) in [("pod", &mut by_edge_from_pod), ("client", &mut by_edge_from_client), ("node", &mut by_edge_from_node)] {
                let report = stream.stop()?;
                ensure!(report.errors == 0, "flows of the {name} broke: {report:?}");
                ensure!(report.exchanges > 20, "flows of the {name} hardly moved: {report:?}");
                ensure!(report.longest_gap_ms < NO_PAUSE_MS, "flows of the {name} paused: {report:?}");
            }
            let report = by_worker.exchange(Duration::from_secs(5))?;
            ensure!(report.errors == 0 && report.exchanges == 10, "flows of the workers broke: {report:?}");
            ensure!(net.client.curl(VIP_URL)?.starts_with("a1"), "new connections go on");
        }
        Ok(())
    })
});

for_both!(worker_flow_in_motion_survives_kill_and_restart, |family| {
    serving("restart_in_motion", Topology::new().family(family), RingwayOptions::default(), &["b1", "b2"], |net, ringway| {
        let mut streams = net.client.hold(VIP_80, 20)?;
        streams.run_every(BEAT)?;
        ringway.kill();
        ringway.start_again()?;
        std::thread::sleep(Duration::from_millis(300));
        let report = streams.stop()?;
        ensure!(report.errors == 0, "{report:?}");
        ensure!(report.servers.len() == 2, "{report:?}");
        Ok(())
    })
});

/// Links, routes, groups and pins that are there.
fn traces(net: &Net, ringway: &Ringway) -> Result<String> {
    let mut found = String::new();
    for device in ["rw0", "rw1"] {
        if net.node1.ip(&format!("link show dev {device}")).is_ok() {
            found += &format!("device {device}\n");
        }
    }
    found += &net.node1.ip("route show table all proto 82")?;
    let rules = net.node1.ip("-d rule show")?;
    found += &rules.lines().filter(|rule| rule.contains("proto 82")).map(|rule| format!("rule {rule}\n")).collect::<String>();
    if net.node1.ip("maddress show dev eth0")?.contains("ff02::1:ff00:64") {
        found += "the VIP's group on eth0\n";
    }
    if net.node1.ip("-d link show dev eth0")?.contains("xdp") {
        found += "XDP on eth0\n";
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let state_dir = ringway.state_dir().to_string_lossy().into_owned();
    found += &mounts.lines().filter(|line| line.contains(&state_dir)).map(|line| format!("mount {line}\n")).collect::<String>();
    if let Ok(entries) = std::fs::read_dir(ringway.state_dir()) {
        found += &entries.filter_map(|entry| Some(format!("state {}\n", entry.ok()?.path().display()))).collect::<String>();
    }
    Ok(found)
}

/// Nothing of ours is there, and the kernel forwards what it would forward without us.
fn ensure_gone(net: &Net, ringway: &Ringway) -> Result<()> {
    let left = traces(net, ringway)?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    // A program left at the pod's device would take the packet, and at the uplink too.
    let capture = Capture::start(&net.router, "node1-eth0", "dst host 10.96.0.10", net.lab.artifact_dir())?;
    let _ = net.pod("a1")?.namespace.curl_within("http://10.96.0.10/", Duration::from_millis(100));
    capture.wait_frame("the pod's packet, untouched", Duration::from_secs(1), |_| true)?;
    Ok(())
}

for_both!(sigterm_leaves_nothing_behind, |family| {
    lab_of("restart_sigterm", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["a1", "b1"])?])?;
        net.client.curl(VIP_URL)?;
        ensure!(!traces(&net, &ringway)?.is_empty(), "a running process must leave traces, or this test sees nothing");
        ringway.terminate()?;
        ensure_gone(&net, &ringway)
    })
});

for_both!(cleanup_after_kill_leaves_nothing_behind, |family| {
    lab_of("restart_cleanup", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["a1", "b1"])?])?;
        net.client.curl(VIP_URL)?;
        ringway.kill();
        let output = ringway.run(&["cleanup"])?;
        ensure!(output.status.success(), "cleanup: {}", String::from_utf8_lossy(&output.stderr));
        ensure_gone(&net, &ringway)?;
        // And again, on nothing.
        ensure!(ringway.run(&["cleanup"])?.status.success(), "a second cleanup fails");
        ringway.start_again()?;
        net.client.curl(VIP_URL).map(drop)
    })
});

#[test]
fn killed_at_any_moment_of_its_start() -> Result<()> {
    serving("restart_during_start", Topology::new(), RingwayOptions::default(), &["a1", "b1"], |net, ringway| {
        for delay_ms in [0, 10, 30, 60, 100, 150, 250, 400] {
            ringway.kill();
            ringway.launch()?;
            std::thread::sleep(Duration::from_millis(delay_ms));
            ringway.kill();
            ringway.start_again()?;
            let answer = net.client.curl(VIP_URL).with_context(|| format!("killed after {delay_ms} ms"))?;
            ensure!(answer.starts_with("a1") || answer.starts_with("b1"), "killed after {delay_ms} ms: {answer}");
        }
        Ok(())
    })
}

#[test]
fn starts_again_with_other_options() -> Result<()> {
    lab("restart_other_options", |lab| {
        let net = Topology::new().build(lab)?;
        let services = [web(&net, &["a1", "b1"])?];
        let default = RingwayOptions::default();
        let one_worker = RingwayOptions { workers: 1, ..default.clone() };
        let generic = RingwayOptions { mode: "generic", ..default.clone() };
        let small = default.clone().with(&["--flows-max", "1024"]);
        for (number, options) in [default.clone(), one_worker, RingwayOptions::direct(), small, generic, default].iter().enumerate() {
            let ringway = Ringway::start(&net, options, &services)?;
            let load = net.client.requests("tcp", VIP_80, 2, 40)?;
            ensure!(load.errors == 0 && load.servers.len() == 2, "start {number}: {load:?}");
            ringway.kill();
        }
        Ok(())
    })
}

for_both!(uplink_goes_down_and_comes_up, |family| {
    serving("restart_uplink_down", Topology::new().family(family), RingwayOptions::default(), &["a1", "b1"], |net, _| {
        let mut held = net.client.hold(VIP_80, 4)?;
        net.node1.ip("link set eth0 down")?;
        std::thread::sleep(Duration::from_millis(200));
        net.node1.ip("link set eth0 up")?;
        // The kernel has dropped the routes of the device, and its addresses of IPv6.
        if family == Family::V6 {
            net.node1.ip("address add 10.0.0.11/24 dev eth0 nodad")?;
        }
        net.node1.ip_batch("route add default via 10.0.0.1\nroute add 10.244.2.0/24 via 10.0.0.12\n")?;
        wait_for("the VIP again", Duration::from_secs(5), || net.client.curl_within(VIP_URL, Duration::from_secs(1)))?;
        let report = held.exchange(Duration::from_secs(5))?;
        ensure!(report.errors == 0, "connections did not survive: {report:?}");
        Ok(())
    })
});

#[test]
fn two_processes_do_not_fight() -> Result<()> {
    serving("restart_second_process", Topology::new(), RingwayOptions::default(), &["b1"], |net, ringway| {
        let manifests = net.lab.state_dir().join("manifests");
        let output = ringway.run(&["run", "--uplink", "eth0", "--node-name", "node1", "--manifests", &manifests.to_string_lossy()])?;
        ensure!(!output.status.success(), "a second process starts on the same state");
        net.client.curl(VIP_URL).map(drop)
    })
}

#[test]
fn check_names_every_problem_at_once() -> Result<()> {
    lab("restart_check", |lab| {
        let net = Topology::new().build(lab)?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[])?;
        ringway.terminate()?;
        let manifests = net.lab.state_dir().join("manifests");
        let manifests = manifests.to_string_lossy();
        let good = ringway.run(&["check", "--uplink", "eth0", "--node-name", "node1", "--manifests", &manifests])?;
        ensure!(
            good.status.success(),
            "check of a good node fails: {}{}",
            String::from_utf8_lossy(&good.stdout),
            String::from_utf8_lossy(&good.stderr)
        );
        let bad = ringway.run(&["check", "--uplink", "nope0", "--uplink", "nope1", "--node-name", "node1", "--manifests", &manifests])?;
        ensure!(!bad.status.success(), "check of devices that are not there passes");
        let text = format!("{}{}", String::from_utf8_lossy(&bad.stdout), String::from_utf8_lossy(&bad.stderr));
        ensure!(text.contains("nope0") && text.contains("nope1"), "not every problem is named: {text}");
        Ok(())
    })
}
