//! What can go wrong when the dataplane starts, each with what was attempted, on what, why, and what to do.

use std::io;

/// Errors of starting the dataplane and of asking devices.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start the dataplane: {0}")]
    Config(String),
    #[error("cannot map {bytes} bytes for the frames of worker {worker}: {source}; lower the ring depths or the number of queues")]
    Memory { worker: usize, bytes: usize, source: io::Error },
    #[error("cannot {attempt} for queue {queue} of {ifname} ({mode}): {source}; {remedy}")]
    Socket { attempt: &'static str, ifname: String, queue: u32, mode: &'static str, source: io::Error, remedy: &'static str },
    #[error(
        "cannot register the XSK of queue {queue} of {ifname} in its XSKMAP at key {key}: {source}; is the map large enough and the device in this network namespace?"
    )]
    Xskmap { ifname: String, queue: u32, key: u32, source: io::Error },
    #[error("cannot start the thread of worker {worker}: {source}")]
    Thread { worker: usize, source: io::Error },
    #[error("cannot create an event counter: {source}; is the limit of open files reached (ulimit -n)?")]
    EventFd { source: io::Error },
    #[error("cannot {attempt} of device {ifname}: {source}")]
    Device { attempt: &'static str, ifname: String, source: io::Error },
}
