//! Resets so near where a connection stands that a flow takes them for its end. Those that the connection's ends drop end nothing; those
//! that they believe end it soon. In between its ends are asked.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use ringway_tests::lab::{Capture, Family, Net, Ringway, RingwayOptions, Topology, address, wait_for};
use serde_json::Value;

use crate::forged::{ACK, PORT, RST, SYN, client_stands_at, port_of, segment};
use crate::{VIP_80, frames, serving};

const PATIENCE: Duration = Duration::from_secs(2);
/// Longer than a flow lives that is said to be reset: until a worker comes by, which it does each ten seconds, and comes by again.
const SILENCE: Duration = Duration::from_secs(22);

/// What is between client and node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    /// The client has the router's address.
    Nat,
    /// For the time of the silence nothing gets to the client.
    Silence,
}

impl Between {
    fn client(self) -> &'static str {
        if self == Between::Nat { "10.0.0.1" } else { address::CLIENT }
    }
}

/// In whose name, flags, and bytes out of place.
type Forged = (By, u8, u32);

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Client,
    Backend,
}

/// One list for each connection.
const FORGED: [&[Forged]; 7] = [
    &[(By::Client, RST, 100_000)],
    &[(By::Client, RST | ACK, 1_000_000)],
    &[(By::Backend, RST, 0u32.wrapping_sub(1_000_000))],
    &[(By::Backend, RST | ACK, 100_000)],
    &[(By::Client, RST, 0u32.wrapping_sub(100_000)), (By::Backend, RST, 1_000_000)],
    // As if the client used its port again.
    &[(By::Client, RST, 1_000_000), (By::Client, SYN, 100_000), (By::Client, SYN, 0x4000_0000)],
    // As if its backend refused that.
    &[(By::Client, SYN, 0x4000_0000), (By::Backend, RST | ACK, 0x4000_0000), (By::Client, SYN, 0x5000_0000)],
];

fn flows(ringway: &Ringway) -> Result<Vec<Value>> {
    let flows = ringway.ask("flows")?;
    Ok(flows["flows"].as_array().context("no flows")?.clone())
}

fn flow_of(ringway: &Ringway, client: u16) -> Result<Value> {
    let mut flows = flows(ringway)?.into_iter();
    flows.find(|flow| port_of(&flow["client"]).ok() == Some(client)).with_context(|| format!("no flow from port {client}"))
}

/// Who is silent is not asked before five seconds have passed.
fn is_said_to_be_reset(ringway: &Ringway, client: u16) -> Result<()> {
    wait_for("a flow that is said to be reset", PATIENCE, || {
        let flow = flow_of(ringway, client)?;
        ensure!(flow["state"] == "closed", "{flow}");
        Ok(())
    })
}

/// Sends what is forged of the connection that this flow carries: of the client's from the router, of the backend's from where it is.
fn forge(net: &Net, capture: &Capture, flow: &Value, client: &str, forged: &[Forged]) -> Result<()> {
    let (port, family) = (port_of(&flow["client"])?, net.family());
    let pod = net.pod(if flow["nat_binding"].is_null() { "a1" } else { "b1" })?;
    let (sequence, acknowledged) = client_stands_at(net, capture, port)?;
    let is_here = flow["nat_binding"].is_null();
    let seen_as = if is_here { (client, port) } else { (address::NODE1, port_of(&flow["nat_binding"])?) };
    for (by, flags, away) in forged.iter().copied() {
        let (from_client, from_backend) = (sequence.wrapping_add(away), acknowledged.wrapping_add(away));
        let (outside, inside) = (((client, port), (address::VIP, 80)), ((pod.address.as_str(), 8080), seen_as));
        if by == By::Client {
            let frame = segment(frames::to_node1(net)?, family, outside, flags, (from_client, from_backend))?;
            net.router.send_frames(PORT, &[frame])?;
            continue;
        }
        let numbers = (from_backend, from_client.wrapping_add(1));
        if is_here {
            let ethernet = PacketBuilder::ethernet2(pod.namespace.mac("eth0")?, net.node1.mac(&pod.device)?);
            pod.namespace.send_frames("eth0", &[segment(ethernet, family, inside, flags, numbers)?])?;
        } else {
            net.router.send_frames(PORT, &[segment(frames::to_node1(net)?, family, inside, flags, numbers)?])?;
        }
    }
    Ok(())
}

