//! Follows links, addresses, routes, rules, neighbors and the bridges' FDB.

use std::time::Duration;

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
            receive_buffer_bytes: 4 << 20,
            quiet: Duration::from_millis(3),
            burst_max: Duration::from_millis(30),
        }
    }
}

/// A task that keeps the tables equal to the kernel's. Dropping it ends the task.
#[derive(Debug)]
pub struct Follower {}

impl Follower {
    /// Subscribes, reads everything once and starts to follow. Needs a tokio runtime with I/O and time; the sockets belong to the
    /// calling thread's network namespace.
    ///
    /// # Errors
    /// A socket cannot be opened or the first dump fails.
    pub async fn start(config: FollowerConfig) -> Result<Follower, NetlinkError> {
        let _ = config;
        unimplemented!()
    }

    /// Waits for the next update; the first, complete one is there at once. Updates that were not fetched are merged, never queued.
    /// Cancel safe: made for `select!`.
    ///
    /// # Errors
    /// The follower gave up (the kernel refuses a dump); it cannot be used any more.
    pub async fn changed(&mut self) -> Result<Update, NetlinkError> {
        unimplemented!()
    }
}
