//! The clients of the lab: closed loops of requests, connections that stay open, single questions, raw frames.
//! They speak the line protocol of `lab-server`.
#![forbid(unsafe_code)]

mod load;

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendmsg, socket};
use serde_json::json;

use self::load::{Asking, Seen, Until};

/// An answer that takes longer counts as an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Of repeated exchanges: a pause is measured there, it is not an error.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wanted {
    Answer,
    Refuse,
}

#[derive(Subcommand)]
enum Command {
    /// Requests in loops, each over a new connection or from a new UDP port.
    Load {
        protocol: Protocol,
        target: SocketAddr,
        loops: u32,
        #[arg(long)]
        for_ms: Option<u64>,
        #[arg(long)]
        requests: Option<u64>,
        /// At most so many requests a second in all, evenly; without it each loop asks again as soon as it is answered.
        #[arg(long)]
        rate: Option<f64>,
        /// Until standard input ends.
        #[arg(long)]
        until_eof: bool,
        /// A TCP connection, or an answer on it, that takes longer counts as an error.
        #[arg(long, default_value_t = ANSWER_TIMEOUT.as_millis() as u64)]
        patience_ms: u64,
    },
    /// One datagram and its answer.
    Udp {
        target: SocketAddr,
        source_port: u16,
        /// Bytes of the datagram.
        #[arg(long, default_value_t = 4)]
        bytes: usize,
    },
    /// One line over TCP and its answer.
    Line { target: SocketAddr, source_port: u16 },
    /// One exchange, then silence until the connection ends.
    Idle { protocol: Protocol, target: SocketAddr },
    /// Ends when a connect succeeds, or does not any more.
    Until { wanted: Wanted, target: SocketAddr, timeout_ms: u64 },
    /// Connections that stay; `exchange MS`, `every MS` and `stop` on standard input.
    Hold { target: SocketAddr, connections: usize },
    /// Sends the frames that stand on standard input in hex, one a line.
    Frames { device: String },
}

fn main() -> Result<()> {
    ringway_tests::raise_open_files()?;
    match Arguments::parse().command {
        Command::Load { protocol, target, loops, for_ms, requests, rate, until_eof, patience_ms } => {
            let asking = Asking { protocol, target, patience: Duration::from_millis(patience_ms) };
            load::run(&asking, loops, rate, &Until { for_ms, requests, eof: until_eof })
        }
        Command::Udp { target, source_port, bytes } => print_line(&ask_udp(target, source_port, bytes)?),
        Command::Line { target, source_port } => print_line(&ask_tcp(target, source_port, ANSWER_TIMEOUT)?),
        Command::Idle { protocol, target } => idle(protocol, target),
        Command::Until { wanted, target, timeout_ms } => until(wanted, target, Duration::from_millis(timeout_ms)),
        Command::Hold { target, connections } => hold(target, connections),
        Command::Frames { device } => send_frames(&device),
    }
}

fn print_line(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}

/// Any address of the family of `target`.
fn unspecified(target: SocketAddr) -> IpAddr {
    if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn ask_udp(target: SocketAddr, source_port: u16, bytes: usize) -> Result<String> {
    let socket = UdpSocket::bind((unspecified(target), source_port)).with_context(|| format!("cannot bind UDP port {source_port}"))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.connect(target)?;
    socket.send(&b"ping".repeat(bytes.div_ceil(4))[..bytes]).with_context(|| format!("cannot send to {target}"))?;
    let mut answer = vec![0; 65536];
    let len = socket.recv(&mut answer).with_context(|| format!("no answer from {target}"))?;
    Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
}

fn ask_sctp(target: SocketAddr) -> Result<String> {
    /// A raw socket has no port of its own.
    static PORT: AtomicU16 = AtomicU16::new(0);
    let port = 1024 | (std::process::id() as u16).wrapping_mul(97).wrapping_add(PORT.fetch_add(1, Relaxed));
    ringway_tests::sctp::ask(target, port, b"ping", ANSWER_TIMEOUT)
}

fn ask_tcp(target: SocketAddr, source_port: u16, patience: Duration) -> Result<String> {
    let mut stream = BufReader::new(connect(target, source_port, patience)?);
    exchange(&mut stream, "ping").with_context(|| format!("no answer from {target}"))
}

fn connect(target: SocketAddr, source_port: u16, patience: Duration) -> Result<TcpStream> {
    let stream = if source_port == 0 {
        TcpStream::connect_timeout(&target, patience).with_context(|| format!("cannot connect to {target}"))?
    } else {
        connect_from(source_port, target)?
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// From a given port, which is free again as soon as the connection is closed: by a reset.
fn connect_from(source_port: u16, target: SocketAddr) -> Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = if target.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_zero_linger()?;
        socket.bind((unspecified(target), source_port).into()).with_context(|| format!("cannot bind TCP port {source_port}"))?;
        let connecting = tokio::time::timeout(ANSWER_TIMEOUT, socket.connect(target)).await;
        let stream = connecting.with_context(|| format!("cannot connect to {target} in {ANSWER_TIMEOUT:?}"))?;
        let stream = stream.with_context(|| format!("cannot connect to {target} from port {source_port}"))?.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    })
}

