//! Start, stop and observe the workers.

use ringway_engine::tables::Snapshot;

use crate::config::{DataplaneConfig, Port};
use crate::error::Error;
use crate::eventfd::Notices;
use crate::packet_engine::PacketEngine;
use crate::publisher::Publisher;
use crate::shared::NeighborRequest;
use crate::stats::{WorkerStats, WorkerStatus};

/// The running workers. All methods take `&self`: share it by `Arc`.
///
/// Dropping it stops the workers as [`Dataplane::stop`] does.
pub struct Dataplane {}

/// Why a frame of the control half was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    #[error("no running worker transmits on {0}")]
    NoSuchPort(Port),
    #[error("the queue of frames to transmit on {0} is full")]
    Full(Port),
    #[error("a frame of {0} bytes cannot be injected: it has at least 14 and at most 1518")]
    Length(usize),
}

impl Dataplane {
    /// Binds all sockets in the caller's network namespace, starts one thread per worker with its engine (`engines[i]` for
    /// `config.workers[i]`), and then lets packets in by registering the sockets in their XSKMAPs.
    /// The first snapshot becomes generation 1. XDP programs are attached before: some drivers want it for zero-copy.
    pub fn start<E: PacketEngine + 'static>(config: DataplaneConfig, engines: Vec<E>, snapshot: Snapshot) -> Result<Dataplane, Error> { todo!() }

    /// Stops in order: no packet is let in any more, workers finish what they hold and wait for their transmissions
    /// (at most 100 ms), threads are joined, sockets closed, memory unmapped. A second call does nothing.
    pub fn stop(&self) { todo!() }

    pub fn publisher(&self) -> Publisher { todo!() }

    pub fn notices(&self) -> Notices { todo!() }

    /// Takes the next neighbor that a worker wants resolved. Each worker repeats a wish at most once a second.
    pub fn next_neighbor_request(&self) -> Option<NeighborRequest> { todo!() }

    /// Transmits a whole Ethernet frame on the port, by the first worker that transmits there.
    pub fn inject(&self, port: Port, frame: &[u8]) -> Result<(), InjectError> { todo!() }

    pub fn status(&self) -> Vec<WorkerStatus> { todo!() }

    /// By worker.
    pub fn stats(&self) -> Vec<WorkerStats> { todo!() }
}
