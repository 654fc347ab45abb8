//! Documents as tables for people.

use std::net::SocketAddr;

use serde::de::DeserializeOwned;

use ringway_model::{ServicePortView, TargetView};

use super::Topic;
use super::documents::*;
use super::table::Table;

/// The text for people.
///
/// # Errors
/// The document is not of this topic: another version answered.
pub fn render(topic: Topic, json: &str) -> serde_json::Result<String> {
    fn with<D: DeserializeOwned>(json: &str, render: impl FnOnce(&D) -> String) -> serde_json::Result<String> {
        Ok(render(&serde_json::from_str(json)?))
    }
    match topic {
        Topic::Status => with(json, status),
        Topic::Services => with(json, services),
        Topic::Backends => with(json, backends),
        Topic::Flows => with(json, flows),
        Topic::Neighbors => with(json, neighbors),
        Topic::Stats => with(json, stats),
    }
}

/// A table, or a sentence if it has no rows.
fn table_or(table: &Table, sentence: &str) -> String {
    if table.is_empty() { format!("{sentence}\n") } else { table.render() }
}

fn dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

fn member_row(member: &MemberDocument) -> [String; 7] {
    let state = match (member.transmits, member.receives.as_str()) {
        (true, _) => "transmits".into(),
        (false, "nothing") => "stands by".into(),
        (false, receives) => format!("receives {receives}"),
    };
    let failed = member.queues.iter().filter_map(|queue| Some(format!("queue {}: {}", queue.queue, queue.failed.as_ref()?)));
    let state: Vec<String> = std::iter::once(state).chain(failed).collect();
    let workers: Vec<String> = member.queues.iter().map(|queue| queue.worker.to_string()).collect();
    let (name, queues) = (format!("  {}", member.name), member.queues.len().to_string());
    [name, member.mode.clone(), queues, workers.join(","), String::new(), String::new(), state.join("; ")]
}

fn status(document: &StatusDocument) -> String {
    let ready = if document.ready { "ready" } else { "not ready" };
    let v4 = document.address.map(|address| address.to_string());
    let addresses: Vec<String> = v4.into_iter().chain(document.address6.map(|address| address.to_string())).collect();
    let address = if addresses.is_empty() { "-".into() } else { addresses.join(", ") };
    let mut text = format!(
        "ringway {} is {ready}: node {} ({address}), process {}, up {}\n",
        document.version,
        document.node,
        document.process_id,
        duration(document.uptime_s as f64)
    );
    text += &format!(
        "generation {} (workers act on {}), pod delivery {}, state in {}\n",
        document.generation, document.acting_generation, document.pod_delivery, document.state_dir
    );
    let mut uplinks = Table::new(["UPLINK", "MODE", "QUEUES", "WORKERS", "MTU", "MAC", "STATE"]);
    for uplink in &document.uplinks {
        let failed = uplink.queues.iter().filter_map(|queue| Some(format!("queue {}: {}", queue.queue, queue.failed.as_ref()?)));
        let state: Vec<String> = match (uplink.present, uplink.running) {
            (false, _) => vec!["gone".into()],
            (true, false) => vec!["no link".into()],
            (true, true) => failed.collect(),
        };
        let workers: Vec<String> = uplink.queues.iter().map(|queue| queue.worker.to_string()).collect();
        uplinks.row([
            uplink.name.clone(),
            uplink.mode.clone(),
            uplink.queues.len().to_string(),
            workers.join(","),
            uplink.mtu.to_string(),
            uplink.mac.clone(),
            if state.is_empty() { "ok".into() } else { state.join("; ") },
        ]);
        for member in &uplink.members {
            uplinks.row(member_row(member));
        }
    }
    text += &format!("\n{}\n{}", uplinks.render(), workers(&document.workers));
    let mut limits = Table::new(["", "COUNT", "LIMIT"]);
    let l = &document.limits;
    for (name, limit) in [
        ("services", l.services),
        ("IPv4 frontends", l.frontends),
        ("IPv6 frontends", l.frontends6),
        ("IPv4 VIPs", l.vips),
        ("IPv6 VIPs", l.vips6),
        ("backends", l.backends),
        ("IPv4 flows", l.flows),
        ("IPv6 flows", l.flows6),
        ("affinity", l.affinity),
        ("frames in use", l.frames),
    ] {
        limits.row([name.into(), limit.count.to_string(), if limit.max == 0 { "-".into() } else { limit.max.to_string() }]);
    }
    text += &format!("\n{}", limits.render());
    let mut snat = Table::new(["SNAT ADDRESS", "PORTS"]);
    for address in &document.snat {
        snat.row([address.address.to_string(), format!("{}-{}", address.first_port, address.last_port)]);
    }
    text += &format!("\n{}", table_or(&snat, "no SNAT address: backends on other nodes cannot be reached"));
    if !document.announced.is_empty() {
        let announced: Vec<String> = document.announced.iter().map(ToString::to_string).collect();
        text += &format!("\nannounced: {}\n", announced.join(", "));
    }
    if let Some(apiserver) = &document.apiserver {
        text += &format!("\n{}", super::apiserver::render(apiserver));
    }
    if !document.problems.is_empty() {
        let plural = if document.problems.len() == 1 { "" } else { "s" };
        text += &format!("\n{} problem{plural}:\n", document.problems.len());
        for problem in &document.problems {
            text += &format!("  {problem}\n");
        }
    }
    text
}

