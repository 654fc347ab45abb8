//! `/readyz`: ready means that a packet of our own has just come through: from every worker over its queue of the hostlink into the node,
//! and from there back to the same worker. Asked for, tried: there is no timer, and no answer older than a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::verdict::DropReason;
use ringway_io::{Dataplane, WorkerState};
use serde::Serialize;
use tokio::sync::Mutex;

use super::board::Board;
use crate::http::Answer;

/// An echo takes microseconds, a worker that is asleep tells its counters within a round; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_EACH: Duration = Duration::from_millis(2);

/// How long an answer is given again: whoever asks in a loop does not make packets in a loop.
const FRESH: Duration = Duration::from_secs(1);

/// Of the Ethernet protocol for local experiments (IEEE 802.1 0x88b5), with the least length of a frame.
const ECHO_BYTES: usize = 60;

/// The last answer, and the place where the others wait for the next one.
#[derive(Default)]
pub struct Readiness {
    last: Mutex<Option<(Instant, Answer)>>,
}

#[derive(Serialize)]
struct Document<'a> {
    ready: bool,
    /// Why not.
    reasons: &'a [String],
}

impl Readiness {
    pub async fn answer(&self, board: &Board) -> Answer {
        let mut last = self.last.lock().await;
        if let Some((when, answer)) = &*last
            && when.elapsed() < FRESH
        {
            return answer.clone();
        }
        let answer = answer(&reasons(board).await);
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

fn answer(reasons: &[String]) -> Answer {
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // A boolean and strings always serialize.
    Answer::json(status, serde_json::to_string(&Document { ready, reasons }).unwrap_or_default())
}

/// Whether pods may come: services are known, and a packet of ours comes through now.
pub async fn is_ready(board: &Board) -> bool {
    board.health().programmed && reasons(board).await.is_empty()
}

/// Why this node is not ready; empty if it is.
async fn reasons(board: &Board) -> Vec<String> {
    let Some(dataplane) = board.observed().dataplane else { return vec!["the workers have not been started yet".into()] };
    let mut reasons = Vec::new();
    if !board.health().healthy {
        reasons.push("programming is stale: /healthz".into());
    }
    for worker in dataplane.status() {
        match worker.state {
            WorkerState::Running => {}
            WorkerState::Stopped => reasons.push(format!("worker {} has stopped", worker.worker)),
            WorkerState::Failed(reason) => reasons.push(format!("worker {} has failed: {reason}", worker.worker)),
        }
        let failed = worker.sockets.iter().filter_map(|socket| Some((socket, socket.failed.as_ref()?)));
        reasons
            .extend(failed.map(|(socket, reason)| format!("the socket of {} queue {} has failed: {reason}", socket.ifname, socket.queue)));
    }
    if reasons.is_empty() {
        reasons = echoes(&dataplane).await;
    }
    reasons
}

/// Sends an echo by each worker; which did not come back.
async fn echoes(dataplane: &Arc<Dataplane>) -> Vec<String> {
    let counts = || -> Vec<u64> { dataplane.stats().iter().map(|worker| worker.verdicts.drops[DropReason::Echo as usize]).collect() };
    let before = counts();
    let rw1_ifindex = dataplane.publisher().current().node.rw1_ifindex;
    let mut reasons = Vec::new();
    for worker in 0..before.len() {
        if let Err(error) = dataplane.inject_by(worker, &echo(rw1_ifindex, worker)) {
            reasons.push(format!("worker {worker} takes no packet of ours: {error}"));
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let mut missing: Vec<usize> = (0..before.len()).collect();
    while reasons.is_empty() && !missing.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EACH).await;
        let now = counts();
        missing.retain(|worker| now[*worker] == before[*worker]);
    }
    let lost = |worker: usize| {
        format!("a packet of ours by worker {worker} did not come back over rw0 and rw1: does a program of others drop packets there?")
    };
    reasons.extend(missing.into_iter().filter(|_| Instant::now() >= deadline).map(lost));
    reasons
}

/// Queue i of the hostlink is worker i's. There are fewer than 256 of them.
fn echo(rw1_ifindex: u32, worker: usize) -> [u8; ECHO_BYTES] {
    let mut frame = [0; ECHO_BYTES];
    frame[..6].copy_from_slice(&order_mac(Order::Echo, rw1_ifindex));
    (frame[6], frame[11]) = (0x02, worker as u8);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::KubeProxyMetrics;

    #[tokio::test]
    async fn not_ready_before_the_start_and_asked_once_a_second() {
        let board = Board::new(KubeProxyMetrics::new().unwrap());
        let readiness = Readiness::default();
        let first = readiness.answer(&board).await;
        assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(first.body, "{\"ready\":false,\"reasons\":[\"the workers have not been started yet\"]}");
        *readiness.last.lock().await = Some((Instant::now(), Answer::text(StatusCode::OK, "given again")));
        assert_eq!(readiness.answer(&board).await.body, "given again");
    }
}
