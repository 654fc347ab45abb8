//! Where the engine does on purpose what the kernel does not. Nothing else may differ.

use std::net::IpAddr;

use ringway_engine::verdict::DropReason;
use ringway_engine::wire::TCP;
use ringway_tests::lab::Family;

use crate::event::{ACK, Event, Order, SYN, Spoil, What};
use crate::packet::{Ip, Place};
use crate::plan::{VIP, address};
use crate::view::{Checksum, Outcome, Seen};

/// One difference.
pub struct Difference {
    pub name: &'static str,
    /// Whether this, and nothing else, is what differs: event, the kernel's outcome, the engine's.
    pub is: fn(&Event, &Outcome, &Outcome) -> bool,
}

const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const LOOSE_SOURCE_ROUTE: u8 = 0x83;
const PACKET_TOO_BIG: u8 = 2;
/// Extension headers that the engine walks over.
const EXTENSIONS_MAX: usize = 6;
const TCP_HEADER_BYTES: usize = 20;
const TCP_ACKNOWLEDGMENT: std::ops::Range<usize> = 8..12;

pub const DIFFERENCES: &[Difference] = &[
    // Connection tracking follows TCP's states, and what fits none of them (a FIN or a SYN-ACK of no connection, flags that contradict each
    // other) it calls invalid: it is not translated, and a router drops it. Ringway keeps no states but for time-outs: whoever gets the
    // segment knows better.
    Difference {
        name: "a segment that is invalid to connection tracking",
        is: |event, kernel, engine| event.is_segment() && event.spoil.is_none() && kernel.is_only_invalid() && engine.is_unspoiled(),
    },
    // Connection tracking verifies checksums. Ringway carries the error along: updates of a sum keep it, and its receiver verifies it.
    Difference {
        name: "a wrong checksum",
        is: |event, kernel, engine| {
            let is_carried = |seen: &Seen| seen.check == Checksum::Wrong || seen.side == event.from();
            event.spoil == Some(Spoil::WrongChecksum) && kernel.seen.is_empty() && engine.seen.iter().all(is_carried)
        },
    },
    // RFC 8200 §8.1: who receives it discards it.
    Difference {
        name: "UDP over IPv6 without a checksum",
        is: |event, _, engine| event.spoil == Some(Spoil::NoChecksum) && event.flow.family == Family::V6 && engine.seen.is_empty(),
    },
    // An IPv4-mapped address is no station's. The kernel forwards what claims to come from one.
    Difference {
        name: "an IPv4-mapped source",
        is: |event, _, engine| {
            let is_mapped = |source| matches!(source, IpAddr::V6(source) if source.to_ipv4_mapped().is_some());
            event.source.is_some_and(is_mapped) && engine.is_dropped_for(DropReason::LandAttack)
        },
    },
    // The kernel refuses packets that come from its own addresses in IPv4 only.
    Difference {
        name: "the VIP as source",
        is: |event, _, engine| event.source == Some(address(Family::V6, VIP)) && engine.is_dropped_for(DropReason::LandAttack),
    },
    // To connection tracking a SYN of either side begins a connection anew whose last one has ended: it forgets the flow, and the SYN goes to the
    // router. To Ringway connections begin with clients; a backend's SYN goes where its other segments go.
    Difference {
        name: "a backend's SYN",
        is: |event, kernel, engine| {
            let is_syn = matches!(&event.what, What::Reply(segment) if segment.flags & (SYN | ACK) == SYN);
            is_syn
                && event.is_segment()
                && kernel.seen.is_empty()
                && engine.is_unspoiled()
                && (!engine.seen.is_empty() || event.cut.is_some())
        },
    },
    // RFC 7126 §4.3: a router should not forward it. Ringway reads no options; a node's own routes decide where the packet goes.
    Difference {
        name: "a source route",
        is: |event, kernel, engine| {
            event.shape.options.first() == Some(&LOOSE_SOURCE_ROUTE) && kernel.seen.is_empty() && engine.is_unspoiled()
        },
    },
    // Behind what is not understood nothing is translated: a routing header that still leads elsewhere, authentication that translation
    // would spoil, more headers than any station sends.
    Difference {
        name: "extension headers that are not walked over",
        is: |event, _, engine| {
            let extensions = &event.shape.extensions;
            let is_foreign = |(kind, bytes): &(u8, Vec<u8>)| *kind == AUTHENTICATION || *kind == ROUTING && bytes[3] != 0;
            let headers = extensions.len() + usize::from(event.cut.is_some());
            (extensions.iter().any(is_foreign) || headers > EXTENSIONS_MAX) && engine.seen.is_empty()
        },
    },
    // Only pings of the plain kind are answered: in one piece, nothing between the IP header and ICMP's.
    Difference {
        name: "a ping in fragments, or with options",
        is: |event, _, engine| {
            let is_plain = event.cut.is_none() && event.shape.options.is_empty() && event.shape.extensions.is_empty();
            matches!(event.what, What::Ping(_)) && !is_plain && engine.is_dropped_for(DropReason::NotForwarded)
        },
    },
    // RFC 1858: a first fragment without the whole TCP header is how filters are passed by. Nobody sends one.
    Difference {
        name: "a TCP header in fragments",
        is: |event, _, engine| {
            let header_bytes = match &event.what {
                What::Request(segment) | What::Reply(segment) if event.is_segment() => TCP_HEADER_BYTES + segment.options.len(),
                _ => 0,
            };
            event.cut.as_ref().is_some_and(|cut| cut.first < header_bytes) && engine.seen.is_empty()
        },
    },
    // The kernel puts fragments together before it judges the datagram. Ringway judges the first fragment: it tells its sender at once, also
    // of a datagram that never becomes complete or whose fragments lie on each other, and quotes that fragment, or acknowledges it in a reset.
    Difference {
        name: "an answer to a datagram in fragments",
        is: |event, kernel, engine| {
            let is_answer = |seen: &Seen| seen.side == event.from() && seen.check == Checksum::Right;
            // One that comes twice is answered twice.
            let both =
                kernel.seen.len() == 1 && !engine.seen.is_empty() && engine.seen.iter().all(|engine| is_alike(&kernel.seen[0], engine));
            let is_broken = event.cut.as_ref().is_some_and(|cut| matches!(cut.order, Order::Missing(_) | Order::Overlapping(_)));
            event.cut.is_some() && engine.seen.iter().all(is_answer) && (both || is_broken && kernel.seen.is_empty())
        },
    },
    // The first fragment was forwarded already, and a later one has no ports that an error could quote: it is dropped silently. The kernel still
    // has the whole datagram, and answers.
    Difference {
        name: "a later fragment that is too big",
        is: |event, kernel, engine| {
            let is_too_big = |seen: &Seen| seen.side == event.from() && seen.quoted.is_some();
            event.cut.is_some() && engine.is_dropped_for(DropReason::TooBig) && kernel.seen.iter().all(is_too_big)
        },
    },
    // The kernel has decremented the hop limit of what it quotes already; Ringway quotes the packet as it came.
    Difference {
        name: "the hop limit in packet too big",
        is: |_, kernel, engine| {
            let is_same = |(kernel, engine): (&Seen, &Seen)| {
                let mut kernel = kernel.clone();
                if let Some((quoted, _)) = &mut kernel.quoted {
                    quoted.ttl += 1;
                }
                kernel.ip.payload[0] == PACKET_TOO_BIG && kernel == *engine
            };
            kernel.seen.len() == engine.seen.len() && kernel.seen.iter().zip(&engine.seen).all(is_same)
        },
    },
    // The kernel translates a quoted TCP checksum if the whole header is quoted; Ringway if the checksum is.
    Difference {
        name: "a quote that ends behind the checksum",
        is: |event, kernel, engine| {
            let is_same = |(kernel, engine): (&Seen, &Seen)| {
                let without = |seen: &Seen| {
                    let mut seen = seen.clone();
                    if let Some((quoted, _)) = &mut seen.quoted {
                        quoted.payload.truncate(16);
                    }
                    seen
                };
                without(kernel) == without(engine)
            };
            let is_there = matches!(&event.what, What::Error(error) if (18..TCP_HEADER_BYTES).contains(&error.quoted));
            is_there && kernel.seen.len() == engine.seen.len() && kernel.seen.iter().zip(&engine.seen).all(is_same)
        },
    },
    // Of less than RFC 792's eight bytes the kernel makes nothing; the ports are enough to find the flow.
    Difference {
        name: "a quote of nothing but ports",
        is: |event, kernel, engine| {
            matches!(&event.what, What::Error(error) if error.quoted < 8) && kernel.seen.is_empty() && engine.is_unspoiled()
        },
    },
];

