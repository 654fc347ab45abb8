//! The flow table: established decisions, shared by all workers and the BPF programs.
//!
//! | file | holds |
//! |---|---|
//! | `entry` | the layout in shared memory, keys and rewrites |
//! | `hash` | from key to buckets |
//! | `slot` | reading and filling one slot |
//! | `position` | which segments are of a flow's TCP connection |
//! | `doubt` | those that are said to be reset: their clients are asked |
//! | `overflow` | where entries lie for which their two buckets have no room |
//! | `ownership` | which worker may write a slot, and the grace period |
//! | `gates` | one creator per key |
//! | `table` | lookup |
//! | `insert`, `expiry`, `restart`, `record` | making flows, ending them, taking them over, showing them |

mod doubt;
mod entry;
mod expiry;
mod gates;
mod hash;
mod insert;
mod overflow;
mod ownership;
mod position;
mod record;
mod restart;
mod slot;
mod table;

pub use doubt::{DOUBTED_MAX, Doubted};
pub use entry::*;
pub use expiry::{FlowState, Timeouts};
pub(crate) use gates::Gates;
pub use hash::{OVERFLOW_BUCKETS, buckets_of, flow_hash, overflow_bucket_of};
pub use insert::{InsertError, NewFlow};
pub use position::{LAG, Numbers, REACH, RESET_REACH, Segment};
pub use record::FlowRecord;
pub(crate) use slot::elapsed;
pub use table::{FlowTable, FlowTables, SlotIndex, slots_for};

#[cfg(test)]
mod tests;
