//! What people and metrics want to know about the apiserver: plain values.

use serde::{Deserialize, Serialize};

/// Everything, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub candidates: Vec<CandidateStatus>,
    pub kinds: Vec<KindStatus>,
    pub cache: CacheStatus,
    pub counts: Counts,
    /// What is wrong between us and the apiserver.
    pub problems: Vec<String>,
}

/// A place where an apiserver may answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CandidateStatus {
    pub url: String,
    /// Name that its certificate is verified for, if it is not the URL's host.
    pub server_name: Option<String>,
    /// `given`, `endpoint` (of `default/kubernetes`) or `service` (its ClusterIP).
    pub origin: String,
    /// On an address of this node.
    pub local: bool,
    /// Requests go here.
    pub in_force: bool,
    /// `unknown`, `up`, `not ready` or `down`.
    pub health: String,
    /// Of `/readyz`, the connection included if there was none.
    pub latency_ms: Option<f64>,
    pub last_failure: Option<String>,
    pub last_failure_age_s: Option<f64>,
}

/// Objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KindStatus {
    pub kind: String,
    pub freshness: Freshness,
    /// In force.
    pub objects: u64,
    /// There, but breaking a rule: their last good versions are in force, if there were any.
    pub refused: u64,
    /// Since an event or a bookmark came: an idle watch has a bookmark each minute.
    pub heard_age_s: Option<f64>,
    /// Complete lists so far; one per start and per watch that could not be resumed.
    pub lists_total: u64,
    /// Versions and deletions that changed something.
    pub changes_total: u64,
    /// Why it is not followed now.
    pub error: Option<String>,
}

/// Whether the objects are those of the apiserver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    /// Nothing is known yet.
    #[default]
    Waiting,
    /// From disk, as an earlier process knew them.
    Stale,
    /// Listed by this process, and followed since.
    Fresh,
}

/// The objects on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheStatus {
    pub path: String,
    /// Read at the start.
    pub loaded_objects: u64,
    /// Written last by this process.
    pub written_objects: u64,
    pub written_age_s: Option<f64>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Versions of objects that broke a rule.
    pub refused_total: u64,
    pub events_sent_total: u64,
    /// Events that were not sent: refused, or too many at once.
    pub events_lost_total: u64,
    /// Another candidate came into force.
    pub switches_total: u64,
    /// Lists and watches that failed.
    pub errors_total: u64,
}

impl Status {
    /// Objects are known, of this process or an earlier one.
    pub fn is_serving(&self) -> bool {
        let served = self.kinds.iter().filter(|kind| kind.kind == "Service" || kind.kind == "EndpointSlice");
        self.kinds.len() > 1 && served.into_iter().all(|kind| kind.freshness != Freshness::Waiting)
    }
}
