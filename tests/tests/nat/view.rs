//! What comes out of one of the routers, in a form that can be compared with the other's: all is the same but the ports that flows are
//! mapped to, and those are put back into what they stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, ensure};
use ringway_engine::checksum::{apply, diff};
use ringway_engine::verdict::DropReason;
use ringway_engine::wire::{TCP, UDP};

use crate::event::{Event, RST, SYN, What};
use crate::packet::{ETHERNET_BYTES, Ip, Place, check_offset, icmp_of, reassemble};
use crate::plan::*;

/// State of an L4 checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Right,
    Wrong,
    /// UDP with the checksum 0.
    None,
}

/// A datagram that left the router, put together if it came in fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub side: Side,
    /// Without checksum, and of an ICMP error without what it quotes.
    pub ip: Ip,
    pub check: Checksum,
    /// What an ICMP error quotes, checksum included.
    pub quoted: Option<(Ip, Option<Place>)>,
}

/// What came of an event.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seen: Vec<Seen>,
    /// Connection tracking called it invalid.
    pub is_invalid: bool,
    pub drops: Vec<DropReason>,
}

/// For people.
impl fmt::Display for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brief = |ip: &Ip| {
            let Ip { source, destination, ttl, tos, id, dont_fragment, options, extensions, protocol, payload } = ip;
            let start = &payload[..payload.len().min(32)];
            format!(
                "{source} > {destination} protocol {protocol} ttl {ttl} tos {tos} id {id} df {dont_fragment} {options:02x?} {extensions:02x?} \
                 {} bytes {start:02x?}",
                payload.len()
            )
        };
        write!(formatter, "{:?}: {} {:?}", self.side, brief(&self.ip), self.check)?;
        match &self.quoted {
            Some((quoted, place)) => write!(formatter, "\n    quotes {} {place:?}", brief(quoted)),
            None => Ok(()),
        }
    }
}

type FlowId = (std::net::IpAddr, u16, u8, u16);

/// What is known of the flows in one of the routers.
#[derive(Default)]
pub struct View {
    mapped: BTreeMap<FlowId, u16>,
    /// The last packet of each flow that was delivered whole: requests, replies.
    last: BTreeMap<(FlowId, bool), Vec<u8>>,
    /// That of the event that was judged.
    newest: Option<((FlowId, bool), Vec<u8>)>,
    /// Flows that may have begun anew since their last request was delivered: a SYN was sent that went no further, or a reset or a
    /// backend's SYN, after which connection tracking forgets some.
    unsettled: BTreeSet<FlowId>,
}

fn id(flow: &Flow) -> FlowId {
    (flow.client.0, flow.client.1, flow.protocol, flow.port)
}

impl View {
    /// The port from which the flow's last request came to the backend.
    pub fn mapped(&self, flow: &Flow) -> Option<u16> {
        self.mapped.get(&id(flow)).copied()
    }

    /// Replies to that port, and errors about it, reach the flow.
    pub fn is_settled(&self, flow: &Flow) -> bool {
        self.mapped(flow).is_some() && !self.unsettled.contains(&id(flow))
    }

    /// The flow's last request as the backend got it, or its last reply as the client did.
    pub fn last(&self, flow: &Flow, is_request: bool) -> Option<&[u8]> {
        self.last.get(&(id(flow), is_request)).map(Vec::as_slice)
    }

    /// Both routers delivered the same: what came of the last event may be quoted from now on, if it left both of them whole.
    pub fn agree(views: [&mut View; 2]) {
        if views.iter().all(|view| view.newest.is_some()) {
            views.into_iter().for_each(|view| view.last.extend(view.newest.take()));
        }
    }

    /// Reads what left the router.
    pub fn judge(&mut self, event: &Event, frames: Vec<(Side, Vec<u8>)>, drops: Vec<DropReason>) -> Result<Outcome> {
        let sink = address(event.flow.family, SINK);
        self.newest = None;
        let begins = matches!(&event.what, What::Request(segment) | What::Reply(segment) if segment.flags & SYN != 0);
        if event.is_segment() && begins {
            self.unsettled.insert(id(&event.flow));
        }
        let mut outcome = Outcome { seen: Vec::new(), is_invalid: false, drops };
        for side in [Side::Left, Side::Right] {
            let (hop, router) = if side == Side::Left { (LEFT_HOP_MAC, LEFT_MAC) } else { (RIGHT_HOP_MAC, RIGHT_MAC) };
            let mut pieces = Vec::new();
            for (_, frame) in frames.iter().filter(|(at, _)| *at == side) {
                ensure!(frame[..6] == hop && frame[6..12] == router, "to another station: {frame:02x?}");
                let (ip, place) = Ip::read(&frame[ETHERNET_BYTES..], false)?;
                if place.is_none()
                    && matches!(ip.protocol, TCP | UDP)
                    && ip.destination != sink
                    && side != event.from()
                    && event.source.is_none()
                {
                    self.newest = Some(((id(&event.flow), side == Side::Right), frame[ETHERNET_BYTES..].to_vec()));
                }
                pieces.push((ip, place));
            }
            for ip in reassemble(pieces) {
                if ip.destination == sink {
                    outcome.is_invalid = true;
                } else {
                    outcome.seen.push(self.see(event, side, ip)?);
                }
            }
        }
        let ends = matches!(&event.what, What::Request(segment) | What::Reply(segment) if segment.flags & RST != 0);
        if event.is_segment() && ends {
            self.unsettled.insert(id(&event.flow));
        }
        Ok(outcome)
    }

