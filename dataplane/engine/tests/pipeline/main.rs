//! The engine as a whole, one story per traffic class: frames in, verdicts and frames out.
#![forbid(unsafe_code)]

mod affinity;
mod answers;
mod bed;
mod classes;
mod fragments;
mod frames;
mod limits;
mod properties;
mod quotes;
mod refusals;
mod sctp;