fn workers(workers: &[WorkerDocument]) -> String {
    let mut table = Table::new(["WORKER", "CORE", "STATE", "GENERATION", "PACKETS", "BATCHES", "PACKETS/BATCH", "SLEEPS", "WAKEUPS"]);
    for worker in workers {
        let per_batch = if worker.batches == 0 { 0.0 } else { worker.packets as f64 / worker.batches as f64 };
        table.row([
            worker.worker.to_string(),
            dash(worker.core.map(|core| core.to_string())),
            worker.state.clone(),
            worker.generation.to_string(),
            worker.packets.to_string(),
            worker.batches.to_string(),
            format!("{per_batch:.1}"),
            worker.sleeps.to_string(),
            worker.wakeups.to_string(),
        ]);
    }
    table_or(&table, "no workers")
}

fn services(document: &ServicesDocument) -> String {
    let mut table = Table::new(["SERVICE", "PORT", "TYPE", "FRONTEND", "BACKENDS"]);
    for service in &document.services {
        for (number, frontend) in service.frontends.iter().enumerate() {
            let first = number == 0;
            let held = frontend.held_by.as_ref().map(|other| format!("(held by {other})"));
            table.row([
                if first { format!("{}/{}", service.namespace, service.name) } else { String::new() },
                if first { port_text(service) } else { String::new() },
                frontend_kind(frontend.kind),
                SocketAddr::new(frontend.address, frontend.port).to_string(),
                held.unwrap_or_else(|| targets(&frontend.outside, &frontend.inside)),
            ]);
        }
    }
    table_or(&table, "no services")
}

fn port_text(service: &ServicePortView) -> String {
    match service.port_name.as_str() {
        "" => service.protocol.to_string(),
        name => format!("{name}/{}", service.protocol),
    }
}

fn frontend_kind(kind: ringway_model::FrontendKindView) -> String {
    use ringway_model::FrontendKindView::*;
    match kind {
        ClusterIp => "ClusterIP",
        NodePort => "NodePort",
        LoadBalancerIp => "LoadBalancer",
        ExternalIp => "ExternalIP",
    }
    .into()
}

/// Where it leads; both answers if clients outside and inside meet different ones.
fn targets(outside: &TargetView, inside: &TargetView) -> String {
    let words = |target: &TargetView| match target {
        TargetView::Backends(backends) => backends.join(", "),
        TargetView::Reject => "none: refused".into(),
        TargetView::Drop => "none here (policy Local): dropped".into(),
    };
    if outside == inside { words(outside) } else { format!("outside: {}; inside: {}", words(outside), words(inside)) }
}

fn backends(document: &BackendsDocument) -> String {
    let mut table = Table::new(["BACKEND", "PROTOCOL", "STATE", "NODE", "HERE", "SERVICES"]);
    for backend in &document.backends {
        table.row([
            SocketAddr::new(backend.address, backend.port).to_string(),
            backend.protocol.clone(),
            backend.state.clone(),
            dash(backend.node.clone()),
            if backend.local { "yes" } else { "no" }.into(),
            backend.services.join(", "),
        ]);
    }
    table_or(&table, "no backends")
}

fn flows(document: &FlowsDocument) -> String {
    let mut table = Table::new(["PROTO", "CLIENT", "FRONTEND", "BACKEND", "NAT BINDING", "STATE", "AGE", "IDLE", "FORWARD", "REVERSE"]);
    for flow in &document.flows {
        table.row([
            flow.protocol.clone(),
            flow.client.clone(),
            flow.frontend.clone(),
            flow.backend.clone(),
            dash(flow.nat_binding.clone()),
            flow.state.clone(),
            duration(flow.age_s),
            duration(flow.idle_s),
            place(&flow.forward),
            place(&flow.reverse),
        ]);
    }
    table_or(&table, "no flows")
}

/// `edge pod-in veth1: pass`.
fn place(direction: &DirectionDocument) -> String {
    let device = direction.device.as_ref().map_or(String::new(), |device| format!(" {device}"));
    let op = if direction.op == direction.executor { String::new() } else { format!(": {}", direction.op) };
    format!("{} {}{device}{op}", direction.executor, direction.hook)
}

fn neighbors(document: &NeighborsDocument) -> String {
    let mut table = Table::new(["DEVICE", "ADDRESS", "MAC", "USE"]);
    for neighbor in &document.neighbors {
        table.row([
            neighbor.device.clone(),
            neighbor.address.to_string(),
            neighbor.mac.clone().unwrap_or_else(|| "unresolved".into()),
            if neighbor.in_use { "ours" } else { "kernel" }.into(),
        ]);
    }
    table_or(&table, "no neighbors")
}

