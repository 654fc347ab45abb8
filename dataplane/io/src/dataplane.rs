//! Start, stop and observe the workers.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arrayvec::ArrayVec;
use ringway_engine::engine::BATCH_MAX;
use ringway_engine::tables::Snapshot;

use crate::config::{BindMode, DataplaneConfig, Port, PortConfig, WorkerConfig};
use crate::error::Error;
use crate::ethtool;
use crate::eventfd::Notices;
use crate::packet_engine::PacketEngine;
use crate::publisher::Publisher;
use crate::shared::{INJECTED_MAX, Injected, NeighborRequest, Shared};
use crate::shell::{PortState, Shell};
use crate::socket::{Socket, Xsk};
use crate::stats::{SocketStatus, WorkerState, WorkerStats, WorkerStatus};
use crate::umem::{LARGE_FRAME_BYTES, Umem};
use crate::worker::Worker;
use crate::xskmap;

/// The running workers. All methods take `&self`: share it by `Arc`.
///
/// Dropping it stops the workers as [`Dataplane::stop`] does.
pub struct Dataplane {
    shared: Arc<Shared>,
    workers: Vec<Started>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What stays known of a worker on this side.
struct Started {
    core: Option<usize>,
    ports: Vec<(PortConfig, BindMode)>,
}

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

/// An Ethernet header.
const INJECTED_MIN: usize = 14;
/// Frames beyond what rings hold: a batch in hand, the held ones, injected ones.
const SPARE_FRAMES: u32 = 256;
/// Large frames of a worker whose packets may span frames, so that they never run out: a batch in hand, the held ones, what each socket
/// has begun to receive, and the largest datagram divided.
const LARGE_FRAMES: u32 = 2 * BATCH_MAX as u32 + 64;

impl Dataplane {
    /// Binds all sockets in the caller's network namespace, lets packets in by registering them in their XSKMAPs, and starts one
    /// thread per worker with its engine (`engines[i]` for `config.workers[i]`).
    /// The first snapshot becomes generation 1. XDP programs are attached before: some drivers want it for zero-copy.
    pub fn start<E: PacketEngine + 'static>(config: DataplaneConfig, engines: Vec<E>, snapshot: Snapshot) -> Result<Dataplane, Error> {
        check(&config, engines.len())?;
        let sockets: Vec<usize> = config.workers.iter().map(|worker| worker.ports.len()).collect();
        let shared = Arc::new(Shared::new(&sockets, snapshot).map_err(|source| Error::EventFd { source })?);
        let mut shells = Vec::new();
        let mut workers = Vec::new();
        for (index, worker) in config.workers.iter().enumerate() {
            let shell = bind(&config, index, worker, &shared)?;
            let modes = shell.ports().iter().map(|state| state.socket.mode());
            workers.push(Started { core: worker.core, ports: worker.ports.iter().cloned().zip(modes).collect() });
            shells.push(shell);
        }
        // A packet that comes before its worker runs waits in the rx ring.
        for (worker, shell) in config.workers.iter().zip(&shells) {
            register(worker, shell)?;
        }
        let dataplane = Dataplane { shared, workers, threads: Mutex::new(Vec::new()) };
        // From here on an error drops `dataplane`, which stops what was started.
        for (index, (shell, engine)) in shells.into_iter().zip(engines).enumerate() {
            let worker = Worker::new(engine, shell, dataplane.shared.clone(), config.spin, config.sweep_slots);
            let thread = spawn(index, config.workers[index].core, worker, dataplane.shared.clone())?;
            dataplane.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(dataplane)
    }

