//! Answers to the senders of packets that go no further.

use super::{Origin, Packet, Path, leave, remove_tags, write_macs};
use crate::admission::is_impossible;
use crate::family::Family;
use crate::flow::Hook;
use crate::order::{Order, order_mac};
use crate::place::Taken;
use crate::refuse::{self, IcmpError};
use crate::tables::is_alias;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, DONT_FRAGMENT, IpFlow, Part, Ping, TCP, read_u16};

impl<F: Family> Path<'_, F> {
    /// Answers a packet that nobody serves.
    pub(super) fn refuse(&mut self, taken: Taken, flow: &IpFlow<F>, packet: &mut Packet<'_>) -> Verdict {
        if is_to_many(packet) {
            return Verdict::Drop(DropReason::NoBackend);
        }
        if flow.protocol != TCP {
            return self.complain(taken, flow, packet, IcmpError::PortUnreachable, DropReason::RefusalLimited);
        }
        if !self.shared.same_size.admit(sender::<F>(taken, flow.tuple.saddr), self.now) {
            return Verdict::Drop(DropReason::RefusalLimited);
        }
        let len = refuse::reset(packet.bytes, flow);
        self.answer(taken, flow, packet, len, DropReason::NoBackend)
    }

    /// Tells the sender of a packet why it goes no further. `untold` is counted if it may not be told: it was told much already.
    #[cold]
    pub(super) fn complain(
        &mut self,
        taken: Taken,
        flow: &IpFlow<F>,
        packet: &mut Packet<'_>,
        error: IcmpError,
        untold: DropReason,
    ) -> Verdict {
        // RFC 1122 §3.2.2: nor about fragments other than the first.
        if is_to_many(packet) || flow.part == Part::Later || !self.shared.icmp_errors.admit(sender::<F>(taken, flow.tuple.saddr), self.now)
        {
            return Verdict::Drop(untold);
        }
        let len = refuse::icmp_error(packet.bytes, flow, error);
        self.answer(taken, flow, packet, len, untold)
    }

    /// Of a packet that is larger than the next hop's MTU, in bytes: it may be divided, or the error is the verdict. Whoever forbids that is
    /// told, and in IPv6 everybody (RFC 8200 §5). Without a limit, as Linux does (`icmpv4_mask_allow`): each sender has to know, and an answer is smaller than what it is about.
    /// Some senders of datagrams send fragments then, the others (QUIC) smaller ones.
    #[cold]
    pub(super) fn may_divide(&mut self, taken: Taken, flow: &IpFlow<F>, packet: &mut Packet<'_>, mtu: u32) -> Result<(), Verdict> {
        let has_df = F::IS_V6 || read_u16(packet.bytes, flow.l3 + 6).is_some_and(|flags| flags & DONT_FRAGMENT != 0);
        if is_to_many(packet) || has_df && flow.part == Part::Later {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        if !has_df {
            return Ok(());
        }
        let len = refuse::icmp_error(packet.bytes, flow, IcmpError::TooBig { mtu });
        Err(self.answer(taken, flow, packet, len, DropReason::TooBig))
    }

    /// Answers a ping to an address of a service.
    #[cold]
    pub(super) fn answer_ping(&mut self, taken: Taken, ping: &Ping<F>, packet: &mut Packet<'_>) -> Verdict {
        let (snapshot, address) = (self.snapshot, F::to_ip(ping.tuple.daddr).into());
        let is_services = snapshot.cluster_ips.contains(&address) && !is_alias(address) || snapshot.vips.contains(&address);
        if !snapshot.node.answer_ping || !is_services || is_to_many(packet) {
            return leave(snapshot, packet, taken);
        }
        if is_impossible(ping.tuple) {
            return Verdict::Drop(DropReason::LandAttack);
        }
        if !self.shared.same_size.admit(sender::<F>(taken, ping.tuple.saddr), self.now) {
            return Verdict::Drop(DropReason::RefusalLimited);
        }
        match refuse::pong(packet.bytes, ping) {
            Some(len) => {
                self.shared.counts.pings += 1;
                self.send_back(taken, ping.l3, packet, len)
            }
            None => Verdict::Drop(DropReason::Malformed),
        }
    }

    /// The packet has become its refusal, of `len` bytes, or cannot be refused.
    fn answer(&mut self, taken: Taken, flow: &IpFlow<F>, packet: &mut Packet<'_>, len: Option<usize>, otherwise: DropReason) -> Verdict {
        let Some(len) = len else { return Verdict::Drop(otherwise) };
        self.shared.counts.refused += 1;
        self.send_back(taken, flow.l3, packet, len)
    }

    /// The packet has become the answer to itself, of `len` bytes: it goes back the way it came.
    fn send_back(&self, taken: Taken, l3: usize, packet: &mut Packet<'_>, len: usize) -> Verdict {
        let client = wire::source_mac(packet.bytes);
        packet.len = len;
        if let Origin::Uplink(port) = packet.origin
            && let Some(uplink) = self.snapshot.node.port_back(port)
        {
            let mac = self.snapshot.node.uplink_of(port).map_or([0; 6], |uplink| uplink.mac);
            write_macs(packet.bytes, client, mac);
            return Verdict::Uplink { uplink };
        }
        let (order, source) = match taken.hook {
            Hook::PodIn => (Order::Peer, client),
            Hook::NodeOut => (Order::Received, self.snapshot.node.rw1_mac),
            Hook::UplinkIn | Hook::UplinkOut | Hook::PodOut => {
                remove_tags(packet, l3);
                (Order::Neigh, self.snapshot.node.rw1_mac)
            }
        };
        write_macs(packet.bytes, order_mac(order, taken.ifindex), source);
        Verdict::Host
    }
}

/// Whose share of the answers is used. A station outside may take any address of its link; those of this node have one each, though all
/// its pods may be of one prefix.
fn sender<F: Family>(taken: Taken, saddr: F::Address) -> u64 {
    match taken.hook {
        Hook::PodIn | Hook::NodeOut => F::mix(0, saddr, saddr),
        Hook::UplinkIn | Hook::UplinkOut | Hook::PodOut => F::sender(saddr),
    }
}

/// The packet was sent to more than one station, which nobody answers (RFC 1122 §3.2.2). On the hostlink the destination is our upcall.
fn is_to_many(packet: &Packet<'_>) -> bool {
    (wire::source_mac(packet.bytes)[0] | packet.bytes[0]) & 1 != 0
}
