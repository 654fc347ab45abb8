//! A small HTTP/1.1 server for probes and scrapes. One request a connection, so that a port that is closed is closed for everybody.
//!
//! Whoever is slow, silent or talks nonsense holds a place for seconds at most, and loses it at once to a newcomer when all are taken:
//! a flood of idle connections does not keep a probe waiting.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// For the head of a request: probes and scrapers send it at once.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// For a connection from its first to its last byte. Prometheus' own default for a scrape is 10 s.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a request's head and of what is read ahead; hyper's least is 8 KiB.
const BUFFER_BYTES: usize = 16 * 1024;

/// Pause when no connection can be accepted: out of descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens at an address, without waiting in calls. What is bound to all IPv6 addresses takes no IPv4: that port may be another's.
///
/// # Errors
/// The kernel refuses: the port is taken, the address is not here, or the node has no such family (`EAFNOSUPPORT`).
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    bind_socket(address, true)
}

/// Likewise, but the unspecified address of either family stands for all addresses of both, as it does for kube-proxy and for every
/// other program in Go.
///
/// # Errors
/// See [`bind`].
pub fn bind_to_both(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    if !address.ip().is_unspecified() {
        return bind_socket(address, true);
    }
    let all = |ip: IpAddr| SocketAddr::new(ip, address.port());
    match bind_socket(all(Ipv6Addr::UNSPECIFIED.into()), false) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => bind_socket(all(Ipv4Addr::UNSPECIFIED.into()), true),
        bound => bound,
    }
}

fn bind_socket(address: SocketAddr, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // After a restart, connections of before may still be closing.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    /// One further header, if any: its name in lower case and its value.
    pub header: Option<(&'static str, String)>,
    pub body: String,
}

impl Answer {
    /// Plain text for people.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", header: None, body: body.into() }
    }

    pub fn json(status: StatusCode, body: String) -> Answer {
        Answer { status, content_type: "application/json", header: None, body }
    }

    pub fn not_found() -> Answer {
        Answer::text(StatusCode::NOT_FOUND, "not found\n")
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.insert(HeaderName::from_static(name), value);
        }
        response
    }
}

/// Serves until the task is aborted. `answer` is given the path of each request.
pub async fn serve<F, A>(listener: TcpListener, connections_max: usize, answer: F)
where
    F: Fn(String) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= connections_max
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tokio::spawn(serve_one(stream, answer.clone())).abort_handle());
    }
}

async fn serve_one<F, A>(stream: TcpStream, answer: F)
where
    F: Fn(String) -> A + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.uri().path().to_owned());
        async { Ok::<_, Infallible>(answer.await.into_response()) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).keep_alive(false).max_buf_size(BUFFER_BYTES);
    // What goes wrong with one client is that client's affair.
    let _ = timeout(CONNECTION_PATIENCE, server.serve_connection(TokioIo::new(stream), service)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn started(connections_max: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = |path: String| async move {
            Answer { header: Some(("x-path", path.clone())), ..Answer::text(StatusCode::OK, format!("you asked for {path}")) }
        };
        tokio::spawn(serve(listener, connections_max, answer));
        address
    }

    async fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn answers_any_method_and_closes() {
        let address = started(4).await;
        let answer = exchange(address, b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("you asked for /a"), "{answer}");
        assert!(answer.contains("x-path: /a\r\n") && answer.contains("x-content-type-options: nosniff"), "{answer}");
        let answer = exchange(address, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = exchange(address, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn nonsense_harms_nobody() {
        let address = started(4).await;
        for nonsense in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", b"\r\n\r\n\r\n", &[b'a'; 100_000]] {
            let answer = tokio::time::timeout(HEAD_PATIENCE * 2, exchange(address, nonsense)).await.expect("an end");
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        assert!(exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn silent_clients_make_room_for_a_newcomer() {
        let address = started(4).await;
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = tokio::time::timeout(Duration::from_secs(1), answer).await.expect("an answer before the silent ones are tired of");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let mut first = silent.swap_remove(0);
        assert_eq!(first.read(&mut [0; 1]).await.ok(), Some(0), "the oldest lost its place");
    }

    #[test]
    fn the_unspecified_address_stands_for_both_families() {
        let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
        let reached = |port: u16| [v4, v6].map(|address| std::net::TcpStream::connect((address, port)).is_ok());
        for (address, expected) in [("0.0.0.0:0", [true, true]), ("[::]:0", [true, true]), ("127.0.0.1:0", [true, false])] {
            let listener = bind_to_both(address.parse().unwrap()).unwrap();
            assert_eq!(reached(listener.local_addr().unwrap().port()), expected, "{address}");
        }
        let six = bind("[::]:0".parse().unwrap()).unwrap();
        let port = six.local_addr().unwrap().port();
        assert_eq!(reached(port), [false, true]);
        bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).expect("the port of IPv4 is free");
    }
}
