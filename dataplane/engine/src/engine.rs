//! The engine: packets, a snapshot, the flow table and time in; one verdict per packet out.

mod answer;
mod fragmented;
mod quoted;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrayvec::ArrayVec;

use crate::admission::refuse_impossible;
use crate::affinity::AffinityTable;
use crate::arp::{self, ArpAction};
use crate::bind::{Binder, Client};
use crate::flow::{FlowKey, FlowOp, FlowTable, Hook, SEEN_FIN, SEEN_RST, SEEN_STOPPED, SlotIndex, TICKS_PER_SECOND, Timeouts};
use crate::fragments::Fragments;
use crate::hops::{Hop, HopCache, HopKey, address};
use crate::nat;
use crate::order::{Order, order_mac};
use crate::place::{Taken, locate, partial_checksums};
use crate::random::Random;
use crate::refuse::{self, IcmpError, Limiter};
use crate::tables::Snapshot;
use crate::verdict::{DropReason, Verdict, VerdictCounts};
use crate::wire::{self, Ipv4Flow, Parsed, Part, Ping, Quote};

use self::answer::Met;

/// Packets handled together: enough to hide the flow table's cache misses (performance grows little beyond it).
pub const BATCH_MAX: usize = 64;

/// A flow younger than two seconds that begins anew keeps its backend. Slots rest for a second after a removal, and a key has few:
/// a client that uses one port for many short connections would run out.
const REOPEN_TICKS: u32 = 2 * TICKS_PER_SECOND;

/// Where a frame was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the uplink of this index in `NodeTables::uplinks`.
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
    /// By index of the uplink: this worker has a transmit queue there. Elsewhere packets leave by the hostlink (`Order::Neigh`).
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
    config: EngineConfig,
    flows: Arc<FlowTable>,
    affinity: Arc<AffinityTable>,
    counts: VerdictCounts,
    random: Random,
    hops: HopCache,
    fragments: Fragments,
    icmp_errors: Limiter,
    same_size: Limiter,
}

/// A packet of a flow between the passes of a batch.
struct Staged {
    taken: Taken,
    flow: Ipv4Flow,
    key: FlowKey,
    hash: u64,
}

/// What the first pass made of a packet.
enum Stage {
    Flow(Staged),
    Later(Taken, Ipv4Flow),
    Quote(Taken, Quote),
    Ping(Taken, Ping),
    Decided(Verdict),
}

impl Engine {
    pub fn new(config: EngineConfig, flows: Arc<FlowTable>, affinity: Arc<AffinityTable>) -> Engine {
        let (random, flows_seed) = (Random::new(config.seed), flows.seed());
        Engine {
            config,
            flows,
            affinity,
            counts: VerdictCounts::default(),
            random,
            hops: HopCache::new(),
            fragments: Fragments::new(flows_seed),
            icmp_errors: Limiter::new(refuse::ICMP_ERRORS),
            same_size: Limiter::new(refuse::SAME_SIZE),
        }
    }

