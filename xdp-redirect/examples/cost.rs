//! What the programs cost a packet: `BPF_PROG_TEST_RUN` in a warm loop. Needs root; run it with `cargo run --release`.
//!
//! The kernel's own share of such a run, 15–40 ns, is in every row, the first row is a packet for which the program does almost
//! nothing. Compare rows of one run only.

use std::error::Error;
use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use ringway_engine::flow::{FlowKey, FlowOp, FlowTable, Hook, NewFlow, Rewrite, Tuple};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{FrontendUse, LoadOptions, ProgramName, Programs, SkbContext, UplinkUse, bpffs, cleanup};

/// MAC address that all frames are sent to.
const DESTINATION: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ROUNDS: usize = 15;
const REPEAT: u32 = 1_000_000;
const LOOPBACK: u32 = 1;
const FLOWS_MAX: usize = 65_536;

type End = (Ipv4Addr, u16);

fn main() -> Result<(), Box<dyn Error>> {
    let state = tempfile::Builder::new().prefix("ringway-cost-").tempdir()?;
    let pin_dir = bpffs::ensure(state.path())?.path;
    let measured = measure(LoadOptions {
        pin_dir: pin_dir.clone(),
        flow_slots: FlowTable::slots_for(FLOWS_MAX),
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
    let (client, backend) = ((Ipv4Addr::new(198, 51, 100, 7), 5000), (Ipv4Addr::new(10, 1, 0, 5), 8080));
    let (vip, here) = ((Ipv4Addr::new(203, 0, 113, 10), 80), (Ipv4Addr::new(203, 0, 113, 10), 81));
    for ((address, port), here) in [(vip, false), (here, true)] {
        programs.frontends.upsert(&FrontendKey { address, port, protocol: 6 }, FrontendUse { here, ..FrontendUse::default() })?;
    }
    programs.uplinks.set(&[UplinkUse { ifindex: LOOPBACK, mac: DESTINATION, ..UplinkUse::default() }])?;
    let (table, _) = FlowTable::over(programs.flow_slots(), FLOWS_MAX, 1, programs.seed(), 0);
    let at_edge = flow_at(FlowKey::new(client, here, 0, Hook::UplinkIn, 6), Tuple::new(client, backend));
    table.insert(0, &at_edge, 0).map_err(|error| format!("inserting a flow: {error:?}"))?;

    let foreign = tcp(client, (Ipv4Addr::new(203, 0, 113, 99), 80));
    let mut arp = foreign.clone();
    arp[12..14].copy_from_slice(&[0x88, 0xcc]); // LLDP
    let xdp = |frame: &[u8]| programs.cost_uplink_ns(frame, REPEAT);
    let tc = |program, frame: &[u8]| programs.cost_tc_ns(program, frame, SkbContext::default(), REPEAT);

    println!("ns per packet, minimum and median of {ROUNDS} rounds of {REPEAT}");
    row("uplink: not IP", || xdp(&arp))?;
    row("uplink: TCP, not ours", || xdp(&foreign))?;
    row("uplink: frontend, to a worker", || xdp(&tcp(client, vip)))?;
    row("uplink: frontend, flow of edge", || xdp(&tcp(client, here)))?;
    row("edge at a pod, in: not IP", || tc(ProgramName::EdgePodIn, &arp))?;
    row("edge at a pod, in: miss", || tc(ProgramName::EdgePodIn, &foreign))?;
    row("edge at a pod, out: miss", || tc(ProgramName::EdgePodOut, &foreign))?;
    row("edge at an uplink, in: miss", || tc(ProgramName::EdgeUplinkIn, &foreign))?;
    hit(&programs, &table)?;
    Ok(())
}

/// Two flows that undo each other: every repeat hits and writes.
fn hit(programs: &Programs, table: &FlowTable) -> Result<(), Box<dyn Error>> {
    let (pod, one, two) = ((Ipv4Addr::new(10, 1, 0, 4), 40000), (Ipv4Addr::new(203, 0, 113, 10), 80), (Ipv4Addr::new(10, 1, 0, 6), 8080));
    for (from, to) in [(one, two), (two, one)] {
        let flow = flow_at(FlowKey::new(pod, from, LOOPBACK, Hook::PodIn, 6), Tuple::new(pod, to));
        table.insert(0, &flow, 0).map_err(|error| format!("inserting a flow: {error:?}"))?;
    }
    let frame = tcp(pod, one);
    row("edge at a pod, in: hit", || programs.cost_tc_ns(ProgramName::EdgePodIn, &frame, SkbContext::default(), REPEAT))
}

fn row(what: &str, mut run: impl FnMut() -> Result<u32, xdp_redirect::Error>) -> Result<(), Box<dyn Error>> {
    let mut costs = (0..ROUNDS).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    costs.sort_unstable();
    println!("{what:42} {:4} {:4}", costs[0], costs[ROUNDS / 2]);
    Ok(())
}

/// A flow whose other direction no packet here matches.
fn flow_at(key: FlowKey, tuple: Tuple) -> NewFlow {
    let rewrite = |tuple| Rewrite { tuple, op: FlowOp::Pass, ifindex: 0, dmac: [0; 6] };
    let reverse = key.tuple().reversed().at(0xffff, Hook::PodOut, key.protocol());
    NewFlow { forward: (key, rewrite(tuple)), reverse: (reverse, rewrite(key.tuple().reversed())), snat: false }
}

fn tcp(src: End, dst: End) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], DESTINATION);
    let builder = builder.ipv4(src.0.octets(), dst.0.octets(), 64).tcp(src.1, dst.1, 7, 1000).ack(9);
    // Writing to memory cannot fail.
    let _ = builder.write(&mut frame, &[0; 6]);
    frame
}
