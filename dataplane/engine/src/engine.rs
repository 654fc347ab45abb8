//! The engine: packets, a snapshot, the flow table and time in; one verdict per packet out.

mod answer;
mod forward;
mod fragmented;
mod quoted;

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::affinity::AffinityTable;
use crate::arp::{self, ArpAction};
use crate::family::{Family, V4, V6};
use crate::flow::{FlowKey, FlowTable, FlowTables, Hook, TICKS_PER_SECOND, Timeouts};
use crate::fragments::Fragments;
use crate::hops::HopCache;
use crate::nat;
use crate::ndp::{self, NdpAction};
use crate::order::{Order, order_mac};
use crate::place::{Taken, locate, partial_checksums};
use crate::random::Random;
use crate::refuse::{self, Limiter};
use crate::tables::Snapshot;
use crate::verdict::{DropReason, Verdict, VerdictCounts};
use crate::wire::{self, Frame, IpFlow, Parsed, Part};

/// Packets handled together: enough to hide the flow table's cache misses (performance grows little beyond it).
pub const BATCH_MAX: usize = 64;

/// A flow younger than two seconds that begins anew keeps its backend. Slots rest for a second after a removal, and a key has few:
/// a client that uses one port for many short connections would run out.
const REOPEN_TICKS: u32 = 2 * TICKS_PER_SECOND;

/// Where a frame was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On this port: the uplink of this index in `NodeTables::uplinks`, or from there on a member of a bond ([`crate::tables::Bonds`]).
    Uplink(u8),
    /// On `rw0`: an upcall.
    Host,
}

/// One received frame, lent to the engine for a batch.
#[derive(Debug)]
pub struct Packet<'a> {
    pub origin: Origin,
    /// The frame's memory from the Ethernet header on: the packet, and the room behind it.
    pub bytes: &'a mut [u8],
    /// Bytes of the packet: received, and then to transmit. The engine shortens it where a NIC padded; an answer may be longer.
    pub len: usize,
}

/// What is fixed for one worker's engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Number of this worker, and of all.
    pub worker: usize,
    pub workers: usize,
    /// By port: this worker has a transmit queue there. Elsewhere packets leave by the hostlink (`Order::Neigh`).
    pub transmits_on: Vec<bool>,
    pub timeouts: Timeouts,
    /// Seed of this engine's random choices.
    pub seed: u64,
}

/// Packets whose slots are asked for in a row. A prefetch whose page is not in the TLB retires after the walk of the page table only:
/// with parsing between them, a CPU looks ahead to two or three. Many more at a time than it has loads under way would wait, too.
const PREFETCH_PACKETS: usize = 8;
const _: () = assert!(BATCH_MAX.is_multiple_of(PREFETCH_PACKETS));

/// The packet engine of one worker.
#[derive(Debug)]
pub struct Engine {
    v4: Lane<V4>,
    v6: Lane<V6>,
    shared: Shared,
}

/// What the engine has for each family.
#[derive(Debug)]
struct Lane<F: Family> {
    flows: Arc<FlowTable<F>>,
    hops: HopCache<F>,
    fragments: Fragments<F>,
}

/// What it has for both.
#[derive(Debug)]
struct Shared {
    config: EngineConfig,
    affinity: Arc<AffinityTable>,
    counts: VerdictCounts,
    random: Random,
    icmp_errors: Limiter,
    same_size: Limiter,
}

/// The way of a packet through the engine: all that it may need on it.
struct Path<'a, F: Family> {
    lane: &'a mut Lane<F>,
    shared: &'a mut Shared,
    snapshot: &'a Snapshot,
    /// Ticks.
    now: u32,
}

/// A packet of a flow between the passes of a batch.
struct Staged<F: Family> {
    taken: Taken,
    flow: IpFlow<F>,
    hash: u64,
}

impl<F: Family> Staged<F> {
    /// Made anew in the last pass: it is copied from registers, and what lies in memory between the passes costs more.
    #[inline(always)]
    fn key(&self) -> FlowKey<F> {
        self.flow.tuple.at(self.taken.zone, self.taken.hook, self.flow.protocol)
    }
}

/// The packets of flows of a batch.
type Batch<F> = ArrayVec<Staged<F>, BATCH_MAX>;

/// What the first pass made of a packet. Small, for it is copied.
#[derive(Clone, Copy)]
enum Stage {
    /// A packet of a flow, by its place in the batch of its family.
    V4(u8),
    V6(u8),
    /// Anything else: parsed again in the last pass.
    Rare(Taken),
    Decided(Verdict),
}

impl Engine {
    pub fn new(config: EngineConfig, flows: FlowTables, affinity: Arc<AffinityTable>) -> Engine {
        let random = Random::new(config.seed);
        Engine {
            v4: Lane::new(flows.v4),
            v6: Lane::new(flows.v6),
            shared: Shared {
                config,
                affinity,
                counts: VerdictCounts::default(),
                random,
                icmp_errors: Limiter::new(refuse::ICMP_ERRORS),
                same_size: Limiter::new(refuse::SAME_SIZE),
            },
        }
    }

