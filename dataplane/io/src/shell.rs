//! One worker's side of the rings: takes frames in, has them decided in batches, carries the verdicts out.

mod divided;
mod spanning;

use std::io;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ringway_engine::engine::{BATCH_MAX, Packet};
use ringway_engine::flow::TICK_SHIFT;
use ringway_engine::tables::Snapshot;
use ringway_engine::verdict::{DropReason, Verdict};

use crate::config::{BindMode, Port};
use crate::hold::{FIRST_FRAGMENT, Held, HoldList, NO_NEIGHBOR, neighbor};
use crate::kick::kick;
use crate::packet_engine::PacketEngine;
use crate::rings::Rings;
use crate::shared::{NeighborRequest, Shared, WorkerShared};
use crate::socket::Socket;
use crate::stats::{FrameGauges, SocketCounters, WorkerStats};
use crate::umem::{Frame, Pool, Umem};

/// The time of a round, read once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// `CLOCK_MONOTONIC`, the clock of the BPF programs.
    pub ns: u64,
}

impl Clock {
    #[inline]
    pub fn ticks(self) -> u32 {
        (self.ns >> TICK_SHIFT) as u32
    }
}

/// A socket, its rings, and what went through them.
pub(crate) struct PortState<S> {
    pub port: Port,
    pub socket: S,
    pub rings: Rings,
    pub counters: SocketCounters,
    /// It moves nothing any more; its frames stay with the kernel.
    pub failed: bool,
    /// The last refill found too few free frames.
    short: bool,
}

impl<S> PortState<S> {
    pub fn new(port: Port, socket: S, rings: Rings) -> PortState<S> {
        PortState { port, socket, rings, counters: SocketCounters::default(), failed: false, short: false }
    }
}

/// Injected frames per round: a bound, not a rate.
const INJECTED_PER_ROUND: usize = 16;

pub(crate) struct Shell<S> {
    umem: Umem,
    pool: Pool,
    ports: Vec<PortState<S>>,
    /// By index of the uplink: which of `ports` transmits.
    uplink_tx: Vec<Option<usize>>,
    host_tx: Option<usize>,
    hold: HoldList,
    /// Of what `publish` shows, `verdicts` are the worker's own drops only.
    stats: WorkerStats,
    shared: Arc<Shared>,
    worker: usize,
}

impl<S: Socket> Shell<S> {
    pub fn new(umem: Umem, pool: Pool, ports: Vec<PortState<S>>, shared: Arc<Shared>, worker: usize) -> Shell<S> {
        let first = |wanted: Port| ports.iter().position(|state| state.port == wanted);
        let uplinks = ports.iter().filter_map(|state| if let Port::Uplink(uplink) = state.port { Some(uplink) } else { None }).max();
        let uplink_tx = uplinks.map_or(Vec::new(), |last| (0..=last).map(|uplink| first(Port::Uplink(uplink))).collect());
        let host_tx = first(Port::Host);
        let hold = HoldList::default();
        Shell { umem, pool, ports, uplink_tx, host_tx, hold, stats: WorkerStats::default(), shared, worker }
    }

    pub fn ports(&self) -> &[PortState<S>] {
        &self.ports
    }

    pub fn shared(&self) -> &WorkerShared {
        &self.shared.workers[self.worker]
    }

    pub fn stats_mut(&mut self) -> &mut WorkerStats {
        &mut self.stats
    }

    /// Takes back what was transmitted, and gives the kernel frames to receive into.
    #[inline]
    pub fn replenish(&mut self) {
        for state in self.ports.iter_mut().filter(|state| !state.failed) {
            state.rings.reap(&self.umem, &mut self.pool);
        }
        for state in self.ports.iter_mut().filter(|state| !state.failed) {
            let short = state.rings.refill(&mut self.pool) > 0;
            self.stats.refill_short += u64::from(short && !state.short);
            state.short = short;
            if state.socket.mode() == BindMode::ZeroCopy && state.rings.rx_needs_wakeup() {
                // No loss if it fails: the flag stays, and the next round asks again.
                let _ = state.socket.wake_rx();
            }
        }
    }

    /// Receives a batch from every port and carries out what the engine decides. Returns how many packets there were.
    #[inline]
    pub fn serve<E: PacketEngine>(&mut self, engine: &mut E, snapshot: &Snapshot, clock: Clock) -> usize {
        let mut served = 0;
        for index in 0..self.ports.len() {
            let state = &mut self.ports[index];
            if state.failed {
                continue;
            }
            let mut frames = ArrayVec::<Frame, BATCH_MAX>::new();
            let bytes = state.rings.receive(&self.umem, &mut self.pool, &mut frames, &mut self.stats.verdicts);
            if frames.is_empty() {
                continue;
            }
            let (port, count) = (state.port, frames.len());
            state.counters.rx_packets += count as u64;
            state.counters.rx_bytes += bytes;
            self.stats.packets += count as u64;
            self.stats.bytes += bytes;
            let verdicts = self.decide(engine, snapshot, clock, &mut frames, |_| port);
            for (frame, verdict) in frames.into_iter().zip(verdicts) {
                self.carry_out(frame, verdict, port, clock.ns, clock);
            }
            served += count;
        }
        served
    }