    /// Decides and rewrites a batch of at most [`BATCH_MAX`]: `verdicts[i]` is for `packets[i]`. `now` in ticks.
    ///
    /// Two passes: the first parses the packets and, eight at a time, starts the loads of their likely slots; the second looks up and
    /// rewrites.
    pub fn process(&mut self, snapshot: &Snapshot, now: u32, packets: &mut [Packet<'_>], verdicts: &mut ArrayVec<Verdict, BATCH_MAX>) {
        self.hops.begin(snapshot);
        verdicts.clear();
        let mut stages: ArrayVec<Stage, BATCH_MAX> = ArrayVec::new();
        for packets in packets.chunks_mut(PREFETCH_PACKETS).take(BATCH_MAX / PREFETCH_PACKETS) {
            let parsed = stages.len();
            for packet in packets {
                stages.push(self.stage(snapshot, packet));
            }
            for stage in &stages[parsed..] {
                if let Stage::Flow(staged) = stage {
                    self.flows.prefetch(staged.hash);
                }
            }
        }
        for (stage, packet) in stages.iter().zip(packets.iter_mut()) {
            let verdict = match stage {
                Stage::Decided(verdict) => *verdict,
                Stage::Quote(taken, quote) => self.pass_on(snapshot, *taken, quote, packet).unwrap_or_else(|early| early),
                Stage::Ping(taken, ping) => self.answer_ping(snapshot, now, *taken, ping, packet),
                Stage::Flow(staged) if staged.flow.part != Part::Whole => self.forward_first(snapshot, now, staged, packet),
                Stage::Flow(staged) => self.forward(snapshot, now, staged, packet).unwrap_or_else(|early| early),
                Stage::Later(taken, flow) => self.forward_later(snapshot, now, *taken, flow, packet).unwrap_or_else(|early| early),
            };
            self.counts.count(verdict);
            verdicts.push(verdict);
        }
    }

    /// Bounded work between batches: expiry. `budget` in slots.
    pub fn sweep(&mut self, now: u32, budget: usize) -> usize {
        self.flows.sweep(self.config.worker, budget, &self.config.timeouts, now)
    }

    pub fn counts(&self) -> &VerdictCounts {
        &self.counts
    }

    /// First pass: parse, answer what needs no flow.
    #[inline]
    fn stage(&self, snapshot: &Snapshot, packet: &mut Packet<'_>) -> Stage {
        let taken = match locate(snapshot, packet) {
            Ok(taken) => taken,
            Err(verdict) => return Stage::Decided(verdict),
        };
        match wire::parse(received(packet)) {
            Parsed::Flow(flow) => {
                if flow.part == Part::Whole && partial_checksums(snapshot, packet.origin) {
                    nat::complete_checksum(packet.bytes, &flow);
                }
                let key = flow.tuple.at(taken.zone, taken.hook, flow.protocol);
                let hash = self.flows.hash(&key);
                Stage::Flow(Staged { taken, flow, key, hash })
            }
            Parsed::Later(flow) => Stage::Later(taken, flow),
            Parsed::Overlap => Stage::Decided(Verdict::Drop(DropReason::FragmentOverlap)),
            Parsed::Quote(quote) => Stage::Quote(taken, quote),
            Parsed::Ping(ping) => Stage::Ping(taken, ping),
            Parsed::Arp(l3) => Stage::Decided(answer_arp(snapshot, packet, l3, taken)),
            Parsed::Other => Stage::Decided(leave(snapshot, packet, taken)),
            Parsed::Malformed => Stage::Decided(Verdict::Drop(DropReason::Malformed)),
        }
    }

    /// Last pass for a packet of a flow. `Err` is a verdict too: the early one.
    #[inline]
    fn forward(&mut self, snapshot: &Snapshot, now: u32, staged: &Staged, packet: &mut Packet<'_>) -> Result<Verdict, Verdict> {
        let &Staged { taken, ref flow, ref key, hash } = staged;
        packet.len = flow.end;
        let found = self.flows.lookup(key, hash);
        let is_over = found.is_some_and(|slot| self.is_over(slot));
        if let Some(slot) = found
            && !is_over
            && !(flow.is_syn() && self.has_ended(slot))
        {
            return self.execute(snapshot, now, taken, flow, slot, packet);
        }
        let client = match taken.hook {
            Hook::PodIn => Client::Pod { ifindex: taken.ifindex, mac: wire::source_mac(packet.bytes) },
            Hook::NodeOut => Client::Node,
            _ => Client::Outside { uplink_ifindex: taken.ifindex },
        };
        let mut binder = Binder {
            snapshot,
            flows: &self.flows,
            affinity: &self.affinity,
            random: &mut self.random,
            worker: self.config.worker,
            workers: self.config.workers,
            now,
        };
        if let Some(slot) = found {
            // The client uses its port again after the end of its last connection, or the backend stopped serving; it may be back.
            let entry = self.flows.slot(slot);
            let is_young = now.wrapping_sub(entry.created.load(Relaxed)) < REOPEN_TICKS;
            if (is_young || is_over) && entry.is_forward() && binder.permits(client, flow, self.flows.rewrite_of(slot).tuple.dst()) {
                self.flows.reopen(slot, now);
                return self.execute(snapshot, now, taken, flow, slot, packet);
            }
            self.flows.remove(self.config.worker, slot, now);
        }
        match binder.bind(client, flow) {
            Ok(Some(slot)) => self.execute(snapshot, now, taken, flow, slot, packet),
            Ok(None) if snapshot.cluster_ips.contains(&flow.tuple.dst().0) => {
                refuse_impossible(flow)?;
                Ok(self.refuse(&Met { snapshot, now, taken, flow }, packet))
            }
            Ok(None) => Ok(leave(snapshot, packet, taken)),
            Err(Verdict::Drop(DropReason::NoBackend)) => Ok(self.refuse(&Met { snapshot, now, taken, flow }, packet)),
            Err(verdict) => Err(verdict),
        }
    }

    /// Carries out an entry, or hands the packet back to where `edge` will.
    #[inline]
    fn execute(
        &mut self,
        snapshot: &Snapshot,
        now: u32,
        taken: Taken,
        flow: &Ipv4Flow,
        slot: SlotIndex,
        packet: &mut Packet<'_>,
    ) -> Result<Verdict, Verdict> {
        let entry = self.flows.slot(slot);
        let op = FlowOp::from_flags(entry.flags.load(Relaxed));
        match (op, taken.hook) {
            (Some(FlowOp::Worker), _) => {}
            // At the egress of rw1 the packet is past the point to which it could be handed back.
            (Some(op), Hook::NodeOut) => {
                self.flows.touch(slot, flow.tcp_flags, now);
                nat::rewrite(packet.bytes, flow, entry);
                let order = if op == FlowOp::Received { Order::Received } else { Order::Neigh };
                write_macs(packet.bytes, order_mac(order, entry.ifindex.load(Relaxed)), snapshot.node.rw1_mac);
                return Ok(Verdict::Host);
            }
            _ => return Ok(give_back(packet, taken)),
        }
        if flow.ttl <= 1 {
            return Err(self.complain(&Met { snapshot, now, taken, flow }, packet, IcmpError::TimeExceeded, DropReason::TtlExpired));
        }
        let route = match entry.ifindex.load(Relaxed) {
            0 => {
                let key = HopKey { saddr: entry.new_saddr.load(Relaxed), daddr: entry.new_daddr.load(Relaxed), iif: taken.ifindex };
                Route::Hop(self.hops.resolve(snapshot, key)?)
            }
            ifindex => Route::Pod { ifindex, dmac: entry.dmac() },
        };
        let mut divided = None;
        if let Route::Hop(Hop::Uplink { mtu, .. } | Hop::Device { mtu, .. }) = route
            && flow.bytes() > mtu as usize
        {
            self.may_divide(&Met { snapshot, now, taken, flow }, packet, mtu)?;
            divided = Some(mtu);
        }
        let entry = self.flows.slot(slot);
        self.flows.touch(slot, flow.tcp_flags, now);
        nat::rewrite(packet.bytes, flow, entry);
        nat::decrement_ttl(packet.bytes, flow.l3);
        Ok(match (self.send(snapshot, route, flow.l3, packet), divided) {
            (Verdict::Uplink { uplink }, Some(mtu)) => Verdict::Divide { mtu, uplink: Some(uplink) },
            (Verdict::Host, Some(mtu)) => Verdict::Divide { mtu, uplink: None },
            (verdict, _) => verdict,
        })
    }

    /// Writes the Ethernet header for where the packet goes.
    #[inline]
    fn send(&self, snapshot: &Snapshot, route: Route, l3: usize, packet: &mut Packet<'_>) -> Verdict {
        let (order, ifindex, source) = match route {
            Route::Hop(Hop::Uplink { uplink, dmac, .. }) => {
                let Some(port) = snapshot.node.uplinks.get(usize::from(uplink)) else { return Verdict::Drop(DropReason::NoRoute) };
                if self.config.transmits_on.get(usize::from(uplink)) == Some(&true) {
                    write_macs(packet.bytes, dmac, port.mac);
                    return Verdict::Uplink { uplink };
                }
                (Order::Neigh, port.ifindex, snapshot.node.rw1_mac)
            }
            Route::Hop(Hop::Device { ifindex, .. }) => (Order::Neigh, ifindex, snapshot.node.rw1_mac),
            Route::Pod { ifindex, dmac } => (Order::Peer, ifindex, dmac),
        };
        remove_tags(packet, l3);
        write_macs(packet.bytes, order_mac(order, ifindex), source);
        Verdict::Host
    }

    /// The slot's backend stopped serving, and the packet asks it for something.
    #[inline(always)]
    fn is_over(&self, slot: SlotIndex) -> bool {
        self.flows.slot(slot).seen.load(Relaxed) & SEEN_STOPPED != 0
    }

    /// One side of the slot's flow has closed it or reset it.
    fn has_ended(&self, slot: SlotIndex) -> bool {
        let entry = self.flows.slot(slot);
        let peer = self.flows.slot(entry.peer.load(Relaxed));
        (entry.seen.load(Relaxed) | peer.seen.load(Relaxed)) & (SEEN_FIN | SEEN_RST) != 0
    }
}

/// Where a translated packet goes.
#[derive(Clone, Copy)]
enum Route {
    Hop(Hop),
    /// Straight into the pod behind the device.
    Pod {
        ifindex: u32,
        dmac: [u8; 6],
    },
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
        && let Some(destination) = wire::ipv4_destination(received(packet))
        && snapshot.vips.contains(&address(destination))
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
    let Origin::Uplink(uplink) = packet.origin else { return give_back(packet, taken) };
    let mac = snapshot.node.uplinks.get(usize::from(uplink)).map_or([0; 6], |port| port.mac);
    let len = packet.len.min(packet.bytes.len());
    match arp::answer(&mut packet.bytes[..len], l3, &snapshot.announced, mac) {
        ArpAction::Reply { len } => {
            packet.len = len;
            Verdict::Uplink { uplink }
        }
        ArpAction::NotOurs => give_back(packet, taken),
        ArpAction::Drop(reason) => Verdict::Drop(reason),
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
