//! IP packets, written and read without the engine's help but for sums.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ringway_engine::checksum::{fold, sum};
use ringway_engine::wire::{TCP, UDP};
use ringway_tests::lab::Family;

pub const ETHERNET_BYTES: usize = 14;
pub const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const AUTHENTICATION: u8 = 51;

/// A packet, or what was put together of its fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    pub id: u32,
    pub dont_fragment: bool,
    /// IPv4: options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6: extension headers by their numbers. Their first byte, which is the number of the next one, is written anew.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub protocol: u8,
    pub payload: Vec<u8>,
}

/// Where a fragment stands in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes.
    pub offset: usize,
    pub has_more: bool,
}

/// ICMP and ICMPv6 have numbers of their own.
pub fn icmp_of(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 58,
    }
}

/// Offset of the checksum in an L4 header.
pub fn check_offset(protocol: u8) -> usize {
    match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}

impl Ip {
    pub fn bytes(&self) -> Vec<u8> {
        self.piece(None, &self.payload)
    }

    /// One fragment: these bytes of the payload.
    pub fn fragment(&self, place: Place, bytes: usize) -> Vec<u8> {
        self.piece(Some(place), &self.payload[place.offset..place.offset + bytes])
    }

    fn piece(&self, place: Option<Place>, payload: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header_bytes = 20 + self.options.len();
                let place = place.map_or(0, |place| (place.offset / 8) as u16 | if place.has_more { 0x2000 } else { 0 });
                let flags = place | if self.dont_fragment { 0x4000 } else { 0 };
                let mut header = vec![0x40 | (header_bytes / 4) as u8, self.tos];
                header.extend(((header_bytes + payload.len()) as u16).to_be_bytes());
                header.extend((self.id as u16).to_be_bytes());
                header.extend(flags.to_be_bytes());
                header.extend([self.ttl, self.protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let check = !sum(&header);
                header[10..12].copy_from_slice(&check.to_ne_bytes());
                [&header, payload].concat()
            }
            (source, destination) => {
                let mut extensions = self.extensions.clone();
                if let Some(place) = place {
                    let field = (place.offset as u16 | u16::from(place.has_more)).to_be_bytes();
                    let id = self.id.to_be_bytes();
                    extensions.push((FRAGMENT, vec![0, 0, field[0], field[1], id[0], id[1], id[2], id[3]]));
                }
                let mut next: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).collect();
                next.push(self.protocol);
                let mut body = Vec::new();
                for (number, (_, bytes)) in extensions.iter().enumerate() {
                    body.push(next[number + 1]);
                    body.extend(&bytes[1..]);
                }
                body.extend(payload);
                let mut packet = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
                packet.extend((body.len() as u16).to_be_bytes());
                packet.extend([next[0], self.ttl]);
                packet.extend([source, destination].iter().flat_map(octets));
                packet.extend(body);
                packet
            }
        }
    }

    /// Writes the checksum of a payload that is whole.
    pub fn seal(&mut self) {
        let at = check_offset(self.protocol);
        self.payload[at..at + 2].fill(0);
        let mut check = !self.payload_sum();
        if self.protocol == UDP && check == 0 {
            check = 0xffff;
        }
        self.payload[at..at + 2].copy_from_slice(&check.to_ne_bytes());
    }

    /// The payload has the right checksum. UDP's that was never computed is none.
    pub fn is_sealed(&self) -> bool {
        self.payload_sum() == 0xffff
    }

    fn payload_sum(&self) -> u16 {
        let pseudo = if self.protocol == icmp_of(Family::V4) {
            0
        } else {
            let addresses: u64 = [self.source, self.destination].iter().map(|address| u64::from(sum(&octets(address)))).sum();
            addresses + u64::from(u16::from(self.protocol).to_be()) + u64::from((self.payload.len() as u16).to_be())
        };
        fold(pseudo + u64::from(sum(&self.payload)))
    }

    /// Reads a packet, or a fragment with its place. What stands behind it is padding; `None` as length: it may be cut, as quotes are.
    pub fn read(packet: &[u8], is_cut: bool) -> Result<(Ip, Option<Place>)> {
        match packet.first().context("no packet")? >> 4 {
            4 => read_v4(packet, is_cut),
            6 => read_v6(packet, is_cut),
            other => anyhow::bail!("IP version {other}"),
        }
    }
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn read_v4(packet: &[u8], is_cut: bool) -> Result<(Ip, Option<Place>)> {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    ensure!(packet.len() >= 20, "cut in the IP header");
    let header_bytes = usize::from(packet[0] & 15) * 4;
    let total = if is_cut { packet.len() } else { usize::from(word(2)) };
    ensure!((20..=total).contains(&header_bytes) && total <= packet.len(), "lengths of the IP header: {packet:02x?}");
    ensure!(sum(&packet[..header_bytes]) == 0xffff, "the checksum of the IP header is wrong: {packet:02x?}");
    let quad = |at: usize| IpAddr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let place = Place { offset: usize::from(word(6) & 0x1fff) * 8, has_more: word(6) & 0x2000 != 0 };
    let ip = Ip {
        source: quad(12),
        destination: quad(16),
        ttl: packet[8],
        tos: packet[1],
        id: word(4).into(),
        dont_fragment: word(6) & 0x4000 != 0,
        options: packet[20..header_bytes].to_vec(),
        extensions: Vec::new(),
        protocol: packet[9],
        payload: packet[header_bytes..total].to_vec(),
    };
    Ok((ip, (place.offset > 0 || place.has_more).then_some(place)))
}

