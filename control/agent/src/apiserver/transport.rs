//! The service below `kube::Client`: each request goes to the candidate in force, and moves when that one dies.
//!
//! ```text
//! kube::Client ─▶ Transport ─▶ link of the candidate in force ─▶ hyper ─▶ Connector
//!                    ▲
//! prober ─ /readyz ──┘ succeeded, failed ─▶ Candidates::choose ─▶ another link: watches end, and are resumed there
//! ```

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tower::{BoxError, Service};

use super::candidates::{CandidateId, Candidates, Health};
use super::connector::Connector;
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::heard::Heard;
use super::rollback;
use super::streamed::Streamed;

/// Pings over each connection: one that does not answer is dead within twice this, whatever TCP thinks.
const PING: Duration = Duration::from_secs(3);

/// Until the headers of an answer are there: the apiserver itself gives up after 60 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(65);

/// For the version of a server, see [`rollback`].
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for a candidate; whoever asked tries again.
const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often one request is sent at most: each time to whom is in force by then.
const ATTEMPTS: u32 = 4;

/// Whether the streams of a link go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    InUse,
    /// A better candidate is in force: watches end and are resumed there, other answers come to their end.
    Left,
    /// Nothing comes any more.
    Dead,
}

/// Connections to one candidate, made with the same certificates.
pub struct Link {
    pub id: CandidateId,
    pub endpoint: Endpoint,
    generation: u64,
    client: Client<Connector, Body>,
    life: watch::Sender<Life>,
}

/// Candidates, their links and our credentials.
pub struct Transport {
    state: Mutex<State>,
    pub credentials: Credentials,
    /// Of the candidate in force.
    chosen: watch::Sender<Option<Arc<Link>>>,
    /// Wakes the prober.
    pub kick: Notify,
    pub heard: Arc<Heard>,
}

struct State {
    candidates: Candidates,
    links: HashMap<CandidateId, Arc<Link>>,
    switches: u64,
}

impl Transport {
    pub fn new(candidates: Candidates, credentials: Credentials) -> Arc<Transport> {
        Arc::new(Transport {
            state: Mutex::new(State { candidates, links: HashMap::new(), switches: 0 }),
            credentials,
            chosen: watch::Sender::new(None),
            kick: Notify::new(),
            heard: Arc::default(),
        })
    }

    /// All candidates as they are now, and how often another one came into force.
    pub fn candidates(&self) -> (Candidates, u64) {
        let state = self.lock();
        (state.candidates.clone(), state.switches)
    }

    /// Changes the candidates, decides anew, and moves if the choice is another.
    pub async fn update<T>(&self, change: impl FnOnce(&mut Candidates) -> T) -> T {
        let credentials = self.credentials.current(false).await;
        let mut state = self.lock();
        let is_down = |candidates: &Candidates, id| candidates.get(id).is_some_and(|it| matches!(it.health, Health::Down { .. }));
        let down_before: Vec<CandidateId> = state.links.keys().copied().filter(|id| is_down(&state.candidates, *id)).collect();
        let result = change(&mut state.candidates);
        let State { candidates, links, .. } = &mut *state;
        links.retain(|id, link| {
            let life = if candidates.get(*id).is_none() || is_down(candidates, *id) && !down_before.contains(id) {
                Life::Dead
            } else if link.generation != credentials.generation {
                Life::Left
            } else {
                // Also of one that was down already: it is being asked whether it is back.
                return true;
            };
            link.life.send_replace(life);
            false
        });
        let before = candidates.in_force();
        let changed = candidates.choose(Instant::now());
        let in_force = candidates.in_force();
        if changed {
            if let Some(link) = before.and_then(|id| links.remove(&id)) {
                link.life.send_replace(Life::Left);
            }
            log_choice(candidates, before);
            state.switches += u64::from(before.is_some() || in_force.is_none());
        }
        drop(state);
        let link = in_force.and_then(|id| self.link_of(id, &credentials));
        self.chosen.send_if_modified(|chosen| {
            let same = match (&*chosen, &link) {
                (Some(before), Some(link)) => Arc::ptr_eq(before, link),
                (None, None) => true,
                _ => false,
            };
            *chosen = link;
            !same
        });
        result
    }

    /// `default/kubernetes` says where apiservers are.
    pub async fn learn(&self, endpoints: &[SocketAddr], services: &[SocketAddr]) {
        self.update(|candidates| candidates.learn(endpoints, services, Instant::now())).await;
        self.kick.notify_one();
    }

    /// The link to a candidate, made if there is none; `None` if the candidate is gone.
    pub fn link_of(&self, id: CandidateId, credentials: &super::credentials::Loaded) -> Option<Arc<Link>> {
        let mut state = self.lock();
        let candidate = state.candidates.get(id)?;
        let endpoint = candidate.endpoint.clone();
        if let Some(link) = state.links.get(&id)
            && link.generation == credentials.generation
        {
            return Some(Arc::clone(link));
        }
        let connector =
            Connector { endpoint: endpoint.clone(), server_name: credentials.server_name.clone(), tls: Arc::clone(&credentials.tls) };
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        let link = Arc::new(Link { id, endpoint, generation: credentials.generation, client, life: watch::Sender::new(Life::InUse) });
        if let Some(before) = state.links.insert(id, Arc::clone(&link)) {
            before.life.send_replace(Life::Left);
        }
        Some(link)
    }

