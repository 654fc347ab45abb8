//! Bulk TCP by iperf3: pod → ClusterIP → pod on the same node and across nodes, client → VIP → local pod in both directions;
//! beside the same without a service, and beside nftables rules.
//!
//! Client and node are measured twice. *Over a wire*: the uplink's link carries packets of one MTU and the node merges them (GRO), as
//! with any NIC, for all subjects. *Over bare veth*: as `ip link add` makes it; there, without XDP, super-packets of 64 KiB cross the link in
//! one piece, which no wire does and which attaching XDP ends.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Lab, Namespace, Net, Process, Ringway, RingwayOptions, Service, Topology, address};

use crate::kube_proxy::{Rule, rules};
use crate::rounds::{Rounds, machine};

const PORT: u16 = 5201;
const STREAMS: [u32; 2] = [1, 4];

/// Pod, its ClusterIP, and the VIP where it is reached from outside.
const LOCAL: (&str, &str) = ("a2", address::CLUSTER_IP);
const REMOTE: (&str, &str) = ("b1", address::CLUSTER_IP2);

#[derive(clap::Args)]
pub struct Arguments {
    /// Paths to measure; all unless given
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Path::ALL)]
    paths: Vec<Path>,

    /// Numbers of parallel streams
    #[arg(long, value_delimiter = ',', default_values_t = STREAMS)]
    streams: Vec<u32>,

    /// Seconds of each measurement; short ones differ by what the scheduler did in them
    #[arg(long, default_value_t = 1)]
    seconds: u32,
}

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments { paths: Path::ALL.to_vec(), streams: STREAMS.to_vec(), seconds: 1 }
    }
}

