//! As much of SCTP (RFC 9260) as a client and a server of the lab need, over raw sockets: the kernel needs no module for them, nor does
//! Kubernetes' contract allow a proxy to load one.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

const PROTOCOL: i32 = 132;
const HEADER_BYTES: usize = 12;
const CHUNK_HEADER_BYTES: usize = 4;

/// Types of chunks.
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

/// A packet with one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    source_port: u16,
    destination_port: u16,
    chunk: u8,
    value: Vec<u8>,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let tag = [1, 2, 3, 4];
        let length = (CHUNK_HEADER_BYTES + self.value.len()) as u16;
        let ports = [self.source_port.to_be_bytes(), self.destination_port.to_be_bytes()].concat();
        let mut bytes = [&ports[..], &tag, &[0; 4], &[self.chunk, 0], &length.to_be_bytes(), &self.value].concat();
        let check = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[8..HEADER_BYTES].copy_from_slice(&check);
        bytes
    }

    /// `None` if it is no such packet or its checksum is wrong.
    fn read(packet: &[u8]) -> Option<Packet> {
        let mut bytes = packet.to_vec();
        let check: [u8; 4] = bytes.get(8..HEADER_BYTES)?.try_into().ok()?;
        bytes[8..HEADER_BYTES].fill(0);
        if crc32c::crc32c(&bytes).to_le_bytes() != check {
            return None;
        }
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let value = bytes.get(HEADER_BYTES + CHUNK_HEADER_BYTES..)?.to_vec();
        Some(Packet { source_port: port(0), destination_port: port(2), chunk: bytes[HEADER_BYTES], value })
    }
}

/// A raw socket of one family: it sees all packets of the protocol in its namespace.
struct Raw {
    /// The calls are those of a datagram socket; ports mean nothing.
    socket: UdpSocket,
}

impl Raw {
    /// Of the family of `address`, which may be the unspecified one.
    fn open(address: IpAddr) -> Result<Raw> {
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(PROTOCOL))).context("cannot open a raw socket for SCTP")?;
        Ok(Raw { socket: socket.into() })
    }

    fn send(&self, to: IpAddr, packet: &Packet) -> Result<()> {
        let sent = self.socket.send_to(&packet.bytes(), SocketAddr::new(to, 0));
        sent.map(drop).with_context(|| format!("cannot send to {to}"))
    }

    /// `None` after the time-out of the socket.
    fn receive(&self) -> Result<Option<(IpAddr, Packet)>> {
        let mut bytes = vec![0; 65536];
        let (len, source) = match self.socket.recv_from(&mut bytes) {
            Ok((len, source)) => (len, source.ip()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
            Err(error) => return Err(error).context("cannot receive SCTP"),
        };
        // The header of IPv4 is there, that of IPv6 is not (ipv6(7)).
        let header_bytes = if source.is_ipv4() { usize::from(bytes[0] & 0x0f) * 4 } else { 0 };
        Ok(bytes[..len].get(header_bytes..).and_then(Packet::read).map(|packet| (source, packet)))
    }
}

/// Answers each chunk at `port` by the one that follows it, with `NAME CLIENT:PORT `, then its value; both families, for ever.
///
/// # Errors
/// The socket does not work.
pub fn serve(name: &str, port: u16) -> Result<()> {
    let (v4, v6) = (Raw::open(Ipv4Addr::UNSPECIFIED.into())?, Raw::open(Ipv6Addr::UNSPECIFIED.into())?);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| answer_all(&v6, name, port));
        answer_all(&v4, name, port)?;
        other.join().map_err(|_| anyhow!("a server of SCTP panicked"))?
    })
}

fn answer_all(raw: &Raw, name: &str, port: u16) -> Result<()> {
    loop {
        let Some((client, asked)) = raw.receive()?.filter(|(_, packet)| packet.destination_port == port) else { continue };
        let chunk = match asked.chunk {
            INIT => INIT_ACK,
            COOKIE_ECHO => COOKIE_ACK,
            DATA => DATA,
            _ => continue,
        };
        let peer = SocketAddr::new(client, asked.source_port);
        let value = [format!("{name} {peer} ").as_bytes(), &asked.value].concat();
        // Who is gone needs no answer.
        let _ = raw.send(client, &Packet { source_port: port, destination_port: asked.source_port, chunk, value });
    }
}

/// An association from `source_port`: both halves of its handshake and one message; then it is aborted. Returns the answer to the message.
///
/// # Errors
/// No answer in time, or one that the server did not give.
pub fn ask(target: SocketAddr, source_port: u16, message: &[u8], timeout: Duration) -> Result<String> {
    let raw = Raw::open(target.ip())?;
    let packet = |chunk: u8, value: &[u8]| Packet { source_port, destination_port: target.port(), chunk, value: value.to_vec() };
    let mut answer = Vec::new();
    for (chunk, expected, value) in [(INIT, INIT_ACK, &[0; 16][..]), (COOKIE_ECHO, COOKIE_ACK, b"cookie"), (DATA, DATA, message)] {
        raw.send(target.ip(), &packet(chunk, value))?;
        answer = receive_from(&raw, target, source_port, timeout).with_context(|| format!("no answer from {target} to chunk {chunk}"))?;
        ensure!(answer.first() == Some(&expected), "{target} answers chunk {chunk} by {:?}", answer.first());
        ensure!(answer.ends_with(value), "{target} spoiled chunk {chunk}");
    }
    raw.send(target.ip(), &packet(ABORT, &[]))?;
    Ok(String::from_utf8_lossy(&answer[1..]).into_owned())
}

/// Type and value of the next chunk of the association.
fn receive_from(raw: &Raw, peer: SocketAddr, port: u16, timeout: Duration) -> Result<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("nothing came in {timeout:?}");
        }
        raw.socket.set_read_timeout(Some(left))?;
        if let Some((source, packet)) = raw.receive()?
            && (source, packet.source_port, packet.destination_port) == (peer.ip(), peer.port(), port)
        {
            return Ok([&[packet.chunk], &packet.value[..]].concat());
        }
    }
}
