//! What a worker without traffic costs. A test program of its own: no other test's workers run in this process. Needs root.

mod support;

use std::time::Duration;

use ringway_engine::engine::Packet;
use ringway_engine::tables::Snapshot;
use ringway_engine::verdict::Verdict;
use ringway_io::Dataplane;

use support::engines::EachPacket;
use support::{CLIENT, Network, SERVER, eventually};

#[test]
fn an_idle_worker_costs_next_to_nothing() {
    let network = Network::new();
    let (_programs, mut config) = network.worker();
    config.sweep_slots = 1 << 20;
    let engine = EachPacket::new(|_: &Snapshot, _: &mut Packet<'_>| Verdict::Host);
    let dataplane = network.inside("node", || Dataplane::start(config, vec![engine], Snapshot::default())).expect("start");
    // It was busy once.
    let client = network.udp("client", CLIENT, 0);
    eventually("packets are received", || client.send_to(b"hello", (SERVER, 7)).is_ok() && dataplane.stats()[0].packets > 0);
    drop(client);
    std::thread::sleep(Duration::from_secs(4));
    let window = Duration::from_secs(2);
    let before = worker_cpu();
    std::thread::sleep(window);
    let used = worker_cpu() - before;
    println!("an idle worker used {used:?} in {window:?}");
    // The aim is 1 %; the bound leaves room for a machine that is busy with other things.
    assert!(used < window / 30, "an idle worker used {used:?} in {window:?}");
}

/// CPU time of this process's workers: the first number of `schedstat`, in ns.
fn worker_cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("proc").flatten().map(|entry| entry.path());
    let workers = threads.filter(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("worker-")));
    let ns =
        workers.filter_map(|path| std::fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse::<u64>().ok());
    Duration::from_nanos(ns.sum())
}
