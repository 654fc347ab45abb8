//! What the control half and the workers share.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use ringway_engine::tables::Snapshot;

use crate::config::Port;
use crate::eventfd::EventFd;
use crate::stats::{PublishedSocket, PublishedStats, WorkerState};

/// A worker's wish: the MAC of this neighbor, because packets wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighborRequest {
    pub ifindex: u32,
    pub address: IpAddr,
}

/// Bytes of the largest frame that the control half can have transmitted: it sends ARP and probes.
pub(crate) const INJECTED_MAX: usize = 1518;
/// Injected frames that wait for a worker.
const INJECT_QUEUE: usize = 64;
/// Neighbor requests that wait for the control half. More than it resolves in a second, and a full queue only delays: workers ask again.
const NEIGHBOR_QUEUE: usize = 1024;

/// A frame of the control half, by value: nothing is allocated or freed on the worker.
pub(crate) struct Injected {
    pub port: Port,
    pub bytes: ArrayVec<u8, INJECTED_MAX>,
}

/// Of one worker.
pub(crate) struct WorkerShared {
    /// Generation of the snapshot that it acts on; `u64::MAX` once it has ended.
    pub generation: CachePadded<AtomicU64>,
    pub stats: CachePadded<PublishedStats>,
    /// By port.
    pub sockets: Box<[SocketShared]>,
    /// Wakes it when there is something to do for the control half.
    pub wake: EventFd,
    pub inject: ArrayQueue<Injected>,
    state: Mutex<WorkerState>,
}

/// Of one socket.
#[derive(Default)]
pub(crate) struct SocketShared {
    pub counters: CachePadded<PublishedSocket>,
    pub failed: OnceLock<String>,
}

/// Of all workers.
pub(crate) struct Shared {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Snapshots that were replaced and that a worker may still use. Behind a lock that only the control half takes.
    pub retired: Mutex<Vec<Arc<Snapshot>>>,
    pub neighbor_requests: ArrayQueue<NeighborRequest>,
    pub notices: Arc<EventFd>,
    pub stop: AtomicBool,
    pub workers: Box<[WorkerShared]>,
}

impl WorkerShared {
    pub fn new(sockets: usize) -> io::Result<WorkerShared> {
        Ok(WorkerShared {
            generation: CachePadded::new(AtomicU64::new(0)),
            stats: CachePadded::default(),
            sockets: (0..sockets).map(|_| SocketShared::default()).collect(),
            wake: EventFd::new()?,
            inject: ArrayQueue::new(INJECT_QUEUE),
            state: Mutex::new(WorkerState::Running),
        })
    }

    pub fn state(&self) -> WorkerState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_state(&self, state: WorkerState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl Shared {
    /// `sockets[i]` is how many worker `i` has. `snapshot` becomes generation 1.
    pub fn new(sockets: &[usize], mut snapshot: Snapshot) -> io::Result<Shared> {
        snapshot.generation = 1;
        Ok(Shared {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            retired: Mutex::new(Vec::new()),
            neighbor_requests: ArrayQueue::new(NEIGHBOR_QUEUE),
            notices: Arc::new(EventFd::new()?),
            stop: AtomicBool::new(false),
            workers: sockets.iter().map(|&sockets| WorkerShared::new(sockets)).collect::<io::Result<_>>()?,
        })
    }
}
