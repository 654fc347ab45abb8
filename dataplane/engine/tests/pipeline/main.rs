//! The engine as a whole, one story per traffic class: frames in, verdicts and frames out.
#![forbid(unsafe_code)]
#![allow(clippy::duplicate_mod, reason = "each family tells the same stories, of addresses of its own")]

mod bed;
mod both;
mod frames;
mod v4;
mod v6;
