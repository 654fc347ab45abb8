//! Answers to the senders of packets that go no further.

use super::{Engine, Origin, Packet, leave, remove_tags, write_macs};
use crate::admission::is_impossible;
use crate::flow::Hook;
use crate::hops::address;
use crate::order::{Order, order_mac};
use crate::place::Taken;
use crate::refuse::{self, IcmpError};
use crate::tables::{Snapshot, is_alias};
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, DONT_FRAGMENT, Ipv4Flow, Part, Ping, TCP, read_u16};

/// Where and when a packet was met, and what it is.
pub(super) struct Met<'a> {
    pub snapshot: &'a Snapshot,
    pub now: u32,
    pub taken: Taken,
    pub flow: &'a Ipv4Flow,
}

impl Engine {
    /// Answers a packet that nobody serves.
    pub(super) fn refuse(&mut self, met: &Met<'_>, packet: &mut Packet<'_>) -> Verdict {
        if is_to_many(packet) {
            return Verdict::Drop(DropReason::NoBackend);
        }
        if met.flow.protocol != TCP {
            return self.complain(met, packet, IcmpError::PortUnreachable, DropReason::RefusalLimited);
        }
        if !self.same_size.admit(met.flow.tuple.saddr, met.now) {
            return Verdict::Drop(DropReason::RefusalLimited);
        }
        let len = refuse::reset(packet.bytes, met.flow);
        self.answer(met, packet, len, DropReason::NoBackend)
    }

    /// Tells the sender of a packet why it goes no further. `untold` is counted if it may not be told: it was told much already.
    #[cold]
    pub(super) fn complain(&mut self, met: &Met<'_>, packet: &mut Packet<'_>, error: IcmpError, untold: DropReason) -> Verdict {
        // RFC 1122 §3.2.2: nor about fragments other than the first.
        if is_to_many(packet) || met.flow.part == Part::Later || !self.icmp_errors.admit(met.flow.tuple.saddr, met.now) {
            return Verdict::Drop(untold);
        }
        let len = refuse::icmp_error(packet.bytes, met.flow, error);
        self.answer(met, packet, len, untold)
    }

    /// Of a packet that is larger than the next hop's MTU, in bytes: it may be divided, or the error is the verdict. Whoever forbids that is
    /// told. Without a limit, as Linux does (`icmpv4_mask_allow`): each sender has to know, and an answer is smaller than what it is about.
    /// Some senders of datagrams send fragments then, the others (QUIC) smaller ones.
    #[cold]
    pub(super) fn may_divide(&mut self, met: &Met<'_>, packet: &mut Packet<'_>, mtu: u32) -> Result<(), Verdict> {
        let has_df = read_u16(packet.bytes, met.flow.l3 + 6).is_some_and(|flags| flags & DONT_FRAGMENT != 0);
        if is_to_many(packet) || has_df && met.flow.part == Part::Later {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        if !has_df {
            return Ok(());
        }
        let len = refuse::icmp_error(packet.bytes, met.flow, IcmpError::FragmentationNeeded { mtu });
        Err(self.answer(met, packet, len, DropReason::TooBig))
    }

    /// Answers a ping to an address of a service.
    #[cold]
    pub(super) fn answer_ping(&mut self, snapshot: &Snapshot, now: u32, taken: Taken, ping: &Ping, packet: &mut Packet<'_>) -> Verdict {
        let address = address(ping.tuple.daddr);
        let is_services = snapshot.cluster_ips.contains(&address) && !is_alias(address) || snapshot.vips.contains(&address);
        if !snapshot.node.answer_ping || !is_services || is_to_many(packet) {
            return leave(snapshot, packet, taken);
        }
        if is_impossible(ping.tuple) {
            return Verdict::Drop(DropReason::LandAttack);
        }
        if !self.same_size.admit(ping.tuple.saddr, now) {
            return Verdict::Drop(DropReason::RefusalLimited);
        }
        match refuse::pong(packet.bytes, ping) {
            Some(len) => {
                self.counts.pings += 1;
                self.send_back(snapshot, taken, ping.l3, packet, len)
            }
            None => Verdict::Drop(DropReason::Malformed),
        }
    }

    /// The packet has become its refusal, of `len` bytes, or cannot be refused.
    fn answer(&mut self, met: &Met<'_>, packet: &mut Packet<'_>, len: Option<usize>, otherwise: DropReason) -> Verdict {
        let Some(len) = len else { return Verdict::Drop(otherwise) };
        self.counts.refused += 1;
        self.send_back(met.snapshot, met.taken, met.flow.l3, packet, len)
    }

    /// The packet has become the answer to itself, of `len` bytes: it goes back the way it came.
    fn send_back(&self, snapshot: &Snapshot, taken: Taken, l3: usize, packet: &mut Packet<'_>, len: usize) -> Verdict {
        let client = wire::source_mac(packet.bytes);
        packet.len = len;
        if let Origin::Uplink(uplink) = packet.origin {
            let mac = snapshot.node.uplinks.get(usize::from(uplink)).map_or([0; 6], |port| port.mac);
            write_macs(packet.bytes, client, mac);
            return Verdict::Uplink { uplink };
        }
        let (order, source) = match taken.hook {
            Hook::PodIn => (Order::Peer, client),
            Hook::NodeOut => (Order::Received, snapshot.node.rw1_mac),
            Hook::UplinkIn | Hook::UplinkOut | Hook::PodOut => {
                remove_tags(packet, l3);
                (Order::Neigh, snapshot.node.rw1_mac)
            }
        };
        write_macs(packet.bytes, order_mac(order, taken.ifindex), source);
        Verdict::Host
    }
}

/// The packet was sent to more than one station, which nobody answers (RFC 1122 §3.2.2). On the hostlink the destination is our upcall.
fn is_to_many(packet: &Packet<'_>) -> bool {
    (wire::source_mac(packet.bytes)[0] | packet.bytes[0]) & 1 != 0
}
