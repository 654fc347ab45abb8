//! The packet engine of Ringway: bytes, tables and time in, verdicts out.
//!
//! Pure: no ring, no system call, no clock, no lock, no allocation per packet. The shell around it is `ringway-io`.
#![forbid(unsafe_code)]

pub mod engine;
pub mod flow;
pub mod maglev;
pub mod order;
pub mod tables;
pub mod verdict;
