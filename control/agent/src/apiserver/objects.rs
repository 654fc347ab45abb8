//! All objects that are followed, between the watches and the control loop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringway_model::convert::{Converted, Refused};
use ringway_model::{Change, EndpointSliceModel, Kind, Model, ObjectRef, PodModel, Problem};
use tokio::sync::{Notify, watch};

use super::guard::{self, Guard};
use super::pending::Pending;
use super::reflection::Reflection;
use super::status::Freshness;

/// Where apiservers answer, as the cluster says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learnt {
    /// Endpoints of `default/kubernetes`.
    pub endpoints: Vec<SocketAddr>,
    /// Its ClusterIPs.
    pub services: Vec<SocketAddr>,
}

/// See the module.
#[derive(Debug)]
pub struct Objects {
    state: Mutex<State>,
    /// Something is pending.
    pub changed: Notify,
    /// Where apiservers answer.
    pub learnt: watch::Sender<Learnt>,
    /// Number of kinds that feed tables and are listed, or cannot be.
    settled: watch::Sender<usize>,
}

#[derive(Debug)]
pub struct State {
    pub kinds: BTreeMap<Kind, KindState>,
    guard: Guard,
    pending: Pending,
    learnt: Learnt,
    /// EndpointSlices as an earlier process knew them last.
    earlier: Vec<Arc<EndpointSliceModel>>,
    /// Since the objects were written to disk last.
    unsaved: bool,
    pub refused_total: u64,
    pub errors_total: u64,
}

#[derive(Debug, Default)]
pub struct KindState {
    pub reflection: Reflection,
    pub freshness: Freshness,
    pub lists_total: u64,
    pub changes_total: u64,
    /// Why it is not followed, and since when.
    pub trouble: Option<(String, Instant)>,
}

/// What became of one version of an object.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Taken,
    /// It breaks a rule; all that is wrong, as sentences.
    Refused(Vec<String>),
}

