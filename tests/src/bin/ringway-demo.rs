//! The demo: a node with pods, another node, a client and a router, all in network namespaces; `ringway run` on the node, and
//! real requests through a VIP. Ends in about half a minute and leaves nothing behind. `--sweep` removes what a killed one left.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Lab, Load, Namespace, Net, PodLink, Ringway, RingwayOptions, Service, Topology, address, run, sweep_leftovers};

/// How long each closed loop of requests runs.
const ROUND: Duration = Duration::from_secs(3);
/// Loops at a time: enough to keep two cores busy.
const LOOPS: u32 = 4;
const CURLS: usize = 20;
/// Of each protocol; the requests before leave tens of thousands.
const FLOWS_SHOWN: usize = 8;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--sweep") {
        return report(sweep_leftovers());
    }
    report(run("demo", demo))
}

fn report(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(lab: &Rc<Lab>) -> Result<()> {
    println!("demo: [3/5] laying out a client, a router, node1 with three pods, node2 with two");
    let net = Topology::new().node1_pods(&[PodLink::Routed; 3]).node2_pods(2).build(lab).context("laying out the namespaces")?;
    println!("demo: [4/5] starting ringway on node1, with 2 workers on the 2 queues of its uplink");
    let web = Service::web(address::VIP, address::CLUSTER_IP, &net.pods);
    // Three clients open 200 000 connections in 20 seconds.
    let options = RingwayOptions::default().with(&["--flows-max", "262144"]);
    let ringway = Ringway::start(&net, &options, std::slice::from_ref(&web)).context("starting ringway")?;
    println!("\nThe manifests that it serves:\n\n{}", indented(&web.yaml()));

    println!("demo: [5/5] requests");
    let a1 = net.pod("a1")?.namespace.clone();
    curls("client on the wire", &net.client, "http://10.0.0.100/")?;
    curls("pod a1", &a1, "http://10.96.0.10/")?;
    let mut table =
        vec![["from", "to", "protocol", "requests", "failed", "per second", "answered by", "seen by the pods as"].map(str::to_owned)];
    for (who, client, target) in
        [("client", &net.client, "10.0.0.100:80"), ("pod a1", &a1, "10.96.0.10:80"), ("node1", &net.node1, "10.96.0.10:80")]
    {
        for protocol in ["tcp", "udp"] {
            let load = client.load(protocol, target, LOOPS, ROUND).with_context(|| format!("{protocol} from {who}"))?;
            ensure!(load.requests > 0, "{who} got no answer by {protocol}: {:?}", load.first_error);
            table.push(row(who, target, protocol, &load));
        }
    }
    println!("\nEach request over a new connection, or from a new UDP port, {LOOPS} at a time:\n\n{}", columns(&table));
    show(&net, &ringway)?;
    ringway.terminate().context("stopping ringway")?;
    println!("demo: done, everything is removed");
    Ok(())
}

/// Who answered a few requests of curl.
fn curls(who: &str, client: &Namespace, url: &str) -> Result<()> {
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..CURLS {
        let answer = client.curl(url).with_context(|| format!("curl {url} from the {who}"))?;
        let server = answer.split(' ').next().unwrap_or_default().to_owned();
        *answers.entry(server).or_default() += 1;
    }
    println!("  curl {url} from the {who}, {CURLS} times: {}", counts(&answers));
    Ok(())
}

fn row(who: &str, target: &str, protocol: &str, load: &Load) -> [String; 8] {
    [
        who.to_owned(),
        target.to_owned(),
        protocol.to_owned(),
        load.requests.to_string(),
        load.errors.to_string(),
        format!("{:.0}", load.requests as f64 / load.seconds),
        counts(&load.servers),
        counts(&load.seen_as),
    ]
}

fn show(net: &Net, ringway: &Ringway) -> Result<()> {
    println!("$ ringway status\n\n{}", indented(&table_of(ringway, "status")?));
    println!("$ ringway services\n\n{}", indented(&table_of(ringway, "services")?));
    // A few flows that stay, so that the table has something to show that lives.
    let _client = net.client.hold("10.0.0.100:80", 3)?;
    let _pod = net.pod("a1")?.namespace.hold("10.96.0.10:80", 3)?;
    let flows = table_of(ringway, "flows")?;
    let head = flows.lines().next().unwrap_or_default();
    let shown = |protocol: &str| -> Vec<&str> {
        let rows = flows.lines().filter(|line| line.starts_with(protocol) && line.contains("established"));
        rows.take(FLOWS_SHOWN).collect()
    };
    println!("$ ringway flows\n\n{}", indented(&[&[head], &shown("TCP")[..], &shown("UDP")].concat().join("\n")));
    println!("  … and more: {} in all\n", flows.lines().count() - 1);
    Ok(())
}

fn table_of(ringway: &Ringway, command: &str) -> Result<String> {
    let output = ringway.run(&[command])?;
    ensure!(output.status.success(), "ringway {command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn counts<N: std::fmt::Display>(counts: &BTreeMap<String, N>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Columns as wide as their widest cell.
fn columns(rows: &[[String; 8]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    let line = |row: &[String; 8]| row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect::<String>();
    rows.iter().map(|row| format!("  {}\n", line(row).trim_end())).collect()
}
