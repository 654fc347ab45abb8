//! The `ringway` process of node1.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::family::Family;
use super::manifests::{Service, node_yaml};
use super::namespace::Namespace;
use super::process::Process;
use super::topology::{Net, address};
use super::{Lab, release_program, wait_for};

/// From start to serving; a debug build on a busy machine needs most of it.
const READY_TIMEOUT: Duration = Duration::from_secs(15);

/// Command line of `ringway run`, as far as tests vary it.
#[derive(Clone, Debug)]
pub struct RingwayOptions {
    pub workers: u32,
    /// `edge` or `direct`.
    pub pod_delivery: &'static str,
    /// `auto`, `zero-copy`, `copy` or `generic`.
    pub mode: &'static str,
    pub announce: bool,
    /// Where objects come from, instead of the folder of manifests.
    pub sources: Vec<String>,
    /// Further arguments.
    pub more: Vec<String>,
    /// A command that runs the program: its words before the program's. It must not fork.
    pub under: Vec<String>,
}

impl Default for RingwayOptions {
    fn default() -> RingwayOptions {
        RingwayOptions {
            workers: 2,
            pod_delivery: "edge",
            mode: "auto",
            announce: true,
            sources: Vec::new(),
            more: Vec::new(),
            under: Vec::new(),
        }
    }
}

impl RingwayOptions {
    /// `--pod-delivery direct`.
    pub fn direct() -> RingwayOptions {
        RingwayOptions { pod_delivery: "direct", ..RingwayOptions::default() }
    }

    /// Runs the program by this command.
    pub fn under(mut self, words: &[&str]) -> RingwayOptions {
        self.under = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub fn with(mut self, arguments: &[&str]) -> RingwayOptions {
        self.more.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }
}

/// Shared between the test and its lab, which asks the process for its tables before it dies. `None` until it was started.
pub(super) type SharedProcess = Rc<RefCell<Option<Process>>>;

/// A running `ringway` on node1; it can be killed and started again.
pub struct Ringway {
    node: Namespace,
    program: PathBuf,
    under: Vec<String>,
    arguments: Vec<String>,
    manifests: PathBuf,
    state_dir: PathBuf,
    process: SharedProcess,
}

impl Ringway {
    /// Starts on node1 of a topology with these services and waits until it is ready.
    pub fn start(net: &Net, options: &RingwayOptions, services: &[Service]) -> Result<Ringway> {
        let ringway = Ringway::prepare(net, options, services)?;
        ringway.start_again()?;
        Ok(ringway)
    }

    /// The same, but not started.
    pub fn prepare(net: &Net, options: &RingwayOptions, services: &[Service]) -> Result<Ringway> {
        let nodes = [("node2", net.node2_address, "10.244.2.0/24"), ("node3", "10.0.0.13", "10.244.3.0/24")];
        Ringway::prepare_with(&net.lab, &net.node1, &net.uplinks, &nodes, &[Family::V4, Family::V6], options, services)
    }

    /// For a node of any other network, of IPv4 alone: it is `node1`, 10.0.0.11, with pods in 10.244.1.0/24. `others` are further nodes
    /// by name, address and pod CIDR.
    pub fn prepare_on(
        lab: &Lab,
        node: &Namespace,
        uplinks: &[&str],
        others: &[(&str, &str, &str)],
        options: &RingwayOptions,
        services: &[Service],
    ) -> Result<Ringway> {
        Ringway::prepare_with(lab, node, uplinks, others, &[Family::V4], options, services)
    }

    fn prepare_with(
        lab: &Lab,
        node: &Namespace,
        uplinks: &[&str],
        others: &[(&str, &str, &str)],
        families: &[Family],
        options: &RingwayOptions,
        services: &[Service],
    ) -> Result<Ringway> {
        let manifests = lab.state_dir().join("manifests");
        let state_dir = lab.state_dir().join("ringway");
        std::fs::create_dir_all(&manifests)?;
        let this = ("node1", address::NODE1, "10.244.1.0/24");
        let yaml = |(name, address, cidr): &(&str, &str, &str)| node_yaml(name, address, cidr, families);
        let nodes: Vec<String> = [&[this], others].concat().iter().map(yaml).collect();
        std::fs::write(manifests.join("nodes.yaml"), nodes.join("---\n"))?;
        let mut arguments: Vec<String> = uplinks.iter().flat_map(|uplink| ["--uplink".to_owned(), (*uplink).to_owned()]).collect();
        arguments.extend(["--node-name", "node1", "--mode", options.mode, "--pod-delivery", options.pod_delivery].map(str::to_owned));
        arguments.extend(["--workers".to_owned(), options.workers.to_string()]);
        if options.sources.is_empty() {
            arguments.extend(["--manifests".to_owned(), manifests.to_string_lossy().into_owned()]);
        }
        arguments.extend(options.sources.iter().cloned());
        arguments.extend(["--state-dir".to_owned(), state_dir.to_string_lossy().into_owned()]);
        if options.announce {
            arguments.push("--announce".to_owned());
        }
        arguments.extend(options.more.iter().cloned());
        let ringway = Ringway {
            node: node.clone(),
            program: program()?,
            under: options.under.clone(),
            arguments,
            manifests,
            state_dir,
            process: lab.adopt_ringway(node),
        };
        ringway.publish(services)?;
        Ok(ringway)
    }