    /// Decides and rewrites a batch of at most [`BATCH_MAX`]: `verdicts[i]` is for `packets[i]`. `now` in ticks.
    ///
    /// Two passes: the first parses the packets and, eight at a time, starts the loads of their likely slots; the second looks up and
    /// rewrites.
    pub fn process(&mut self, snapshot: &Snapshot, now: u32, packets: &mut [Packet<'_>], verdicts: &mut ArrayVec<Verdict, BATCH_MAX>) {
        self.v4.hops.begin(snapshot);
        self.v6.hops.begin(snapshot);
        verdicts.clear();
        let mut stages: ArrayVec<Stage, BATCH_MAX> = ArrayVec::new();
        let (mut v4, mut v6): (Batch<V4>, Batch<V6>) = (Batch::new(), Batch::new());
        for packets in packets.chunks_mut(PREFETCH_PACKETS).take(BATCH_MAX / PREFETCH_PACKETS) {
            let parsed = (v4.len(), v6.len());
            for packet in packets {
                stages.push(self.stage(snapshot, packet, &mut v4, &mut v6));
            }
            v4[parsed.0..].iter().for_each(|staged| self.v4.flows.prefetch(staged.hash));
            v6[parsed.1..].iter().for_each(|staged| self.v6.flows.prefetch(staged.hash));
        }
        for (stage, packet) in stages.iter().zip(packets.iter_mut()) {
            let shared = &mut self.shared;
            let verdict = match *stage {
                Stage::V4(at) => Path { lane: &mut self.v4, shared, snapshot, now }.pass(&v4[usize::from(at)], packet),
                Stage::V6(at) => Path { lane: &mut self.v6, shared, snapshot, now }.pass(&v6[usize::from(at)], packet),
                Stage::Rare(taken) => self.look_at(snapshot, now, taken, packet),
                Stage::Decided(verdict) => verdict,
            };
            self.shared.counts.count(verdict);
            verdicts.push(verdict);
        }
    }

    /// Bounded work between batches: expiry. `budget` in slots of each family. Returns how many flows were removed.
    pub fn sweep(&mut self, now: u32, budget: usize) -> usize {
        let EngineConfig { worker, timeouts, .. } = &self.shared.config;
        self.v4.flows.sweep(*worker, budget, timeouts, now) + self.v6.flows.sweep(*worker, budget, timeouts, now)
    }

    pub fn counts(&self) -> &VerdictCounts {
        &self.shared.counts
    }

    /// First pass.
    #[inline(always)]
    fn stage(&self, snapshot: &Snapshot, packet: &mut Packet<'_>, v4: &mut Batch<V4>, v6: &mut Batch<V6>) -> Stage {
        let taken = match locate(snapshot, packet) {
            Ok(taken) => taken,
            Err(verdict) => return Stage::Decided(verdict),
        };
        match wire::parse(received(packet)) {
            Frame::V4(Parsed::Flow(flow)) => Stage::V4(self.v4.stage(snapshot, packet, taken, flow, v4)),
            Frame::V6(Parsed::Flow(flow)) => Stage::V6(self.v6.stage(snapshot, packet, taken, flow, v6)),
            _ => Stage::Rare(taken),
        }
    }

    /// Last pass for what is no packet of a flow.
    #[cold]
    fn look_at(&mut self, snapshot: &Snapshot, now: u32, taken: Taken, packet: &mut Packet<'_>) -> Verdict {
        let shared = &mut self.shared;
        match wire::parse(received(packet)) {
            Frame::V4(parsed) => Path { lane: &mut self.v4, shared, snapshot, now }.look_at(taken, parsed, packet),
            Frame::V6(parsed) => Path { lane: &mut self.v6, shared, snapshot, now }.look_at(taken, parsed, packet),
            Frame::Arp(l3) => answer_arp(snapshot, packet, l3, taken),
            Frame::Other => leave(snapshot, packet, taken),
            Frame::Malformed => Verdict::Drop(DropReason::Malformed),
        }
    }
}

impl<F: Family> Lane<F> {
    fn new(flows: Arc<FlowTable<F>>) -> Lane<F> {
        let seed = flows.seed();
        Lane { flows, hops: HopCache::new(), fragments: Fragments::new(seed) }
    }

    /// Returns the packet's place in the batch.
    #[inline(always)]
    fn stage(&self, snapshot: &Snapshot, packet: &mut Packet<'_>, taken: Taken, flow: IpFlow<F>, batch: &mut Batch<F>) -> u8 {
        if flow.part == Part::Whole && partial_checksums(snapshot, packet.origin) {
            nat::complete_checksum(packet.bytes, &flow);
        }
        let hash = self.flows.hash(&flow.tuple.at(taken.zone, taken.hook, flow.protocol));
        let place = batch.len() as u8;
        batch.push(Staged { taken, flow, hash });
        place
    }
}

impl<F: Family> Path<'_, F> {
    /// Last pass for a packet of a flow.
    #[inline(always)]
    fn pass(&mut self, staged: &Staged<F>, packet: &mut Packet<'_>) -> Verdict {
        if staged.flow.part == Part::Whole {
            self.forward(staged, packet).unwrap_or_else(|early| early)
        } else {
            self.forward_first(staged, packet)
        }
    }