impl Objects {
    /// What an earlier process knew is in force, and stale.
    pub fn new(kinds: &[Kind], known: Vec<Model>) -> Objects {
        let mut state = State {
            kinds: kinds.iter().map(|kind| (*kind, KindState::default())).collect(),
            guard: Guard::default(),
            pending: Pending::default(),
            learnt: Learnt::default(),
            earlier: Vec::new(),
            unsaved: false,
            refused_total: 0,
            errors_total: 0,
        };
        if !known.is_empty() {
            let feeding = state.kinds.iter_mut().filter(|(kind, _)| feeds_tables(**kind));
            feeding.for_each(|(_, state)| state.freshness = Freshness::Stale);
        }
        for model in known {
            if let Some(kind) = state.kinds.get_mut(&model.object_ref().kind) {
                let model = kind.reflection.preload(model);
                if let Model::EndpointSlice(slice) = &model {
                    state.earlier.push(Arc::clone(slice));
                }
                state.hand_on(Change::Upsert(model));
            }
        }
        let learnt = watch::Sender::new(state.learnt.clone());
        Objects { state: Mutex::new(state), changed: Notify::new(), learnt, settled: watch::Sender::new(0) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin_list(&self, kind: Kind) {
        self.with(kind, |kind| {
            kind.reflection.begin_list();
            Vec::new()
        });
    }

    /// The kind is fresh now.
    pub fn end_list(&self, kind: Kind) {
        self.with(kind, |kind| {
            kind.freshness = Freshness::Fresh;
            kind.lists_total += 1;
            kind.trouble = None;
            kind.reflection.end_list()
        });
        self.count_settled();
    }

    fn count_settled(&self) {
        let state = self.lock();
        let is_settled = |state: &KindState| state.freshness == Freshness::Fresh || state.trouble.is_some();
        let settled = state.kinds.iter().filter(|(kind, state)| feeds_tables(**kind) && is_settled(state)).count();
        drop(state);
        self.settled.send_if_modified(|known| std::mem::replace(known, settled) != settled);
    }

    /// A version of an object.
    pub fn apply(&self, object: &ObjectRef, version: Option<u64>, converted: Result<Converted, Refused>) -> Outcome {
        let refused = converted.is_err();
        let mut sentences = Vec::new();
        self.with(object.kind, |kind| {
            let change = kind.reflection.apply(object.clone(), version, converted);
            kind.trouble = None;
            if refused {
                sentences = kind.reflection.problems_of(object).iter().map(sentence).collect();
            }
            change.into_iter().collect()
        });
        if !refused {
            return Outcome::Taken;
        }
        self.lock().refused_total += 1;
        Outcome::Refused(sentences)
    }

    pub fn delete(&self, object: &ObjectRef, version: Option<u64>) {
        self.with(object.kind, |kind| {
            kind.trouble = None;
            kind.reflection.delete(object, version).into_iter().collect()
        });
    }

    /// A list or watch failed.
    pub fn trouble(&self, kind: Kind, why: String) {
        let mut state = self.lock();
        state.errors_total += 1;
        if let Some(kind) = state.kinds.get_mut(&kind) {
            let since = kind.trouble.as_ref().filter(|(known, _)| *known == why).map_or_else(Instant::now, |(_, since)| *since);
            kind.trouble = Some((why, since));
        }
        drop(state);
        self.count_settled();
    }

    /// Everything since the last time, one change for each object.
    pub fn take(&self) -> Vec<Change> {
        self.lock().pending.take()
    }

    /// EndpointSlices as an earlier process knew them last, once.
    pub fn take_earlier(&self) -> Vec<Arc<EndpointSliceModel>> {
        std::mem::take(&mut self.lock().earlier)
    }

    /// What to write to disk, if that is another than last time and it was listed, not only read from disk.
    pub fn take_unsaved(&self) -> Option<Vec<Model>> {
        let mut state = self.lock();
        if !state.unsaved || state.kinds.values().all(|kind| kind.freshness != Freshness::Fresh) {
            return None;
        }
        state.unsaved = false;
        let guard = &state.guard;
        let is_guarded = |model: &Model| matches!(model, Model::EndpointSlice(slice) if guard.knows(slice));
        let feeding = state.kinds.iter().filter(|(kind, _)| feeds_tables(**kind));
        let models = feeding.flat_map(|(_, state)| state.reflection.models());
        let guarded = guard.in_force().map(|slice| Model::EndpointSlice(slice.clone()));
        Some(models.filter(|model| !is_guarded(model)).cloned().chain(guarded).collect())
    }

    /// Writing failed.
    pub fn put_back_unsaved(&self) {
        self.lock().unsaved = true;
    }

    /// This node's pods, if they were listed.
    pub fn pods(&self) -> Vec<Arc<PodModel>> {
        let state = self.lock();
        let followed = state.kinds.get(&Kind::Pod).filter(|pods| pods.freshness == Freshness::Fresh);
        let models = followed.into_iter().flat_map(|pods| pods.reflection.models());
        models.filter_map(|model| if let Model::Pod(pod) = model { Some(Arc::clone(pod)) } else { None }).collect()
    }

    /// Waits until all kinds that feed tables are listed, or cannot be.
    pub async fn wait_settled(&self, patience: Duration) -> bool {
        let kinds = self.lock().kinds.keys().filter(|kind| feeds_tables(**kind)).count();
        let mut settled = self.settled.subscribe();
        tokio::time::timeout(patience, settled.wait_for(|settled| *settled >= kinds)).await.is_ok()
    }

    fn with(&self, kind: Kind, change: impl FnOnce(&mut KindState) -> Vec<Change>) {
        let mut state = self.lock();
        let Some(kind_state) = state.kinds.get_mut(&kind) else { return };
        let changes = change(kind_state);
        kind_state.changes_total += changes.len() as u64;
        if changes.is_empty() || !feeds_tables(kind) {
            return;
        }
        state.unsaved = true;
        for change in changes {
            state.hand_on(change);
        }
        let learnt = state.learnt.clone();
        drop(state);
        self.learnt.send_if_modified(|known| {
            let changed = *known != learnt;
            *known = learnt;
            changed
        });
        self.changed.notify_one();
    }
}

impl State {
    /// Whether `default/kubernetes` is kept up though the apiserver has no endpoint of it.
    pub fn holds_kubernetes(&self) -> bool {
        self.guard.holds()
    }

    fn hand_on(&mut self, change: Change) {
        match &change {
            Change::Upsert(Model::Service(service)) if guard::is_kubernetes(service) => {
                let port = service.ports.first().map_or(443, |port| port.port.get());
                self.learnt.services = service.cluster_ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
            }
            _ => {}
        }
        for change in self.guard.pass(change) {
            self.pending.push(change);
        }
        self.learnt.endpoints = self.guard.endpoints();
    }
}

/// Pods do not: they are looked at when somebody asks, are not worth a file on disk, and a start does not wait for them.
fn feeds_tables(kind: Kind) -> bool {
    kind != Kind::Pod
}

/// Without the object, which stands beside it.
fn sentence(problem: &Problem) -> String {
    match &problem.field {
        Some(field) => format!("{field}: {}", problem.message),
        None => problem.message.clone(),
    }
}

#[cfg(test)]
mod tests;
