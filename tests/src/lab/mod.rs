//! A lab: namespaces, processes and captures with one life.
//!
//! Everything in a lab carries its prefix `rwl-PID-N`, so two labs never meet, and what a killed process left behind can be
//! told from what is alive ([`sweep_leftovers`]).

mod capture;
mod client;
mod family;
mod manifests;
mod namespace;
mod process;
mod ringway;
mod servers;
mod sweep;
mod topology;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use capture::{Capture, Frame};
pub use client::{Idle, Load, RunningLoad, Stream, StreamReport};
pub use family::Family;
pub use manifests::{Endpoint, Service};
pub use namespace::Namespace;
pub use process::Process;
pub use ringway::{Ringway, RingwayOptions};
pub use sweep::sweep_leftovers;
pub use topology::{Net, Pod, PodLink, SERVER_PORT, Topology, address};

/// First part of every namespace's name; the process id and a counter follow.
pub(crate) const PREFIX: &str = "rwl-";

/// Where temporary state lives: on a tmpfs, short enough for unix sockets.
pub(crate) const STATE_ROOT: &str = "/run/ringway-lab";

/// Labs share two cores: those of one process run one after the other, whatever the number of test threads.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Owns what a test makes; dropping it kills the processes and deletes the namespaces.
pub struct Lab {
    name: String,
    prefix: String,
    state_dir: PathBuf,
    artifact_dir: PathBuf,
    namespaces: RefCell<Vec<Namespace>>,
    captures: RefCell<Vec<Capture>>,
    /// Processes that live as long as the lab.
    processes: RefCell<Vec<Process>>,
    /// `ringway` processes with their node and state directory: asked for their tables when the test fails.
    ringways: RefCell<Vec<(Namespace, PathBuf, ringway::SharedProcess)>>,
}

/// Runs a test in a lab of its own. Whether it fails by `Err` or by panic, captures, logs and the tables of `ringway` stay in
/// `target/lab/NAME`; otherwise nothing stays.
pub fn run(name: &str, test: impl FnOnce(&Rc<Lab>) -> Result<()>) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Rc::new(Lab::new(name)?);
    let outcome = catch_unwind(AssertUnwindSafe(|| test(&lab)));
    if matches!(outcome, Ok(Ok(()))) {
        let _ = std::fs::remove_dir_all(&lab.artifact_dir);
        return Ok(());
    }
    lab.keep_evidence();
    let kept = format!("kept in {}", lab.artifact_dir.display());
    match outcome {
        Ok(result) => result.context(kept),
        Err(panic) => {
            eprintln!("{kept}");
            resume_unwind(panic)
        }
    }
}

impl Lab {
    /// An empty lab. Deletes what dead processes left behind first.
    pub fn new(name: &str) -> Result<Lab> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep_leftovers()?;
        let prefix = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let state_dir = Path::new(STATE_ROOT).join(&prefix);
        let artifact_dir = target_dir()?.join("lab").join(name);
        if artifact_dir.exists() {
            std::fs::remove_dir_all(&artifact_dir)
                .with_context(|| format!("cannot remove {} of an earlier run", artifact_dir.display()))?;
        }
        for dir in [&state_dir, &artifact_dir] {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}: the lab needs root", dir.display()))?;
        }
        Ok(Lab {
            name: name.to_owned(),
            prefix,
            state_dir,
            artifact_dir,
            namespaces: RefCell::default(),
            captures: RefCell::default(),
            processes: RefCell::default(),
            ringways: RefCell::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory of this lab alone, deleted with it.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Logs and captures; kept if the test fails.
    pub fn artifact_dir(&self) -> &Path {
        &self.artifact_dir
    }

    /// Creates a network namespace with its loopback up.
    pub fn namespace(&self, role: &str) -> Result<Namespace> {
        let namespace = Namespace::create(&format!("{}-{role}", self.prefix), role, &self.artifact_dir)?;
        self.namespaces.borrow_mut().push(namespace.clone());
        Ok(namespace)
    }

    /// Writes the frames of `device` (or `any`) to a pcap that is kept if the test fails.
    pub fn capture(&self, namespace: &Namespace, device: &str) -> Result<()> {
        let capture = Capture::start(namespace, device, "", &self.artifact_dir)?;
        self.captures.borrow_mut().push(capture);
        Ok(())
    }

    /// Keeps a process until the lab ends.
    pub fn adopt(&self, process: Process) {
        self.processes.borrow_mut().push(process);
    }

    fn keep_evidence(&self) {
        for (node, state_dir, _) in self.ringways.borrow().iter() {
            ringway::keep_tables(node, state_dir, &self.artifact_dir);
        }
        for namespace in self.namespaces.borrow().iter() {
            namespace.keep_state(&self.artifact_dir);
        }
        for capture in self.captures.borrow_mut().iter_mut() {
            capture.stop();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.captures.borrow_mut().clear();
        for (_, _, process) in self.ringways.borrow_mut().drain(..) {
            process.borrow_mut().take();
        }
        self.processes.borrow_mut().clear();
        for namespace in self.namespaces.borrow_mut().drain(..) {
            namespace.delete();
        }
        sweep::remove_state(&self.state_dir);
    }
}

/// Asks `probe` every 5 ms until it answers, at most `timeout`; the last error says what was missing.
pub fn wait_for<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() > timeout => {
                return Err(error).with_context(|| format!("{what}: not within {timeout:?}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The program `name` of this package, beside the running test, demo or measurement.
pub(crate) fn own_program(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot find the running program")?;
    let found = here.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!("there is no {name} beside {}: cargo build -p ringway-tests --bins", here.display()),
    }
}

/// A program of the release build, by its path below `target/release`; `remedy` builds it. `RINGWAY_BUILD=debug` takes the debug
/// build's, which is quicker to build while one works and proves nothing about speed.
pub fn release_program(path: &str, remedy: &str) -> Result<PathBuf> {
    let build = std::env::var("RINGWAY_BUILD").unwrap_or_else(|_| "release".into());
    let path = target_dir()?.join(build).join(path);
    ensure!(path.is_file(), "{} is missing: {remedy}", path.display());
    Ok(path)
}

/// Cargo's target directory, from where the running program lies.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot find the running program")?;
    match here.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()) {
        Some(dir) => Ok(dir.to_owned()),
        None => bail!("{} does not lie in a cargo target directory", here.display()),
    }
}
