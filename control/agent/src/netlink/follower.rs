//! Follows links, addresses, routes, rules, neighbors and the bridges' FDB.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rtnetlink::MulticastGroup;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout_at};

use super::kernel::{Changed, Kernel, Stale};
use super::socket::{Heard, Notifications, Requests};
use super::view::View;
use super::{NetlinkError, Update};

/// What to follow, and how patiently.
#[derive(Clone, Debug)]
pub struct FollowerConfig {
    /// Names of the uplinks, in the order of `NodeTables::uplinks`.
    pub uplinks: Vec<String>,
    /// Receive buffer of the notification socket. The kernel drops what does not fit; the follower then reads everything anew.
    pub receive_buffer_bytes: usize,
    /// A burst ends when nothing was heard for this long, ...
    pub quiet: Duration,
    /// ... or when it has lasted this long.
    pub burst_max: Duration,
}

impl Default for FollowerConfig {
    fn default() -> FollowerConfig {
        FollowerConfig {
            uplinks: Vec::new(),
            // A thousand pods that appear at once are about 2 MB of messages.
            receive_buffer_bytes: 8 << 20,
            // Creating a pod's device takes several messages within a millisecond; a change has to act within 100 ms.
            quiet: Duration::from_millis(3),
            burst_max: Duration::from_millis(30),
        }
    }
}

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// A dump that the kernel refuses is attempted again this often before the follower gives up.
const REFRESH_ATTEMPTS: u32 = 5;
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// After reading tables, at least this many times as long is spent otherwise: reading costs at most a fifth of a core, however many
/// routes there are and however often they change.
const REST_FACTOR: u32 = 4;
const REST_MAX: Duration = Duration::from_secs(5);

/// A task that keeps the tables equal to the kernel's. Dropping it ends the task.
#[derive(Debug)]
pub struct Follower {
    views: watch::Receiver<View>,
    task: JoinHandle<NetlinkError>,
    /// What the caller knows.
    last: View,
    first: bool,
}

impl Follower {
    /// Subscribes, reads everything once and starts to follow. Needs a tokio runtime with I/O and time; the sockets belong to the
    /// calling thread's network namespace.
    ///
    /// # Errors
    /// A socket cannot be opened or the first dump fails.
    pub async fn start(config: FollowerConfig) -> Result<Follower, NetlinkError> {
        // Subscribed before the dump, so that nothing falls between them.
        let notifications = Notifications::subscribe(&GROUPS, config.receive_buffer_bytes)?;
        let kernel = Kernel::unread();
        let mut task = Task { config, notifications, requests: Requests::open()?, kernel, view: View::default() };
        task.kernel.refresh(&mut task.requests).await?;
        task.compile();
        let (sender, views) = watch::channel(task.view.clone());
        Ok(Follower { views, task: tokio::spawn(task.run(sender)), last: View::default(), first: true })
    }

    /// Waits for the next update; the first, complete one is there at once. Updates that were not fetched are merged, never queued.
    /// Cancel safe: made for `select!`.
    ///
    /// # Errors
    /// The follower gave up (the kernel refuses a dump); it cannot be used any more.
    pub async fn changed(&mut self) -> Result<Update, NetlinkError> {
        if self.first {
            self.first = false;
        } else if self.views.changed().await.is_err() {
            let error = (&mut self.task).await;
            return Err(error.unwrap_or_else(|error| NetlinkError::new("follow rtnetlink", std::io::Error::other(error))));
        }
        let view = self.views.borrow_and_update().clone();
        let update = view.since(&self.last);
        self.last = view;
        Ok(update)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    config: FollowerConfig,
    notifications: Notifications,
    requests: Requests,
    kernel: Kernel,
    view: View,
}

impl Task {
    /// Runs until the receiver is gone (then it is aborted) or nothing can be read any more.
    async fn run(mut self, sender: watch::Sender<View>) -> NetlinkError {
        loop {
            if let Err(error) = self.hear_burst(&sender).await {
                return error;
            }
            let began = Instant::now();
            let reads = self.kernel.stale != Stale::default();
            if let Err(error) = self.refresh().await {
                return error;
            }
            let rest = if reads { began.elapsed() * REST_FACTOR } else { Duration::ZERO };
            if self.compile() {
                sender.send_replace(self.view.clone());
            }
            if let Err(error) = self.rest(rest.min(REST_MAX), &sender).await {
                return error;
            }
        }
    }

