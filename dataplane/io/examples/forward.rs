//! The empty forward: the real shell with an engine that only swaps MAC addresses. What it costs is what AF_XDP costs;
//! Ringway's own share is the difference to this.
//!
//! Every packet of `--dev-in` leaves by `--dev-out` and the other way round, queue by queue, one worker per queue:
//!
//! ```text
//! forward --dev-in up0 --dev-out rw0 [--queues 1] [--core 0] [--mode auto|zero-copy|copy] [--dmac 02:00:00:00:00:01] [--seconds 0]
//! ```
//!
//! `--dmac` is written as destination instead of the packet's source. It attaches the XDP programs by itself, prints a line of
//! counters each second, and ends after `--seconds` (0: when it is killed).

#[path = "../tests/support/engines.rs"]
mod engines;
#[path = "../tests/support/redirect.rs"]
mod redirect;

use std::error::Error;
use std::time::{Duration, Instant};

use engines::EachPacket;
use redirect::Redirect;
use ringway_engine::engine::{Origin, Packet};
use ringway_engine::tables::Snapshot;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_io::{BindWanted, Dataplane, DataplaneConfig, Port, PortConfig, WorkerConfig, ethtool};

struct Arguments {
    dev_in: String,
    dev_out: String,
    queues: u32,
    core: Option<usize>,
    mode: BindWanted,
    dmac: Option<[u8; 6]>,
    seconds: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse()?;
    let devices = [(Port::Uplink(0), &arguments.dev_in), (Port::Host, &arguments.dev_out)];
    let mut attached = Vec::new();
    for (port, ifname) in devices {
        let ifindex = ethtool::link(ifname)?.ifindex;
        let program = Redirect::attach(ifindex, arguments.queues).map_err(|e| format!("cannot attach XDP to {ifname}: {e}"))?;
        attached.push((port, ifname, ifindex, program));
    }
    let worker = |queue: u32| WorkerConfig {
        core: arguments.core.map(|first| first + queue as usize),
        ports: attached
            .iter()
            .map(|(port, ifname, ifindex, program)| PortConfig {
                port: *port,
                ifname: (*ifname).clone(),
                ifindex: *ifindex,
                queue,
                mode: arguments.mode,
                multi_buffer: false,
                xskmap: Some(program.slot(queue)),
            })
            .collect(),
    };
    let config = DataplaneConfig::new((0..arguments.queues).map(worker).collect());
    let dmac = arguments.dmac;
    let engines = (0..arguments.queues).map(|_| EachPacket::new(move |_: &Snapshot, packet: &mut Packet<'_>| swap(packet, dmac)));
    let dataplane = Dataplane::start(config, engines.collect(), Snapshot::default())?;
    for socket in dataplane.status().iter().flat_map(|worker| &worker.sockets) {
        println!("{} queue {}: {}", socket.ifname, socket.queue, socket.mode.label());
    }
    report(&dataplane, arguments.seconds);
    Ok(())
}

fn swap(packet: &mut Packet<'_>, dmac: Option<[u8; 6]>) -> Verdict {
    let Some((macs, _)) = packet.bytes.split_first_chunk_mut::<12>() else { return Verdict::Drop(DropReason::Malformed) };
    let (destination, source) = macs.split_at_mut(6);
    destination.swap_with_slice(source);
    if let Some(dmac) = dmac {
        destination.copy_from_slice(&dmac);
    }
    match packet.origin {
        Origin::Uplink(_) => Verdict::Host,
        Origin::Host => Verdict::Uplink { uplink: 0 },
    }
}

fn report(dataplane: &Dataplane, seconds: u64) {
    let start = Instant::now();
    let mut before = 0;
    while seconds == 0 || start.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_secs(1));
        let stats = dataplane.stats();
        let sum = |count: fn(&ringway_io::WorkerStats) -> u64| stats.iter().map(count).sum::<u64>();
        let packets = sum(|worker| worker.packets);
        let kicks: u64 = dataplane.status().iter().flat_map(|worker| &worker.sockets).map(|socket| socket.counters.kicks).sum();
        println!(
            "packets/s {} total {packets} batches {} kicks {kicks} sleeps {} dropped {} lost {}",
            packets - before,
            sum(|worker| worker.batches),
            sum(|worker| worker.sleeps),
            sum(|worker| worker.verdicts.drops.iter().sum()),
            sum(|worker| worker.frames.lost),
        );
        before = packets;
    }
}

impl Arguments {
    fn parse() -> Result<Arguments, Box<dyn Error>> {
        let mut arguments = Arguments {
            dev_in: String::new(),
            dev_out: String::new(),
            queues: 1,
            core: None,
            mode: BindWanted::Auto,
            dmac: None,
            seconds: 0,
        };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--dev-in" => arguments.dev_in = value,
                "--dev-out" => arguments.dev_out = value,
                "--queues" => arguments.queues = value.parse()?,
                "--core" => arguments.core = Some(value.parse()?),
                "--seconds" => arguments.seconds = value.parse()?,
                "--dmac" => arguments.dmac = Some(mac(&value)?),
                "--mode" => {
                    arguments.mode = match value.as_str() {
                        "auto" => BindWanted::Auto,
                        "zero-copy" => BindWanted::ZeroCopy,
                        "copy" => BindWanted::Copy,
                        other => return Err(format!("no mode {other}: auto, zero-copy, copy").into()),
                    }
                }
                other => return Err(format!("no option {other}").into()),
            }
        }
        if arguments.dev_in.is_empty() || arguments.dev_out.is_empty() {
            return Err("--dev-in and --dev-out are needed".into());
        }
        Ok(arguments)
    }
}

fn mac(text: &str) -> Result<[u8; 6], Box<dyn Error>> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>()?;
    bytes.try_into().map_err(|_| format!("{text} is no MAC").into())
}