fn only_true_resets_end(family: Family, name: &str, options: RingwayOptions, pods: &[&str], between: Between) -> Result<()> {
    let options = options.with(&["--timeout-tcp-closed", "5"]);
    serving(name, Topology::new().family(family), options, pods, |net, ringway| {
        if between == Between::Nat {
            net.router.nft("table inet nat { chain out { type nat hook postrouting priority srcnat; oifname lan0 masquerade; }; }")?;
        }
        let capture = Capture::start(&net.router, PORT, "tcp", net.lab.artifact_dir())?;
        let mut held = net.client.hold(VIP_80, FORGED.len() as u32)?;
        let made = flows(ringway)?;
        let _doomed = net.client.hold(VIP_80, 1)?;
        let ports = made.iter().map(|flow| port_of(&flow["client"])).collect::<Result<Vec<u16>>>()?;
        let is_other = |port: &u16| !ports.contains(port);
        let doomed = flows(ringway)?.iter().flat_map(|flow| port_of(&flow["client"])).find(is_other).context("no other flow")?;
        // A younger flow that begins anew keeps its backend and its source.
        sleep(Duration::from_millis(2_200));
        for (flow, forged) in made.iter().zip(FORGED) {
            forge(net, &capture, flow, between.client(), forged)?;
            is_said_to_be_reset(ringway, port_of(&flow["client"])?)?;
        }
        net.client.exec(&["ss", "-K", "-t", "sport", "=", &format!(":{doomed}")])?;
        is_said_to_be_reset(ringway, doomed)?;
        if between == Between::Silence {
            net.router.nft("table inet wall { chain out { type filter hook forward priority 0; iifname lan0 oifname != lan0 drop; }; }")?;
        }
        sleep(SILENCE);
        if between == Between::Silence {
            net.router.nft("delete table inet wall")?;
        }
        for before in &made {
            let now = flow_of(ringway, port_of(&before["client"])?)?;
            let is_same = ["client", "backend", "nat_binding"].into_iter().all(|field| now[field] == before[field]);
            ensure!(is_same && now["state"] == "established" && now["age_s"].as_f64() > Some(24.0), "{before} has become {now}");
        }
        let report = held.exchange(PATIENCE)?;
        ensure!(report.errors == 0, "{report:?}");
        wait_for("the end of the flow that was reset", Duration::from_secs(15), || {
            ensure!(flow_of(ringway, doomed).is_err(), "it is still there");
            Ok(())
        })
    })
}

for_both!(only_true_resets_end_connections_to_a_pod_elsewhere, |family| {
    only_true_resets_end(family, "resets_remote", RingwayOptions::default(), &["b1"], Between::Nothing)
});

for_both!(only_true_resets_end_connections_to_a_pod_here, |family| {
    only_true_resets_end(family, "resets_edge", RingwayOptions::default(), &["a1"], Between::Nothing)
});

for_both!(only_true_resets_end_connections_of_a_client_behind_a_nat, |family| {
    only_true_resets_end(family, "resets_nat", RingwayOptions::direct(), &["a1"], Between::Nat)
});

// Their backends answer.
for_both!(only_true_resets_end_connections_of_a_client_that_cannot_be_asked, |family| {
    only_true_resets_end(family, "resets_silence", RingwayOptions::default(), &["a1", "b1"], Between::Silence)
});

fn a_port_is_used_again(family: Family, name: &str, options: RingwayOptions, pod: &str) -> Result<()> {
    serving(name, Topology::new().family(family), options, &[pod], |net, ringway| {
        for _ in 0..3 {
            // Ends by a reset.
            net.client.line(VIP_80, 5_555)?;
            is_said_to_be_reset(ringway, 5_555)?;
            // A younger flow is made anew.
            sleep(Duration::from_millis(2_200));
        }
        ensure!(flows(ringway)?.len() == 1, "{:?}", flows(ringway)?);
        Ok(())
    })
}

for_both!(a_port_is_used_again_after_a_reset_by_a_pod_elsewhere, |family| {
    a_port_is_used_again(family, "resets_port_remote", RingwayOptions::default(), "b1")
});

for_both!(a_port_is_used_again_after_a_reset_by_a_pod_here, |family| {
    a_port_is_used_again(family, "resets_port_edge", RingwayOptions::default(), "a1")
});

for_both!(a_port_is_used_again_after_a_reset_with_direct_delivery, |family| {
    a_port_is_used_again(family, "resets_port_direct", RingwayOptions::direct(), "a1")
});
