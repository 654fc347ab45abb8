//! `ringway-perf`: the whole path against peers.
#![forbid(unsafe_code)]

mod foreign;
mod forwarding;
mod generator;
mod kube_proxy;
mod programming;
mod rounds;
mod streams;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

/// Measures Ringway beside its peers, in interleaved rounds on this machine. Needs root; packets stay in network namespaces.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Rounds; the result is the median over them, ratios are of one round
    #[arg(long, default_value_t = 7, global = true)]
    rounds: usize,
}

#[derive(Subcommand)]
enum Command {
    /// Client to VIP to a backend on another node: CPU-ns per packet beside an empty AF_XDP forward and nftables rules
    Forwarding(forwarding::Arguments),
    /// Bulk TCP through a ClusterIP and a VIP, beside no service at all and nftables rules
    Streams(streams::Arguments),
    /// What a packet that is not ours pays
    Foreign,
    /// From a change at the apiserver to traffic, beside kube-proxy itself
    Programming(programming::Arguments),
    /// The traffic generator; started by the others
    #[command(hide = true)]
    Generate(generator::Arguments),
    /// An empty XDP program on a device; started by the others
    #[command(hide = true)]
    Pass { device: String },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Result<()> {
    let rounds = arguments.rounds;
    if rounds == 0 {
        bail!("--rounds must be at least 1");
    }
    match arguments.command {
        None => {
            forwarding::run(&forwarding::Arguments::default(), rounds)?;
            streams::run(&streams::Arguments::default(), rounds)?;
            foreign::run(rounds)?;
            programming::run(programming::Arguments::default(), rounds)
        }
        Some(Command::Forwarding(arguments)) => forwarding::run(&arguments, rounds),
        Some(Command::Streams(arguments)) => streams::run(&arguments, rounds),
        Some(Command::Programming(arguments)) => programming::run(arguments, rounds),
        Some(Command::Foreign) => foreign::run(rounds),
        Some(Command::Generate(arguments)) => generator::run(&arguments),
        Some(Command::Pass { device }) => generator::pass(&device),
    }
}
