//! The command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, STATE_DIR_DEFAULT, Settings};
use crate::{cleanup, preflight, run, status};

/// A userspace dataplane for Kubernetes services.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve, in the foreground, until SIGTERM or SIGINT
    Run(NodeArgs),
    /// Say everything that would keep `run` from working here, and the remedy
    Check(NodeArgs),
    /// Remove everything that a crashed process may have left
    Cleanup(StateArgs),
    /// Is it ready, in what mode, how busy, how full
    Status(QueryArgs),
    /// Every frontend with its backends
    Services(QueryArgs),
    /// Every backend with the services that use it
    Backends(QueryArgs),
    /// Every flow: both directions, NAT binding, age, state
    Flows(QueryArgs),
    /// The neighbors that packets are sent to
    Neighbors(QueryArgs),
    /// Packets by verdict and by drop reason
    Stats(QueryArgs),
}

/// Flags of `run` and `check`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(flatten)]
    pub settings: Settings,

    /// YAML file with the same names as these flags; flags win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct StateArgs {
    /// Where the process keeps its lock, socket and pins
    #[arg(long, value_name = "DIR", default_value = STATE_DIR_DEFAULT)]
    pub state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct QueryArgs {
    /// Format of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,

    #[command(flatten)]
    pub state: StateArgs,
}

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// One document for programs
    Json,
}

impl NodeArgs {
    /// Flags, then the file, then defaults; and the log level (flag, `RINGWAY_LOG`, file), which does not concern the dataplane.
    fn resolve(self) -> anyhow::Result<(Config, Option<String>)> {
        let level = self.settings.log_level.clone().or_else(|| std::env::var("RINGWAY_LOG").ok());
        let settings = match &self.config {
            Some(path) => self.settings.or(Settings::from_file(path)?),
            None => self.settings,
        };
        let level = level.or_else(|| settings.log_level.clone());
        Ok((settings.resolve()?, level))
    }
}

/// Runs the command; what it has to say is on standard output, errors and logs are on standard error.
pub fn main(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Run(args) => args.resolve().and_then(|(config, level)| {
            init_log(level)?;
            run::run(config)
        }),
        Command::Check(args) => args.resolve().and_then(|(config, level)| {
            init_log(level)?;
            preflight::check(&config)
        }),
        Command::Cleanup(args) => init_log(std::env::var("RINGWAY_LOG").ok()).and_then(|()| cleanup::cleanup(&args.state_dir)),
        Command::Status(args) => query(status::Topic::Status, &args),
        Command::Services(args) => query(status::Topic::Services, &args),
        Command::Backends(args) => query(status::Topic::Backends, &args),
        Command::Flows(args) => query(status::Topic::Flows, &args),
        Command::Neighbors(args) => query(status::Topic::Neighbors, &args),
        Command::Stats(args) => query(status::Topic::Stats, &args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn query(topic: status::Topic, args: &QueryArgs) -> anyhow::Result<ExitCode> {
    status::client::query(&args.state.state_dir, topic, args.output == Output::Json)
}

/// Logs to standard error.
fn init_log(level: Option<String>) -> anyhow::Result<()> {
    let directives = level.as_deref().unwrap_or("info");
    // What the client libraries have to say stands in our own words in the log, once instead of with each attempt.
    let plain = !directives.contains(['=', ',']);
    let quiet = if plain && !["debug", "trace"].contains(&directives) { ",kube_client=error,kube_runtime=error" } else { "" };
    let directives = &format!("{directives}{quiet}");
    let filter = EnvFilter::try_new(directives).map_err(|error| {
        anyhow::anyhow!("log level `{directives}`: {error}; use error, warn, info, debug, trace or a filter such as ringway=debug")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_as_documented() {
        let cli = Cli::try_parse_from([
            "ringway",
            "run",
            "--uplink",
            "a",
            "--uplink",
            "b",
            "--node-name",
            "n",
            "--manifests",
            "/m",
            "--workers",
            "2",
            "--mode",
            "zero-copy",
            "--snat-address",
            "192.0.2.7",
            "--pod-delivery",
            "direct",
            "--announce",
            "--state-dir",
            "/s",
            "--log-level",
            "debug",
        ])
        .unwrap();
        let Command::Run(args) = cli.command else { panic!("run") };
        let (config, level) = args.resolve().unwrap();
        assert_eq!(config.uplinks, ["a", "b"]);
        assert!(config.announce);
        assert_eq!(level.as_deref(), Some("debug"));
        assert_eq!(config.state_dir, PathBuf::from("/s"));
    }

    #[test]
    fn output_formats() {
        let cli = Cli::try_parse_from(["ringway", "flows", "-o", "json"]).unwrap();
        let Command::Flows(args) = cli.command else { panic!("flows") };
        assert_eq!(args.output, Output::Json);
        assert_eq!(args.state.state_dir, PathBuf::from(STATE_DIR_DEFAULT));
    }
}
