//! The rules of an apiserver for single values. Messages say what was found and what is allowed.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use ipnet::IpNet;
use ringway_engine::tables::is_alias;

use crate::model::Protocol;

/// RFC 1123 label: names of services, namespaces and ports.
pub(super) fn dns_label(text: &str) -> Result<(), String> {
    let ends = |text: &str| text.starts_with(is_alphanumeric) && text.ends_with(is_alphanumeric);
    if text.len() <= 63 && ends(text) && text.chars().all(|c| is_alphanumeric(c) || c == '-') {
        Ok(())
    } else {
        Err(format!("{text:?} is no DNS label: at most 63 of a-z, 0-9 and '-', the first and last no '-'"))
    }
}

/// RFC 1123 subdomain: most other names.
pub(super) fn dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() <= 253 && text.split('.').all(|label| dns_label(label).is_ok()) {
        Ok(())
    } else {
        Err(format!("{text:?} is no DNS name: at most 253 characters, labels of a-z, 0-9 and '-' separated by '.'"))
    }
}

fn is_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    match IpAddr::from_str(text) {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("{text:?} is an IPv4-mapped IPv6 address: write it as an IPv4 address"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!("{text:?} is no IP address")),
    }
}

/// What a Service may have: any address, but for those that stand for others on every node.
pub(super) fn service_address(text: &str) -> Result<IpAddr, String> {
    let address = address(text)?;
    if is_alias(address) { Err(format!("{text:?} is an address of Ringway's own on every node")) } else { Ok(address) }
}

/// An address that a packet can be sent to from anywhere: externalIPs and endpoints.
pub(super) fn ordinary_address(text: &str) -> Result<IpAddr, String> {
    let address = service_address(text)?;
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let special = if address.is_unspecified() {
        "an unspecified"
    } else if address.is_loopback() {
        "a loopback"
    } else if address.is_multicast() {
        "a multicast"
    } else if link_local {
        "a link-local"
    } else {
        return Ok(address);
    };
    Err(format!("{text:?} is {special} address, which cannot be used here"))
}

pub(super) fn cidr(text: &str) -> Result<IpNet, String> {
    match IpNet::from_str(text) {
        Ok(net) => Ok(net.trunc()),
        Err(_) => Err(format!("{text:?} is no CIDR like 192.0.2.0/24")),
    }
}

pub(super) fn port(number: i32) -> Result<NonZeroU16, String> {
    u16::try_from(number).ok().and_then(NonZeroU16::new).ok_or_else(|| format!("{number} is no port: 1 to 65535"))
}

/// The default is TCP.
pub(super) fn protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{other:?} is no protocol of a Service: TCP, UDP or SCTP")),
    }
}