fn stats(document: &StatsDocument) -> String {
    let mut verdicts = Table::new(["VERDICT", "PACKETS", ""]);
    let v = &document.verdicts;
    for (name, packets, sentence) in [
        ("uplink", v.uplink, "Transmitted on an uplink."),
        ("host", v.host, "Handed to the node by the hostlink."),
        ("hold", v.hold, "Waited for a neighbor to be resolved."),
        ("refused", v.refused, "Of those: answered by a TCP reset or an ICMP error, for nobody serves them."),
        ("pings", v.pings, "Of those: pings to addresses of services, answered."),
        ("icmp_errors", v.icmp_errors, "Of those: ICMP errors about flows, translated and sent on."),
        ("drop", v.drop, "Dropped, by reason below."),
    ] {
        verdicts.row([name.into(), packets.to_string(), sentence.into()]);
    }
    let mut drops = Table::new(["DROP REASON", "PACKETS", ""]);
    for drop in document.drops.iter().filter(|drop| drop.packets > 0) {
        drops.row([drop.reason.clone(), drop.packets.to_string(), drop.sentence.clone()]);
    }
    let mut sockets = Table::new(["SOCKET", "WORKER", "MODE", "RX", "TX", "KICKS", "RX DROPPED", "RING FULL", "FILL EMPTY", "INVALID"]);
    for socket in &document.sockets {
        sockets.row([
            format!("{} queue {}", socket.device, socket.queue),
            socket.worker.to_string(),
            socket.mode.clone(),
            socket.rx_packets.to_string(),
            socket.tx_packets.to_string(),
            socket.kicks.to_string(),
            socket.rx_dropped.to_string(),
            socket.rx_ring_full.to_string(),
            socket.fill_ring_empty.to_string(),
            (socket.rx_invalid + socket.tx_invalid).to_string(),
        ]);
    }
    let mut programs = Table::new(["BPF PROGRAMS", "PACKETS"]);
    for counter in document.programs.iter().filter(|counter| counter.packets > 0) {
        programs.row([counter.name.clone(), counter.packets.to_string()]);
    }
    let f = &document.frames;
    let frames = format!(
        "frames: {} in all, {} free, {} to receive into, {} received, {} to transmit, {} transmitted, {} held, {} lost\n",
        f.total, f.pool, f.fill, f.rx, f.tx, f.completion, f.held, f.lost
    );
    [
        verdicts.render(),
        table_or(&drops, "nothing was dropped by a worker"),
        workers(&document.workers),
        table_or(&sockets, "no sockets"),
        frames,
        table_or(&programs, "the programs have seen nothing"),
    ]
    .join("\n")
}

/// Two units at most: `3.2s`, `5m12s`, `2h05m`, `3d04h`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3_600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [(0.0, "0.0s"), (59.94, "59.9s"), (312.0, "5m12s"), (7_500.0, "2h05m"), (273_600.0, "3d04h")] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn an_empty_status() {
        let json = serde_json::to_string(&StatusDocument::default()).unwrap();
        let text = render(Topic::Status, &json).unwrap();
        assert!(text.contains("is not ready") && text.contains("no SNAT address"), "{text}");
    }

    #[test]
    fn a_flow() {
        let pair = |source: &str, destination: &str| PairDocument { source: source.into(), destination: destination.into() };
        let direction = |hook: &str, op: &str, executor: &str| DirectionDocument {
            hook: hook.into(),
            device: None,
            from: pair("a", "b"),
            to: pair("c", "d"),
            executor: executor.into(),
            op: op.into(),
        };
        let document = FlowsDocument {
            flows: vec![FlowDocument {
                protocol: "TCP".into(),
                state: "established".into(),
                client: "198.51.100.7:40000".into(),
                frontend: "192.0.2.1:80".into(),
                backend: "10.1.2.3:8080".into(),
                nat_binding: Some("192.0.2.9:10000".into()),
                age_s: 61.0,
                idle_s: 0.5,
                forward: direction("uplink-in", "worker", "worker"),
                reverse: direction("uplink-out", "pass", "edge"),
            }],
        };
        let text = render(Topic::Flows, &serde_json::to_string(&document).unwrap()).unwrap();
        let line = text.lines().nth(1).unwrap();
        assert!(line.contains("192.0.2.9:10000  established  1m01s"), "{text}");
        assert!(line.ends_with("worker uplink-in  edge uplink-out: pass"), "{text}");
    }

    #[test]
    fn nothing_yet() {
        assert_eq!(render(Topic::Services, "{\"services\":[]}").unwrap(), "no services\n");
        assert!(render(Topic::Services, "{\"flows\":[]}").is_err(), "another topic's document");
    }
}
