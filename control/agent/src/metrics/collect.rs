//! `ringway_*`: what workers, rings, tables and programs say about themselves, read when somebody scrapes.
//!
//! Reading counters and gauges costs nobody anything; counting SNAT ports reads the flow tables once.

use std::collections::HashMap;
use std::net::IpAddr;

use ringway_engine::family::Family;
use ringway_engine::flow::{FlowTable, FlowTables};
use ringway_engine::tables::SnatAddress;
use ringway_engine::verdict::DropReason;
use ringway_io::{Dataplane, SocketCounters, SocketStatus, WorkerState, WorkerStats, WorkerStatus};
use xdp_redirect::Counters;

use super::family::Families;
use crate::health::Observed;
use crate::status::answer;

/// Everything of ours.
pub fn collect(observed: &Observed) -> Families {
    let mut families = Families::default();
    families.gauge("ringway_build_info", "The version that runs; always 1", [(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)]);
    let problems =
        observed.problems.iter().map(|((severity, kind), count)| (vec![("severity", *severity), ("kind", kind.as_str())], *count as f64));
    if let Some(published) = observed.published {
        let age = published.elapsed().as_secs_f64();
        families.value("ringway_generation_age_seconds", "Since the newest tables were published; nothing needs to change", age);
    }
    families.gauge("ringway_problems", "What is wrong now, as `ringway status` lists it", problems);
    if let Some(source) = &observed.apiserver {
        super::apiserver::collect(&mut families, &source.status());
    }
    if let Some(dataplane) = &observed.dataplane {
        tables(&mut families, dataplane);
        let (status, stats) = (dataplane.status(), dataplane.stats());
        verdicts(&mut families, &stats);
        workers(&mut families, &status, &stats);
        sockets(&mut families, &status);
        if let Some(flows) = &observed.flows {
            snat(&mut families, flows, &dataplane.publisher().current().node.snat);
        }
    }
    if let Some(flows) = &observed.flows {
        families.value("ringway_flows", "IPv4 flows that are live", flows.v4.len() as f64);
        families.value("ringway_flows_max", "Limit of IPv4 flows (--flows-max)", flows.v4.flows_max() as f64);
        families.value("ringway_flows6", "IPv6 flows that are live", flows.v6.len() as f64);
        families.value("ringway_flows6_max", "Limit of IPv6 flows (--flows6-max)", flows.v6.flows_max() as f64);
    }
    if let Some(counters) = &observed.counters {
        programs(&mut families, counters);
    }
    families
}

fn tables(families: &mut Families, dataplane: &Dataplane) {
    let publisher = dataplane.publisher();
    let snapshot = publisher.current();
    families.value("ringway_generation", "Generation of the tables published last", snapshot.generation as f64);
    families.value("ringway_acting_generation", "Generation that every worker acts on", publisher.acting_generation() as f64);
    families.value("ringway_frontends", "Addresses and ports that clients use", snapshot.frontends.len() as f64);
    families.value("ringway_frontends_max", "Limit of frontends of each IP family", crate::programs::FRONTENDS_MAX as f64);
    families.value(
        "ringway_announced_addresses",
        "VIPs for which this node answers ARP and neighbor solicitations",
        snapshot.announced.len() as f64,
    );
}

fn verdicts(families: &mut Families, stats: &[WorkerStats]) {
    let sum = |of: fn(&WorkerStats) -> u64| stats.iter().map(of).sum::<u64>();
    let drops = |reason: usize| stats.iter().map(|worker| worker.verdicts.drops[reason]).sum::<u64>();
    let reasons = DropReason::ALL.iter().enumerate();
    let packets = [
        ("uplink", sum(|worker| worker.verdicts.uplink)),
        ("host", sum(|worker| worker.verdicts.host)),
        ("hold", sum(|worker| worker.verdicts.hold)),
        ("drop", reasons.clone().map(|(number, _)| drops(number)).sum()),
    ];
    let packets = packets.into_iter().map(|(verdict, count)| (vec![("verdict", verdict)], count));
    families.counter("ringway_packets_total", "Packets of the workers by verdict", packets);
    let answered = [(vec![], sum(|worker| worker.verdicts.refused))];
    families.counter("ringway_refusals_total", "Packets that workers answered by a reset or an ICMP error", answered);
    let pings = [(vec![], sum(|worker| worker.verdicts.pings))];
    families.counter("ringway_pings_total", "Pings to addresses of services that workers answered", pings);
    let passed_on = [(vec![], sum(|worker| worker.verdicts.icmp_errors))];
    families.counter("ringway_icmp_errors_total", "ICMP errors about flows that workers translated", passed_on);
    let drops = reasons.map(|(number, reason)| (vec![("reason", reason.label())], drops(number)));
    families.counter("ringway_drops_total", "Packets that workers dropped, by reason", drops);
    let frames = answer::frames(stats);
    let places = [
        ("pool", frames.pool),
        ("fill", frames.fill),
        ("rx", frames.rx),
        ("tx", frames.tx),
        ("completion", frames.completion),
        ("held", frames.held),
        ("lost", frames.lost),
    ];
    let places = places.into_iter().map(|(place, count)| (vec![("place", place)], count as f64));
    families.gauge("ringway_frames", "Frames of all workers by place; none is ever lost", places);
    families.value("ringway_frames_max", "Frames that there are", frames.total as f64);
}

