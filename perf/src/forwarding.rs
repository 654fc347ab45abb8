//! Client → VIP → backend on another node, one datagram after the other: what forwarding costs.
//!
//! ```text
//!   peer namespace          node
//!   generator ─ p0 ──────── eth0 ─┐ an empty AF_XDP forward, Ringway, nftables rules,
//!   sink ────── p1 ──────── eth1 ─┘ or the kernel's routing alone
//! ```
//!
//! Everything on one core, in a closed loop. CPU-ns per packet are what the kernel accounts to the generator, to the subject's
//! threads and to that core's ksoftirqd; the generator's own share is in all of them.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Lab, Namespace, Process, Ringway, RingwayOptions, Service, address, release_program};

use crate::generator::Run;
use crate::kube_proxy::{Rule, rules};
use crate::rounds::{Rounds, machine};

const BACKEND: &str = "10.1.0.12";
const BACKEND_PORT: u16 = 8080;
const CORE: usize = 0;
/// Packets of a measurement: about half a second.
const PACKETS: u64 = 200_000;
const WARM_UP: u64 = 20_000;
const FLOWS: [u32; 2] = [64, 16_384];

#[derive(clap::Args)]
pub struct Arguments {
    /// Numbers of flows to measure with
    #[arg(long, value_delimiter = ',', default_values_t = FLOWS)]
    flows: Vec<u32>,
}

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments { flows: FLOWS.to_vec() }
    }
}

pub fn run(arguments: &Arguments, rounds: usize) -> Result<()> {
    println!("## Forwarding: client → VIP → backend on another node, 60-byte frames over veth\n\n{}\n", machine());
    for &flows in &arguments.flows {
        let beds = [Bed::empty_forward(flows)?, Bed::ringway(flows, address::VIP)?, Bed::nftables(flows)?];
        let table = measure(beds, rounds)?.table("empty AF_XDP forward", format);
        println!("### {flows} flows\n\n{table}");
    }
    println!("## A packet that is not ours: routed by the kernel, with and without Ringway on the uplinks\n");
    let beds = [Bed::kernel()?, Bed::ringway(FLOWS[0], BACKEND)?];
    println!("{}", measure(beds, rounds)?.table("kernel routing", format));
    Ok(())
}

fn format(column: &str, value: f64) -> String {
    match column {
        "packets per second" => format!("{:.0} k", value / 1000.0),
        _ => format!("{value:.0}"),
    }
}

fn measure<const N: usize>(mut beds: [Bed; N], rounds: usize) -> Result<Rounds> {
    let mut results = Rounds::default();
    for bed in &mut beds {
        bed.send(WARM_UP)?;
    }
    for round in 1..=rounds {
        eprintln!("forwarding: round {round} of {rounds}");
        for bed in &mut beds {
            let before = bed.cpu_ns()?;
            let run = bed.send(PACKETS)?;
            let cpu_ns = bed.cpu_ns()? - before;
            ensure!(run.received > PACKETS / 2, "{}: only {} of {PACKETS} packets arrived", bed.name, run.received);
            results.note(bed.name, "CPU-ns per packet", cpu_ns as f64 / run.received as f64);
            results.note(bed.name, "packets per second", run.received as f64 * 1e9 / run.wall_ns as f64);
            if run.received < run.sent {
                eprintln!("forwarding: {}: {} of {} packets lost", bed.name, run.sent - run.received, run.sent);
            }
        }
    }
    Ok(results)
}

/// A subject with its generator.
struct Bed {
    name: &'static str,
    generator: Process,
    subject: Subject,
    /// Last: everything above runs in it.
    _lab: Rc<Lab>,
}

enum Subject {
    Kernel,
    Process(Process),
    Ringway(Ringway),
}

/// Two namespaces and the two veths between them.
struct Wire {
    lab: Rc<Lab>,
    peer: Namespace,
    node: Namespace,
}

impl Wire {
    fn new(name: &str) -> Result<Wire> {
        let lab = Rc::new(Lab::new(name)?);
        let (peer, node) = (lab.namespace("peer")?, lab.namespace("node1")?);
        for number in 0..2 {
            peer.ip(&format!("link add p{number} type veth peer name eth{number} netns {}", node.name()))?;
            peer.ip(&format!("link set p{number} up"))?;
            node.ip(&format!("link set eth{number} up"))?;
        }
        peer.ip_batch(&format!("address add 10.0.0.1/24 dev p0\naddress add {BACKEND}/24 dev p1\n"))?;
        node.ip_batch("address add 10.0.0.11/24 dev eth0\naddress add 10.1.0.11/24 dev eth1\nroute add 192.0.2.0/24 via 10.0.0.1\n")?;
        node.sysctl("net.ipv4.ip_forward", "1")?;
        Ok(Wire { lab, peer, node })
    }

