//! What the rest of the process may know of the apiserver's thread.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ringway_model::{Kind, PodModel, Problem};

use super::access::Pod;
use super::candidates::{Candidate, Health};
use super::daemonset::Owner;
use super::events::Complaints;
use super::inquiry::Inquiries;
use super::objects::{KindState, Objects};
use super::status::*;
use super::taint::StartupTaint;
use super::transport::Transport;

/// About the objects on disk.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    pub loaded: u64,
    /// Number and time of the last writing.
    pub written: Option<(u64, Instant)>,
    pub problem: Option<String>,
}

impl Kept {
    pub fn new(path: PathBuf) -> Kept {
        Kept { path, loaded: 0, written: None, problem: None }
    }
}

/// Looks at everything.
pub struct Reporter {
    pub objects: Arc<Objects>,
    pub transport: Arc<Transport>,
    pub complaints: Arc<Complaints>,
    pub kept: Arc<Mutex<Kept>>,
    pub taint: Option<Arc<StartupTaint>>,
    pub owner: Option<Arc<Owner>>,
    pub inquiries: Arc<Inquiries>,
}

impl Reporter {
    pub fn has_known(&self) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).loaded > 0
    }

    /// This node's pods, as far as they are followed now.
    pub fn pods(&self) -> Vec<Arc<PodModel>> {
        let has_trouble = self.objects.lock().kinds.get(&Kind::Pod).is_none_or(|state| self.trouble("Pod", state).is_some());
        let is_followed = self.transport.candidates().0.in_force().is_some() && !has_trouble;
        if is_followed { self.objects.pods() } else { Vec::new() }
    }

    pub fn status(&self) -> Status {
        let (candidates, switches_total) = self.transport.candidates();
        let in_force = candidates.in_force();
        let (events_sent_total, events_lost_total, _) = self.complaints.counts();
        let state = self.objects.lock();
        let kinds = state.kinds.iter().map(|(kind, state)| self.kind(&kind.to_string(), state)).collect();
        let counts = Counts {
            refused_total: state.refused_total,
            events_sent_total,
            events_lost_total,
            switches_total,
            errors_total: state.errors_total,
        };
        drop(state);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let cache = CacheStatus {
            path: kept.path.display().to_string(),
            loaded_objects: kept.loaded,
            written_objects: kept.written.map_or(0, |(objects, _)| objects),
            written_age_s: kept.written.map(|(_, at)| at.elapsed().as_secs_f64()),
        };
        drop(kept);
        let candidates = candidates.list().iter().map(|candidate| CandidateStatus {
            url: candidate.endpoint.to_string(),
            server_name: candidate.endpoint.server_name.clone(),
            origin: candidate.origin.label().into(),
            local: candidate.local,
            in_force: in_force == Some(candidate.id),
            health: candidate.health.label().into(),
            latency_ms: match candidate.health {
                Health::Up { latency, .. } => Some(latency.as_secs_f64() * 1e3),
                _ => None,
            },
            last_failure: candidate.last_failure.as_ref().map(|(why, _)| why.clone()),
            last_failure_age_s: candidate.last_failure.as_ref().map(|(_, at)| at.elapsed().as_secs_f64()),
        });
        Status { candidates: candidates.collect(), kinds, cache, counts, problems: self.troubles() }
    }

    fn kind(&self, name: &str, state: &KindState) -> KindStatus {
        KindStatus {
            kind: name.to_owned(),
            freshness: state.freshness,
            objects: state.reflection.objects() as u64,
            refused: state.reflection.refused_len() as u64,
            heard_age_s: self.heard_age(name).map(|age| age.as_secs_f64()),
            lists_total: state.lists_total,
            changes_total: state.changes_total,
            error: self.trouble(name, state),
        }
    }

    fn heard_age(&self, kind: &str) -> Option<std::time::Duration> {
        self.transport.heard.age(&format!("{}s", kind.to_lowercase()))
    }

    /// Bytes of a watch that came later end a trouble, too: it may have nothing to tell.
    fn trouble(&self, kind: &str, state: &KindState) -> Option<String> {
        let (why, since) = state.trouble.as_ref()?;
        let heard_since = self.heard_age(kind).is_some_and(|age| age < since.elapsed());
        (!heard_since).then(|| why.clone())
    }

    /// Between us and the apiserver.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        let (candidates, _) = self.transport.candidates();
        let state = self.objects.lock();
        if candidates.in_force().is_none() {
            let remedy = remedy(candidates.list(), Pod::here().as_ref());
            troubles.push(format!("no apiserver answers: {}{remedy}", self.transport.failures()));
        }
        let stale: Vec<String> =
            state.kinds.iter().filter(|(_, kind)| kind.freshness == Freshness::Stale).map(|(kind, _)| kind.to_string()).collect();
        if !stale.is_empty() {
            troubles.push(format!("served from disk as an earlier process knew them (stale): {}", stale.join(", ")));
        }
        for (kind, state) in &state.kinds {
            troubles.extend(self.trouble(&kind.to_string(), state).filter(|_| candidates.in_force().is_some()));
        }
        if state.holds_kubernetes() {
            troubles.push("default/kubernetes has no endpoint at the apiserver: the last good ones stay in force".into());
        }
        drop(state);
        troubles.extend(self.transport.credentials.problem());
        troubles.extend(self.complaints.counts().2);
        troubles.extend(self.inquiries.problem());
        troubles.extend(self.taint.iter().filter_map(|taint| taint.problem()));
        troubles.extend(self.owner.iter().filter_map(|owner| owner.problem()));
        troubles.extend(self.kept.lock().unwrap_or_else(PoisonError::into_inner).problem.clone());
        troubles
    }

    /// What is wrong with objects that are there.
    pub fn object_problems(&self) -> Vec<Problem> {
        self.objects.lock().kinds.values().flat_map(|kind| kind.reflection.problems()).cloned().collect()
    }
}

/// What to do about the silence, where only the address is asked that pods are told: it is a Service's, so nobody serves it but us.
fn remedy(candidates: &[Candidate], pod: Option<&Pod>) -> &'static str {
    let pods_only = pod.is_some_and(|pod| candidates.iter().all(|candidate| candidate.endpoint.is_same_place(&pod.endpoint)));
    if pods_only {
        "; pods are told this address, and on a node without kube-proxy it works once Ringway serves it: give those of the control-plane nodes by \
         --apiserver (key `apiserver` of the configuration file, value `apiServers` of the chart)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::{Endpoint, candidates::Candidates};

    #[test]
    fn only_the_address_of_a_service_is_asked() {
        let pod = Pod { endpoint: "https://10.96.0.1:443".parse().unwrap() };
        let remedy = |urls: &[&str], pod: Option<&Pod>| {
            let endpoints: Vec<Endpoint> = urls.iter().map(|url| url.parse().unwrap()).collect();
            super::remedy(Candidates::new(endpoints, Instant::now()).list(), pod)
        };
        assert!(remedy(&["https://10.96.0.1:443"], Some(&pod)).contains("--apiserver"));
        assert_eq!(remedy(&["https://10.96.0.1:443", "https://10.0.0.12:6443"], Some(&pod)), "");
        assert_eq!(remedy(&["https://10.96.0.1:443"], None), "", "no pod");
    }
}
