//! The server in each pod of the lab: `lab-server NAME PORT [SECONDS]`, TCP, UDP and SCTP. With SECONDS it goes on for so long after a SIGTERM.
//!
//! It says who it is and whom it sees, in two languages on one TCP port:
//! - HTTP/1.1: `GET /` → `NAME CLIENT:PORT`; `GET /bulk/BYTES` → that many bytes; `POST /sink` → length and SHA-256 of the body.
//! - anything else: each line is answered by `NAME CLIENT:PORT LINE`.
//!
//! UDP: each datagram is answered by `NAME CLIENT:PORT `, then the datagram. SCTP likewise, over raw sockets. All of it in both families.
#![forbid(unsafe_code)]

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

/// Large enough for every datagram, and a good piece of a bulk transfer.
const CHUNK: usize = 64 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    ringway_tests::raise_open_files()?;
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(port)) = (arguments.next(), arguments.next()) else { bail!("usage: lab-server NAME PORT [SECONDS]") };
    if let Some(seconds) = arguments.next() {
        let delay = Duration::from_secs(seconds.parse().with_context(|| format!("{seconds} is no number of seconds"))?);
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            terminate.recv().await;
            tokio::time::sleep(delay).await;
            std::process::exit(0);
        });
    }
    let port: u16 = port.parse().with_context(|| format!("{port} is no port"))?;
    let name: Arc<str> = name.into();
    // For both families (ipv6(7)): an IPv4 client is ::ffff:a.b.c.d until `canonical` has seen it.
    let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.with_context(|| format!("cannot listen on TCP port {port}"))?;
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await.with_context(|| format!("cannot bind UDP port {port}"))?;
    let sctp_name = Arc::clone(&name);
    std::thread::spawn(move || ringway_tests::sctp::serve(&sctp_name, port));
    println!("ready");
    tokio::spawn(answer_datagrams(udp, Arc::clone(&name)));
    loop {
        let (stream, peer) = tcp.accept().await.context("cannot accept")?;
        let name = Arc::clone(&name);
        // A client that goes away in the middle is its own affair.
        tokio::spawn(async move { answer_connection(stream, peer, &name).await.ok() });
    }
}

fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

async fn answer_datagrams(socket: UdpSocket, name: Arc<str>) {
    let mut datagram = vec![0; CHUNK];
    loop {
        // An ICMP error of an earlier answer appears here: go on.
        let Ok((len, peer)) = socket.recv_from(&mut datagram).await else { continue };
        let mut answer = format!("{name} {} ", canonical(peer)).into_bytes();
        answer.extend_from_slice(&datagram[..len]);
        let _ = socket.send_to(&answer, peer).await;
    }
}

async fn answer_connection(stream: TcpStream, peer: SocketAddr, name: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let peer = canonical(peer);
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let request: Vec<&str> = line.split_whitespace().collect();
        match request[..] {
            [method @ ("GET" | "POST"), path, "HTTP/1.1" | "HTTP/1.0"] => {
                let (method, path) = (method.to_owned(), path.to_owned());
                let headers = read_headers(&mut stream).await?;
                answer_http(&mut stream, &method, &path, headers.length, &format!("{name} {peer}\n")).await?;
                if headers.close {
                    return Ok(());
                }
            }
            _ => stream.write_all(format!("{name} {peer} {line}").as_bytes()).await?,
        }
        line.clear();
    }
    Ok(())
}

/// What matters of a request's headers.
#[derive(Default)]
struct Headers {
    length: u64,
    close: bool,
}

/// Reads up to the empty line.
async fn read_headers(stream: &mut BufReader<TcpStream>) -> Result<Headers> {
    let mut headers = Headers::default();
    let mut header = String::new();
    loop {
        header.clear();
        stream.read_line(&mut header).await?;
        let Some((key, value)) = header.trim_end().split_once(':') else { return Ok(headers) };
        match key.to_ascii_lowercase().as_str() {
            "content-length" => headers.length = value.trim().parse().context("Content-Length is no number")?,
            "connection" => headers.close = value.trim().eq_ignore_ascii_case("close"),
            "expect" => stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?,
            _ => {}
        }
    }
}

async fn answer_http(stream: &mut BufReader<TcpStream>, method: &str, path: &str, length: u64, who: &str) -> Result<()> {
    if let Some(bytes) = path.strip_prefix("/bulk/") {
        let bytes: usize = bytes.parse().context("/bulk/BYTES")?;
        head(stream, "200 OK", bytes).await?;
        let chunk: Vec<u8> = (0..CHUNK).map(|i| (i * 31 + i / 251) as u8).collect();
        let mut left = bytes;
        while left > 0 {
            let now = left.min(CHUNK);
            stream.write_all(&chunk[..now]).await?;
            left -= now;
        }
        return Ok(());
    }
    let body = match (method, path) {
        ("POST", "/sink") => {
            let mut hash = Sha256::new();
            let mut chunk = vec![0; CHUNK];
            let mut left = length;
            while left > 0 {
                let now = stream.read(&mut chunk[..left.min(CHUNK as u64) as usize]).await?;
                if now == 0 {
                    bail!("the body ended {left} bytes early");
                }
                hash.update(&chunk[..now]);
                left -= now as u64;
            }
            let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{length} {hash}\n")
        }
        ("GET", "/") => who.to_owned(),
        _ => {
            head(stream, "404 Not Found", 0).await?;
            return Ok(());
        }
    };
    head(stream, "200 OK", body.len()).await?;
    stream.write_all(body.as_bytes()).await?;
    Ok(())
}

async fn head(stream: &mut BufReader<TcpStream>, status: &str, length: usize) -> Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
    Ok(stream.write_all(head.as_bytes()).await?)
}