    fn see(&mut self, event: &Event, side: Side, mut ip: Ip) -> Result<Seen> {
        let flow = &event.flow;
        let at = check_offset(ip.protocol);
        let field = ip.payload.get_mut(at..at + 2).context("no L4 header")?;
        let is_none = ip.protocol == UDP && *field == [0; 2];
        let check = match (is_none, ip.is_sealed()) {
            (true, _) => Checksum::None,
            (false, true) => Checksum::Right,
            (false, false) => Checksum::Wrong,
        };
        ip.payload[at..at + 2].fill(0);
        if side == event.from() {
            // Whoever answers chooses those.
            (ip.id, ip.dont_fragment, ip.tos) = (0, false, 0);
        }
        if side == Side::Right && matches!(ip.protocol, TCP | UDP) && matches!(event.what, What::Request(_)) {
            ensure!(ip.source == address(flow.family, RIGHT), "a request that comes from {}", ip.source);
            let port = u16::from_be_bytes([ip.payload[0], ip.payload[1]]);
            if event.source.is_none() {
                self.note(event, port)?;
            }
            ip.payload[..2].copy_from_slice(&flow.client.1.to_be_bytes());
        }
        let is_error =
            ip.protocol == icmp_of(flow.family) && if ip.source.is_ipv4() { !matches!(ip.payload[0], 0 | 8) } else { ip.payload[0] < 128 };
        let quoted = if is_error { Some(self.read_quote(flow, side, &ip.payload[8..])?) } else { None };
        if quoted.is_some() {
            ip.payload.truncate(8);
        }
        Ok(Seen { side, ip, check, quoted })
    }

    /// The flow's requests come from this port now: always from the same, until a connection begins anew, and from no other flow's.
    fn note(&mut self, event: &Event, port: u16) -> Result<()> {
        let own = id(&event.flow);
        let is_same = |other: &FlowId| other.0.is_ipv4() == own.0.is_ipv4() && other.2 == own.2 && other.3 == own.3;
        let is_other = |other: &FlowId| *other != own && is_same(other) && !self.unsettled.contains(other);
        let taken = self.mapped.iter().find(|(other, taken)| is_other(other) && **taken == port);
        ensure!(taken.is_none(), "port {port} is that of {taken:?}");
        let before = self.mapped.insert(own, port);
        if before.is_some_and(|before| before != port) {
            ensure!(self.unsettled.contains(&own), "the flow was mapped to {before:?}, and is to {port}");
            // What was sent before is of another connection.
            self.last.retain(|(flow, _), _| *flow != own);
        }
        self.unsettled.remove(&own);
        Ok(())
    }

    fn read_quote(&self, flow: &Flow, side: Side, quote: &[u8]) -> Result<(Ip, Option<Place>)> {
        let (mut quoted, place) = Ip::read(quote, true)?;
        let is_to_us = side == Side::Right && quoted.destination == address(flow.family, RIGHT);
        if let Some(mapped) = self.mapped(flow)
            && is_to_us
            && quoted.payload.get(2..4) == Some(&mapped.to_be_bytes())
        {
            quoted.payload[2..4].copy_from_slice(&flow.client.1.to_be_bytes());
            let at = check_offset(quoted.protocol);
            if let Some(field) = quoted.payload.get_mut(at..at + 2)
                && *field != [0; 2]
            {
                let words = [mapped, flow.client.1].map(|port| u32::from(port.to_be()));
                let check = apply(u16::from_ne_bytes([field[0], field[1]]), diff(&words[..1], &words[1..]));
                field.copy_from_slice(&check.to_ne_bytes());
            }
        }
        // Both mean the same.
        let at = check_offset(quoted.protocol);
        if let Some(field) = quoted.payload.get_mut(at..at + 2)
            && quoted.protocol == TCP
            && *field == [0xff; 2]
        {
            field.fill(0);
        }
        Ok((quoted, place))
    }
}
