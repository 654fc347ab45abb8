//! What a packet that is not ours pays for our programs on its way: each program alone, warm, by `BPF_PROG_TEST_RUN`.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ringway_engine::flow::slots_for;
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{FrontendUse, LoadOptions, ProgramName, Programs, SkbContext, bpffs};

use crate::rounds::{Rounds, machine};

const REPEAT: u32 = 1_000_000;
const FRONTENDS: u32 = 10_000;

pub fn run(rounds: usize) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("rwp-").tempdir()?;
    let outcome = measure(scratch.path(), rounds);
    // Both, also after a failure: what is mounted would keep the folder.
    let cleaned = xdp_redirect::cleanup(&scratch.path().join(bpffs::FOLDER));
    bpffs::unmount(scratch.path()).context("unmounting")?;
    cleaned.context("removing the pins")?;
    outcome
}

fn measure(dir: &std::path::Path, rounds: usize) -> Result<()> {
    let pin_dir = bpffs::ensure(dir).context("BPF needs root")?.path;
    let options = LoadOptions {
        pin_dir,
        flow_slots: slots_for(131_072),
        flow6_slots: slots_for(131_072),
        affinity_slots: 64,
        rw1_ifindex: 1,
        workers: 1,
        generic_uplinks: false,
    };
    let (programs, _) = Programs::load(options)?;
    for number in 0..FRONTENDS {
        let key = FrontendKey { address: Ipv4Addr::from(0x0a60_0000 + number).into(), port: 80, protocol: 6 };
        programs.frontends.upsert(&key, FrontendUse { here: true, ..FrontendUse::default() })?;
    }
    let frames = [("TCP segment", tcp()), ("ARP request", arp()), ("IPv6 packet", ipv6())];
    let hooks = [
        ("tc at a pod, ingress", ProgramName::EdgePodIn),
        ("tc at a pod, egress", ProgramName::EdgePodOut),
        ("tc at an uplink, ingress", ProgramName::EdgeUplinkIn),
        ("tc at an uplink, egress", ProgramName::EdgeUplinkOut),
    ];
    let mut results = Rounds::default();
    for round in 1..=rounds {
        eprintln!("foreign: round {round} of {rounds}");
        for (kind, frame) in &frames {
            results.note("XDP at an uplink", kind, programs.cost_uplink_ns(frame, REPEAT)?.into());
            for (hook, program) in hooks {
                results.note(hook, kind, programs.cost_tc_ns(program, frame, SkbContext::default(), REPEAT)?.into());
            }
        }
    }
    println!("## A packet that is not ours: ns in each program, with {FRONTENDS} frontends\n\n{}\n", machine());
    println!("An empty program costs 35–40 ns in this measurement.\n");
    println!("{}", results.table("XDP at an uplink", |_, value| format!("{value:.0}")));
    Ok(())
}

/// 10.244.1.2:40000 → 192.0.2.10:443, ACK.
fn tcp() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    frame.extend([10, 244, 1, 2, 192, 0, 2, 10, 0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 4, 0, 0, 0, 0, 0]);
    frame
}

fn arp() -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    frame.extend([2, 0, 0, 0, 0, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 11]);
    frame
}

fn ipv6() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64];
    frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend([0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 4, 0, 0, 0, 0, 0]);
    frame
}
