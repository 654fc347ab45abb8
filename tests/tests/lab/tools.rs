//! Programs that people use to look at a network, through a VIP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Family, Net, Ringway, RingwayOptions, Service, Topology, address, wait_for};
use serde_json::Value;

use crate::{lab_of, serving};

const PATIENCE: Duration = Duration::from_secs(3);

/// `tracepath` asks these ports one after the other.
const TRACED_PORTS: std::ops::Range<u16> = 44_444..44_508;
/// Nobody listens there: the end of the path says so.
const CLOSED: u16 = 9_999;

/// What `tracepath` says of the path to the VIP.
fn trace(net: &Net, server: &str) -> Result<String> {
    let pod = net.pod(server)?;
    let service = Service::new("traced").load_balancer_ip(address::VIP).cluster_ip(address::CLUSTER_IP).pods([pod]);
    let service = TRACED_PORTS.fold(service, |service, port| service.udp(port, CLOSED));
    let _ringway = Ringway::start(net, &RingwayOptions::default(), &[service])?;
    // The neighbors on the way are known then, and nothing has to be asked twice.
    let _ = net.client.udp("10.0.0.100:44444", 0);
    net.client
        .exec(&["tracepath", "-n", "-m", "8", address::VIP])
        .context("tracepath is needed: scripts/prepare.sh installs iputils-tracepath")
}

// The narrow hop is behind this node, and who tells of it is a router there.
for_both!(tracepath_finds_a_narrow_hop_behind_the_vip, |family| {
    lab_of("tools_tracepath", family, |lab| {
        let net = Topology::new().family(family).node2_behind_router().build(lab)?;
        net.router.ip("link set lan2 mtu 1300")?;
        let path = trace(&net, "b1")?;
        // Router, this node, router, node2, the pod.
        ensure!(path.contains("Resume: pmtu 1300 hops 5 back"), "{path}");
        Ok(())
    })
});

for_both!(tracepath_reaches_a_pod_here, |family| {
    lab_of("tools_tracepath_here", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        net.node1.ip(&format!("link set {} mtu 1300", net.pod("a1")?.device))?;
        let path = trace(&net, "a1")?;
        ensure!(path.contains("Resume: pmtu 1300 hops 3 back"), "{path}");
        Ok(())
    })
});

// Each datagram is six fragments; the control connection goes to the same frontend.
for_both!(iperf3_sends_large_datagrams, |family| {
    serving("tools_iperf3", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, ringway| {
        for server in ["b1", "a1"] {
            let pod = net.pod(server)?;
            let _server = pod.namespace.spawn("iperf3", &["iperf3", "-s"])?;
            let service = Service::new("iperf").load_balancer_ip(address::VIP).cluster_ip(address::CLUSTER_IP);
            ringway.publish(&[service.tcp(5201, 5201).udp(5201, 5201).pods([pod])])?;
            net.client.until("answer", "10.0.0.100:5201", PATIENCE, || Ok(()))?;
            for direction in [&[][..], &["-R"]] {
                let words = ["iperf3", "-c", address::VIP, "-u", "-l", "8000", "-b", "60M", "-n", "3M", "-J"];
                // Its server takes one client at a time, and may still be busy with the last one.
                let report = wait_for("a report", Duration::from_secs(10), || {
                    let output = net.client.output(&[&words, direction].concat())?;
                    let report: Value = serde_json::from_slice(&output.stdout)?;
                    ensure!(report["error"].is_null(), "{}", report["error"]);
                    Ok(report)
                })?;
                let sum = &report["end"]["sum"];
                let (sent, lost) = (sum["packets"].as_u64().unwrap_or(0), sum["lost_packets"].as_u64().unwrap_or(u64::MAX));
                ensure!(sent >= 300 && lost <= sent / 20, "{server} {direction:?}: {sum}");
            }
        }
        Ok(())
    })
});

// By the family that is asked for, though the name has addresses of both.
for_both!(curl_of_one_family_reaches_a_python_server, |family| {
    serving("tools_curl", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, ringway| {
        const BYTES: usize = 1_000_000;
        std::fs::write(net.lab.state_dir().join("file"), vec![b'x'; BYTES])?;
        let dir = net.lab.state_dir().to_string_lossy().into_owned();
        let service = |server: &str| -> Result<Service> {
            let service = Service::new("files").load_balancer_ip(address::VIP).cluster_ip(address::CLUSTER_IP);
            Ok(service.tcp(80, 8000).pods([net.pod(server)?]))
        };
        let only = if family == Family::V6 { "-6" } else { "-4" };
        let both = format!("files.test:80:{},{}", address::VIP, Family::V6.of(address::VIP));
        let curl = ["curl", only, "-sS", "--noproxy", "*", "--max-time", "5", "-w", "%{size_download} %{remote_ip}", "-o", "/dev/null"];
        let curl = [&curl[..], &["--resolve", &both, "http://files.test/file"]].concat();
        for server in ["b1", "a1"] {
            let pod = net.pod(server)?;
            net.lab.adopt(pod.namespace.spawn("files", &["python3", "-m", "http.server", "8000", "--bind", &pod.address, "-d", &dir])?);
            ringway.publish(&[service(server)?])?;
            // Until then who served there before answers, who has no such file.
            wait_for("the server", PATIENCE, || {
                let text = net.client.exec(&curl)?;
                ensure!(text == format!("{BYTES} {}", address::VIP), "{server}: {text}");
                Ok(())
            })?;
        }
        Ok(())
    })
});
