//! Where an apiserver answers: a URL, and the name that its certificate must have.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::str::FromStr;

use serde::Deserialize;

/// `https://HOST[:PORT][/PATH][#NAME]`. NAME is what the certificate is verified for, and the SNI, if it is not HOST.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint {
    pub tls: bool,
    /// A DNS name or an address, without brackets.
    pub host: String,
    pub port: u16,
    /// Of the API behind a shared entrance, `/k8s/clusters/c1`; empty or with a leading and without a trailing `/`.
    pub path: String,
    /// For the certificate instead of the host.
    pub server_name: Option<String>,
}

impl Endpoint {
    /// An address that the cluster itself names; its certificate carries that address, as client-go expects it too.
    pub fn of(address: SocketAddr) -> Endpoint {
        Endpoint { tls: true, host: address.ip().to_string(), port: address.port(), path: String::new(), server_name: None }
    }

    /// The address, if the host is none of DNS.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Leads to the same server.
    pub fn is_same_place(&self, other: &Endpoint) -> bool {
        (self.tls, &self.host, self.port, &self.path) == (other.tls, &other.host, other.port, &other.path)
    }

    /// Whether it is on an address of this node. The kernel's choice of a source tells: for a local destination it is that destination.
    /// Nothing is sent, and addresses of others that may be bound (`ip_nonlocal_bind`) do not deceive it.
    pub fn is_local(&self) -> bool {
        let Some(address) = self.address() else { return self.host == "localhost" };
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let source = UdpSocket::bind(any).and_then(|socket| socket.connect(address).and_then(|()| socket.local_addr()));
        address.ip().is_loopback() || source.is_ok_and(|source| source.ip() == address.ip())
    }

    /// Scheme, host and port, as in a URL.
    pub fn authority(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{}", self.host, self.port)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Without the name for the certificate.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.authority(), self.path)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let (url, name) = text.split_once('#').map_or((text, None), |(url, name)| (url, Some(name)));
        let wrong = |why: &str| format!("{text:?} {why}: write https://HOST:PORT, with #NAME if the certificate is for another name");
        if name == Some("") {
            return Err(wrong("ends with an empty #NAME"));
        }
        let uri: http::Uri = url.parse().map_err(|error| wrong(&format!("is no URL ({error})")))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("is no URL of https or http")),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("has no host, or has a user or a query"));
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Endpoint { tls, host, port, path, server_name: name.map(str::to_owned) })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Endpoint, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let endpoint: Endpoint = "https://10.0.0.1:6443#kubernetes".parse().unwrap();
        assert_eq!((endpoint.to_string().as_str(), endpoint.server_name.as_deref()), ("https://10.0.0.1:6443", Some("kubernetes")));
        let endpoint: Endpoint = "https://[fd00::1]/k8s/c1/".parse().unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port, endpoint.path.as_str()), ("fd00::1", 443, "/k8s/c1"));
        assert_eq!(endpoint.to_string(), "https://[fd00::1]:443/k8s/c1");
        assert_eq!(Endpoint::of(endpoint.address().unwrap()).to_string(), "https://[fd00::1]:443");
        assert!(endpoint.is_same_place(&"https://[fd00::1]:443/k8s/c1#x".parse().unwrap()));
        for wrong in ["10.0.0.1:6443", "ftp://a", "https://", "https://a#", "https://u@a", "https://a?b", "nonsense", ""] {
            let message = wrong.parse::<Endpoint>().unwrap_err();
            assert!(message.contains("https://HOST:PORT"), "{wrong}: {message}");
        }
    }

    #[test]
    fn loopback_is_local_and_others_are_not() {
        assert!("https://127.0.0.1:6443".parse::<Endpoint>().unwrap().is_local());
        assert!("https://localhost:6443".parse::<Endpoint>().unwrap().is_local());
        assert!("https://[::1]:6443".parse::<Endpoint>().unwrap().is_local());
        assert!(!"https://[2001:db8::1]:6443".parse::<Endpoint>().unwrap().is_local());
        assert!(!"https://240.0.0.1:6443".parse::<Endpoint>().unwrap().is_local());
        assert!(!"https://example.invalid:6443".parse::<Endpoint>().unwrap().is_local());
    }
}