    /// Forgets the connections of a link: its streams end, the next request makes new ones.
    pub fn cut(&self, link: &Arc<Link>) {
        link.life.send_replace(Life::Dead);
        let mut state = self.lock();
        if state.links.get(&link.id).is_some_and(|known| Arc::ptr_eq(known, link)) {
            state.links.remove(&link.id);
        }
    }

    /// Waits until a candidate is in force.
    async fn link_in_force(&self) -> Result<Arc<Link>, BoxError> {
        let mut chosen = self.chosen.subscribe();
        let found = timeout(CANDIDATE_TIMEOUT, chosen.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(link)) => link.clone().ok_or_else(|| "no apiserver".into()),
            _ => Err(format!("no apiserver answers: {}", self.failures()).into()),
        }
    }

    /// Why each candidate failed.
    pub fn failures(&self) -> String {
        let state = self.lock();
        let failures = state.candidates.list().iter().map(|candidate| {
            let why = candidate.last_failure.as_ref().map_or("no answer yet", |(why, _)| why.as_str());
            format!("{}: {why}", candidate.endpoint)
        });
        failures.collect::<Vec<_>>().join("; ")
    }

    async fn send(self: Arc<Self>, request: Request<Body>) -> Result<Response<Streamed>, BoxError> {
        let (mut parts, body) = request.into_parts();
        let is_watch = parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1"));
        let repeatable = parts.method == Method::GET;
        let path = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let mut refused = false;
        let mut failure: BoxError = "not sent".into();
        for _ in 0..ATTEMPTS {
            let credentials = self.credentials.current(refused).await;
            let link = self.link_in_force().await?;
            let Some(link) = self.link_of(link.id, &credentials) else { continue };
            if is_watch {
                rollback::check(&link, &credentials, &path, VERSION_TIMEOUT).await?;
            }
            parts.uri = link.uri(&path)?;
            let Some(body) = body.try_clone() else { return Err("a request's body cannot be sent twice".into()) };
            let request = credentials.sign(Request::from_parts(parts.clone(), body)).await?;
            match link.ask(request, ANSWER_TIMEOUT).await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !refused => refused = true,
                Ok(response) => {
                    if response.status().is_server_error() {
                        self.suspect(link.id).await;
                    }
                    let followed = is_watch && response.status().is_success();
                    let heard = followed.then(|| self.heard.of(parts.uri.path())).flatten();
                    return Ok(response.map(|body| Streamed::new(body, link.life.subscribe(), is_watch, heard)));
                }
                Err(Failure::NoConnection(why)) => {
                    self.cut(&link);
                    failure = why.clone().into();
                    self.update(|candidates| candidates.failed(link.id, why, false, Instant::now())).await;
                }
                Err(Failure::Lost(why)) => {
                    self.suspect(link.id).await;
                    failure = why.into();
                    if !repeatable {
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    /// Asks it at once whether it is ready.
    async fn suspect(&self, id: CandidateId) {
        self.update(|candidates| candidates.suspect(id, Instant::now())).await;
        self.kick.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no answer.
pub enum Failure {
    /// The request was not sent.
    NoConnection(String),
    /// The request may have been sent.
    Lost(String),
}

impl Failure {
    pub fn why(self) -> String {
        match self {
            Failure::NoConnection(why) | Failure::Lost(why) => why,
        }
    }
}

impl Link {
    /// The URL of `path` there.
    pub fn uri(&self, path: &str) -> Result<Uri, http::uri::InvalidUri> {
        format!("{}{}{path}", self.endpoint.authority(), self.endpoint.path).parse()
    }

    /// Sends a request and waits for the headers of the answer, as long as the link lives.
    pub async fn ask(&self, request: Request<Body>, patience: Duration) -> Result<Response<Incoming>, Failure> {
        let mut life = self.life.subscribe();
        tokio::select! {
            biased;
            _ = life.wait_for(|life| *life == Life::Dead) => Err(Failure::Lost(format!("{} is lost", self.endpoint))),
            answer = timeout(patience, self.client.request(request)) => match answer {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(error)) if error.is_connect() => Err(Failure::NoConnection(innermost(&error))),
                Ok(Err(error)) => Err(Failure::Lost(innermost(&error))),
                Err(_) => Err(Failure::Lost(format!("{} does not answer within {patience:?}", self.endpoint))),
            },
        }
    }
}

/// hyper's own words say little; the cause says what happened.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn log_choice(candidates: &Candidates, before: Option<CandidateId>) {
    let name = |id: CandidateId| candidates.get(id).map_or_else(|| "one that is gone".into(), |candidate| candidate.endpoint.to_string());
    match (before.map(name), candidates.in_force().map(name)) {
        (None, Some(now)) => tracing::info!("apiserver {now}"),
        (Some(before), Some(now)) => tracing::info!("apiserver {now} instead of {before}"),
        (before, None) => tracing::error!("no apiserver answers (the last one was {})", before.unwrap_or_default()),
    }
}

/// The service that [`kube::Client`] is built on.
#[derive(Clone)]
pub struct TransportService(pub Arc<Transport>);

impl Service<Request<Body>> for TransportService {
    type Response = Response<Streamed>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Streamed>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Streamed>, BoxError>> {
        Box::pin(Arc::clone(&self.0).send(request))
    }
}
