//! The flow table: established decisions, shared by all workers and the BPF programs.

mod entry;
mod hash;
mod table;

pub use entry::*;
pub use hash::{buckets_of, flow_hash};
pub use table::*;
