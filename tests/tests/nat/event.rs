//! What happens to the router: random events, and the frames that they are made of.

use std::net::IpAddr;

use ringway_engine::wire::{TCP, UDP};
use ringway_tests::lab::Family;

use crate::packet::{ETHERNET_BYTES, Ip, Place, check_offset, icmp_of};
use crate::plan::*;
use crate::view::View;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// One event: a packet, whole or in fragments.
#[derive(Clone, Debug)]
pub struct Event {
    pub number: u32,
    pub flow: Flow,
    pub what: What,
    pub shape: Shape,
    /// In place of the right source.
    pub source: Option<IpAddr>,
    pub spoil: Option<Spoil>,
    pub cut: Option<Cut>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Client to VIP.
    Request(Segment),
    /// Backend to where the flow's last request came from.
    Reply(Segment),
    /// Backend to a port of ours that no flow has.
    Stray(Segment),
    Error(IcmpError),
    /// Client to VIP; bytes behind the ICMP header.
    Ping(usize),
}

/// A TCP segment; what UDP has no room for does not count there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub flags: u8,
    pub options: Vec<u8>,
    /// Bytes of its payload.
    pub bytes: usize,
}

/// An error about the flow's last request, from the right, or about its last reply, from the left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpError {
    pub about_request: bool,
    pub kind: (u8, u8),
    pub rest: u32,
    /// Bytes behind the IP header.
    pub quoted: usize,
    pub tweak: Option<Tweak>,
}

/// What is odd about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tweak {
    /// It quotes a first fragment, or a later one (IPv4).
    QuotesFirst,
    QuotesLater,
    /// It is sent to somebody who has not sent what it quotes.
    OtherReceiver,
    OtherPort,
}

/// Of the IP header, and padding.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub ttl: u8,
    pub tos: u8,
    pub dont_fragment: bool,
    pub options: Vec<u8>,
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub padding: usize,
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    WrongChecksum,
    /// Of UDP.
    NoChecksum,
    /// So many bytes are missing at its end.
    Truncated(usize),
    /// TCP's data offset is 16 bytes.
    ShortHeader,
}

/// Division into fragments of so many bytes, the first one and the others; multiples of eight.
#[derive(Clone, Debug)]
pub struct Cut {
    pub first: usize,
    pub bytes: usize,
    pub order: Order,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Straight,
    Reversed,
    /// The first comes second.
    Overtaken,
    /// The fragment of this number is missing, comes twice, or begins eight bytes too early.
    Missing(usize),
    Twice(usize),
    Overlapping(usize),
}

impl Event {
    /// The side that sends it.
    pub fn from(&self) -> Side {
        match &self.what {
            What::Request(_) | What::Ping(_) => Side::Left,
            What::Reply(_) | What::Stray(_) => Side::Right,
            What::Error(error) if error.about_request => Side::Right,
            What::Error(_) => Side::Left,
        }
    }

    pub fn is_segment(&self) -> bool {
        self.flow.protocol == TCP && matches!(self.what, What::Request(_) | What::Reply(_) | What::Stray(_))
    }

    /// The frames as one of the routers gets them: where the flow is mapped to differs.
    pub fn frames(&self, view: &View) -> Vec<Vec<u8>> {
        let ip = self.packet(view);
        let packets = match &self.cut {
            Some(cut) => cut.fragments(&ip),
            None => vec![ip.bytes()],
        };
        packets.into_iter().map(|packet| self.frame(packet)).collect()
    }

    fn packet(&self, view: &View) -> Ip {
        let Flow { family, protocol, client, port } = self.flow;
        let [vip, backend, right] = [VIP, BACKEND, RIGHT].map(|name| address(family, name));
        let backend_port = self.flow.backend_port().unwrap_or(port);
        let mapped = view.mapped(&self.flow).unwrap_or_default();
        let (source, destination, protocol, payload) = match &self.what {
            What::Request(segment) => (client.0, vip, protocol, self.l4(segment, client.1, port)),
            What::Reply(segment) => (backend, right, protocol, self.l4(segment, backend_port, mapped)),
            What::Stray(segment) => (backend, right, protocol, self.l4(segment, backend_port, 9)),
            What::Ping(bytes) => {
                let kind = if family == Family::V4 { 8 } else { 128 };
                let header = [kind, 0, 0, 0, 0x12, 0x34, (self.number >> 8) as u8, self.number as u8];
                (client.0, vip, icmp_of(family), [&header[..], &self.data(*bytes)].concat())
            }
            What::Error(error) => {
                let quoted = error.quote(view, &self.flow);
                let sender = if error.about_request { address(family, RIGHT_HOP) } else { address(family, LEFT_HOP) };
                let receiver = match error.tweak {
                    Some(Tweak::OtherReceiver) if error.about_request => vip,
                    Some(Tweak::OtherReceiver) => right,
                    _ if error.about_request => right,
                    _ => vip,
                };
                let rest = error.rest.to_be_bytes();
                let header = [error.kind.0, error.kind.1, 0, 0, rest[0], rest[1], rest[2], rest[3]];
                (sender, receiver, icmp_of(family), [&header[..], &quoted].concat())
            }
        };
        let Shape { ttl, tos, dont_fragment, ref options, ref extensions, .. } = self.shape;
        let mut ip = Ip {
            source: self.source.unwrap_or(source),
            destination,
            ttl,
            tos,
            id: self.number,
            dont_fragment,
            options: options.clone(),
            extensions: extensions.clone(),
            protocol,
            payload,
        };
        ip.seal();
        match self.spoil {
            Some(Spoil::WrongChecksum) => ip.payload[check_offset(protocol)] ^= 0x55,
            Some(Spoil::NoChecksum) => ip.payload[6..8].fill(0),
            Some(Spoil::ShortHeader) => {
                ip.payload[12] = 4 << 4;
                ip.seal();
            }
            _ => {}
        }
        ip
    }

