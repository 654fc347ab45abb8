//! A network namespace and commands in it.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::family::Family;
use super::process::Process;

/// A network namespace by name. Cheap to clone; the lab that made it deletes it. It speaks one [`Family`]: whatever it is told is
/// translated.
#[derive(Clone)]
pub struct Namespace {
    inner: Rc<Inner>,
    family: Family,
}

struct Inner {
    name: String,
    role: String,
    log_dir: PathBuf,
}

impl Namespace {
    pub(super) fn create(name: &str, role: &str, log_dir: &Path) -> Result<Namespace> {
        run(Command::new("ip").args(["netns", "add", name])).context("network namespaces need root and iproute2")?;
        let inner = Inner { name: name.to_owned(), role: role.to_owned(), log_dir: log_dir.to_owned() };
        let namespace = Namespace { inner: Rc::new(inner), family: Family::V4 };
        // Before any device is there that would take them over: no address waits for the detection of duplicates, none is advertised.
        namespace.shell("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_ra=0")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The same namespace, spoken to in this family.
    pub fn speaking(&self, family: Family) -> Namespace {
        Namespace { inner: Rc::clone(&self.inner), family }
    }

    pub fn family(&self) -> Family {
        self.family
    }

    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What it stands for in the topology: `client`, `node1`, a pod's name.
    pub fn role(&self) -> &str {
        &self.inner.role
    }

    /// `ip ARGUMENTS` here; split at white space.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let output = run(self.ip_command().args(self.family.of(arguments).split_whitespace()))?;
        Ok(self.family.named(&output))
    }

    /// `ip` here, of the family that is spoken.
    fn ip_command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["-n", self.name()]);
        if self.family == Family::V6 {
            command.arg("-6");
        }
        command
    }

    /// Several `ip` commands, one a line, in one process.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        self.with_input("ip -batch", self.ip_command().args(["-batch", "-"]), lines)
    }

    /// Loads nftables rules.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.with_input("nft", self.command("nft").args(["-f", "-"]), rules)
    }

    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.exec(&["sysctl", "-qw", &format!("{key}={value}")]).map(drop)
    }

    /// A command that runs here. `nsenter`, not `ip netns exec`: the latter mounts a /sys of its own over cgroups and bpffs.
    /// It dies with the thread that started it, even if that one is killed.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name()));
        command.args(["setpriv", "--pdeathsig", "KILL", program]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs to the end and returns what it printed; an error unless it succeeds.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        Ok(self.family.named(&run(&mut self.translated(words))?))
    }

    /// Runs to the end, whatever the outcome.
    pub fn output(&self, words: &[&str]) -> Result<Output> {
        self.translated(words).output().with_context(|| format!("cannot start {words:?} in {}", self.name()))
    }

    /// `sh -c SCRIPT` here.
    pub fn shell(&self, script: &str) -> Result<String> {
        self.exec(&["sh", "-c", script])
    }

    /// Starts a process that is killed when its handle is dropped. Its standard error goes to `ROLE-LABEL.log`.
    pub fn spawn(&self, label: &str, words: &[&str]) -> Result<Process> {
        Process::start(self.translated(words), &self.log_path(label))
    }

    fn translated(&self, words: &[&str]) -> Command {
        let mut command = self.command(words[0]);
        command.args(words[1..].iter().map(|word| self.family.of(word)));
        command
    }

    /// The body of an HTTP response, by curl with a time-out of 5 s.
    pub fn curl(&self, url: &str) -> Result<String> {
        self.curl_within(url, Duration::from_secs(5))
    }

    pub fn curl_within(&self, url: &str, timeout: Duration) -> Result<String> {
        let seconds = format!("{:.3}", timeout.as_secs_f64());
        self.exec(&["curl", "-sS", "--noproxy", "*", "--max-time", &seconds, url])
    }

    /// MAC address of a device.
    pub fn mac(&self, device: &str) -> Result<[u8; 6]> {
        let text = self.link_field(device, "address")?;
        let bytes: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
        bytes.try_into().ok().with_context(|| format!("{device} of {} has no MAC address: {text}", self.name()))
    }

    pub fn ifindex(&self, device: &str) -> Result<u32> {
        self.link_field(device, "ifindex")?.parse().with_context(|| format!("{device} of {} has no ifindex", self.name()))
    }

    fn link_field(&self, device: &str, field: &str) -> Result<String> {
        let links: serde_json::Value = serde_json::from_str(&self.ip(&format!("-j link show dev {device}"))?)?;
        let value = &links[0][field];
        Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    pub(super) fn log_path(&self, label: &str) -> PathBuf {
        self.inner.log_dir.join(format!("{}-{label}.log", self.role()))
    }

    fn with_input(&self, what: &str, command: &mut Command, input: &str) -> Result<()> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that stops reading says why on standard error.
            let _ = stdin.write_all(self.family.of(input).as_bytes());
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{what} in {}: {}\n{input}", self.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Devices, routes, rules, neighbors and firewall rules into one file.
    pub(super) fn keep_state(&self, dir: &Path) {
        let mut text = String::new();
        for arguments in ["-d -s link", "address", "maddress", "rule", "-6 rule", "route show table all", "neigh"] {
            text += &format!("== ip {arguments}\n{}\n", self.ip(arguments).unwrap_or_else(|error| error.to_string()));
        }
        for words in [&["nft", "list", "ruleset"][..], &["cat", "/proc/net/snmp", "/proc/net/snmp6", "/proc/net/netstat"], &["ss", "-ant"]]
        {
            text += &format!("== {words:?}\n{}\n", self.exec(words).unwrap_or_else(|error| error.to_string()));
        }
        let _ = std::fs::write(dir.join(format!("{}.state", self.role())), text);
    }

    pub(super) fn delete(&self) {
        super::sweep::delete_namespace(self.name());
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Runs to the end; what it printed, or an error with the command and its standard error.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
