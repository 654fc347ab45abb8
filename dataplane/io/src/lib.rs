//! UMEM, AF_XDP sockets and pinned workers: moves frames, decides nothing.
//!
//! The only crate of the packet half with unsafe code. [`Dataplane::start`] binds one XSK per port and starts the workers; each
//! worker moves frames between its rings and hands them, in batches, to a [`PacketEngine`], whose verdicts it carries out.
//! The control half publishes snapshots by a [`Publisher`], answers [`NeighborRequest`]s, and reads state and statistics at any time.
//! `dataplane/README.md` has the drawings.

mod config;
mod dataplane;
mod error;
pub mod ethtool;
mod eventfd;
#[cfg(test)]
mod fake;
mod hold;
mod kick;
mod mapping;
mod memory;
mod packet_engine;
mod publisher;
mod ring;
mod rings;
mod shared;
mod shell;
#[cfg(test)]
mod shell_tests;
mod socket;
mod spanning;
mod stats;
mod umem;
mod worker;
mod xskmap;

pub use config::{BindMode, BindWanted, DataplaneConfig, FrameSize, Port, PortConfig, RingDepths, WorkerConfig, XskmapSlot};
pub use dataplane::{Dataplane, InjectError};
pub use error::Error;
pub use eventfd::Notices;
pub use memory::{keep_little_free_memory, release_free_memory};
pub use packet_engine::PacketEngine;
pub use publisher::Publisher;
pub use shared::NeighborRequest;
pub use stats::{FrameGauges, SocketCounters, SocketStatus, WorkerState, WorkerStats, WorkerStatus};
