//! The traffic generator: live frames (`BPF_PROG_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`) out of one device, a counting sink on
//! the device where they come back, and a closed loop: a window of packets is sent when the last one has arrived or is lost.

use std::io::Write;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder, ProgramInput};
use serde::{Deserialize, Serialize};

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/perf.bpf.o"));

/// linux/bpf.h
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;

/// Packets on the way at a time: below the 256 slots of a veth's ring, above the 64 that the kernel's live frames go in.
const WINDOW: u32 = 128;

/// A window that has not arrived by then is lost in part.
const LOST_AFTER: Duration = Duration::from_millis(2);

/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 42;
const FIRST_PORT: u16 = 1024;

#[derive(clap::Args)]
pub struct Arguments {
    /// Device whose peer is to receive the packets
    #[arg(long)]
    pub device: String,
    /// Device where they arrive
    #[arg(long)]
    pub sink: String,
    #[arg(long)]
    pub source: std::net::Ipv4Addr,
    #[arg(long)]
    pub target: SocketAddrV4,
    /// MAC address of the device's peer
    #[arg(long)]
    pub peer_mac: String,
    /// Source ports that take turns
    #[arg(long, default_value_t = 64)]
    pub flows: u32,
    /// Bytes of a frame
    #[arg(long, default_value_t = 60)]
    pub bytes: usize,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Run {
    pub sent: u64,
    pub received: u64,
    pub wall_ns: u64,
}

/// Reads numbers of packets from standard input, sends them, prints a [`Run`] for each.
pub fn run(arguments: &Arguments) -> Result<()> {
    let generator = Generator::new(arguments)?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lines() {
        let packets: u64 = line?.trim().parse().context("a number of packets is expected")?;
        writeln!(out, "{}", serde_json::to_string(&generator.send(packets)?)?)?;
    }
    Ok(())
}

/// Attaches a program that passes everything to `device`, until standard input ends.
pub fn pass(device: &str) -> Result<()> {
    let object = ObjectBuilder::default().open_memory(OBJECT)?.load().context("loading the program needs root")?;
    let program = object.progs_mut().find(|program| program.name() == "pass").context("no program `pass`")?;
    let _link = program.attach_xdp(ifindex(device)? as i32).with_context(|| format!("attaching to {device}"))?;
    writeln!(std::io::stdout(), "ready")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

struct Generator {
    object: Object,
    ifindex: u32,
    bytes: usize,
    /// Detached when they are dropped.
    _links: Vec<Link>,
}

impl Generator {
    fn new(arguments: &Arguments) -> Result<Generator> {
        ensure!(arguments.bytes >= HEADERS && arguments.bytes <= 1514, "frames have {HEADERS} to 1514 bytes");
        ensure!((1..=64_000).contains(&arguments.flows), "1 to 64 000 flows");
        let object = ObjectBuilder::default().open_memory(OBJECT)?.load().context("loading the generator's programs needs root")?;
        let ifindex = ifindex(&arguments.device)?;
        // Attached somewhere, or each run would enter it into the kernel's dispatcher anew, which takes 25 ms. Nothing uses loopback here.
        let generate = object.progs_mut().find(|program| program.name() == "generate").context("no program `generate`")?;
        let mut links = vec![generate.attach_xdp(self::ifindex("lo")? as i32).context("attaching the generator")?];
        for device in std::collections::BTreeSet::from([ifindex, self::ifindex(&arguments.sink)?]) {
            let program = object.progs_mut().find(|program| program.name() == "sink").context("no program `sink`")?;
            links.push(program.attach_xdp(device as i32).context("attaching the sink")?);
        }
        let plans = object.maps().find(|map| map.name() == "plans").context("no map `plans`")?;
        plans.update(&0u32.to_ne_bytes(), &plan(arguments)?, MapFlags::ANY)?;
        Ok(Generator { object, ifindex, bytes: arguments.bytes, _links: links })
    }

    fn send(&self, packets: u64) -> Result<Run> {
        let start = Instant::now();
        let before = self.received()?;
        let (mut sent, mut lost) = (0, 0);
        while sent < packets {
            let window = WINDOW.min((packets - sent) as u32);
            self.transmit(window)?;
            sent += u64::from(window);
            let waiting = Instant::now();
            loop {
                let arrived = self.received()? - before;
                if arrived + lost >= sent {
                    break;
                }
                if waiting.elapsed() > LOST_AFTER {
                    lost = sent - arrived;
                    break;
                }
                // On one core the receiver is who runs meanwhile.
                std::thread::yield_now();
            }
        }
        Ok(Run { sent, received: self.received()? - before, wall_ns: start.elapsed().as_nanos() as u64 })
    }

    fn transmit(&self, packets: u32) -> Result<()> {
        let program = self.object.progs_mut().find(|program| program.name() == "generate").context("no program `generate`")?;
        let frame = vec![0; self.bytes];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let mut context = [0, self.bytes as u32, 0, self.ifindex, 0, 0].map(u32::to_ne_bytes).concat();
        let input = ProgramInput {
            context_in: Some(&mut context),
            data_in: Some(&frame),
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            repeat: packets,
            ..ProgramInput::default()
        };
        program.test_run(input).context("sending live frames: the peer must take them (XDP or GRO)")?;
        Ok(())
    }

    fn received(&self) -> Result<u64> {
        let counts = self.object.maps().find(|map| map.name() == "counts").context("no map `counts`")?;
        let cores = counts.lookup_percpu(&1u32.to_ne_bytes(), MapFlags::ANY)?.unwrap_or_default();
        Ok(cores.iter().filter_map(|core| Some(u64::from_ne_bytes(core.as_slice().try_into().ok()?))).sum())
    }
}

/// `struct plan` of perf.bpf.c.
fn plan(arguments: &Arguments) -> Result<Vec<u8>> {
    let ip_bytes = (arguments.bytes - 14) as u16;
    let mut frame = Vec::with_capacity(56);
    frame.extend(mac(&arguments.peer_mac)?);
    frame.extend(mac(link(&arguments.device)?["address"].as_str().unwrap_or_default())?);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(ip_bytes.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(arguments.source.octets());
    frame.extend(arguments.target.ip().octets());
    let sum: u32 = frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let check = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame.extend(FIRST_PORT.to_be_bytes());
    frame.extend(arguments.target.port().to_be_bytes());
    frame.extend((ip_bytes - 20).to_be_bytes());
    // No UDP checksum: the source port changes from packet to packet.
    frame.extend([0, 0]);
    frame.resize(48, 0);
    frame.extend(arguments.flows.to_ne_bytes());
    frame.extend(u32::from(FIRST_PORT).to_ne_bytes());
    Ok(frame)
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().ok().with_context(|| format!("{text} is no MAC address"))
}

/// Of a device of this network namespace. Not by /sys, which shows that of the mount.
fn link(device: &str) -> Result<serde_json::Value> {
    let output = std::process::Command::new("ip").args(["-j", "link", "show", "dev", device]).output()?;
    let mut links: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| format!("no device {device}"))?;
    Ok(links[0].take())
}

fn ifindex(device: &str) -> Result<u32> {
    link(device)?["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).with_context(|| format!("no device {device}"))
}
