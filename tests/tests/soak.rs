//! Minutes of everything at once: `make test-long`. As root, against the release binary.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ringway_tests::lab::{Net, Pod, PodLink, Ringway, RingwayOptions, Service, Topology, address, run};

const VIP_80: &str = "10.0.0.100:80";
const CLUSTER_IP_80: &str = "10.96.0.10:80";
const SOAK: Duration = Duration::from_secs(180);
const RESTART_EVERY: Duration = Duration::from_secs(20);
const BEAT: Duration = Duration::from_millis(50);

/// Sets of backends to go through: each shares a member with the next.
const SETS: [&[&str]; 4] = [&["a1", "b1"], &["b1", "a2"], &["a2", "b2"], &["b2", "a1"]];

fn web(net: &Net, pods: &[&str]) -> Result<Service> {
    let pods: Vec<&Pod> = pods.iter().map(|name| net.pod(name)).collect::<Result<_>>()?;
    Ok(Service::web(address::VIP, address::CLUSTER_IP, pods))
}

#[test]
fn backends_change_and_the_process_dies_under_load() -> Result<()> {
    let topology = Topology::new().node1_pods(&[PodLink::Routed, PodLink::Bridge, PodLink::Routed]);
    run("soak", |lab| {
        let net = topology.build(lab)?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, SETS[0])?])?;
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
            ringway.publish(&[web(&net, SETS[round % SETS.len()])?])?;
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
        ensure!(ringway.is_running(), "ringway ended: {}", ringway.log());
        ensure!(ringway.ask("stats")?["frames"]["lost"] == 0, "frames leaked");
        Ok(())
    })
}
