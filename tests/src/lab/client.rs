//! Clients: `lab-client` in a namespace.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::family::Family;
use super::namespace::Namespace;
use super::own_program;
use super::process::Process;

/// What a closed loop of requests saw.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Load {
    pub requests: u64,
    pub errors: u64,
    pub seconds: f64,
    /// Answers by the name of the server.
    pub servers: BTreeMap<String, u64>,
    /// Answers by the address that the server saw the client come from.
    pub seen_as: BTreeMap<String, u64>,
    /// The first error, for people.
    pub first_error: Option<String>,
}

/// Requests that are being made.
pub struct RunningLoad {
    process: Process,
    duration: Duration,
    family: Family,
}

/// A connection on which nothing happens.
pub struct Idle {
    process: Process,
}

/// Connections that stay open and exchange a line every now and then.
pub struct Stream {
    process: Process,
}

/// What a [`Stream`] saw.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamReport {
    pub exchanges: u64,
    pub errors: u64,
    /// The longest time between a line and its answer.
    pub longest_gap_ms: f64,
    /// Answers by the name of the server.
    pub servers: BTreeMap<String, u64>,
}

impl Namespace {
    /// Requests one after the other in `concurrency` loops, each over a new connection (or from a new UDP port).
    pub fn load(&self, protocol: &str, target: &str, concurrency: u32, duration: Duration) -> Result<Load> {
        self.client(&["load", protocol, target, &concurrency.to_string(), "--for-ms", &duration.as_millis().to_string()])
    }

    /// The same in the background. The process is named `name` in the lab's folder.
    pub fn start_load(&self, name: &str, protocol: &str, target: &str, concurrency: u32, duration: Duration) -> Result<RunningLoad> {
        let (program, loops, ms) = (own_program("lab-client")?, concurrency.to_string(), duration.as_millis().to_string());
        let process = self.spawn(name, &[&program.to_string_lossy(), "load", protocol, target, &loops, "--for-ms", &ms])?;
        Ok(RunningLoad { process, duration, family: self.family() })
    }

    /// The same until a number of requests is done.
    pub fn requests(&self, protocol: &str, target: &str, concurrency: u32, requests: u32) -> Result<Load> {
        self.client(&["load", protocol, target, &concurrency.to_string(), "--requests", &requests.to_string()])
    }

    /// One UDP datagram and its answer, from `source_port` (0 = any).
    pub fn udp(&self, target: &str, source_port: u16) -> Result<String> {
        self.udp_of_bytes(target, source_port, 4)
    }

    /// The same with so many bytes. As any socket's, it may not be fragmented on its way while the path is not known to be narrower.
    pub fn udp_of_bytes(&self, target: &str, source_port: u16, bytes: usize) -> Result<String> {
        let (program, port, bytes) = (own_program("lab-client")?, source_port.to_string(), bytes.to_string());
        self.exec(&[&program.to_string_lossy(), "udp", target, &port, "--bytes", &bytes]).map(|text| text.trim_end().to_owned())
    }

    /// One line over TCP and its answer (`server client-address line`), from `source_port` (0 = any). From a given port, the connection ends
    /// with a reset, so that the port is free again.
    pub fn line(&self, target: &str, source_port: u16) -> Result<String> {
        let program = own_program("lab-client")?;
        self.exec(&[&program.to_string_lossy(), "line", target, &source_port.to_string()]).map(|text| text.trim_end().to_owned())
    }

    /// Exchanges once and falls silent, over TCP or a connected UDP socket.
    pub fn idle(&self, protocol: &str, target: &str) -> Result<Idle> {
        let program = own_program("lab-client")?;
        let mut process = self.spawn("idle", &[&program.to_string_lossy(), "idle", protocol, target])?;
        let line =
            process.line(Duration::from_secs(5)).with_context(|| format!("lab-client idle {protocol} {target}: {}", process.log_tail()))?;
        ensure!(line == "idle", "lab-client idle says {line}");
        Ok(Idle { process })
    }

    /// Milliseconds until a connect to `target` succeeds (`answer`) or does not (`refuse`), tried every 2 ms, counted from the end of `change`.
    pub fn until(&self, wanted: &str, target: &str, timeout: Duration, change: impl FnOnce() -> Result<()>) -> Result<f64> {
        let program = own_program("lab-client")?;
        let mut watcher = self.spawn("until", &[&program.to_string_lossy(), "until", wanted, target, &timeout.as_millis().to_string()])?;
        let line = watcher.line(Duration::from_secs(5))?;
        ensure!(line == "trying", "lab-client until says {line}");
        change()?;
        let start = Instant::now();
        let line = watcher.line(timeout + Duration::from_secs(1))?;
        ensure!(line == "done", "lab-client until says {line}");
        Ok(start.elapsed().as_secs_f64() * 1000.0)
    }

    /// Sends raw Ethernet frames out of `device`.
    pub fn send_frames(&self, device: &str, frames: &[Vec<u8>]) -> Result<()> {
        let program = own_program("lab-client")?;
        let mut sender = self.spawn("frames", &[&program.to_string_lossy(), "frames", device])?;
        for frame in frames {
            let text: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
            sender.say(&text)?;
        }
        sender.close_stdin();
        let status = sender.wait(Duration::from_secs(10))?;
        ensure!(status.success(), "lab-client frames ended with {status}: {}", sender.log_tail());
        Ok(())
    }

    /// Opens `connections` and keeps them.
    pub fn hold(&self, target: &str, connections: u32) -> Result<Stream> {
        let program = own_program("lab-client")?;
        let mut process = self.spawn("hold", &[&program.to_string_lossy(), "hold", target, &connections.to_string()])?;
        let line = process.line(Duration::from_secs(60))?;
        ensure!(line == "held", "lab-client hold says {line}");
        Ok(Stream { process })
    }

    fn client<T: serde::de::DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let program = own_program("lab-client")?.to_string_lossy().into_owned();
        let mut words = vec![program.as_str()];
        words.extend(arguments);
        let text = self.exec(&words)?;
        serde_json::from_str(&text).with_context(|| format!("lab-client {arguments:?} printed {text}"))
    }
}

impl RunningLoad {
    /// Waits for its end; what it saw.
    pub fn finish(mut self) -> Result<Load> {
        let line = self.family.named(&self.process.line(self.duration + Duration::from_secs(10))?);
        serde_json::from_str(&line).with_context(|| format!("lab-client load printed {line}"))
    }
}

impl Idle {
    /// Waits for its end: `connection reset`, `connection refused`, `closed` or `answered`.
    pub fn ended(&mut self, timeout: Duration) -> Result<String> {
        self.process.line(timeout)
    }
}

impl Stream {
    /// One exchange on every connection; what all of them saw. An answer that takes longer than `patience` is an error.
    pub fn exchange(&mut self, patience: Duration) -> Result<StreamReport> {
        self.process.say(&format!("exchange {}", patience.as_millis()))?;
        self.report(patience + Duration::from_secs(30))
    }

    /// Exchanges on every connection each `interval` from now on, until [`Stream::stop`].
    pub fn run_every(&mut self, interval: Duration) -> Result<()> {
        self.process.say(&format!("every {}", interval.as_millis()))
    }

    /// Ends the exchanges of [`Stream::run_every`]; what they saw.
    pub fn stop(&mut self) -> Result<StreamReport> {
        self.process.say("stop")?;
        self.report(Duration::from_secs(20))
    }

    fn report(&mut self, timeout: Duration) -> Result<StreamReport> {
        let line = self.process.line(timeout)?;
        serde_json::from_str(&line).with_context(|| format!("lab-client hold printed {line}"))
    }
}