    /// Reads nothing anew for a time.
    async fn rest(&mut self, rest: Duration, sender: &watch::Sender<View>) -> Result<(), NetlinkError> {
        let end = tokio::time::Instant::now() + rest;
        while tokio::time::Instant::now() < end {
            let Ok(heard) = timeout_at(end, self.notifications.next()).await else { break };
            self.take(heard?, sender);
        }
        Ok(())
    }

    async fn hear_burst(&mut self, sender: &watch::Sender<View>) -> Result<(), NetlinkError> {
        // What was heard in the rest is a burst's beginning, too.
        if self.kernel.stale == Stale::default() && self.kernel.changed == Changed::default() {
            let heard = self.notifications.next().await?;
            self.take(heard, sender);
        }
        let end = tokio::time::Instant::now() + self.config.burst_max;
        loop {
            let quiet = tokio::time::Instant::now() + self.config.quiet;
            match timeout_at(quiet.min(end), self.notifications.next()).await {
                Ok(heard) => self.take(heard?, sender),
                Err(_) => return Ok(()),
            }
            if tokio::time::Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// What it says of bonds is passed on at once: until then packets go out of a member that is down.
    fn take(&mut self, heard: Heard, sender: &watch::Sender<View>) {
        match heard {
            Heard::Messages { messages, unknown } => {
                messages.iter().for_each(|message| self.kernel.hear(message));
                // Nexthop objects: the routes that use one change with it.
                self.kernel.stale.routing |= unknown;
            }
            Heard::Lost => {
                tracing::info!("rtnetlink notifications were lost: reading all tables anew");
                self.kernel.stale = Stale::ALL;
            }
        }
        if self.compile_bonds() {
            sender.send_replace(self.view.clone());
        }
    }

    async fn refresh(&mut self) -> Result<(), NetlinkError> {
        for _ in 1..REFRESH_ATTEMPTS {
            let Err(error) = self.kernel.refresh(&mut self.requests).await else { return Ok(()) };
            tracing::warn!(%error, "trying again");
            sleep(REFRESH_PAUSE).await;
        }
        self.kernel.refresh(&mut self.requests).await
    }

    /// Whether they are other than before.
    fn compile_bonds(&mut self) -> bool {
        let before = Arc::clone(&self.view.bonds);
        if std::mem::take(&mut self.kernel.changed.bonds) {
            replace(&mut self.view.bonds, self.kernel.bonds(&self.config.uplinks));
        }
        !Arc::ptr_eq(&self.view.bonds, &before)
    }

    /// Makes those tables anew that changed; whether any did.
    fn compile(&mut self) -> bool {
        let before = self.view.clone();
        self.compile_bonds();
        let changed = std::mem::take(&mut self.kernel.changed);
        if changed.devices {
            replace(&mut self.view.devices, self.kernel.devices(&self.config.uplinks));
            replace(&mut self.view.uplinks, self.kernel.uplinks(&self.config.uplinks));
        }
        if changed.neighbors {
            replace(&mut self.view.neighbors, self.kernel.neighbors());
        }
        if changed.addresses {
            replace(&mut self.view.addresses, self.kernel.addresses());
        }
        if changed.fib {
            self.view.fib = Arc::new(self.kernel.fib());
        }
        !self.view.same(&before)
    }
}

/// Keeps the old value where the new one is equal, so that it is not published again.
fn replace<T: PartialEq>(slot: &mut Arc<T>, value: T) {
    if **slot != value {
        *slot = Arc::new(value);
    }
}
