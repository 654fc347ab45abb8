//! Updates: SIGTERM with `--on-stop keep`, and the next start takes over.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{RingwayOptions, Topology, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, VIP_URL, serving, web};

const BEAT: Duration = Duration::from_millis(20);

/// As long as the machine pauses by itself now and then.
const NO_PAUSE_MS: f64 = 250.0;

/// What a new pod of a DaemonSet needs at least.
const DOWN: Duration = Duration::from_millis(1_500);

#[test]
fn no_connection_breaks_when_the_process_is_replaced() -> Result<()> {
    let options = RingwayOptions::default().with(&["--on-stop", "keep"]);
    serving("update_keep", Topology::new(), options, &["b1"], |net, ringway| {
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
}
