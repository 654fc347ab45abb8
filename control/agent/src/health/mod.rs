//! Health for load balancers, kubelet and people: `/healthz`, `/livez`, `/readyz`, and a port for each service that asks for one (contract §3).
//!
//! ```text
//! control loop ── notes ──▶ Board ◀── asks ── thread `health`: /healthz /livez   /metrics /proxyMode   health check ports
//! ```
//!
//! The servers run on a thread of their own: they answer also while the control loop is busy, which is when the answer matters, and what
//! a client does costs neither the control loop nor a worker anything.

mod answers;
pub mod board;
mod ports;
mod ready;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context;
use futures::future::BoxFuture;
use hyper::StatusCode;
use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub use self::board::{Board, HEALTH_TIMEOUT, Observed};
use self::ports::Ports;
pub use self::ports::PortsChange;
use self::ready::Readiness;
pub use self::ready::is_ready;
use crate::config::Config;
use crate::http::{self, Answer};
use crate::metrics::{self, KubeProxyMetrics};

/// Of each of the two servers.
const CONNECTIONS_MAX: usize = 128;

/// The servers' side that the control loop holds.
pub struct Servers {
    pub board: Arc<Board>,
    ports: UnboundedSender<PortsChange>,
}

/// Flags and what they make us listen at.
pub fn addresses(config: &Config) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let healthz = config.healthz.map(|address| ("--healthz-bind-address", address));
    let metrics = config.metrics.map(|address| ("--metrics-bind-address", address));
    healthz.into_iter().chain(metrics)
}

impl Servers {
    /// Listens and answers from now on, until the process ends.
    ///
    /// # Errors
    /// An address cannot be listened at, with the flag that names it.
    pub fn start(config: &Config) -> anyhow::Result<Servers> {
        let board = Arc::new(Board::new(KubeProxyMetrics::new()?));
        let listen = |address: Option<SocketAddr>, flag: &str| address.map(|address| listen(address, flag)).transpose();
        let healthz = listen(config.healthz, "--healthz-bind-address")?;
        let metrics = listen(config.metrics, "--metrics-bind-address")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the health servers")?;
        let (sender, changes) = unbounded_channel();
        let servers = Servers { board: Arc::clone(&board), ports: sender };
        let run = async move {
            if let Some(listener) = healthz {
                tokio::spawn(http::serve(from_std(listener)?, CONNECTIONS_MAX, health_answers(&board)));
            }
            if let Some(listener) = metrics {
                tokio::spawn(http::serve(from_std(listener)?, CONNECTIONS_MAX, metrics_answers(&board)));
            }
            Ports::new(board).follow(changes).await;
            anyhow::Ok(())
        };
        let body = move || {
            if let Err(error) = runtime.block_on(run) {
                tracing::error!("the health servers have ended: {error:#}");
            }
        };
        std::thread::Builder::new().name("health".into()).spawn(body).context("cannot start the thread of the health servers")?;
        Ok(servers)
    }

    /// Tells the ports what has changed.
    pub fn change_ports(&self, change: PortsChange) {
        // The thread ends only with the process, or with an error that was logged.
        let _ = self.ports.send(change);
    }
}

fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    http::bind_to_both(address).with_context(|| format!("cannot listen at {address}: give another {flag}, or stop who listens there"))
}

fn from_std(listener: TcpListener) -> anyhow::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(listener).context("cannot wait for connections")
}

fn health_answers(board: &Arc<Board>) -> impl Fn(String) -> BoxFuture<'static, Answer> + Clone + use<> {
    let (board, readiness) = (Arc::clone(board), Arc::new(Readiness::default()));
    move |path: String| {
        let (board, readiness) = (Arc::clone(&board), Arc::clone(&readiness));
        let counted = |answer: Answer, counters: &prometheus::IntCounterVec| {
            counters.with_label_values(&[answer.status.as_str()]).inc();
            answer
        };
        Box::pin(async move {
            match path.as_str() {
                "/healthz" => counted(answers::healthz(&board.health(), Timestamp::now()), &board.metrics.healthz_total),
                "/livez" => counted(answers::livez(&board.health(), Timestamp::now()), &board.metrics.livez_total),
                "/readyz" => readiness.answer(&board).await,
                _ => Answer::not_found(),
            }
        })
    }
}

fn metrics_answers(board: &Arc<Board>) -> impl Fn(String) -> BoxFuture<'static, Answer> + Clone + use<> {
    let board = Arc::clone(board);
    move |path: String| {
        let board = Arc::clone(&board);
        Box::pin(async move {
            match path.as_str() {
                // On a thread where it keeps no probe waiting.
                "/metrics" => tokio::task::spawn_blocking(move || metrics::scrape(&board))
                    .await
                    .unwrap_or_else(|_| Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the scrape has failed\n")),
                "/healthz" => Answer::text(StatusCode::OK, "ok"),
                "/proxyMode" => Answer::text(StatusCode::OK, "ringway"),
                _ => Answer::not_found(),
            }
        })
    }
}
