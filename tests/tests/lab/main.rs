//! The lab tests: `ringway` on real devices, with real clients. One topic a file. They need root and a build of the binary.
#![forbid(unsafe_code)]

/// A test in each family of addresses, as `NAME::v4` and `NAME::v6`. The test is given the [`Family`](ringway_tests::lab::Family).
macro_rules! for_both {
    ($name:ident, $test:expr) => {
        mod $name {
            use super::*;

            const TEST: fn(ringway_tests::lab::Family) -> anyhow::Result<()> = $test;

            #[test]
            fn v4() -> anyhow::Result<()> {
                TEST(ringway_tests::lab::Family::V4)
            }

            #[test]
            fn v6() -> anyhow::Result<()> {
                TEST(ringway_tests::lab::Family::V6)
            }
        }
    };
}

mod affinity;
mod announcement;
mod bulk;
mod changes;
mod commands;
mod crafted;
mod dual_stack;
mod extension_headers;
mod firewall;
mod forged;
mod fragments;
mod frames;
mod garbage;
mod health;
mod http;
mod icmp;
mod jumbo;
mod limits;
mod local_backends;
mod metrics;
mod ndp;
mod node_clients;
mod node_port_addresses;
mod overlay;
mod pod_clients;
mod policies;
mod refusals;
mod remote_backends;
mod removals;
mod resets;
mod restart;
mod rollout;
mod scale;
mod sctp;
mod service_cidrs;
mod services;
mod tools;
mod topologies;
mod update;
mod wire;

use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{self, Family, Lab, Load, Namespace, Net, Pod, Ringway, RingwayOptions, Service, Topology, address};

/// Where clients outside find the service that most tests use.
const VIP_80: &str = "10.0.0.100:80";
const VIP_URL: &str = "http://10.0.0.100/";
const CLUSTER_IP_80: &str = "10.96.0.10:80";
const CLUSTER_IP_URL: &str = "http://10.96.0.10/";

/// Runs a test in a lab that is named after it.
fn lab(name: &str, test: impl FnOnce(&Rc<Lab>) -> Result<()>) -> Result<()> {
    lab::run(name, test)
}

/// The same in a lab of its own for each family.
fn lab_of(name: &str, family: Family, test: impl FnOnce(&Rc<Lab>) -> Result<()>) -> Result<()> {
    match family {
        Family::V4 => lab(name, test),
        Family::V6 => lab(&format!("{name}_v6"), test),
    }
}

/// Runs a test with `ringway` on node1 serving one service (VIP and ClusterIP, TCP and UDP) on these pods.
fn serving(
    name: &str,
    topology: Topology,
    options: RingwayOptions,
    pods: &[&str],
    test: impl FnOnce(&mut Net, &Ringway) -> Result<()>,
) -> Result<()> {
    lab_of(name, topology.speaks(), |lab| {
        let mut net = topology.build(lab)?;
        lab.capture(&net.router, "node1-eth0")?;
        lab.capture(&net.node1, "any")?;
        let service = web(&net, pods)?;
        let ringway = Ringway::start(&net, &options, &[service])?;
        test(&mut net, &ringway)?;
        ensure!(ringway.is_running(), "ringway ended: {}", ringway.log());
        ensure_no_frame_leaked(&ringway)
    })
}

/// Every request is refused at once: the client is told that nobody serves there.
fn ensure_refused(client: &Namespace, protocol: &str, target: &str) -> Result<()> {
    let load = client.requests(protocol, target, 1, 3)?;
    let error = load.first_error.as_deref().unwrap_or_default();
    ensure!(load.requests == 0 && error.contains("refused"), "{} → {protocol} {target}: {load:?}", client.role());
    ensure!(load.seconds < 1.0, "{} → {protocol} {target}: refused after {} s", client.role(), load.seconds);
    Ok(())
}

/// Nothing comes back.
fn ensure_silence(client: &Namespace, protocol: &str, target: &str) -> Result<()> {
    let load = client.requests(protocol, target, 1, 1)?;
    let error = load.first_error.as_deref().unwrap_or_default();
    ensure!(load.requests == 0 && !error.contains("refused"), "{} → {protocol} {target}: {load:?}", client.role());
    Ok(())
}

/// Every frame is in one of its places, and none is lost: true after any test.
fn ensure_no_frame_leaked(ringway: &Ringway) -> Result<()> {
    let stats = ringway.ask("stats")?;
    let frames = &stats["frames"];
    let count = |place: &str| frames[place].as_u64().with_context(|| format!("stats shows frames {frames}"));
    let mut sum = 0;
    for place in ["pool", "fill", "rx", "tx", "completion", "held"] {
        sum += count(place)?;
    }
    ensure!(count("total")? > 0 && sum == count("total")? && count("lost")? == 0, "frames leaked: {frames}");
    Ok(())
}

fn web(net: &Net, pods: &[&str]) -> Result<Service> {
    let pods: Vec<&Pod> = pods.iter().map(|name| net.pod(name)).collect::<Result<_>>()?;
    Ok(Service::web(address::VIP, address::CLUSTER_IP, pods))
}

/// Every request was answered, by each of these servers and by no other, and they saw this client.
fn ensure_served(load: &Load, servers: &[&str], seen_as: &str) -> Result<()> {
    ensure!(load.errors == 0, "{} of {} requests failed: {:?}", load.errors, load.requests + load.errors, load.first_error);
    ensure!(load.requests > 0, "no request was made");
    let names: Vec<&str> = load.servers.keys().map(String::as_str).collect();
    ensure!(names == servers, "answers came from {:?}, not from {servers:?}", load.servers);
    let expected = BTreeMap::from([(seen_as.to_owned(), load.requests)]);
    ensure!(load.seen_as == expected, "the servers saw {:?}, not {seen_as}", load.seen_as);
    Ok(())
}
