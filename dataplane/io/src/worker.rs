//! The pinned thread: rounds while there is traffic, asleep while there is none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use ringway_engine::tables::Snapshot;

use crate::packet_engine::PacketEngine;
use crate::shared::Shared;
use crate::shell::{Clock, Shell};
use crate::socket::Socket;

/// A sleeping worker wakes this often to sweep.
const SLEEP_MS: libc::c_int = 100;
/// With frames in a tx ring that the kernel did not take: link down, or a full device.
const SLEEP_PENDING_MS: libc::c_int = 1;
/// A sweep goes round the worker's share of the flow table in this time, in steps of at least `SWEEP_STEP_NS`.
const SWEEP_ROUND_NS: u64 = 10_000_000_000;
const SWEEP_STEP_NS: u64 = 1_000_000;
/// How often a busy worker counts its frames.
const GAUGES_NS: u64 = 10_000_000;
/// How often it asks the kernel for the sockets' counters: two system calls each, half a microsecond together.
const STATISTICS_NS: u64 = 200_000_000;
/// At the end: how long it waits for its transmissions.
const FINISH_NS: u64 = 100_000_000;

pub(crate) struct Worker<E, S> {
    engine: E,
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    shell: Shell<S>,
    all: Arc<Shared>,
    spin_ns: u64,
    sweep_slots: u64,
    /// Generation that it acts on.
    generation: u64,
    swept_ns: u64,
    gauged_ns: u64,
    statistics_ns: u64,
    /// The wake-up event, then the sockets.
    polled: Vec<libc::pollfd>,
}

/// What a round found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Packets, or work of the control half.
    Work,
    /// Nothing new, but frames in a tx ring that the kernel does not take now.
    Pending,
    Empty,
}

impl<E: PacketEngine, S: Socket> Worker<E, S> {
    pub fn new(engine: E, shell: Shell<S>, all: Arc<Shared>, spin: Duration, sweep_slots: usize) -> Worker<E, S> {
        let now_ns = monotonic().ns;
        let wake = std::iter::once(shell.shared().wake.fd());
        let fds = wake.chain(shell.ports().iter().map(|state| state.socket.fd()));
        let polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
        Worker {
            engine,
            snapshot: Cache::new(all.snapshot.clone()),
            shell,
            all,
            spin_ns: u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX),
            sweep_slots: sweep_slots as u64,
            generation: 0,
            swept_ns: now_ns,
            gauged_ns: 0,
            statistics_ns: now_ns,
            polled,
        }
    }

    /// Until the control half says stop.
    pub fn run(&mut self) {
        let mut spin_until_ns = 0;
        while !self.all.stop.load(Ordering::Acquire) {
            let clock = monotonic();
            let round = self.round(clock);
            if round == Round::Work {
                spin_until_ns = clock.ns.saturating_add(self.spin_ns);
            } else if clock.ns < spin_until_ns {
                std::hint::spin_loop();
            } else {
                self.sleep(clock, round);
            }
        }
        self.finish();
    }

    /// Serves every port once, with one snapshot and one time.
    fn round(&mut self, clock: Clock) -> Round {
        let Worker { engine, snapshot, shell, .. } = self;
        let snapshot: &Snapshot = snapshot.load();
        let changed = snapshot.generation != self.generation;
        if changed {
            // All that was decided with the older one is carried out: the round before has ended. Release, for whoever waits
            // for this generation wants to see that.
            self.generation = snapshot.generation;
            shell.shared().generation.store(snapshot.generation, Ordering::Release);
            self.all.notices.signal();
        }
        shell.replenish();
        if shell.holds(clock).is_some_and(|due_in_ns| due_in_ns == 0 || changed) {
            shell.resubmit(engine, snapshot, clock);
        }
        let served = shell.serve(engine, snapshot, clock);
        let injected = shell.inject();
        let pending = shell.flush();
        let work = served + injected > 0;
        self.keep_house(clock);
        if work {
            self.shell.publish(&self.engine);
            Round::Work
        } else if pending {
            Round::Pending
        } else {
            Round::Empty
        }
    }

    /// What is due by time, not by packet.
    #[inline]
    fn keep_house(&mut self, clock: Clock) {
        let since_sweep_ns = clock.ns.saturating_sub(self.swept_ns);
        if since_sweep_ns >= SWEEP_STEP_NS {
            let share = u128::from(self.sweep_slots) * u128::from(since_sweep_ns) / u128::from(SWEEP_ROUND_NS);
            // After a long pause no more than a hundredth at once: a bounded step.
            let budget = (share as u64).min(self.sweep_slots / 100 + 1);
            if budget > 0 {
                self.swept_ns = clock.ns;
                self.shell.stats_mut().flows_swept += self.engine.sweep(clock.ticks(), budget as usize) as u64;
            }
        }
        if clock.ns.saturating_sub(self.gauged_ns) >= GAUGES_NS {
            self.gauged_ns = clock.ns;
            self.shell.gauge();
            if clock.ns.saturating_sub(self.statistics_ns) >= STATISTICS_NS {
                self.statistics_ns = clock.ns;
                self.shell.poll_statistics();
            }
        }
    }

    /// Until a packet, the control half, or the time-out. The kernel looks at the rings after it has queued us, so what arrives
    /// between the last round and the call is not missed.
    fn sleep(&mut self, clock: Clock, round: Round) {
        let timeout_ms = match (round, self.shell.holds(clock)) {
            (Round::Pending, _) => SLEEP_PENDING_MS,
            // Until they are to be tried again.
            (_, Some(due_in_ns)) => (due_in_ns.div_ceil(1_000_000) as libc::c_int).clamp(1, SLEEP_MS),
            (_, None) => SLEEP_MS,
        };
        // What the last round set free is of use in the fill ring, not in the pool.
        self.shell.replenish();
        self.shell.stats_mut().sleeps += 1;
        self.shell.gauge();
        self.shell.publish(&self.engine);
        for (polled, state) in self.polled[1..].iter_mut().zip(self.shell.ports()) {
            // `poll` skips negative descriptors. An unusable socket would be ready for ever.
            if state.failed || polled.revents & !libc::POLLIN != 0 {
                polled.fd = -1;
            }
        }
        // SAFETY: the pointer and the count are those of one vector of `pollfd`, exclusively ours.
        let ready = unsafe { libc::poll(self.polled.as_mut_ptr(), self.polled.len() as libc::nfds_t, timeout_ms) };
        if ready <= 0 {
            return;
        }
        self.shell.stats_mut().wakeups += 1;
        if self.polled[0].revents != 0 {
            // Cannot fail on an eventfd of our own; were it to, we would only wake once more.
            let _ = self.shell.shared().wake.clear();
        }
    }

    /// Carries on until nothing is under way, for a bounded time, and says where every frame is.
    fn finish(&mut self) {
        let start = monotonic();
        let mut clock = start;
        while self.round(clock) != Round::Empty || self.shell.to_transmit() > 0 {
            if clock.ns - start.ns >= FINISH_NS {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            clock = monotonic();
        }
        self.shell.release_held();
        self.shell.poll_statistics();
        self.shell.gauge();
        self.shell.publish(&self.engine);
    }
}

/// `CLOCK_MONOTONIC`, by the vDSO: no system call.
#[inline]
fn monotonic() -> Clock {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to `time`. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Clock { ns: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 }
}
