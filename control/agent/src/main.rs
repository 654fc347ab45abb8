//! `ringway`: see `ringway --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use ringway_agent::cli::{self, Cli};

fn main() -> ExitCode {
    cli::main(Cli::parse())
}