    fn l4(&self, segment: &Segment, source: u16, destination: u16) -> Vec<u8> {
        let mut l4 = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        if self.flow.protocol == UDP {
            l4.extend(((8 + segment.bytes) as u16).to_be_bytes());
            l4.extend([0; 2]);
        } else {
            l4.extend((self.number * 1000).to_be_bytes());
            l4.extend((self.number * 77).to_be_bytes());
            l4.extend([(((20 + segment.options.len()) / 4) << 4) as u8, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
            l4.extend(&segment.options);
        }
        l4.extend(self.data(segment.bytes));
        l4
    }

    fn data(&self, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (self.number as usize * 7 + at * 31 + at / 256) as u8).collect()
    }

    fn frame(&self, mut packet: Vec<u8>) -> Vec<u8> {
        if let Some(Spoil::Truncated(bytes)) = self.spoil {
            packet.truncate(packet.len() - bytes);
        } else {
            packet.extend(vec![0xee; self.shape.padding]);
        }
        let (router, hop) = match self.from() {
            Side::Left => (LEFT_MAC, LEFT_HOP_MAC),
            Side::Right => (RIGHT_MAC, RIGHT_HOP_MAC),
        };
        let ethertype = if self.flow.family == Family::V4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let frame = [&router[..], &hop, &ethertype, &packet].concat();
        debug_assert!(frame.len() <= ETHERNET_BYTES + 1500);
        frame
    }
}

impl IcmpError {
    /// The packet as its receiver got it from this router, or as much of it as is quoted.
    fn quote(&self, view: &View, flow: &Flow) -> Vec<u8> {
        let mut packet = view.last(flow, self.about_request).unwrap_or_default().to_vec();
        let header_bytes = match Ip::read(&packet, false) {
            Ok((ip, _)) => packet.len() - ip.payload.len(),
            Err(_) => 0,
        };
        let is_v4 = flow.family == Family::V4;
        match self.tweak {
            Some(Tweak::QuotesFirst) if is_v4 => packet[6] |= 0x20,
            Some(Tweak::QuotesLater) if is_v4 => packet[7] |= 0x10,
            // Both ports are of somebody else.
            Some(Tweak::OtherPort) => packet[header_bytes..header_bytes + 4].fill(7),
            _ => {}
        }
        if is_v4 {
            packet[10..12].fill(0);
            let check = !ringway_engine::checksum::sum(&packet[..header_bytes]);
            packet[10..12].copy_from_slice(&check.to_ne_bytes());
        }
        packet.truncate(header_bytes + self.quoted);
        packet
    }
}

impl Cut {
    fn fragments(&self, ip: &Ip) -> Vec<Vec<u8>> {
        let total = ip.payload.len();
        let mut pieces = vec![(Place { offset: 0, has_more: true }, self.first)];
        pieces.extend((self.first..total).step_by(self.bytes).map(|offset| {
            let bytes = self.bytes.min(total - offset);
            (Place { offset, has_more: offset + bytes < total }, bytes)
        }));
        match self.order {
            Order::Straight => {}
            Order::Reversed => pieces.reverse(),
            Order::Overtaken => pieces[..2].reverse(),
            Order::Missing(number) => drop(pieces.remove(number % pieces.len())),
            Order::Twice(number) => pieces.insert(number % pieces.len(), pieces[number % pieces.len()]),
            Order::Overlapping(number) => {
                let number = 1 + number % (pieces.len() - 1);
                let (place, bytes) = &mut pieces[number];
                (place.offset, *bytes) = (place.offset - 8, *bytes + 8);
            }
        }
        pieces.into_iter().map(|(place, bytes)| ip.fragment(place, bytes)).collect()
    }
}
