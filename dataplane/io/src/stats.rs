//! What workers tell about themselves: counters and gauges, stored by their owner, read by anyone at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ringway_engine::verdict::{DropReason, VerdictCounts};

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

/// Counters of one socket: its own, and the kernel's (`XDP_STATISTICS`) as last read by the worker, at most 300 ms old.
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
    /// Times that a refill found too few free frames, after one that had found enough.
    pub refill_short: u64,
    /// Flows removed by sweeps.
    pub flows_swept: u64,
    /// The engine's verdicts, and the drops of the worker itself (`TxRingFull`, `NeighborUnresolved`, `NoFrames`) among the reasons.
    /// A held frame counts as `hold` each time the engine sees it.
    pub verdicts: VerdictCounts,
    pub frames: FrameGauges,
}

/// Declares the atomic twin of a struct of counters. Only the owner stores, so plain relaxed stores suffice: a reader sees each
/// counter as of some recent round, not all of the same one.
macro_rules! published {
    ($twin:ident of $plain:ident { $($field:ident),* } { $($nested:ident: $nested_twin:ident),* }) => {
        #[derive(Debug, Default)]
        pub(crate) struct $twin { $($field: AtomicU64,)* $($nested: $nested_twin,)* }

        impl $twin {
            #[inline]
            pub fn store(&self, plain: &$plain) {
                let $plain { $($field,)* $($nested,)* } = plain;
                $(self.$field.store(*$field, Relaxed);)*
                $(self.$nested.store($nested);)*
            }

            pub fn load(&self) -> $plain {
                $plain { $($field: self.$field.load(Relaxed),)* $($nested: self.$nested.load(),)* }
            }
        }
    };
}

#[derive(Debug, Default)]
pub(crate) struct PublishedDrops([AtomicU64; DropReason::ALL.len()]);

impl PublishedDrops {
    #[inline]
    pub fn store(&self, plain: &[u64; DropReason::ALL.len()]) {
        for (published, count) in self.0.iter().zip(plain) {
            published.store(*count, Relaxed);
        }
    }

    pub fn load(&self) -> [u64; DropReason::ALL.len()] {
        std::array::from_fn(|reason| self.0[reason].load(Relaxed))
    }
}

published! { PublishedVerdicts of VerdictCounts { uplink, host, hold, refused, icmp_errors, pings } { drops: PublishedDrops } }
published! { PublishedFrames of FrameGauges { total, pool, fill, rx, tx, completion, held, lost } {} }
published! {
    PublishedSocket of SocketCounters {
        rx_packets, rx_bytes, tx_packets, tx_bytes, kicks, rx_dropped, rx_ring_full, fill_ring_empty, rx_invalid, tx_invalid
    } {}
}
published! {
    PublishedStats of WorkerStats {
        packets, bytes, batches, sleeps, wakeups, resubmitted, neighbor_requests, injected, refill_short, flows_swept
    } { verdicts: PublishedVerdicts, frames: PublishedFrames }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_loaded() {
        let mut stats = WorkerStats { packets: 1, flows_swept: 2, ..WorkerStats::default() };
        stats.verdicts.drops[DropReason::TxRingFull as usize] = 3;
        stats.frames.held = 4;
        let published = PublishedStats::default();
        published.store(&stats);
        assert_eq!(published.load(), stats);
    }
}