    /// Starts the process, again if it ran before, and waits until it is ready.
    pub fn start_again(&self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts the process and does not wait.
    pub fn launch(&self) -> Result<()> {
        let mut words = self.under.clone();
        words.extend([self.program.to_string_lossy().into_owned(), "run".to_owned()]);
        words.extend(self.arguments.iter().cloned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        *self.process.borrow_mut() = Some(self.node.spawn("ringway", &words)?);
        Ok(())
    }

    pub fn wait_ready(&self) -> Result<()> {
        wait_for("ringway ready", READY_TIMEOUT, || {
            let mut process = self.process.borrow_mut();
            let process = process.as_mut().context("ringway was not started")?;
            if !process.is_running() {
                // No use in waiting on: say why at once.
                panic!("ringway ended; its log: {}", process.log_tail());
            }
            let status = self.status()?;
            ensure!(status["ready"] == Value::Bool(true), "status: {status}");
            Ok(())
        })
    }

    /// Replaces the services by these. Acts as soon as the file is there; wait for the effect.
    pub fn publish(&self, services: &[Service]) -> Result<()> {
        let documents: Vec<String> = services.iter().map(|service| service.yaml_speaking(self.node.family())).collect();
        self.put_manifest("services.yaml", &documents.join("---\n"))
    }

    /// Puts a file into the folder of manifests in one step, in the family that the node speaks.
    pub fn write_manifest(&self, name: &str, text: &str) -> Result<()> {
        self.put_manifest(name, &self.node.family().of(text))
    }

    fn put_manifest(&self, name: &str, text: &str) -> Result<()> {
        let temporary = self.manifests.join(format!(".{name}.new"));
        std::fs::write(&temporary, text).with_context(|| format!("cannot write {}", temporary.display()))?;
        std::fs::rename(&temporary, self.manifests.join(name)).with_context(|| format!("cannot put {name} in place"))
    }

    pub fn remove_manifest(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.manifests.join(name)).with_context(|| format!("cannot remove {name}"))
    }

    /// `ringway COMMAND -o json`.
    pub fn ask(&self, command: &str) -> Result<Value> {
        ask(&self.program, &self.node, &self.state_dir, command)
    }

    pub fn status(&self) -> Result<Value> {
        self.ask("status")
    }

    /// `ringway ARGUMENTS --state-dir …` as a person would run it.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        let (program, state_dir) = (self.program.to_string_lossy(), self.state_dir.to_string_lossy());
        let mut words: Vec<&str> = self.under.iter().map(String::as_str).chain([&*program]).collect();
        words.extend(arguments);
        words.extend(["--state-dir", &*state_dir]);
        self.node.output(&words)
    }

    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// SIGKILL: what it attached stays.
    pub fn kill(&self) {
        if let Some(process) = self.process.borrow_mut().as_mut() {
            process.kill();
        }
    }

    /// SIGTERM, and an error unless it ends well.
    pub fn terminate(&self) -> Result<()> {
        let mut process = self.process.borrow_mut();
        let process = process.as_mut().context("ringway was not started")?;
        process.signal("TERM")?;
        let status = process.wait(Duration::from_secs(10))?;
        ensure!(status.success(), "ringway ended with {status}; its log: {}", process.log_tail());
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.process.borrow_mut().as_mut().is_some_and(Process::is_running)
    }

    /// CPU time of all its threads.
    pub fn cpu_ns(&self) -> Result<u64> {
        self.process.borrow().as_ref().context("ringway was not started")?.cpu_ns()
    }

    /// Resident memory (`VmRSS`), in KiB.
    pub fn memory_kib(&self) -> Result<u64> {
        self.process.borrow().as_ref().context("ringway was not started")?.memory_kib()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.node.log_path("ringway")).unwrap_or_default()
    }
}

impl Lab {
    /// A place for the process that the lab asks for its tables when the test fails.
    fn adopt_ringway(&self, node: &Namespace) -> SharedProcess {
        let process = Rc::new(RefCell::new(None));
        self.ringways.borrow_mut().push((node.clone(), self.state_dir().join("ringway"), Rc::clone(&process)));
        process
    }
}

/// `target/release/ringway`, or what `RINGWAY_BIN` names.
pub(super) fn program() -> Result<PathBuf> {
    match std::env::var_os("RINGWAY_BIN") {
        Some(path) => Ok(PathBuf::from(path)),
        None => release_program("ringway", "make build"),
    }
}

fn ask(program: &Path, node: &Namespace, state_dir: &Path, command: &str) -> Result<Value> {
    let text = node.exec(&[&program.to_string_lossy(), command, "-o", "json", "--state-dir", &state_dir.to_string_lossy()])?;
    match serde_json::from_str(&text) {
        Ok(value) => Ok(value),
        Err(error) => bail!("ringway {command} -o json printed no JSON ({error}): {text}"),
    }
}

/// Status, stats, flows and the rest as JSON files.
pub(super) fn keep_tables(node: &Namespace, state_dir: &Path, dir: &Path) {
    let Ok(program) = program() else { return };
    for command in ["status", "services", "backends", "flows", "neighbors", "stats"] {
        let text = match ask(&program, node, state_dir, command) {
            Ok(value) => format!("{value:#}"),
            Err(error) => format!("{error:#}"),
        };
        let _ = std::fs::write(dir.join(format!("ringway-{command}.json")), text);
    }
}
