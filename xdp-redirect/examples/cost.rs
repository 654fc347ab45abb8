//! What the programs cost a packet: `BPF_PROG_TEST_RUN` in a warm loop. Needs root; run it with `cargo run --release`.
//!
//! The kernel's own share of such a run, 15–40 ns, is in every row, the first row is a packet for which the program does almost
//! nothing. Compare rows of one run only.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use ringway_engine::family::{Family, V4, V6};
use ringway_engine::flow::{FlowKey, FlowOp, FlowSlot, FlowTable, Hook, NewFlow, Rewrite, Tuple, slots_for};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{FrontendUse, LoadOptions, ProgramName, Programs, SkbContext, UplinkUse, bpffs, cleanup};

/// MAC address that all frames are sent to.
const DESTINATION: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ROUNDS: usize = 15;
const REPEAT: u32 = 1_000_000;
const LOOPBACK: u32 = 1;
const FLOWS_MAX: usize = 65_536;

type End<F> = (<F as Family>::Ip, u16);

fn main() -> Result<(), Box<dyn Error>> {
    let state = tempfile::Builder::new().prefix("ringway-cost-").tempdir()?;
    let pin_dir = bpffs::ensure(state.path())?.path;
    let measured = measure(LoadOptions {
        pin_dir: pin_dir.clone(),
        flow_slots: slots_for(FLOWS_MAX),
        flow6_slots: slots_for(FLOWS_MAX),
        affinity_slots: 64,
        rw1_ifindex: LOOPBACK,
        workers: 2,
        generic_uplinks: false,
    });
    cleanup(&pin_dir)?;
    bpffs::unmount(state.path())?;
    measured
}

fn measure(options: LoadOptions) -> Result<(), Box<dyn Error>> {
    let (programs, _) = Programs::load(options)?;
    programs.uplinks.set(&[UplinkUse { ifindex: LOOPBACK, mac: DESTINATION, ..UplinkUse::default() }])?;
    println!("ns per packet, minimum and median of {ROUNDS} rounds of {REPEAT}");
    println!("IPv4");
    let v4 = |last| Ipv4Addr::new(203, 0, 113, last);
    measure_family::<V4>(&programs, programs.flow_slots(), v4)?;
    println!("IPv6");
    measure_family::<V6>(&programs, programs.flow6_slots(), |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()))
}

/// `ip` makes an address of the family of a number.
fn measure_family<F: Family>(programs: &Programs, slots: &'static [FlowSlot<F>], ip: impl Fn(u8) -> F::Ip) -> Result<(), Box<dyn Error>> {
    let (client, backend) = ((ip(7), 5000), (ip(5), 8080));
    let (vip, here) = ((ip(10), 80), (ip(10), 81));
    for ((address, port), here) in [(vip, false), (here, true)] {
        let key = FrontendKey { address: address.into(), port, protocol: 6 };
        programs.frontends.upsert(&key, FrontendUse { here, ..FrontendUse::default() })?;
    }
    let (table, _) = FlowTable::over(slots, FLOWS_MAX, 1, programs.seed(), 0);
    let at_edge = flow_at(FlowKey::new(client, here, 0, Hook::UplinkIn, 6), Tuple::new(client, backend));
    table.insert(0, &at_edge, 0).map_err(|error| format!("inserting a flow: {error:?}"))?;

    let foreign = tcp::<F>(client, (ip(99), 80));
    let mut other = foreign.clone();
    other[12..14].copy_from_slice(&[0x88, 0xcc]); // LLDP
    let xdp = |frame: &[u8]| programs.cost_uplink_ns(frame, REPEAT);
    let tc = |program, frame: &[u8]| programs.cost_tc_ns(program, frame, SkbContext::default(), REPEAT);

    row("uplink: not IP", || xdp(&other))?;
    row("uplink: TCP, not ours", || xdp(&foreign))?;
    row("uplink: frontend, to a worker", || xdp(&tcp::<F>(client, vip)))?;
    row("uplink: frontend, flow of edge", || xdp(&tcp::<F>(client, here)))?;
    row("edge at a pod, in: not IP", || tc(ProgramName::EdgePodIn, &other))?;
    row("edge at a pod, in: miss", || tc(ProgramName::EdgePodIn, &foreign))?;
    row("edge at a pod, out: miss", || tc(ProgramName::EdgePodOut, &foreign))?;
    row("edge at an uplink, in: miss", || tc(ProgramName::EdgeUplinkIn, &foreign))?;
    hit(programs, &table, [(ip(4), 40000), (ip(10), 80), (ip(6), 8080)])
}

/// Two flows that undo each other: every repeat hits and writes.
fn hit<F: Family>(programs: &Programs, table: &FlowTable<F>, [pod, one, two]: [End<F>; 3]) -> Result<(), Box<dyn Error>> {
    for (from, to) in [(one, two), (two, one)] {
        let flow = flow_at(FlowKey::new(pod, from, LOOPBACK, Hook::PodIn, 6), Tuple::new(pod, to));
        table.insert(0, &flow, 0).map_err(|error| format!("inserting a flow: {error:?}"))?;
    }
    let frame = tcp::<F>(pod, one);
    row("edge at a pod, in: hit", || programs.cost_tc_ns(ProgramName::EdgePodIn, &frame, SkbContext::default(), REPEAT))
}

fn row(what: &str, mut run: impl FnMut() -> Result<u32, xdp_redirect::Error>) -> Result<(), Box<dyn Error>> {
    let mut costs = (0..ROUNDS).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    costs.sort_unstable();
    println!("{what:42} {:4} {:4}", costs[0], costs[ROUNDS / 2]);
    Ok(())
}

/// A flow whose other direction no packet here matches.
fn flow_at<F: Family>(key: FlowKey<F>, tuple: Tuple<F>) -> NewFlow<F> {
    let rewrite = |tuple| Rewrite { tuple, op: FlowOp::Pass, ifindex: 0, dmac: [0; 6] };
    let reverse = key.tuple().reversed().at(0xffff, Hook::PodOut, key.protocol());
    NewFlow { forward: (key, rewrite(tuple)), reverse: (reverse, rewrite(key.tuple().reversed())), snat: false }
}

fn tcp<F: Family>(src: End<F>, dst: End<F>) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], DESTINATION);
    let builder = match (src.0.into(), dst.0.into()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("both are of one family"),
    };
    let builder = builder.tcp(src.1, dst.1, 7, 1000).ack(9);
    // Writing to memory cannot fail.
    let _ = builder.write(&mut frame, &[0; 6]);
    frame
}