fn read_v6(packet: &[u8], is_cut: bool) -> Result<(Ip, Option<Place>)> {
    ensure!(packet.len() >= 40, "cut in the IP header");
    let total = if is_cut { packet.len() } else { 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])) };
    ensure!(total <= packet.len(), "length of the IP header: {packet:02x?}");
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap_or_default());
    let (mut extensions, mut protocol, mut at, mut id, mut place) = (Vec::new(), packet[6], 40, 0, None);
    while matches!(protocol, 0 | 43 | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) && place.is_none_or(|place: Place| place.offset == 0)
    {
        let header = packet.get(at..at + 8).context("cut in an extension header")?;
        let bytes = match protocol {
            FRAGMENT => {
                let field = usize::from(u16::from_be_bytes([header[2], header[3]]));
                place = Some(Place { offset: field & !7, has_more: field & 1 != 0 });
                id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                8
            }
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if protocol != FRAGMENT {
            let mut extension = packet.get(at..at + bytes).context("cut in an extension header")?.to_vec();
            extension[0] = 0;
            extensions.push((protocol, extension));
        }
        (protocol, at) = (header[0], at + bytes);
    }
    let ip = Ip {
        source: address(8),
        destination: address(24),
        ttl: packet[7],
        tos: packet[0] << 4 | packet[1] >> 4,
        id,
        dont_fragment: false,
        options: Vec::new(),
        extensions,
        protocol,
        payload: packet.get(at..total).context("an extension header is longer than the packet")?.to_vec(),
    };
    // One that is whole in spite of its fragment header (RFC 6946) is like any other.
    Ok((ip, place.filter(|place| place.offset > 0 || place.has_more)))
}

/// Puts fragments together as a receiver does: those that lie on each other spoil their datagram (RFC 5722, and Linux for IPv4), those
/// that come twice do not. What is incomplete is nothing.
pub fn reassemble(pieces: Vec<(Ip, Option<Place>)>) -> Vec<Ip> {
    let mut whole = Vec::new();
    let mut open: Vec<Vec<(Ip, Place)>> = Vec::new();
    for (ip, place) in pieces {
        let Some(place) = place else {
            whole.push(ip);
            continue;
        };
        let same =
            |other: &Ip| (other.source, other.destination, other.id, other.protocol) == (ip.source, ip.destination, ip.id, ip.protocol);
        match open.iter_mut().find(|datagram| same(&datagram[0].0)) {
            Some(datagram) => datagram.push((ip, place)),
            None => open.push(vec![(ip, place)]),
        }
    }
    whole.extend(open.into_iter().filter_map(put_together));
    whole
}

fn put_together(mut pieces: Vec<(Ip, Place)>) -> Option<Ip> {
    pieces.sort_by_key(|(_, place)| place.offset);
    pieces.dedup_by(|a, b| a.1 == b.1 && a.0.payload == b.0.payload);
    let is_last = pieces.last().is_some_and(|(_, place)| !place.has_more);
    let mut pieces = pieces.into_iter();
    let (mut datagram, first) = pieces.next()?;
    for (piece, place) in pieces {
        if place.offset != datagram.payload.len() {
            return None;
        }
        datagram.payload.extend(piece.payload);
    }
    // A router that puts fragments together and divides the datagram again chooses those.
    datagram.dont_fragment = false;
    datagram.id = if datagram.source.is_ipv4() { datagram.id } else { 0 };
    (first.offset == 0 && is_last).then_some(datagram)
}
