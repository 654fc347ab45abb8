//! The lab: real network namespaces, veths, programs and processes around the `ringway` binary.
//!
//! Used by the tests in `tests/lab/`, by the demo and by the measurements in `perf/`: one mechanism for all three.
#![forbid(unsafe_code)]

pub mod kubernetes;
pub mod lab;
pub mod sctp;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// As many sockets as this process may have: clients and servers of the lab hold thousands.
pub fn raise_open_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}