    /// Redirected frames need NAPI at their receiver, as XDP brings it: without a program, GRO does.
    fn with_napi(self) -> Result<Wire> {
        self.node.exec(&["ethtool", "-K", "eth0", "gro", "on"])?;
        Ok(self)
    }

    fn mac(namespace: &Namespace, device: &str) -> Result<String> {
        Ok(namespace.mac(device)?.map(|byte| format!("{byte:02x}")).join(":"))
    }

    fn bed(self, name: &'static str, flows: u32, target: &str, subject: Subject) -> Result<Bed> {
        let program = std::env::current_exe()?.to_string_lossy().into_owned();
        let (core, flows, peer_mac) = (CORE.to_string(), flows.to_string(), Wire::mac(&self.node, "eth0")?);
        let words = ["taskset", "-c", &core, &program, "generate", "--device", "p0", "--sink", "p1", "--source", address::CLIENT];
        let more = ["--target", target, "--peer-mac", &peer_mac, "--flows", &flows];
        let mut generator = self.peer.spawn("generator", &[&words[..], &more].concat())?;
        let line = generator.line(Duration::from_secs(10))?;
        ensure!(line == "ready", "the generator says {line}");
        Ok(Bed { name, generator, subject, _lab: self.lab })
    }
}

impl Bed {
    fn empty_forward(flows: u32) -> Result<Bed> {
        let wire = Wire::new("perf-empty")?;
        let program = release_program("examples/forward", "cargo build --release -p ringway-io --example forward")?;
        let (core, dmac) = (CORE.to_string(), Wire::mac(&wire.peer, "p1")?);
        let words = ["--dev-in", "eth0", "--dev-out", "eth1", "--queues", "1", "--core", &core, "--dmac", &dmac];
        let mut process = wire.node.spawn("forward", &[&[&*program.to_string_lossy()], &words[..]].concat())?;
        process.line(Duration::from_secs(10))?;
        wire.bed("empty AF_XDP forward", flows, "10.0.0.100:80", Subject::Process(process))
    }

    fn ringway(flows: u32, target: &str) -> Result<Bed> {
        let wire = Wire::new(if target == BACKEND { "perf-foreign" } else { "perf-ringway" })?;
        let options = RingwayOptions { workers: 1, ..RingwayOptions::default() };
        let service = Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP).udp(80, BACKEND_PORT);
        let services = [service.endpoint(BACKEND, "node2")];
        let others = [("node2", BACKEND, "10.244.2.0/24")];
        let ringway = Ringway::prepare_on(&wire.lab, &wire.node, &["eth0", "eth1"], &others, &options, &services)?;
        ringway.start_again()?;
        let core = ringway.status()?["workers"][0]["core"].as_u64();
        ensure!(core == Some(CORE as u64), "the worker is pinned to core {core:?}, not to {CORE}");
        let port = if target == BACKEND { BACKEND_PORT } else { 80 };
        wire.bed("Ringway", flows, &format!("{target}:{port}"), Subject::Ringway(ringway))
    }

    fn nftables(flows: u32) -> Result<Bed> {
        let wire = Wire::new("perf-nftables")?.with_napi()?;
        let rule =
            Rule { frontend: address::VIP, protocol: "udp", port: 80, endpoint: format!("{BACKEND}:{BACKEND_PORT}"), masquerade: true };
        wire.node.nft(&rules(&[rule]))?;
        wire.bed("nftables rules of kube-proxy", flows, "10.0.0.100:80", Subject::Kernel)
    }

    fn kernel() -> Result<Bed> {
        let wire = Wire::new("perf-kernel")?.with_napi()?;
        wire.bed("kernel routing", FLOWS[0], &format!("{BACKEND}:{BACKEND_PORT}"), Subject::Kernel)
    }

    fn send(&mut self, packets: u64) -> Result<Run> {
        self.generator.say(&packets.to_string())?;
        let line = self.generator.line(Duration::from_secs(60))?;
        serde_json::from_str(&line).with_context(|| format!("the generator says {line}"))
    }

    /// CPU time of everything that has a share.
    fn cpu_ns(&self) -> Result<u64> {
        let subject = match &self.subject {
            Subject::Kernel => 0,
            Subject::Process(process) => process.cpu_ns()?,
            Subject::Ringway(ringway) => ringway.cpu_ns()?,
        };
        Ok(self.generator.cpu_ns()? + subject + ksoftirqd_ns()?)
    }
}

/// CPU time of ksoftirqd of our core.
fn ksoftirqd_ns() -> Result<u64> {
    let name = format!("ksoftirqd/{CORE}");
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        if std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name) {
            let text = std::fs::read_to_string(path.join("schedstat"))?;
            return text.split_whitespace().next().and_then(|ns| ns.parse().ok()).context("no schedstat of ksoftirqd");
        }
    }
    // In a container of its own the thread is not to be seen; then its share is missing for all subjects.
    Ok(0)
}
