//! What the control loop notes about itself, and what the servers conclude from it: is programming stale, may this node get traffic.
//!
//! The control loop writes a few words under a lock that nobody holds for longer than it takes to copy them; it never waits for a server.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ringway_engine::flow::FlowTables;
use ringway_io::Dataplane;
use ringway_model::{Changed, IpFamily, NoLocalEndpoints, PerFamily, ServiceName};
use tokio::sync::Notify;
use xdp_redirect::Counters;

use crate::apiserver::Source;
use crate::metrics::KubeProxyMetrics;

/// Longest time for which a change may wait to be acted on: kube-proxy's `healthTimeout`, twice its `syncPeriod` of 30 s. Changes act
/// within milliseconds here; what takes a minute is stuck.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// Most generations that are remembered until workers act on them. When they do not act at all, the oldest says so.
const PENDING_MAX: usize = 1_024;

/// What the probes are answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Nothing waits for longer than [`HEALTH_TIMEOUT`].
    pub healthy: bool,
    /// The first snapshot with objects is in force.
    pub programmed: bool,
    /// Load balancers may send new connections to this node.
    pub node_eligible: bool,
    /// When the last change was acted on.
    pub last_updated: Timestamp,
}

impl Health {
    /// Services are programmed, and not by tables of long ago.
    pub fn is_serving(&self) -> bool {
        self.healthy && self.programmed
    }
}