    /// Last pass for other packets.
    fn look_at(&mut self, taken: Taken, parsed: Parsed<F>, packet: &mut Packet<'_>) -> Verdict {
        match parsed {
            Parsed::Later(flow) => self.forward_later(taken, &flow, packet).unwrap_or_else(|early| early),
            Parsed::Overlap => Verdict::Drop(DropReason::FragmentOverlap),
            Parsed::Quote(quote) => self.pass_on(taken, &quote, packet).unwrap_or_else(|early| early),
            Parsed::Ping(ping) => self.answer_ping(taken, &ping, packet),
            Parsed::Solicitation { l3, end } => answer_solicitation(self.snapshot, packet, (l3, end), taken),
            // None of a flow comes here: those were staged.
            Parsed::Flow(_) | Parsed::Other => leave(self.snapshot, packet, taken),
            Parsed::Malformed => Verdict::Drop(DropReason::Malformed),
        }
    }
}

/// The packet as it was received, without the room behind it.
#[inline(always)]
fn received<'a>(packet: &'a Packet<'_>) -> &'a [u8] {
    packet.bytes.get(..packet.len).unwrap_or(packet.bytes)
}

/// What is not ours after all. To a VIP nothing is returned: the kernel would send it back into the network, as `uplink` knows.
#[cold]
fn leave(snapshot: &Snapshot, packet: &mut Packet<'_>, taken: Taken) -> Verdict {
    if taken.hook == Hook::UplinkIn
        && let Some(destination) = wire::destination(received(packet))
        && snapshot.vips.contains(&destination)
    {
        return Verdict::Drop(DropReason::NotForwarded);
    }
    give_back(packet, taken)
}

/// Returns a packet to where it was taken: nobody of us wants it, or `edge` will translate it.
fn give_back(packet: &mut Packet<'_>, taken: Taken) -> Verdict {
    if taken.hook == Hook::NodeOut {
        // A route of ours led it here; no other way exists for it.
        return Verdict::Drop(DropReason::NotForwarded);
    }
    packet.bytes[..6].copy_from_slice(&order_mac(Order::Received, taken.ifindex));
    Verdict::Host
}

fn answer_arp(snapshot: &Snapshot, packet: &mut Packet<'_>, l3: usize, taken: Taken) -> Verdict {
    let Origin::Uplink(port) = packet.origin else { return give_back(packet, taken) };
    let mac = snapshot.node.uplink_of(port).map_or([0; 6], |uplink| uplink.mac);
    let len = packet.len.min(packet.bytes.len());
    match arp::answer(&mut packet.bytes[..len], l3, &snapshot.announced, mac) {
        ArpAction::Reply { len } => {
            packet.len = len;
            snapshot.node.port_back(port).map_or(Verdict::Drop(DropReason::NoMember), |uplink| Verdict::Uplink { uplink })
        }
        ArpAction::NotOurs => give_back(packet, taken),
        ArpAction::Drop(reason) => Verdict::Drop(reason),
    }
}

fn answer_solicitation(snapshot: &Snapshot, packet: &mut Packet<'_>, (l3, end): (usize, usize), taken: Taken) -> Verdict {
    let Origin::Uplink(port) = packet.origin else { return give_back(packet, taken) };
    let mac = snapshot.node.uplink_of(port).map_or([0; 6], |uplink| uplink.mac);
    match ndp::answer(packet.bytes, l3, end, &snapshot.announced, mac) {
        NdpAction::Reply { len } => {
            packet.len = len;
            snapshot.node.port_back(port).map_or(Verdict::Drop(DropReason::NoMember), |uplink| Verdict::Uplink { uplink })
        }
        NdpAction::NotOurs => give_back(packet, taken),
        NdpAction::Drop(reason) => Verdict::Drop(reason),
    }
}

/// Addresses of the Ethernet header. Every frame that was parsed has one.
#[inline(always)]
fn write_macs(frame: &mut [u8], destination: [u8; 6], source: [u8; 6]) {
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
}

/// Takes VLAN tags off a frame that leaves by the kernel: its devices add their own.
fn remove_tags(packet: &mut Packet<'_>, l3: usize) {
    let tags_bytes = l3 - wire::ETHERNET_BYTES;
    if tags_bytes > 0 {
        // From the innermost EtherType on.
        packet.bytes.copy_within(l3 - 2..packet.len, wire::ETHERNET_BYTES - 2);
        packet.len -= tags_bytes;
    }
}
