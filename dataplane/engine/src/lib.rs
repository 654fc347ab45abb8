//! The packet engine of Ringway: bytes, tables and time in, verdicts out.
//!
//! Pure: no ring, no system call, no clock, no lock, no allocation per packet. The shell around it is `ringway-io`.
#![forbid(unsafe_code)]

mod admission;
pub mod affinity;
pub mod arp;
mod bind;
pub mod checksum;
pub mod divide;
pub mod engine;
pub mod family;
pub mod flow;
mod fragments;
mod hops;
pub mod maglev;
mod nat;
pub mod ndp;
pub mod nudge;
pub mod order;
mod place;
mod random;
mod refuse;
pub mod tables;
pub mod verdict;
pub mod wire;