/// What metrics are collected from.
#[derive(Clone)]
pub struct Observed {
    pub dataplane: Option<Arc<Dataplane>>,
    pub flows: Option<FlowTables>,
    pub counters: Option<Arc<Counters>>,
    /// `None`: none is followed.
    pub apiserver: Option<Arc<Source>>,
    /// When the newest tables were published.
    pub published: Option<Instant>,
    /// By severity and kind.
    pub problems: BTreeMap<(&'static str, String), u64>,
}

/// Sentences by service and family.
pub type PortProblems = BTreeMap<(ServiceName, IpFamily), String>;

/// Shared by the control loop and the servers.
pub struct Board {
    pub metrics: KubeProxyMetrics,
    /// Objects that are older than we are say nothing about how fast we program.
    started: Timestamp,
    state: Mutex<State>,
    /// Of each service whose health check port cannot be opened in a family: a sentence.
    port_problems: Mutex<PortProblems>,
    problems_changed: Notify,
}

struct State {
    dataplane: Option<Arc<Dataplane>>,
    flows: Option<FlowTables>,
    counters: Option<Arc<Counters>>,
    apiserver: Option<Arc<Source>>,
    published: Option<Instant>,
    problems: BTreeMap<(&'static str, String), u64>,
    /// Since when the control loop is busy with one event, or with the start.
    busy_since: Option<Instant>,
    /// Since when a worker is missing.
    workers_missing_since: Option<Instant>,
    /// Taken by the control loop, not yet published.
    taken: Changed,
    /// Published, not yet acted on by every worker; the oldest first.
    pending: VecDeque<Pending>,
    last_updated: Timestamp,
    /// There are objects to serve; an apiserver that was never heard is none.
    objects_known: bool,
    /// Nothing is known of a node until its object was seen once.
    node: Option<bool>,
}

struct Pending {
    generation: u64,
    since: Instant,
    changed: Changed,
}

impl Board {
    /// The start counts as busy: one that takes longer than a minute is stuck.
    pub fn new(metrics: KubeProxyMetrics) -> Board {
        let started = Timestamp::now();
        let state = State {
            dataplane: None,
            flows: None,
            counters: None,
            apiserver: None,
            published: None,
            problems: BTreeMap::new(),
            busy_since: Some(Instant::now()),
            workers_missing_since: None,
            taken: Changed::default(),
            pending: VecDeque::new(),
            last_updated: started,
            objects_known: false,
            node: None,
        };
        Board { metrics, started, state: Mutex::new(state), port_problems: Mutex::default(), problems_changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control loop turns to an event.
    pub fn turn_begins(&self) {
        self.state().busy_since = Some(Instant::now());
    }

    pub fn turn_ends(&self) {
        self.state().busy_since = None;
    }

    /// The workers were started, or replaced: the new ones act on the newest snapshot from their first round on.
    pub fn set_dataplane(&self, dataplane: Arc<Dataplane>) {
        let mut state = self.state();
        state.dataplane = Some(dataplane);
        let pending: Vec<Pending> = state.pending.drain(..).collect();
        self.note_acted(&mut state, pending);
    }

    /// The flow tables, and the counters of the BPF programs: for those who collect metrics.
    pub fn set_tables(&self, flows: FlowTables, counters: Arc<Counters>) {
        let mut state = self.state();
        (state.flows, state.counters) = (Some(flows), Some(counters));
    }

    /// The apiserver that is followed, if any.
    pub fn set_apiserver(&self, apiserver: Option<Arc<Source>>) {
        self.state().apiserver = apiserver;
    }

    /// How many problems there are, by severity and kind.
    pub fn set_problem_counts(&self, problems: BTreeMap<(&'static str, String), u64>) {
        self.state().problems = problems;
    }

    /// What metrics are collected from; empty before the workers were started.
    pub fn observed(&self) -> Observed {
        let state = self.state();
        let (dataplane, flows, counters) = (state.dataplane.clone(), state.flows.clone(), state.counters.clone());
        let apiserver = state.apiserver.clone();
        Observed { dataplane, flows, counters, apiserver, published: state.published, problems: state.problems.clone() }
    }

    pub fn set_workers_missing(&self, missing: bool) {
        let mut state = self.state();
        state.workers_missing_since = missing.then(|| state.workers_missing_since.unwrap_or_else(Instant::now));
    }

    /// Whether there are objects to serve, from whatever source.
    pub fn set_objects_known(&self, known: bool) {
        self.state().objects_known = known;
    }

    /// Whether our Node is there and may get traffic; `None` if there is none.
    pub fn set_node(&self, eligible: Option<bool>) {
        let mut state = self.state();
        // A node that was there and is not any more was deleted. One that was never there is a folder without Nodes.
        state.node = eligible.or(state.node.map(|_| false));
    }

    /// Changes of objects were taken in.
    pub fn take_changes(&self, changed: Changed, no_local: PerFamily<NoLocalEndpoints>) {
        for family in IpFamily::BOTH {
            let metrics = &self.metrics.of[family];
            let set = |policy, count: usize| metrics.no_local_endpoints.with_label_values(&[policy]).set(count as i64);
            set("internal", no_local[family].internal);
            set("external", no_local[family].external);
            metrics.last_queued_timestamp_seconds.set(seconds(Timestamp::now()));
        }
        self.metrics.endpoint_changes_total.inc_by(changed.endpoint_slices);
        self.metrics.service_changes_total.inc_by(changed.services);
        let mut state = self.state();
        state.taken.endpoint_slices += changed.endpoint_slices;
        state.taken.services += changed.services;
        state.taken.triggers.extend(changed.triggers);
        self.show_pending(&state);
    }

    /// A snapshot with all that was taken was published.
    pub fn published(&self, generation: u64) {
        let mut state = self.state();
        state.published = Some(Instant::now());
        let changed = std::mem::take(&mut state.taken);
        let since = state.busy_since.unwrap_or_else(Instant::now);
        let is_full = state.pending.len() >= PENDING_MAX;
        match state.pending.back_mut().filter(|_| is_full) {
            // Its triggers are not observed: this is late anyway.
            Some(last) => {
                last.changed.endpoint_slices += changed.endpoint_slices;
                last.changed.services += changed.services;
                last.generation = generation;
            }
            None => state.pending.push_back(Pending { generation, since, changed }),
        }
        self.settle_in(&mut state);
    }

    /// Looks which generations every worker acts on by now. Workers give notice of each.
    pub fn settle(&self) {
        self.settle_in(&mut self.state());
    }

    fn settle_in(&self, state: &mut State) {
        let acting = state.dataplane.as_ref().map_or(0, |dataplane| dataplane.publisher().acting_generation());
        self.settle_to(state, acting);
    }

    fn settle_to(&self, state: &mut State, acting: u64) {
        let acted = state.pending.iter().take_while(|pending| pending.generation <= acting).count();
        let acted: Vec<Pending> = state.pending.drain(..acted).collect();
        self.note_acted(state, acted);
    }

    fn note_acted(&self, state: &mut State, acted: Vec<Pending>) {
        if !acted.is_empty() {
            let now = Timestamp::now();
            state.last_updated = now;
            // One publication programs both families.
            for metrics in IpFamily::BOTH.map(|family| &self.metrics.of[family]) {
                metrics.last_timestamp_seconds.set(seconds(now));
                acted.iter().for_each(|pending| metrics.sync_duration_seconds.observe(pending.since.elapsed().as_secs_f64()));
            }
            for (family, trigger) in acted.iter().flat_map(|pending| &pending.changed.triggers).filter(|(_, at)| *at > self.started) {
                self.metrics.of[*family].programming_duration_seconds.observe(seconds(now) - seconds(*trigger));
            }
        }
        self.show_pending(state);
    }

    fn show_pending(&self, state: &State) {
        let waiting = || state.pending.iter().map(|pending| &pending.changed).chain([&state.taken]);
        self.metrics.endpoint_changes_pending.set(waiting().map(|changed| changed.endpoint_slices).sum::<u64>() as i64);
        self.metrics.service_changes_pending.set(waiting().map(|changed| changed.services).sum::<u64>() as i64);
    }

    pub fn health(&self) -> Health {
        let mut state = self.state();
        self.settle_in(&mut state);
        state.health(Instant::now())
    }

    pub fn set_port_problems(&self, problems: PortProblems) {
        let mut stored = self.port_problems.lock().unwrap_or_else(PoisonError::into_inner);
        if *stored != problems {
            *stored = problems;
            self.problems_changed.notify_one();
        }
    }

    pub fn port_problems(&self) -> PortProblems {
        self.port_problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the ports have other problems than before. Cancel safe.
    pub async fn problems_changed(&self) {
        self.problems_changed.notified().await;
    }
}

impl State {
    fn health(&self, now: Instant) -> Health {
        let oldest = self.pending.front().map(|pending| pending.since);
        let waits = [self.busy_since, self.workers_missing_since, oldest];
        Health {
            healthy: waits.into_iter().flatten().all(|since| now.saturating_duration_since(since) < HEALTH_TIMEOUT),
            programmed: self.dataplane.is_some() && self.objects_known,
            node_eligible: self.node != Some(false),
            last_updated: self.last_updated,
        }
    }
}

/// Of the Unix epoch.
fn seconds(time: Timestamp) -> f64 {
    time.as_nanosecond() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        let board = Board::new(KubeProxyMetrics::new().unwrap());
        board.turn_ends();
        board
    }

    fn healthy_after(board: &Board, seconds: u64) -> bool {
        board.state().health(Instant::now() + Duration::from_secs(seconds)).healthy
    }

    #[test]
    fn nothing_changes_for_ever_and_all_is_well() {
        assert!(healthy_after(&board(), 1_000_000));
    }

    #[test]
    fn a_loop_that_never_comes_back_is_stale() {
        let board = board();
        board.turn_begins();
        assert!(healthy_after(&board, 59));
        assert!(!healthy_after(&board, 61));
        board.turn_ends();
        assert!(healthy_after(&board, 61));
    }

    #[test]
    fn a_generation_that_nobody_acts_on_is_stale() {
        let board = board();
        board.published(2);
        board.published(3);
        assert!(healthy_after(&board, 59) && !healthy_after(&board, 61));
        board.settle_to(&mut board.state(), 2);
        assert!(!healthy_after(&board, 61), "the newer one still waits");
        board.settle_to(&mut board.state(), 3);
        assert!(healthy_after(&board, 61));
        assert_eq!(board.metrics.of.v4.sync_duration_seconds.get_sample_count(), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let board = board();
        (0..3_000).for_each(|generation| board.published(generation));
        assert_eq!(board.state().pending.len(), PENDING_MAX);
        board.settle_to(&mut board.state(), 2_998);
        assert!(!healthy_after(&board, 61), "the last one waits");
        board.settle_to(&mut board.state(), 2_999);
        assert!(healthy_after(&board, 61));
    }

    #[test]
    fn missing_workers_are_stale_after_a_while() {
        let board = board();
        board.set_workers_missing(true);
        let since = board.state().workers_missing_since;
        board.set_workers_missing(true);
        assert_eq!(board.state().workers_missing_since, since, "it counts from the first time");
        assert!(healthy_after(&board, 59) && !healthy_after(&board, 61));
        board.set_workers_missing(false);
        assert!(healthy_after(&board, 61));
    }

    #[test]
    fn nodes_come_and_go() {
        let board = board();
        assert!(board.health().node_eligible, "a folder without Nodes");
        for (eligible, expected) in [(None, true), (Some(true), true), (Some(false), false), (Some(true), true), (None, false)] {
            board.set_node(eligible);
            assert_eq!(board.health().node_eligible, expected, "{eligible:?}");
        }
    }

    #[test]
    fn changes_wait_until_workers_act_and_old_triggers_are_not_observed() {
        let board = board();
        let (before, after) = (board.started - Duration::from_secs(60), board.started + Duration::from_millis(1));
        board.take_changes(
            Changed { services: 2, endpoint_slices: 3, triggers: vec![(IpFamily::V4, before), (IpFamily::V6, after)] },
            PerFamily { v4: NoLocalEndpoints { internal: 1, external: 2 }, v6: NoLocalEndpoints::default() },
        );
        let waiting = || (board.metrics.service_changes_pending.get(), board.metrics.endpoint_changes_pending.get());
        assert_eq!(waiting(), (2, 3));
        board.published(7);
        assert_eq!(waiting(), (2, 3));
        board.settle_to(&mut board.state(), 7);
        assert_eq!(waiting(), (0, 0));
        assert_eq!((board.metrics.service_changes_total.get(), board.metrics.endpoint_changes_total.get()), (2, 3));
        let of = IpFamily::BOTH.map(|family| &board.metrics.of[family]);
        assert_eq!(of.map(|metrics| metrics.programming_duration_seconds.get_sample_count()), [0, 1]);
        assert_eq!(of.map(|metrics| metrics.no_local_endpoints.with_label_values(&["external"]).get()), [2, 0]);
    }
}