pub fn run(arguments: &Arguments, rounds: usize) -> Result<()> {
    println!("## Bulk TCP: Gbit/s, and CPU seconds of the whole machine per gigabyte\n\n{}\n", machine());
    let beds = [Bed::plain()?, Bed::plain_with_xdp()?, Bed::ringway()?, Bed::nftables()?];
    // In their order: a wire stays one.
    for path in Path::ALL.into_iter().filter(|path| arguments.paths.contains(path)) {
        if path.over_wire() {
            beds.iter().try_for_each(Bed::make_wire)?;
        }
        let mut results = Rounds::default();
        for round in 1..=rounds {
            eprintln!("streams: {}, round {round} of {rounds}", path.title());
            for &streams in &arguments.streams {
                for bed in &beds {
                    let (gbits, cpu_s_per_gb) = bed.iperf(path, streams, arguments.seconds)?;
                    results.note(bed.name, &format!("Gbit/s, {streams} streams"), gbits);
                    results.note(bed.name, &format!("CPU-s per GB, {streams} streams"), cpu_s_per_gb);
                }
            }
        }
        let format = |column: &str, value: f64| if column.starts_with("CPU") { format!("{value:.2}") } else { format!("{value:.1}") };
        println!("### {}\n\n{}", path.title(), results.table("no service", format));
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Path {
    SameNode,
    AcrossNodes,
    Upload,
    Download,
    WireUpload,
    WireDownload,
}

impl Path {
    const ALL: [Path; 6] = [Path::SameNode, Path::AcrossNodes, Path::Upload, Path::Download, Path::WireUpload, Path::WireDownload];

    fn title(self) -> &'static str {
        match self {
            Path::SameNode => "pod → ClusterIP → pod, same node",
            Path::AcrossNodes => "pod → ClusterIP → pod, across nodes",
            Path::Upload => "client → VIP → pod, upload, over bare veth",
            Path::Download => "client → VIP → pod, download, over bare veth",
            Path::WireUpload => "client → VIP → pod, upload, over a wire",
            Path::WireDownload => "client → VIP → pod, download, over a wire",
        }
    }

    fn over_wire(self) -> bool {
        matches!(self, Path::WireUpload | Path::WireDownload)
    }

    fn is_download(self) -> bool {
        matches!(self, Path::Download | Path::WireDownload)
    }
}

struct Bed {
    name: &'static str,
    net: Net,
    services: bool,
    _ringway: Option<Ringway>,
    _servers: Vec<Process>,
    _lab: Rc<Lab>,
}

impl Bed {
    fn new(name: &'static str, services: bool, prepare: impl FnOnce(&Net) -> Result<Option<Ringway>>) -> Result<Bed> {
        let lab = Rc::new(Lab::new(&format!("perf-streams-{}", name.replace(' ', "-")))?);
        let net = Topology::new().without_servers().build(&lab)?;
        let ringway = prepare(&net)?;
        let servers = [LOCAL.0, REMOTE.0].map(|pod| net.pod(pod)?.namespace.spawn("iperf3", &["iperf3", "-s", "-p", &PORT.to_string()]));
        let servers = servers.into_iter().collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(Bed { name, net, services, _ringway: ringway, _servers: servers, _lab: lab })
    }

    fn plain() -> Result<Bed> {
        Bed::new("no service", false, |_| Ok(None))
    }

    /// What XDP on a veth costs without us.
    fn plain_with_xdp() -> Result<Bed> {
        Bed::new("no service, empty XDP program", false, |net| {
            let program = std::env::current_exe()?.to_string_lossy().into_owned();
            let mut process = net.node1.spawn("pass", &[&program, "pass", "eth0"])?;
            ensure!(process.line(Duration::from_secs(5))? == "ready", "no XDP program on the uplink: {}", process.log_tail());
            net.lab.adopt(process);
            Ok(None)
        })
    }

    fn ringway() -> Result<Bed> {
        Bed::new("Ringway", true, |net| {
            let service = |name: &str, (pod, cluster_ip): (&str, &str)| -> Result<Service> {
                Ok(Service::new(name).cluster_ip(cluster_ip).tcp(PORT, PORT).pods([net.pod(pod)?]))
            };
            let services = [service("local", LOCAL)?.load_balancer_ip(address::VIP), service("remote", REMOTE)?];
            Ringway::start(net, &RingwayOptions::default(), &services).map(Some)
        })
    }

    fn nftables() -> Result<Bed> {
        Bed::new("nftables rules of kube-proxy", true, |net| {
            let rule = |frontend, pod: &str, masquerade| -> Result<Rule<'_>> {
                Ok(Rule { frontend, protocol: "tcp", port: PORT, endpoint: format!("{}:{PORT}", net.pod(pod)?.address), masquerade })
            };
            net.node1.nft(&rules(&[
                rule(LOCAL.1, LOCAL.0, false)?,
                rule(REMOTE.1, REMOTE.0, false)?,
                rule(address::VIP, LOCAL.0, true)?,
            ]))?;
            // Nobody announces the VIP here.
            net.router.ip("route add 10.0.0.100/32 via 10.0.0.11")?;
            Ok(None)
        })
    }

    /// Packets of one MTU between router and node, merged by who receives them.
    fn make_wire(&self) -> Result<()> {
        self.net.router.exec(&["ethtool", "-K", "node1-eth0", "tso", "off", "gso", "off", "gro", "on"])?;
        self.net.node1.exec(&["ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "on"]).map(drop)
    }

    /// Gbit/s and CPU seconds per gigabyte.
    fn iperf(&self, path: Path, streams: u32, seconds: u32) -> Result<(f64, f64)> {
        let (client, (pod, frontend)): (&Namespace, _) = match path {
            Path::SameNode => (&self.net.pod("a1")?.namespace, LOCAL),
            Path::AcrossNodes => (&self.net.pod("a1")?.namespace, REMOTE),
            _ => (&self.net.client, (LOCAL.0, address::VIP)),
        };
        let target = if self.services { frontend } else { &self.net.pod(pod)?.address };
        let (port, streams, seconds) = (PORT.to_string(), streams.to_string(), seconds.to_string());
        let mut words = vec!["iperf3", "-c", target, "-p", &port, "-t", &seconds, "-P", &streams, "-J"];
        if path.is_download() {
            words.push("-R");
        }
        let before = machine_cpu_s()?;
        let text = client.exec(&words).with_context(|| format!("{}: iperf3 to {target}", self.name))?;
        let cpu_s = machine_cpu_s()? - before;
        let report: serde_json::Value = serde_json::from_str(&text)?;
        let sum = &report["end"]["sum_received"];
        let (bits, bytes) = (sum["bits_per_second"].as_f64(), sum["bytes"].as_f64());
        let (bits, bytes) = bits.zip(bytes).with_context(|| format!("iperf3 says {report}"))?;
        Ok((bits / 1e9, cpu_s / (bytes / 1e9)))
    }
}

/// CPU seconds of the machine since boot that were neither idle nor stolen (/proc/stat, in hundredths).
fn machine_cpu_s() -> Result<f64> {
    const IDLE_IOWAIT_STEAL: [usize; 3] = [3, 4, 7];
    let text = std::fs::read_to_string("/proc/stat")?;
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks = fields.take(8).map(|field| field.parse::<f64>().unwrap_or(0.0)).enumerate();
    Ok(ticks.filter(|(field, _)| !IDLE_IOWAIT_STEAL.contains(field)).map(|(_, ticks)| ticks).sum::<f64>() / 100.0)
}