fn workers(families: &mut Families, status: &[WorkerStatus], stats: &[WorkerStats]) {
    let names: Vec<String> = status.iter().map(|worker| worker.worker.to_string()).collect();
    let up = names.iter().zip(status).map(|(name, worker)| {
        let runs = worker.state == WorkerState::Running;
        (vec![("worker", name.as_str())], f64::from(u8::from(runs)))
    });
    families.gauge("ringway_worker_up", "The worker runs", up);
    let mut counter = |name: &str, help: &str, of: fn(&WorkerStats) -> u64| {
        let samples = names.iter().zip(stats).map(|(name, stats)| (vec![("worker", name.as_str())], of(stats)));
        families.counter(&format!("ringway_worker_{name}_total"), help, samples);
    };
    counter("packets", "Packets given to the engine", |worker| worker.packets);
    counter("bytes", "Bytes of these packets", |worker| worker.bytes);
    counter("batches", "Calls of the engine; packets / batches tells how loaded the worker is", |worker| worker.batches);
    counter("sleeps", "Times that the worker fell asleep", |worker| worker.sleeps);
    counter("wakeups", "Times that packets or the control half woke it", |worker| worker.wakeups);
    counter("neighbor_requests", "Neighbors that it asked for", |worker| worker.neighbor_requests);
    counter("refill_short", "Refills that found too few free frames", |worker| worker.refill_short);
    counter("flows_swept", "Flows that had been idle for too long", |worker| worker.flows_swept);
}

fn sockets(families: &mut Families, status: &[WorkerStatus]) {
    let sockets: Vec<(String, &SocketStatus)> =
        status.iter().flat_map(|worker| worker.sockets.iter()).map(|socket| (socket.queue.to_string(), socket)).collect();
    let up = sockets.iter().map(|(queue, socket)| {
        let labels = vec![("device", socket.ifname.as_str()), ("queue", queue.as_str()), ("mode", socket.mode.label())];
        (labels, f64::from(u8::from(socket.failed.is_none())))
    });
    families.gauge("ringway_socket_up", "The XSK moves frames, and in which mode", up);
    let mut counter = |name: &str, help: &str, of: fn(&SocketCounters) -> u64| {
        let samples = sockets
            .iter()
            .map(|(queue, socket)| (vec![("device", socket.ifname.as_str()), ("queue", queue.as_str())], of(&socket.counters)));
        families.counter(&format!("ringway_socket_{name}_total"), help, samples);
    };
    counter("rx_packets", "Packets received", |socket| socket.rx_packets);
    counter("rx_bytes", "Bytes received", |socket| socket.rx_bytes);
    counter("tx_packets", "Packets transmitted", |socket| socket.tx_packets);
    counter("tx_bytes", "Bytes transmitted", |socket| socket.tx_bytes);
    counter("kicks", "System calls that asked the kernel to transmit", |socket| socket.kicks);
    counter("rx_dropped", "Dropped by the kernel: too long for a frame, or no frame", |socket| socket.rx_dropped);
    counter("rx_ring_full", "Dropped by the kernel: the rx ring was full, the worker too slow", |socket| socket.rx_ring_full);
    counter("fill_ring_empty", "The kernel looked for a frame in an empty fill ring", |socket| socket.fill_ring_empty);
    counter("rx_invalid", "Descriptors to receive into that the kernel refused", |socket| socket.rx_invalid);
    counter("tx_invalid", "Descriptors to transmit that the kernel refused", |socket| socket.tx_invalid);
}

/// Flows that have a port of a SNAT address, by address, protocol and backend.
type Bindings = HashMap<(IpAddr, u8, (IpAddr, u16)), u64>;

fn count_bindings<F: Family>(bindings: &mut Bindings, flows: &FlowTable<F>, addresses: &[SnatAddress]) {
    flows.visit_snat(|protocol, tuple| {
        let ((source, _), (backend, port)) = (tuple.src(), tuple.dst());
        let source = source.into();
        // A hairpin has the VIP as its source: no port of these.
        if addresses.iter().any(|snat| snat.address == source) {
            *bindings.entry((source, protocol, (backend.into(), port))).or_default() += 1;
        }
    });
}

/// A port of a SNAT address can serve one flow for each backend and protocol, so what runs out first are the ports towards one backend.
fn snat(families: &mut Families, flows: &FlowTables, addresses: &[SnatAddress]) {
    let mut in_use = Bindings::new();
    count_bindings(&mut in_use, &flows.v4, addresses);
    count_bindings(&mut in_use, &flows.v6, addresses);
    let names: Vec<(String, &SnatAddress)> = addresses.iter().map(|snat| (snat.address.to_string(), snat)).collect();
    let of = |address: IpAddr| in_use.iter().filter(move |((source, ..), _)| *source == address).map(|(_, count)| *count);
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&SnatAddress) -> u64| {
        families.gauge(name, help, names.iter().map(|(name, snat)| (vec![("address", name.as_str())], value(snat) as f64)));
    };
    gauge("ringway_snat_bindings", "Flows that have a port of this SNAT address", &|snat| of(snat.address).sum());
    let help = "Ports of this SNAT address that are in use towards its busiest backend and protocol";
    gauge("ringway_snat_ports_in_use", help, &|snat| of(snat.address).max().unwrap_or(0));
    let help = "Ports of this SNAT address: as many flows as each backend and protocol can have";
    gauge("ringway_snat_ports_max", help, &|snat| u64::from(snat.ports.1 - snat.ports.0) + 1);
}

/// One that cannot be read now may be readable at the next scrape.
fn programs(families: &mut Families, counters: &Counters) {
    let counts = counters.read().unwrap_or_default();
    let samples = counts.into_iter().map(|(outcome, packets)| (vec![("outcome", outcome)], packets));
    families.counter(
        "ringway_program_packets_total",
        "Packets by what the BPF programs did with them, since they were first loaded",
        samples,
    );
}
