//! A connection to one apiserver: TCP that notices a dead peer, and TLS for the right name.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tower::{BoxError, Service};

use super::endpoint::Endpoint;

/// For name, TCP and TLS each: in a data center all of them take milliseconds. A SYN that is lost once is repeated after 1 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Sent data that is not acknowledged for so long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(6);

/// Makes connections to one place.
#[derive(Clone)]
pub struct Connector {
    pub endpoint: Endpoint,
    /// For the certificate, if the endpoint does not say: the configuration's.
    pub server_name: Option<String>,
    pub tls: Arc<ClientConfig>,
}

impl Connector {
    async fn connect(self) -> Result<TokioIo<Stream>, BoxError> {
        let tcp = self.connect_tcp().await?;
        if !self.endpoint.tls {
            return Ok(TokioIo::new(Stream::Plain(tcp)));
        }
        let name = self.endpoint.server_name.clone().or(self.server_name).unwrap_or_else(|| self.endpoint.host.clone());
        let server_name = ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is no name that a certificate can have"))?;
        let handshake = timeout(CONNECT_TIMEOUT, TlsConnector::from(self.tls).connect(server_name, tcp)).await;
        let stream = handshake.map_err(|_| format!("no TLS handshake within {CONNECT_TIMEOUT:?}"))?;
        Ok(TokioIo::new(Stream::Tls(Box::new(stream.map_err(|error| format!("TLS for {name}: {error}"))?))))
    }

    /// The first address that answers.
    async fn connect_tcp(&self) -> Result<TcpStream, BoxError> {
        let addresses: Vec<SocketAddr> = match self.endpoint.address() {
            Some(address) => vec![address],
            None => {
                let host = &self.endpoint.host;
                let found = timeout(CONNECT_TIMEOUT, lookup_host((host.as_str(), self.endpoint.port))).await;
                let found = found.map_err(|_| format!("the name {host} is not resolved within {CONNECT_TIMEOUT:?}"))?;
                found.map_err(|error| format!("cannot resolve {host}: {error}"))?.collect()
            }
        };
        let mut last: BoxError = format!("{} has no address", self.endpoint.host).into();
        for address in addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    notice_death(&stream)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = format!("cannot connect to {address}: {error}").into(),
                Err(_) => last = format!("cannot connect to {address} within {CONNECT_TIMEOUT:?}").into(),
            }
        }
        Err(last)
    }
}

fn notice_death(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED / 2).with_interval(UNACKNOWLEDGED / 3).with_retries(2))
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// With TLS or, for tests of one's own, without.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Plain(_) => Connected::new(),
            Stream::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => Connected::new().negotiated_h2(),
            Stream::Tls(_) => Connected::new(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
