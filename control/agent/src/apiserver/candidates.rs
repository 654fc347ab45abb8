//! Which apiserver is asked: pure, time is an argument.
//!
//! Every URL given, every endpoint of `default/kubernetes` and its ClusterIP are candidates, always. A choice is never final: one that
//! fails is left at once, and a better one is returned to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;

/// How often the candidate in force is asked for `/readyz`. A connection that dies is noticed by its keep-alive long before; this finds
/// servers that answer without being ready. At 5 000 nodes it is 500 requests a second over all apiservers, each of a millisecond.
const IN_FORCE_EVERY: Duration = Duration::from_secs(10);
/// The others only have to be known before they are needed.
const OTHERS_EVERY: Duration = Duration::from_secs(30);
/// One that is down: at first, doubled up to the last.
const DOWN_FIRST: Duration = Duration::from_millis(500);
const DOWN_LAST: Duration = Duration::from_secs(5);
/// A better one that has failed is returned to when it has been up for so long: one that flaps must not cut watches each time.
const SETTLED: Duration = Duration::from_secs(5);

/// From where a candidate is known; the first is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// By flag, kubeconfig or environment.
    Given,
    /// An endpoint of `default/kubernetes`.
    Endpoint,
    /// Its ClusterIP: by the very service path that this process programs.
    Service,
}

impl Origin {
    /// One word for `status`.
    pub fn label(self) -> &'static str {
        match self {
            Origin::Given => "given",
            Origin::Endpoint => "endpoint",
            Origin::Service => "service",
        }
    }
}

/// What is known of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not asked yet.
    Unknown,
    Up {
        since: Instant,
        latency: Duration,
    },
    /// It answers, but is not ready: the last resort.
    Unready {
        since: Instant,
    },
    Down {
        since: Instant,
    },
}

impl Health {
    /// One word for `status`.
    pub fn label(&self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Up { .. } => "up",
            Health::Unready { .. } => "not ready",
            Health::Down { .. } => "down",
        }
    }
}

/// Names a candidate for as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CandidateId(u32);

/// One place where an apiserver may answer.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub id: CandidateId,
    pub endpoint: Endpoint,
    pub origin: Origin,
    /// On an address of this node, or loopback.
    pub local: bool,
    /// It is the ClusterIP of `default/kubernetes`, though it was given: pods are told that one. It depends on what we program.
    by_service: bool,
    pub health: Health,
    /// Why it failed last, and when.
    pub last_failure: Option<(String, Instant)>,
    /// Failures since it was up last.
    failures: u32,
    /// `None` while it is being asked.
    due: Option<Instant>,
}

/// All candidates and the one in force.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    list: Vec<Candidate>,
    in_force: Option<CandidateId>,
    next_id: u32,
}

impl Candidates {
    /// Equal places are one candidate.
    pub fn new(given: impl IntoIterator<Item = Endpoint>, now: Instant) -> Candidates {
        let mut candidates = Candidates::default();
        for endpoint in given {
            candidates.add(endpoint, Origin::Given, now);
        }
        candidates
    }

    fn add(&mut self, endpoint: Endpoint, origin: Origin, now: Instant) {
        if self.list.iter().any(|candidate| candidate.endpoint.is_same_place(&endpoint)) {
            return;
        }
        let id = CandidateId(self.next_id);
        self.next_id += 1;
        let local = endpoint.is_local();
        self.list.push(Candidate {
            id,
            endpoint,
            origin,
            local,
            by_service: false,
            health: Health::Unknown,
            last_failure: None,
            failures: 0,
            due: Some(now),
        });
    }

    /// Replaces what was learnt from `default/kubernetes`. Returns those that are gone.
    pub fn learn(&mut self, endpoints: &[SocketAddr], services: &[SocketAddr], now: Instant) -> Vec<CandidateId> {
        let named = |candidate: &Candidate, addresses: &[SocketAddr]| {
            candidate.endpoint.address().is_some_and(|address| addresses.contains(&address))
        };
        let stays = |candidate: &Candidate| match candidate.origin {
            Origin::Given => true,
            Origin::Endpoint => named(candidate, endpoints),
            Origin::Service => named(candidate, services),
        };
        let gone: Vec<CandidateId> = self.list.iter().filter(|candidate| !stays(candidate)).map(|candidate| candidate.id).collect();
        self.list.retain(stays);
        for candidate in &mut self.list {
            candidate.by_service = named(candidate, services);
        }
        for (addresses, origin) in [(endpoints, Origin::Endpoint), (services, Origin::Service)] {
            for address in addresses {
                self.add(Endpoint::of(*address), origin, now);
            }
        }
        gone
    }

