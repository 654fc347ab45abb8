//! The apiserver as a source of objects.
//!
//! ```text
//! URLs, default/kubernetes ─▶ candidates ◀─ probe /readyz          complaints ─▶ Events
//!                                 │                                     ▲
//! apiserver ◀─ transport ◀─ kube::Client ◀─ follow (one a kind) ─▶ convert ─▶ reflection ─▶ guard ─▶ pending ─▶ control loop
//!                 ▲                                                               │
//!            credentials                                                     cache (disk)
//! ```
//!
//! All of it lives on a thread of its own, so that a list of 10 000 objects delays nothing else, and a busy control loop no ping.
//! `candidates`, `reflection`, `guard` and `pending` are pure.

mod access;
mod cache;
mod candidates;
mod connector;
mod credentials;
mod daemonset;
mod endpoint;
mod events;
mod follow;
mod guard;
mod heard;
mod inquiry;
mod objects;
mod pending;
mod probe;
mod raw;
mod reflection;
mod report;
mod rollback;
pub mod status;
mod streamed;
mod taint;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod as KubernetesPod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::Client;
use ringway_model::{Change, EndpointSliceModel, Kind, PodModel, PodRef, Problem, ServiceName};
use tokio::sync::oneshot;
use tokio::time::sleep;

use self::candidates::Candidates;
use self::daemonset::Owner;
use self::events::Complaints;
use self::follow::Follower;
use self::inquiry::Inquiries;
use self::objects::Objects;
use self::report::{Kept, Reporter};
use self::transport::{Transport, TransportService};

pub use self::access::{Access, Pod};
pub use self::cache::{path as cache_path, set_aside_path as corrupt_cache_path};
pub use self::credentials::{Origin as CredentialsOrigin, SERVICE_ACCOUNT_DIR};
pub use self::daemonset::DaemonSetName;
pub use self::endpoint::Endpoint;
pub use self::status::Status;
use self::taint::StartupTaint;
pub use self::taint::{IsReady, STARTUP_TAINT};

/// What is followed.
const KINDS: [Kind; 5] = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr, Kind::Pod];

/// A change is on disk after this; another one not before [`SAVE_EVERY`]. 100 000 endpoints are 20 MB.
const SAVE_AFTER: Duration = Duration::from_secs(2);
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// How to reach the apiserver.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub access: Access,
    /// Where the objects are kept.
    pub state_dir: PathBuf,
    /// Whose pods are followed, and the reporting instance of Events.
    pub node_name: String,
    /// What runs us, if anything does.
    pub daemonset: Option<DaemonSetName>,
}

