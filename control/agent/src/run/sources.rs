//! Everything that the control loop waits for.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::packets::Packets;
use crate::apiserver::Source;
use crate::health::Board;
use crate::manifests::Watch;
use crate::netlink::{Follower, REFRESH_INTERVAL, Update};
use crate::status::server::{self, Question};

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The kernel's tables changed.
    Kernel(Update),
    /// The folder of manifests may have changed.
    Manifests,
    /// Objects of the apiserver have changed.
    Apiserver,
    /// Workers want neighbors, or one has failed.
    Workers,
    Question(Question),
    /// What is wrong with health check ports has changed.
    Ports,
    /// Time to keep neighbors fresh and to look after the node.
    Refresh,
}

/// SIGTERM and SIGINT.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on they do not end the process by themselves.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> anyhow::Result<StopSignals> {
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?,
        })
    }

    /// Waits for one and returns its name.
    pub async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

pub struct Sources {
    follower: Follower,
    manifests: Arc<Notify>,
    apiserver: Option<Arc<Source>>,
    questions: mpsc::Receiver<Question>,
    board: Arc<Board>,
    refresh: Interval,
}

impl Sources {
    /// # Errors
    /// The socket cannot be listened to.
    pub fn new(
        state_dir: &Path,
        follower: Follower,
        watch: Option<Watch>,
        apiserver: Option<Arc<Source>>,
        board: Arc<Board>,
    ) -> anyhow::Result<Sources> {
        let mut refresh = interval(REFRESH_INTERVAL);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Sources { follower, manifests: notified_by(watch), apiserver, questions: server::listen(state_dir)?, board, refresh })
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// The kernel's tables cannot be followed any more.
    pub async fn next(&mut self, packets: &Packets) -> anyhow::Result<Event> {
        tokio::select! {
            () = packets.notices.heard() => Ok(Event::Workers),
            update = self.follower.changed() => Ok(Event::Kernel(update.context("cannot follow the kernel's tables any more")?)),
            () = self.manifests.notified() => Ok(Event::Manifests),
            () = changed(self.apiserver.as_deref()) => Ok(Event::Apiserver),
            Some(question) = self.questions.recv() => Ok(Event::Question(question)),
            () = self.board.problems_changed() => Ok(Event::Ports),
            _ = self.refresh.tick() => Ok(Event::Refresh),
        }
    }
}

async fn changed(apiserver: Option<&Source>) {
    match apiserver {
        Some(source) => source.changed().await,
        None => std::future::pending().await,
    }
}

/// A burst of notifications must not be cut by other events, so it is joined in a task of its own.
fn notified_by(watch: Option<Watch>) -> Arc<Notify> {
    let notify = Arc::new(Notify::new());
    let Some(mut watch) = watch else { return notify };
    let changed = Arc::clone(&notify);
    tokio::spawn(async move {
        loop {
            watch.changed().await;
            changed.notify_one();
        }
    });
    notify
}
