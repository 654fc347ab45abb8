//! Raw frames of either family, by the names of IPv4.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use etherparse::{Ethernet2Header, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep};
use ringway_tests::lab::{Family, Net};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Bytes of an IP header without options or extensions.
pub fn ip_bytes(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// An address as it stands in packets.
pub fn octets(family: Family, name: &str) -> Result<Vec<u8>> {
    let address = family.of(name);
    let parsed = match family {
        Family::V4 => address.parse::<Ipv4Addr>().map(|address| address.octets().to_vec()),
        Family::V6 => address.parse::<Ipv6Addr>().map(|address| address.octets().to_vec()),
    };
    parsed.with_context(|| format!("{name} is no address"))
}

/// The IP header of a packet that lives for `hops` hops; lengths and protocol are the builder's.
pub fn ip(family: Family, source: &str, destination: &str, hops: u8) -> Result<IpHeaders> {
    let (source, destination) = (octets(family, source)?, octets(family, destination)?);
    Ok(match family {
        Family::V4 => {
            let (source, destination) = (source.try_into().unwrap_or_default(), destination.try_into().unwrap_or_default());
            IpHeaders::Ipv4(Ipv4Header::new(0, hops, IpNumber::UDP, source, destination)?, Default::default())
        }
        Family::V6 => {
            let (source, destination) = (source.try_into().unwrap_or_default(), destination.try_into().unwrap_or_default());
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: IpNumber::UDP,
                hop_limit: hops,
                source,
                destination,
            };
            IpHeaders::Ipv6(header, Default::default())
        }
    })
}

/// From the router's side of the LAN to node1.
pub fn to_node1(net: &Net) -> Result<PacketBuilderStep<Ethernet2Header>> {
    Ok(PacketBuilder::ethernet2(net.router.mac("lan0")?, net.node1.mac("eth0")?))
}
