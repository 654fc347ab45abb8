//! `ringway`: see `ringway --help`.

use std::process::ExitCode;

use clap::Parser;
use ringway_agent::cli::{self, Cli};

fn main() -> ExitCode {
    cli::main(Cli::parse())
}