    /// Stops in order: no packet is let in any more, workers finish what they hold and wait for their transmissions
    /// (at most 100 ms), threads are joined, sockets closed, memory unmapped. A second call does nothing.
    pub fn stop(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.is_empty() {
            return;
        }
        for (port, _) in self.workers.iter().flat_map(|worker| &worker.ports) {
            if let Some(Err(error)) = port.xskmap.as_ref().map(xskmap::unregister) {
                // The kernel removes the socket itself when it is closed, a moment later.
                tracing::debug!(%error, ifname = port.ifname, queue = port.queue, "cannot remove the XSK from its XSKMAP");
            }
        }
        self.shared.stop.store(true, Ordering::Release);
        for worker in &self.shared.workers {
            worker.wake.signal();
        }
        for thread in threads.drain(..) {
            // A panic was caught in the thread and stands in the worker's state.
            let _ = thread.join();
        }
    }

    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.shared.clone())
    }

    pub fn notices(&self) -> Notices {
        Notices::new(self.shared.notices.clone())
    }

    /// Takes the next neighbor that a worker wants resolved. Each worker repeats a wish at most once a second.
    pub fn next_neighbor_request(&self) -> Option<NeighborRequest> {
        self.shared.neighbor_requests.pop()
    }

    /// Transmits a whole Ethernet frame on the port, by the first worker that transmits there.
    pub fn inject(&self, port: Port, frame: &[u8]) -> Result<(), InjectError> {
        if frame.len() < INJECTED_MIN {
            return Err(InjectError::Length(frame.len()));
        }
        let bytes = ArrayVec::<u8, INJECTED_MAX>::try_from(frame).map_err(|_| InjectError::Length(frame.len()))?;
        let transmits = |worker: &Started| worker.ports.iter().position(|(config, _)| config.port == port);
        let usable = self.workers.iter().zip(&self.shared.workers).find(|(worker, shared)| {
            let socket = transmits(worker).map(|index| &shared.sockets[index]);
            socket.is_some_and(|socket| socket.failed.get().is_none()) && shared.state() == WorkerState::Running
        });
        let (_, shared) = usable.ok_or(InjectError::NoSuchPort(port))?;
        shared.inject.push(Injected { port, bytes }).map_err(|_| InjectError::Full(port))?;
        shared.wake.signal();
        Ok(())
    }

    /// Transmits a whole Ethernet frame on the hostlink, by this worker's own queue of it.
    pub fn inject_by(&self, worker: usize, frame: &[u8]) -> Result<(), InjectError> {
        if frame.len() < INJECTED_MIN {
            return Err(InjectError::Length(frame.len()));
        }
        let bytes = ArrayVec::<u8, INJECTED_MAX>::try_from(frame).map_err(|_| InjectError::Length(frame.len()))?;
        let shared = self.shared.workers.get(worker).filter(|shared| shared.state() == WorkerState::Running);
        let shared = shared.ok_or(InjectError::NoSuchPort(Port::Host))?;
        shared.inject.push(Injected { port: Port::Host, bytes }).map_err(|_| InjectError::Full(Port::Host))?;
        shared.wake.signal();
        Ok(())
    }

    /// By worker.
    pub fn status(&self) -> Vec<WorkerStatus> {
        let workers = self.workers.iter().zip(&self.shared.workers).enumerate();
        workers
            .map(|(index, (worker, shared))| WorkerStatus {
                worker: index,
                core: worker.core,
                state: shared.state(),
                generation: shared.generation.load(Ordering::Acquire).min(self.shared.snapshot.load().generation),
                sockets: worker
                    .ports
                    .iter()
                    .zip(&shared.sockets)
                    .map(|((port, mode), socket)| SocketStatus {
                        port: port.port,
                        ifname: port.ifname.clone(),
                        queue: port.queue,
                        mode: *mode,
                        failed: socket.failed.get().cloned(),
                        counters: socket.counters.load(),
                    })
                    .collect(),
            })
            .collect()
    }

    /// By worker.
    pub fn stats(&self) -> Vec<WorkerStats> {
        self.shared.workers.iter().map(|worker| worker.stats.load()).collect()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What no kernel call would explain.
fn check(config: &DataplaneConfig, engines: usize) -> Result<(), Error> {
    let wrong = |what: String| Err(Error::Config(what));
    if config.workers.is_empty() {
        return wrong("it has no workers; configure at least one".into());
    }
    if engines != config.workers.len() {
        return wrong(format!("{engines} engines for {} workers; each worker needs its own", config.workers.len()));
    }
    let rings = config.rings;
    for (name, depth) in [("rx", rings.rx), ("tx", rings.tx), ("fill", rings.fill)] {
        if !depth.is_power_of_two() || depth > 1 << 20 {
            return wrong(format!("the {name} ring's depth {depth} is not a power of two up to 2^20; choose one"));
        }
    }
    for (index, worker) in config.workers.iter().enumerate() {
        if worker.ports.is_empty() {
            return wrong(format!("worker {index} has no ports; give it a queue, or start fewer workers"));
        }
    }
    Ok(())
}

fn bind(config: &DataplaneConfig, index: usize, worker: &WorkerConfig, shared: &Arc<Shared>) -> Result<Shell<Xsk>, Error> {
    let in_rings: u32 = worker.ports.iter().map(|port| config.rings.frames(port.mode)).sum();
    let frames = config.frames.unwrap_or(in_rings + SPARE_FRAMES);
    let frame_bytes = config.frame_size.bytes();
    let large_frames = if worker.ports.iter().any(|port| port.multi_buffer) { LARGE_FRAMES } else { 0 };
    let bytes = frames as usize * frame_bytes as usize + large_frames as usize * LARGE_FRAME_BYTES;
    let (umem, mut pool) = Umem::new(frames, frame_bytes, large_frames).map_err(|source| Error::Memory { worker: index, bytes, source })?;
    let mut ports = Vec::new();
    for port in &worker.ports {
        warn_of_mtu(config, port);
        let (xsk, rings) = Xsk::open(port, &umem, &mut pool, config.rings, config.bind_patience)?;
        tracing::info!(worker = index, ifname = port.ifname, queue = port.queue, mode = xsk.mode().label(), "bound");
        ports.push(PortState::new(port.port, xsk, rings));
    }
    Ok(Shell::new(umem, pool, ports, shared.clone(), index))
}

/// The kernel drops what does not fit into a frame, and nobody else would say why.
fn warn_of_mtu(config: &DataplaneConfig, port: &PortConfig) {
    let (fits, ifname) = (config.frame_size.mtu_max(), &port.ifname);
    if let Ok(link) = ethtool::link(ifname)
        && link.mtu > fits
        && !port.multi_buffer
    {
        tracing::warn!(ifname, mtu = link.mtu, "packets longer than {fits} bytes are dropped: lower the MTU, or let packets span frames");
    }
}

/// Lets packets in.
fn register(worker: &WorkerConfig, shell: &Shell<Xsk>) -> Result<(), Error> {
    for (port, state) in worker.ports.iter().zip(shell.ports()) {
        let Some(slot) = &port.xskmap else { continue };
        let failed = |source| Error::Xskmap { ifname: port.ifname.clone(), queue: port.queue, key: slot.key, source };
        xskmap::register(slot, state.socket.fd()).map_err(failed)?;
    }
    Ok(())
}

fn spawn<E: PacketEngine + 'static>(
    index: usize,
    core: Option<usize>,
    mut worker: Worker<E, Xsk>,
    shared: Arc<Shared>,
) -> Result<JoinHandle<()>, Error> {
    let body = move || {
        if let Some(id) = core
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!(worker = index, core = id, "cannot pin the worker: the core does not exist or is not ours; it runs anywhere");
        }
        // Whatever the worker leaves half done dies with it: its frames, rings and engine are dropped before anyone looks.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            worker.run();
            drop(worker);
        }));
        let state = match ended {
            Ok(()) => WorkerState::Stopped,
            Err(panic) => WorkerState::Failed(format!("worker {index} panicked: {}; start the dataplane again", message_of(&*panic))),
        };
        shared.workers[index].set_state(state);
        shared.workers[index].generation.store(u64::MAX, Ordering::Release);
        shared.notices.signal();
    };
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(body).map_err(|source| Error::Thread { worker: index, source })
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
