//! The lab tests: `ringway` on real devices, with real clients. One topic a file. They need root and the release binary.
#![forbid(unsafe_code)]

mod topologies;

use std::rc::Rc;

use anyhow::Result;
use ringway_tests::lab::{self, Lab};

/// Runs a test in a lab that is named after it.
fn lab(name: &str, test: impl FnOnce(&Rc<Lab>) -> Result<()>) -> Result<()> {
    lab::run(name, test)
}
