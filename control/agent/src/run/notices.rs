//! The workers' notices for the asynchronous control loop: a thread sleeps on the event counter.
//!
//! tokio's `AsyncFd` would do it without a thread, but can only be made by unsafe code, which this crate forbids.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use ringway_io::Notices;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::Notify;

/// How long the thread outlives its owner at most, and so how often it wakes for nothing.
const LINGER: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Ends its thread when dropped.
pub struct NoticeThread {
    heard: Arc<Notify>,
    ended: Arc<AtomicBool>,
}

impl NoticeThread {
    /// # Errors
    /// No thread can be started.
    pub fn start(notices: Notices) -> anyhow::Result<NoticeThread> {
        let thread = NoticeThread { heard: Arc::default(), ended: Arc::default() };
        let (heard, ended) = (Arc::clone(&thread.heard), Arc::clone(&thread.ended));
        let listen = move || {
            while !ended.load(Ordering::Relaxed) {
                let mut fds = [PollFd::from_borrowed_fd(notices.as_fd(), PollFlags::IN)];
                // An interrupted or failed poll is tried again; nothing here can make it fail for ever.
                if poll(&mut fds, Some(&LINGER)).is_ok_and(|ready| ready > 0) {
                    // Cleared before anybody looks, so that no notice falls between.
                    if let Err(error) = notices.clear() {
                        tracing::error!("cannot clear the workers' notices: {error}");
                        return;
                    }
                    heard.notify_one();
                }
            }
        };
        std::thread::Builder::new()
            .name("notices".into())
            .spawn(listen)
            .context("cannot start the thread that hears the workers' notices")?;
        Ok(thread)
    }

    /// Waits for the next notice. Cancel safe: a notice that nobody waited for is kept.
    pub async fn heard(&self) {
        self.heard.notified().await;
    }
}

impl Drop for NoticeThread {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