/// The thread, and what it has found. Ends when dropped.
pub struct Source {
    objects: Arc<Objects>,
    reporter: Reporter,
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Source {
    /// Reads credentials and the objects kept on disk, and begins to follow. Needs no apiserver to succeed. With `is_ready`, the startup
    /// taint of the node is removed.
    ///
    /// # Errors
    /// The credentials cannot be read, or there is no URL.
    pub async fn start(settings: Settings, is_ready: Option<IsReady>) -> anyhow::Result<Source> {
        std::fs::create_dir_all(&settings.state_dir)
            .with_context(|| format!("cannot create the state directory {}", settings.state_dir.display()))?;
        let mut kept = Kept::new(cache::path(&settings.state_dir));
        let known = match cache::load(&settings.state_dir) {
            Ok(cached) => cached,
            Err(error) => {
                tracing::error!("{error:#}");
                kept.problem = Some(format!("{error:#}"));
                None
            }
        };
        let models = known.map(|cached| cached.models).unwrap_or_default();
        kept.loaded = models.len() as u64;
        let objects = Arc::new(Objects::new(&KINDS, models));
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = oneshot::channel();
        let taint = is_ready.map(|is_ready| Arc::new(StartupTaint::new(settings.node_name.clone(), is_ready)));
        let owner = settings.daemonset.clone().map(|name| Arc::new(Owner::new(name)));
        let kept = Arc::new(Mutex::new(kept));
        let inquiries = Arc::new(Inquiries::default());
        let theirs = Theirs {
            settings,
            objects: Arc::clone(&objects),
            kept: Arc::clone(&kept),
            taint: taint.clone(),
            owner: owner.clone(),
            inquiries: Arc::clone(&inquiries),
        };
        let thread = std::thread::Builder::new().name("apiserver".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    // Whoever waits sees the error; if nobody does, there is nothing to do.
                    let _ = ready.send(Err(anyhow::Error::new(error).context("cannot start the apiserver's thread")));
                    return;
                }
            };
            runtime.block_on(theirs.live(ready, stopped));
            // Resolving a name may hang in the C library.
            runtime.shutdown_timeout(Duration::from_millis(200));
        });
        let thread = thread.context("cannot start the apiserver's thread")?;
        let (transport, complaints) = started.await.context("the apiserver's thread has ended")??;
        let reporter = Reporter { objects: Arc::clone(&objects), transport, complaints, kept, taint, owner, inquiries };
        Ok(Source { objects, reporter, thread: Mutex::new(Some((stop, thread))) })
    }

    /// Waits for changes. Cancel safe.
    pub async fn changed(&self) {
        self.objects.changed.notified().await;
    }

    /// All changes since the last time, one for each object.
    pub fn take(&self) -> Vec<Change> {
        self.objects.take()
    }

    /// Waits until each kind that feeds tables was listed by this process, or cannot be; at most for `patience`.
    pub async fn settled(&self, patience: Duration) -> bool {
        self.objects.wait_settled(patience).await
    }

    /// This node's pods that have addresses of their own, as they are now: none while no apiserver tells.
    pub fn pods(&self) -> Vec<Arc<PodModel>> {
        self.reporter.pods()
    }

    /// Whether the apiserver says that the pod does not exist or has ended. False as long as nobody knows.
    pub async fn is_pod_gone(&self, namespace: Arc<str>, pod: PodRef) -> bool {
        self.reporter.inquiries.is_gone(namespace, pod).await
    }

    /// Events on these Services say what of them is not programmed; nothing more is said of the others.
    pub fn tell_unprogrammed(&self, services: BTreeMap<ServiceName, BTreeSet<String>>) {
        self.reporter.complaints.set_unprogrammed(services);
    }

    /// The DaemonSet that runs us was deleted: nobody comes after us.
    pub fn is_daemonset_deleted(&self) -> bool {
        self.reporter.owner.as_ref().is_some_and(|owner| owner.is_deleted())
    }

    /// Ends the thread; what has changed since it was written to disk last is written.
    pub fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = thread {
            drop(stop);
            // It has panicked at worst, which the log says.
            let _ = thread.join();
        }
    }

    /// Something is known from an earlier process.
    pub fn has_known(&self) -> bool {
        self.reporter.has_known()
    }

    /// EndpointSlices as an earlier process knew them last, once.
    pub fn take_earlier(&self) -> Vec<Arc<EndpointSliceModel>> {
        self.objects.take_earlier()
    }

    /// Everything for `status` and metrics.
    pub fn status(&self) -> Status {
        self.reporter.status()
    }

    /// What is wrong between us and the apiserver.
    pub fn problems(&self) -> Vec<String> {
        self.reporter.troubles()
    }

    /// What is wrong with objects that are there.
    pub fn object_problems(&self) -> Vec<Problem> {
        self.reporter.object_problems()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether credentials can be read and a URL is known; no apiserver is asked.
///
/// # Errors
/// Not.
pub async fn check(access: &Access) -> anyhow::Result<()> {
    transport(access).await.map(drop)
}

type Started = anyhow::Result<(Arc<Transport>, Arc<Complaints>)>;

/// What the thread works on.
struct Theirs {
    settings: Settings,
    objects: Arc<Objects>,
    kept: Arc<Mutex<Kept>>,
    taint: Option<Arc<StartupTaint>>,
    owner: Option<Arc<Owner>>,
    inquiries: Arc<Inquiries>,
}

impl Theirs {
    /// The life of the thread.
    async fn live(self, ready: oneshot::Sender<Started>, stopped: oneshot::Receiver<()>) {
        let Theirs { settings, objects, kept, taint, owner, inquiries } = self;
        let transport = match transport(&settings.access).await {
            Ok(transport) => transport,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let complaints = Arc::new(Complaints::default());
        let _ = ready.send(Ok((Arc::clone(&transport), Arc::clone(&complaints))));
        let client = Client::new(TransportService(Arc::clone(&transport)), "default");
        let follower = Follower {
            client: client.clone(),
            objects: Arc::clone(&objects),
            complaints: Arc::clone(&complaints),
            node_name: settings.node_name.clone(),
            taint: taint.clone(),
        };
        tokio::select! {
            _ = stopped => {}
            () = probe::probe(Arc::clone(&transport)) => {}
            () = learn(&objects, &transport) => {}
            () = follower.follow::<Service>() => {}
            () = follower.follow::<EndpointSlice>() => {}
            () = follower.follow::<Node>() => {}
            () = follower.follow::<ServiceCIDR>() => {}
            () = follower.follow::<KubernetesPod>() => {}
            () = keep_off(taint, client.clone()) => {}
            () = follow_owner(owner, client.clone()) => {}
            () = inquiries.answer(client.clone()) => {}
            () = complaints.send(client, &settings.node_name) => {}
            () = save(&settings, &objects, &kept) => {}
        }
        save_once(&settings, &objects, &kept).await;
    }
}

async fn keep_off(taint: Option<Arc<StartupTaint>>, client: Client) {
    match taint {
        Some(taint) => taint.keep_off(client).await,
        None => std::future::pending().await,
    }
}

async fn follow_owner(owner: Option<Arc<Owner>>, client: Client) {
    match owner {
        Some(owner) => owner.follow(client).await,
        None => std::future::pending().await,
    }
}

async fn transport(access: &Access) -> anyhow::Result<Arc<Transport>> {
    let credentials = credentials::Credentials::load(access.credentials.clone()).await?;
    let loaded = credentials.current(false).await;
    let mut endpoints = access.endpoints.clone();
    if matches!(access.credentials, CredentialsOrigin::Kubeconfig(_)) {
        endpoints.extend(loaded.server.clone());
    }
    anyhow::ensure!(!endpoints.is_empty(), "no URL of an apiserver is known: give --apiserver URL, or a kubeconfig that names a server");
    Ok(Transport::new(Candidates::new(endpoints, Instant::now()), credentials))
}

/// Candidates follow `default/kubernetes`.
async fn learn(objects: &Objects, transport: &Transport) {
    let mut learnt = objects.learnt.subscribe();
    loop {
        let now = learnt.borrow_and_update().clone();
        transport.learn(&now.endpoints, &now.services).await;
        if learnt.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Keeps the objects on disk.
async fn save(settings: &Settings, objects: &Arc<Objects>, kept: &Mutex<Kept>) {
    loop {
        sleep(SAVE_AFTER).await;
        if save_once(settings, objects, kept).await {
            sleep(SAVE_EVERY).await;
        }
    }
}

/// Returns whether there was something to write.
async fn save_once(settings: &Settings, objects: &Arc<Objects>, kept: &Mutex<Kept>) -> bool {
    let Some(models) = objects.take_unsaved() else { return false };
    let (dir, count) = (settings.state_dir.clone(), models.len() as u64);
    let result = tokio::task::spawn_blocking(move || cache::save(&dir, &models)).await;
    let result = result.unwrap_or_else(|error| Err(error.into()));
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(()) => {
            kept.written = Some((count, Instant::now()));
            kept.problem = None;
        }
        Err(error) => {
            objects.put_back_unsaved();
            kept.problem = Some(format!("{error:#}"));
        }
    }
    true
}