/// The answers are the same but for how much of the datagram is quoted, or acknowledged by a reset.
fn is_alike(kernel: &Seen, engine: &Seen) -> bool {
    let (Some((whole, _)), Some((first, place))) = (&kernel.quoted, &engine.quoted) else {
        let without = |seen: &Seen| {
            let mut seen = seen.clone();
            seen.ip.payload[TCP_ACKNOWLEDGMENT].fill(0);
            seen
        };
        return kernel.ip.protocol == TCP && engine.ip.protocol == TCP && without(kernel) == without(engine);
    };
    let bytes = whole.payload.len().min(first.payload.len());
    let without = |ip: &Ip| Ip { id: 0, ttl: 0, dont_fragment: false, payload: ip.payload[..bytes].to_vec(), ..ip.clone() };
    let is_first = place.is_some_and(|Place { offset, .. }| offset == 0);
    is_first && without(whole) == without(first) && Seen { quoted: None, ..kernel.clone() } == Seen { quoted: None, ..engine.clone() }
}

impl Outcome {
    fn is_only_invalid(&self) -> bool {
        self.is_invalid && self.seen.is_empty()
    }

    fn is_unspoiled(&self) -> bool {
        self.seen.iter().all(|seen| seen.check != Checksum::Wrong)
    }

    fn is_dropped_for(&self, reason: DropReason) -> bool {
        self.seen.is_empty() && self.drops.contains(&reason)
    }
}