    /// Hands the held frames to the engine again.
    pub fn resubmit<E: PacketEngine>(&mut self, engine: &mut E, snapshot: &Snapshot, clock: Clock) {
        let (pool, drops) = (&mut self.pool, &mut self.stats.verdicts.drops);
        let waiting = self.hold.take(clock.ns, |held| {
            pool.give(held.frame);
            let reason = if held.neighbor == FIRST_FRAGMENT { DropReason::FragmentAlone } else { DropReason::NeighborUnresolved };
            drops[reason as usize] += 1;
        });
        if waiting.is_empty() {
            return;
        }
        self.stats.resubmitted += waiting.len() as u64;
        let mut frames = ArrayVec::<Frame, BATCH_MAX>::new();
        let mut origins = ArrayVec::<(Port, u64), BATCH_MAX>::new();
        for held in waiting {
            origins.push((held.port, held.since_ns));
            frames.push(held.frame);
        }
        let verdicts = self.decide(engine, snapshot, clock, &mut frames, |i| origins[i].0);
        for ((frame, verdict), (port, since_ns)) in frames.into_iter().zip(verdicts).zip(origins) {
            self.carry_out(frame, verdict, port, since_ns, clock);
        }
    }

    /// In how many nanoseconds the held frames are to be tried again without a new snapshot, if there are any.
    pub fn holds(&self, clock: Clock) -> Option<u64> {
        self.hold.due_in(clock.ns)
    }

    /// One verdict per frame, and the length that each packet has now.
    #[inline]
    fn decide<E: PacketEngine>(
        &mut self,
        engine: &mut E,
        snapshot: &Snapshot,
        clock: Clock,
        frames: &mut [Frame],
        port_of: impl Fn(usize) -> Port,
    ) -> ArrayVec<(Verdict, usize), BATCH_MAX> {
        let mut verdicts = ArrayVec::<Verdict, BATCH_MAX>::new();
        let mut packets = ArrayVec::<Packet<'_>, BATCH_MAX>::new();
        for (i, frame) in frames.iter_mut().enumerate() {
            let (bytes, len) = self.umem.room_mut(frame);
            packets.push(Packet { origin: port_of(i).into(), len, bytes });
        }
        engine.process(snapshot, clock.ticks(), &mut packets, &mut verdicts);
        self.stats.batches += 1;
        debug_assert_eq!(verdicts.len(), packets.len(), "one verdict per packet");
        let missing = std::iter::repeat(Verdict::Drop(DropReason::Malformed));
        packets.iter().zip(verdicts.into_iter().chain(missing)).map(|(packet, verdict)| (verdict, packet.len)).collect()
    }

    #[inline]
    fn carry_out(&mut self, mut frame: Frame, (verdict, len): (Verdict, usize), port: Port, since_ns: u64, clock: Clock) {
        match verdict {
            Verdict::Uplink { uplink } => {
                self.umem.set_len(&mut frame, len);
                self.transmit(frame, self.port_to(Some(uplink)));
            }
            Verdict::Host => {
                self.umem.set_len(&mut frame, len);
                self.transmit(frame, self.port_to(None));
            }
            Verdict::Hold { ifindex, address } => {
                let neighbor = neighbor(ifindex, address);
                self.ask(neighbor, clock);
                if let Err(frame) = self.hold.hold(Held { frame, port, neighbor, since_ns }, clock.ns) {
                    self.drop_frame(frame, DropReason::NeighborUnresolved);
                }
            }
            Verdict::Again => {
                if let Err(frame) = self.hold.hold_briefly(Held { frame, port, neighbor: NO_NEIGHBOR, since_ns }, clock.ns) {
                    self.drop_frame(frame, DropReason::FlowContended);
                }
            }
            Verdict::AwaitFirst => {
                if let Err(frame) = self.hold.hold(Held { frame, port, neighbor: FIRST_FRAGMENT, since_ns }, clock.ns) {
                    self.drop_frame(frame, DropReason::FragmentAlone);
                }
            }
            Verdict::Divide { mtu, uplink } => self.divide(frame, len, mtu, self.port_to(uplink)),
            // Counted by the engine.
            Verdict::Drop(_) => self.pool.give(frame),
        }
    }

    /// Which of `ports` transmits to the uplink, or to the hostlink if there is none.
    #[inline]
    fn port_to(&self, uplink: Option<u8>) -> Option<usize> {
        uplink.map_or(self.host_tx, |uplink| self.uplink_tx.get(usize::from(uplink)).copied().flatten())
    }

    #[inline]
    fn transmit(&mut self, frame: Frame, to: Option<usize>) {
        if self.umem.is_large(&frame) {
            return self.transmit_large(frame, to);
        }
        let state = to.and_then(|to| self.ports.get_mut(to)).filter(|state| !state.failed);
        let len = frame.len();
        // The kernel refuses an empty descriptor without giving the frame back.
        let (Some(state), 1..) = (state, len) else {
            return self.drop_frame(frame, DropReason::TxRingFull);
        };
        match state.rings.transmit(frame) {
            Ok(()) => {
                state.counters.tx_packets += 1;
                state.counters.tx_bytes += u64::from(len);
            }
            Err(frame) => self.drop_frame(frame, DropReason::TxRingFull),
        }
    }