    /// The node's addresses may have changed.
    pub fn refresh_local(&mut self, is_local: impl Fn(&Endpoint) -> bool) {
        for candidate in &mut self.list {
            candidate.local = is_local(&candidate.endpoint);
        }
    }

    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    pub fn get(&self, id: CandidateId) -> Option<&Candidate> {
        self.list.iter().find(|candidate| candidate.id == id)
    }

    pub fn in_force(&self) -> Option<CandidateId> {
        self.in_force
    }

    /// It answered that it is ready.
    pub fn succeeded(&mut self, id: CandidateId, latency: Duration, now: Instant) {
        let every = if self.in_force == Some(id) { IN_FORCE_EVERY } else { OTHERS_EVERY };
        let Some(candidate) = self.find(id) else { return };
        let since = if let Health::Up { since, .. } = candidate.health { since } else { now };
        candidate.health = Health::Up { since, latency };
        candidate.failures = 0;
        candidate.due = Some(now + every);
    }

    /// It cannot be reached, or (`answered`) says that it is not ready.
    pub fn failed(&mut self, id: CandidateId, why: String, answered: bool, now: Instant) {
        let Some(candidate) = self.find(id) else { return };
        candidate.health = match (answered, &candidate.health) {
            (true, Health::Unready { since }) => Health::Unready { since: *since },
            (true, _) => Health::Unready { since: now },
            (false, Health::Down { since }) => Health::Down { since: *since },
            (false, _) => Health::Down { since: now },
        };
        candidate.last_failure = Some((why, now));
        let pause = DOWN_FIRST.saturating_mul(1 << candidate.failures.min(8)).min(DOWN_LAST);
        candidate.failures = candidate.failures.saturating_add(1);
        candidate.due = Some(now + pause);
    }

    /// Something about it is strange: ask it at once.
    pub fn suspect(&mut self, id: CandidateId, now: Instant) {
        if let Some(due) = self.find(id).and_then(|candidate| candidate.due.as_mut()) {
            *due = now;
        }
    }

    /// Those that have to be asked now; they are not due again until they succeeded or failed.
    pub fn take_due(&mut self, now: Instant) -> Vec<(CandidateId, Endpoint)> {
        let due = self.list.iter_mut().filter(|candidate| candidate.due.is_some_and(|due| due <= now));
        due.map(|candidate| {
            candidate.due = None;
            (candidate.id, candidate.endpoint.clone())
        })
        .collect()
    }

    /// When the next one has to be asked.
    pub fn next_due(&self) -> Option<Instant> {
        self.list.iter().filter_map(|candidate| candidate.due).min()
    }

    /// Decides anew: the local one first, then by origin, then by latency; whoever is in force stays until a better class is settled.
    /// Without one that is up, one that at least answers. Returns whether the choice is another.
    pub fn choose(&mut self, now: Instant) -> bool {
        let class = |candidate: &Candidate| (!candidate.local, if candidate.by_service { Origin::Service } else { candidate.origin });
        let current = self.in_force.and_then(|id| self.get(id));
        let up = self.list.iter().filter(|candidate| matches!(candidate.health, Health::Up { .. }));
        let latency = |candidate: &&Candidate| match candidate.health {
            Health::Up { latency, .. } => (class(candidate), latency, candidate.id),
            _ => (class(candidate), Duration::MAX, candidate.id),
        };
        let is_up = current.is_some_and(|current| matches!(current.health, Health::Up { .. }));
        let chosen = match current {
            Some(current) if is_up => {
                let better = up.filter(|candidate| class(candidate) < class(current) && candidate.is_settled(now)).min_by_key(latency);
                Some(better.unwrap_or(current))
            }
            _ => up.min_by_key(latency).or_else(|| {
                let answering = self.list.iter().filter(|candidate| matches!(candidate.health, Health::Unready { .. }));
                answering.min_by_key(latency)
            }),
        };
        let chosen = chosen.map(|candidate| candidate.id);
        let changed = chosen != self.in_force;
        self.in_force = chosen;
        changed
    }

    fn find(&mut self, id: CandidateId) -> Option<&mut Candidate> {
        self.list.iter_mut().find(|candidate| candidate.id == id)
    }
}

impl Candidate {
    /// It never failed, or has been up long enough since.
    fn is_settled(&self, now: Instant) -> bool {
        let Health::Up { since, .. } = self.health else { return false };
        self.last_failure.is_none() || now.saturating_duration_since(since) >= SETTLED
    }
}

#[cfg(test)]
mod tests;
