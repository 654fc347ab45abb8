//! The modules of the `ringway` binary, as a library for its tests.
#![forbid(unsafe_code)]

pub mod apiserver;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod filter;
pub mod health;
pub mod http;
pub mod lock;
pub mod manifests;
pub mod metrics;
pub mod netlink;
pub mod preflight;
pub mod programs;
pub mod run;
pub mod status;
pub mod tables;
pub mod units;
