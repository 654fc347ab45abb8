//! What workers tell about themselves: counters and gauges, stored by their owner, read by anyone at any time.

use ringway_engine::verdict::VerdictCounts;

use crate::config::{BindMode, Port};

/// Whether a worker does its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    Running,
    /// Ended by [`crate::Dataplane::stop`].
    Stopped,
    /// Ended by itself, and why. Its queues drop what they receive until the dataplane is started again.
    Failed(String),
}

/// A worker as `status` shows it.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    pub worker: usize,
    /// The core that its thread is pinned to, if it is.
    pub core: Option<usize>,
    pub state: WorkerState,
    /// Generation of the snapshot that it acts on.
    pub generation: u64,
    pub sockets: Vec<SocketStatus>,
}

/// An XSK as `status` shows it.
#[derive(Clone, Debug)]
pub struct SocketStatus {
    pub port: Port,
    pub ifname: String,
    pub queue: u32,
    /// The mode in force.
    pub mode: BindMode,
    /// Why the socket moves no frames any more; `None` while it does.
    pub failed: Option<String>,
    pub counters: SocketCounters,
}

/// Counters of one socket: its own, and the kernel's (`XDP_STATISTICS`) as last read by the worker, at most a second old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketCounters {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// System calls that asked the kernel to transmit.
    pub kicks: u64,
    /// Dropped by the kernel: too long for a frame, or no frame to receive into.
    pub rx_dropped: u64,
    /// Dropped by the kernel: the rx ring was full, the worker too slow.
    pub rx_ring_full: u64,
    /// The kernel looked for a frame in an empty fill ring.
    pub fill_ring_empty: u64,
    /// Descriptors that the kernel refused; always 0, or frames are lost.
    pub rx_invalid: u64,
    pub tx_invalid: u64,
}

/// Where the frames of a worker are. Everything but `lost` adds up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameGauges {
    pub total: u64,
    /// Free.
    pub pool: u64,
    /// Given to the kernel to receive into.
    pub fill: u64,
    /// Received, not yet taken by the worker.
    pub rx: u64,
    /// Given to the kernel to transmit.
    pub tx: u64,
    /// Transmitted, not yet taken back.
    pub completion: u64,
    /// Waiting for a neighbor.
    pub held: u64,
    /// `total` less all of the above: 0, or the worker has a bug.
    pub lost: u64,
}

/// Counters of one worker since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    pub packets: u64,
    pub bytes: u64,
    /// Calls of the engine; `packets / batches` tells how loaded the worker is.
    pub batches: u64,
    /// Times that the worker fell asleep in `poll`.
    pub sleeps: u64,
    /// Times that it was woken by packets or by the control half, not by its time-out.
    pub wakeups: u64,
    /// Frames given to the engine again after they had waited for a neighbor.
    pub resubmitted: u64,
    /// Neighbors that the control half was asked to resolve.
    pub neighbor_requests: u64,
    /// Frames of the control half that were transmitted.
    pub injected: u64,
    /// Frames that a refill would have given to the kernel and the pool did not have.
    pub refill_short: u64,
    /// Flows removed by sweeps.
    pub flows_swept: u64,
    /// The engine's verdicts, and the drops of the worker itself (`TxRingFull`, `NeighborUnresolved`, `NoFrames`) among the reasons.
    /// A held frame counts as `hold` each time the engine sees it.
    pub verdicts: VerdictCounts,
    pub frames: FrameGauges,
}