fn exchange(stream: &mut BufReader<TcpStream>, line: &str) -> Result<String> {
    stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    let answer = answer.trim_end();
    if !answer.ends_with(line) {
        bail!("the connection ended, or answers something else: {answer:?}");
    }
    Ok(answer.to_owned())
}

/// Says `idle` when the answer has come, then how the wait for more ended.
fn idle(protocol: Protocol, target: SocketAddr) -> Result<()> {
    let ended = match protocol {
        Protocol::Tcp => {
            let mut stream = BufReader::new(connect(target, 0, ANSWER_TIMEOUT)?);
            exchange(&mut stream, "ping").with_context(|| format!("no answer from {target}"))?;
            stream.get_ref().set_read_timeout(None)?;
            print_line("idle")?;
            stream.read_line(&mut String::new())
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind((unspecified(target), 0))?;
            socket.connect(target)?;
            socket.send(b"ping")?;
            socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            socket.recv(&mut [0; 65536]).with_context(|| format!("no answer from {target}"))?;
            socket.set_read_timeout(None)?;
            print_line("idle")?;
            socket.recv(&mut [0; 65536])
        }
        Protocol::Sctp => bail!("an SCTP socket without a module knows nothing of connections"),
    };
    match ended {
        Ok(0) => print_line("closed"),
        Ok(_) => print_line("answered"),
        Err(error) => print_line(&error.kind().to_string()),
    }
}

fn until(wanted: Wanted, target: SocketAddr, timeout: Duration) -> Result<()> {
    // A lab answers in well under a millisecond: short, so that a SYN that fell into a gap does not hide the end of it.
    let patience = match wanted {
        Wanted::Answer => Duration::from_millis(10),
        Wanted::Refuse => Duration::from_millis(50),
    };
    print_line("trying")?;
    let start = Instant::now();
    loop {
        let connected = TcpStream::connect_timeout(&target, patience).is_ok();
        if connected == matches!(wanted, Wanted::Answer) {
            return print_line("done");
        }
        if start.elapsed() > timeout {
            bail!("{target} {} after {timeout:?}", if connected { "still answers" } else { "does not answer" });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn hold(target: SocketAddr, connections: usize) -> Result<()> {
    let mut streams = Vec::with_capacity(connections);
    for number in 0..connections {
        let stream = connect(target, 0, ANSWER_TIMEOUT).with_context(|| format!("connection {number}"))?;
        streams.push(BufReader::new(stream));
    }
    // Each has crossed once in both directions: established for everyone on the way.
    for (number, stream) in streams.iter_mut().enumerate() {
        exchange(stream, "first").with_context(|| format!("connection {number}"))?;
    }
    print_line("held")?;
    let (sender, commands) = channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut every: Option<Duration> = None;
    let mut round = Round::default();
    loop {
        let command = match every {
            Some(interval) => commands.recv_timeout(interval),
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let command = match command {
            Ok(command) => command,
            Err(RecvTimeoutError::Timeout) => {
                round.exchange_all(&mut streams, LONGEST_PAUSE);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let (verb, ms) = command.split_once(' ').unwrap_or((&command, "0"));
        let ms = Duration::from_millis(ms.parse().with_context(|| format!("no number: {command}"))?);
        match verb {
            "exchange" => {
                round.exchange_all(&mut streams, ms);
                std::mem::take(&mut round).print()?;
            }
            "every" => every = Some(ms),
            "stop" => {
                every = None;
                std::mem::take(&mut round).print()?;
            }
            _ => bail!("no such command: {command}"),
        }
    }
}

/// Exchanges on held connections since the last report.
#[derive(Default)]
struct Round {
    seen: Seen,
    longest_gap: Duration,
}

impl Round {
    fn exchange_all(&mut self, streams: &mut [BufReader<TcpStream>], patience: Duration) {
        for stream in streams {
            let start = Instant::now();
            // Without a time-out the read would only take longer.
            let _ = stream.get_ref().set_read_timeout(Some(patience));
            self.seen.note(exchange(stream, "again"));
            self.longest_gap = self.longest_gap.max(start.elapsed());
        }
    }

    fn print(self) -> Result<()> {
        print_line(
            &json!({"exchanges": self.seen.requests, "errors": self.seen.errors, "first_error": self.seen.example(),
                "longest_gap_ms": self.longest_gap.as_secs_f64() * 1000.0, "servers": self.seen.servers})
            .to_string(),
        )
    }
}

fn send_frames(device: &str) -> Result<()> {
    let link = nix::ifaddrs::getifaddrs()?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .with_context(|| format!("there is no device {device} here"))?;
    let socket = Arc::new(
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll).context("packet sockets need root")?,
    );
    for line in std::io::stdin().lines() {
        let line = line?;
        let frame: Vec<u8> = (0..line.len() / 2)
            .map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).with_context(|| format!("no hex: {line}")))
            .collect::<Result<_>>()?;
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(&frame)], &[], MsgFlags::empty(), Some(&link))
            .with_context(|| format!("cannot send {} bytes out of {device}", frame.len()))?;
    }
    Ok(())
}
