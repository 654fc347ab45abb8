//! Network namespaces that live as long as a thread, so that nothing can be left behind.

use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

/// Runs a test on a thread with a network namespace of its own, which vanishes with the thread.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn unshare() {
    // SAFETY: concerns this thread only.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare: {}", std::io::Error::last_os_error());
}

/// ip(8), which inherits the thread's namespace.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a command in the thread's namespace and returns its output.
pub fn run(command: &str, arguments: &str) -> String {
    let output = Command::new(command).args(arguments.split(' ')).output().expect("the command");
    assert!(output.status.success(), "{command} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

type Work = Box<dyn FnOnce() + Send>;

/// A second namespace, in which a thread of its own works. Sockets made there stay there.
pub struct Namespace {
    /// For `ip link set … netns`.
    pub tid: i32,
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub fn new() -> Namespace {
        let (work, queue) = channel::<Work>();
        let (ready, tid) = channel();
        let thread = thread::spawn(move || {
            unshare();
            // SAFETY: no arguments.
            ready.send(unsafe { libc::gettid() }).expect("the test");
            queue.into_iter().for_each(|work| work());
        });
        Namespace { tid: tid.recv().expect("the thread"), work: Some(work), thread: Some(thread) }
    }

    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (result, done) = channel();
        let work: Work = Box::new(move || {
            // The test may have given up.
            let _ = result.send(work());
        });
        self.work.as_ref().expect("alive").send(work).expect("the thread");
        done.recv().expect("the work")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
