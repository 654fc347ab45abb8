//! Minutes of everything at once. Run by `make test-long`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ringway_tests::lab::{PodLink, RingwayOptions, Topology};

use crate::{CLUSTER_IP_80, VIP_80, serving, web};

const SOAK: Duration = Duration::from_secs(180);
const RESTART_EVERY: Duration = Duration::from_secs(20);
const BEAT: Duration = Duration::from_millis(50);

/// Sets of backends to go through: each shares a member with the next.
const SETS: [&[&str]; 4] = [&["a1", "b1"], &["b1", "a2"], &["a2", "b2"], &["b2", "a1"]];

#[test]
#[ignore = "three minutes: make test-long"]
fn backends_change_and_the_process_dies_under_load() -> Result<()> {
    let topology = Topology::new().node1_pods(&[PodLink::Routed, PodLink::Bridge, PodLink::Routed]);
    serving("soak", topology, RingwayOptions::default(), SETS[0], |net, ringway| {
        let clients = [
            ("client", net.client.clone(), VIP_80),
            ("node", net.node1.clone(), CLUSTER_IP_80),
            ("pod", net.pod("a3")?.namespace.clone(), CLUSTER_IP_80),
        ];
        let mut held = clients.iter().map(|(_, client, target)| client.hold(target, 10)).collect::<Result<Vec<_>>>()?;
        for stream in &mut held {
            stream.run_every(BEAT)?;
        }
        let start = Instant::now();
        let (mut restarted, mut memory_kib) = (start, None);
        for round in 0.. {
            for (name, client, target) in &clients {
                for protocol in ["tcp", "udp"] {
                    let load = client.load(protocol, target, 2, Duration::from_millis(500))?;
                    ensure!(load.errors == 0 && load.requests > 0, "round {round}, {protocol} of the {name}: {load:?}");
                }
            }
            ringway.publish(&[web(net, SETS[round % SETS.len()])?])?;
            if restarted.elapsed() > RESTART_EVERY {
                ringway.kill();
                std::thread::sleep(Duration::from_millis(200));
                ringway.start_again()?;
                restarted = Instant::now();
            }
            if memory_kib.is_none() && start.elapsed() > SOAK / 3 {
                memory_kib = Some(ringway.memory_kib()?);
            }
            if start.elapsed() > SOAK {
                break;
            }
        }
        for (stream, (name, ..)) in held.iter_mut().zip(&clients) {
            let report = stream.stop()?;
            ensure!(report.errors == 0 && report.exchanges > 1_000, "connections of the {name}: {report:?}");
        }
        let (before, after) = (memory_kib.unwrap_or(0), ringway.memory_kib()?);
        ensure!(after < before + 20 * 1024, "memory grew from {before} to {after} KiB");
        Ok(())
    })
}