    fn drop_frame(&mut self, frame: Frame, reason: DropReason) {
        self.pool.give(frame);
        self.stats.verdicts.drops[reason as usize] += 1;
    }

    fn ask(&mut self, neighbor: NeighborRequest, clock: Clock) {
        if !self.hold.asks(neighbor, clock.ns) {
            return;
        }
        if self.shared.neighbor_requests.push(neighbor).is_ok() {
            self.stats.neighbor_requests += 1;
        } else {
            self.hold.unask(neighbor);
        }
        self.shared.notices.signal();
    }

    /// Transmits what the control half wants transmitted. Returns how many frames there were.
    #[inline]
    pub fn inject(&mut self) -> usize {
        let mut taken = 0;
        while taken < INJECTED_PER_ROUND {
            let Some(injected) = self.shared().inject.pop() else { break };
            taken += 1;
            let Some(frame) = self.pool.take_with(&self.umem, &injected.bytes) else {
                self.stats.verdicts.drops[DropReason::NoFrames as usize] += 1;
                continue;
            };
            let to = self.ports.iter().position(|state| state.port == injected.port);
            self.transmit(frame, to);
            self.stats.injected += 1;
        }
        taken
    }

    /// Lets the kernel transmit what this round put into the tx rings. True if some of it is still there.
    #[inline]
    pub fn flush(&mut self) -> bool {
        let mut pending = false;
        for index in 0..self.ports.len() {
            let state = &mut self.ports[index];
            if state.failed {
                continue;
            }
            state.rings.submit();
            if state.rings.tx_pending() == 0 {
                continue;
            }
            match kick(state, &self.umem, &mut self.pool) {
                Ok(left) => pending |= left,
                Err(error) => self.fail(index, &error),
            }
        }
        pending
    }

    /// Asks the kernel for each socket's counters, and notices sockets whose device is gone.
    pub fn poll_statistics(&mut self) {
        for index in 0..self.ports.len() {
            let state = &mut self.ports[index];
            if state.failed {
                continue;
            }
            match state.socket.statistics() {
                Ok(kernel) => {
                    let empty = kernel.rx_fill_ring_empty_descs - state.counters.fill_ring_empty;
                    self.stats.verdicts.drops[DropReason::NoFrames as usize] += empty;
                    state.counters.rx_dropped = kernel.rx_dropped;
                    state.counters.rx_ring_full = kernel.rx_ring_full;
                    state.counters.fill_ring_empty = kernel.rx_fill_ring_empty_descs;
                    state.counters.rx_invalid = kernel.rx_invalid_descs;
                    state.counters.tx_invalid = kernel.tx_invalid_descs;
                }
                Err(error) => self.fail(index, &error),
            }
        }
    }

    fn fail(&mut self, index: usize, error: &io::Error) {
        self.ports[index].failed = true;
        // Once per socket and off the packet path: the only place of a worker that allocates.
        let told = self.shared().sockets[index].failed.set(format!("{error}; start the dataplane again when the device is back"));
        if told.is_ok() {
            self.shared.notices.signal();
        }
    }

    /// Notes where every frame is now.
    pub fn gauge(&mut self) {
        let mut frames = FrameGauges {
            total: u64::from(self.umem.frames()),
            pool: self.pool.len() as u64,
            held: self.hold.len() as u64,
            ..FrameGauges::default()
        };
        for state in &mut self.ports {
            let (rx, completion) = (state.rings.rx_available(), state.rings.completion_available());
            frames.rx += u64::from(rx) + u64::from(state.rings.joining());
            frames.fill += u64::from(state.rings.to_receive().saturating_sub(rx));
            frames.completion += u64::from(completion);
            frames.tx += u64::from(state.rings.to_transmit().saturating_sub(completion));
        }
        let found = frames.pool + frames.held + frames.rx + frames.fill + frames.tx + frames.completion;
        frames.lost = frames.total.saturating_sub(found);
        self.stats.frames = frames;
    }

    /// Lets others see the counters as they are now.
    #[inline]
    pub fn publish<E: PacketEngine>(&mut self, engine: &E) {
        let mut stats = self.stats;
        stats.verdicts = *engine.counts();
        for (sum, own) in stats.verdicts.drops.iter_mut().zip(self.stats.verdicts.drops) {
            *sum += own;
        }
        let shared = self.shared();
        shared.stats.store(&stats);
        for (state, published) in self.ports.iter().zip(&shared.sockets) {
            published.counters.store(&state.counters);
        }
    }

    /// Drops the held frames, at the end.
    pub fn release_held(&mut self) {
        let frames = self.hold.take(u64::MAX, |held| self.pool.give(held.frame));
        debug_assert!(frames.is_empty(), "nobody's patience outlasts time");
    }

    /// Frames under way out, of all ports.
    pub fn to_transmit(&self) -> u32 {
        self.ports.iter().filter(|state| !state.failed).map(|state| state.rings.to_transmit()).sum()
    }
}
