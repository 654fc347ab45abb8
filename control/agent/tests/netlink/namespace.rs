//! Network namespaces without names: they exist as long as somebody holds them open, so a test that dies leaves nothing behind.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use ringway_agent::netlink::{Event, Follower, Update};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A new, empty network namespace.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Namespace {
        // The child's namespace is opened here and outlives the child, which ends with its standard input.
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start unshare (util-linux)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "unshare --net failed: these tests need root");
        let file = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        Namespace(file)
    }

    /// Runs a future on a thread that lives in this namespace, with a runtime of its own.
    pub fn run<T: Send>(&self, future: impl AsyncFnOnce() -> T + Send) -> T {
        let work = || {
            self.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(future())
        };
        let result = std::thread::scope(|scope| scope.spawn(work).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip` with these words here, from any thread.
    pub fn ip(&self, words: &str) -> String {
        std::thread::scope(|scope| {
            let work = || {
                self.enter();
                ip(words)
            };
            scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn enter(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter a network namespace");
    }

    /// For `ip link … netns PATH`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs `ip` with these words in the calling thread's namespace; it has to succeed.
pub fn ip(words: &str) -> String {
    command("ip", words)
}

/// Sets `/proc/sys/net/NAME` of the calling thread's namespace.
pub fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

pub fn command(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs many lines of `ip`, going on after those that fail; returns what it said of those.
pub fn ip_batch(lines: &str) -> String {
    batch(&["-force"], lines)
}

/// The same of `ip -6`.
pub fn ip6_batch(lines: &str) -> String {
    batch(&["-6", "-force"], lines)
}

fn batch(options: &[&str], lines: &str) -> String {
    let mut child = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines = lines.to_string();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    String::from_utf8(output.stderr).unwrap()
}

/// A device that is up and has a carrier: one end of a veth pair whose other end, `DEVICE-p`, is up too.
pub fn add_device(device: &str) -> u32 {
    ip(&format!("link add {device} type veth peer name {device}-p"));
    ip(&format!("link set {device} up"));
    ip(&format!("link set {device}-p up"));
    ifindex(device)
}

/// Adds an IPv6 address and waits until the kernel has made a route of it, which it does at some time later.
pub fn add_address6(device: &str, address: ipnet::Ipv6Net) {
    ip(&format!("-6 addr add {address} dev {device} nodad"));
    let route = format!("local {} dev {device} ", address.addr());
    let is_there = || ip("-6 route show table local").contains(&route);
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while !is_there() {
        assert!(std::time::Instant::now() < end, "{address} has no route");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn ifindex(device: &str) -> u32 {
    ip(&format!("-o link show {device}")).split(':').next().unwrap().trim().parse().unwrap()
}

pub fn mac(device: &str) -> [u8; 6] {
    let line = ip(&format!("-o link show {device}"));
    let word = line.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    parse_mac(&word)
}

pub fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A follower and all that it has told so far.
pub struct Known {
    pub follower: Follower,
    pub now: Update,
    /// All events since `take_events`.
    pub events: Vec<Event>,
}

impl Known {
    pub async fn start(config: ringway_agent::netlink::FollowerConfig) -> Known {
        let mut follower = Follower::start(config).await.unwrap();
        let now = follower.changed().await.unwrap();
        let events = now.events.clone();
        Known { follower, now, events }
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Follows until `reached` holds.
    pub async fn until(&mut self, what: &str, reached: impl Fn(&Update) -> bool) {
        let end = tokio::time::Instant::now() + Duration::from_secs(5);
        while !reached(&self.now) {
            let update = tokio::time::timeout_at(end, self.follower.changed()).await;
            let Ok(update) = update else { panic!("not within 5 s: {what}; known: {:#?}", self.now) };
            self.take(update.unwrap());
        }
    }

    /// Follows until nothing changed for half a second.
    pub async fn settle(&mut self) {
        while let Ok(update) = tokio::time::timeout(Duration::from_millis(500), self.follower.changed()).await {
            self.take(update.unwrap());
        }
    }

    fn take(&mut self, update: Update) {
        let now = &mut self.now;
        now.devices = update.devices.or(now.devices.take());
        now.fib = update.fib.or(now.fib.take());
        now.neighbors = update.neighbors.or(now.neighbors.take());
        now.uplinks = update.uplinks.or(now.uplinks.take());
        now.addresses = update.addresses.or(now.addresses.take());
        self.events.extend(update.events);
    }
}
