//! Packets of flows: the entry found or made, and carried out.

use std::sync::atomic::Ordering::Relaxed;

use super::{Packet, Path, REOPEN_TICKS, Staged, give_back, leave, remove_tags, write_macs};
use crate::admission::refuse_impossible;
use crate::bind::{Binder, Client};
use crate::family::Family;
use crate::flow::{FlowOp, Hook, SEEN_STOPPED, Segment, SlotIndex};
use crate::hops::{Hop, HopKey};
use crate::nat;
use crate::order::{Order, order_mac};
use crate::place::Taken;
use crate::refuse::IcmpError;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, IpFlow, UDP};

/// Where a translated packet goes.
#[derive(Clone, Copy)]
pub(super) enum Route {
    Hop(Hop),
    /// Straight into the pod behind the device.
    Pod {
        ifindex: u32,
        dmac: [u8; 6],
    },
}

impl<F: Family> Path<'_, F> {
    /// Last pass for a packet of a flow. `Err` is a verdict too: the early one.
    #[inline(always)]
    pub(super) fn forward(&mut self, staged: &Staged<F>, packet: &mut Packet<'_>) -> Result<Verdict, Verdict> {
        let &Staged { taken, ref flow, hash } = staged;
        packet.len = flow.end;
        let found = self.lane.flows.lookup(&staged.key(), hash);
        let is_over = found.is_some_and(|slot| self.is_over(slot));
        if let Some(slot) = found
            && is_over
            && flow.protocol != UDP
            && !flow.is_syn()
        {
            // The backend is gone, and nothing left that could be ended. The segment itself says where its reset has to stand in the sequence.
            self.lane.flows.touch(slot, Segment::unnumbered(flow.tcp_flags), self.now);
            return Ok(self.refuse(taken, flow, packet));
        }
        if let Some(slot) = found
            && !is_over
            // Connections begin with clients: a backend's SYN goes where its other segments go, and ends no flow.
            && !(flow.is_syn() && self.lane.flows.slot(slot).is_forward() && self.lane.flows.has_ended(slot))
        {
            return self.execute(taken, flow, slot, packet);
        }
        let client = match taken.hook {
            Hook::PodIn => Client::Pod { ifindex: taken.ifindex, mac: wire::source_mac(packet.bytes) },
            Hook::NodeOut => Client::Node,
            _ => Client::Outside { uplink_ifindex: taken.ifindex },
        };
        let mut binder = Binder {
            snapshot: self.snapshot,
            flows: &self.lane.flows,
            affinity: &self.shared.affinity,
            random: &mut self.shared.random,
            worker: self.shared.config.worker,
            workers: self.shared.config.workers,
            now: self.now,
        };
        if let Some(slot) = found {
            // The client uses its port again after the end of its last connection, or the backend stopped serving; it may be back.
            let entry = self.lane.flows.slot(slot);
            let is_young = self.now.wrapping_sub(entry.created.load(Relaxed)) < REOPEN_TICKS;
            let is_doubtful = self.lane.flows.is_doubtful(slot);
            let (address, port) = self.lane.flows.rewrite_of(slot).tuple.dst();
            let backend = (address.into(), port);
            if (is_young || is_over || is_doubtful) && entry.is_forward() && binder.permits(client, flow, backend) {
                if is_doubtful {
                    // Whether it was reset its backend knows: it answers by a new connection, or goes on. Noted, for `edge` may do it.
                    self.lane.flows.touch(slot, Segment::of(flow, packet.bytes), self.now);
                } else {
                    self.lane.flows.reopen(slot, self.now);
                }
                return self.execute(taken, flow, slot, packet);
            }
            self.lane.flows.remove(self.shared.config.worker, slot, self.now);
        }
        match binder.bind(client, flow) {
            Ok(Some(slot)) => self.execute(taken, flow, slot, packet),
            Ok(None) if self.snapshot.cluster_ips.contains(&flow.tuple.dst().0.into()) => {
                refuse_impossible(flow)?;
                Ok(self.refuse(taken, flow, packet))
            }
            Ok(None) => Ok(leave(self.snapshot, packet, taken)),
            Err(Verdict::Drop(DropReason::NoBackend)) => Ok(self.refuse(taken, flow, packet)),
            Err(verdict) => Err(verdict),
        }
    }

    /// Carries out an entry, or hands the packet back to where `edge` will.
    #[inline(always)]
    pub(super) fn execute(&mut self, taken: Taken, flow: &IpFlow<F>, slot: SlotIndex, packet: &mut Packet<'_>) -> Result<Verdict, Verdict> {
        let entry = self.lane.flows.slot(slot);
        let op = FlowOp::from_flags(entry.flags.load(Relaxed));
        match (op, taken.hook) {
            (Some(FlowOp::Worker), _) => {}
            // At the egress of rw1 the packet is past the point to which it could be handed back.
            (Some(op), Hook::NodeOut) => {
                self.lane.flows.touch(slot, Segment::of(flow, packet.bytes), self.now);
                nat::rewrite(packet.bytes, flow, entry);
                let order = if op == FlowOp::Received { Order::Received } else { Order::Neigh };
                write_macs(packet.bytes, order_mac(order, entry.ifindex.load(Relaxed)), self.snapshot.node.rw1_mac);
                return Ok(Verdict::Host);
            }
            // `edge` has no way to answer.
            (Some(FlowOp::Neigh), _) if flow.ttl <= 1 || flow.bytes() > self.mtu_of(entry.ifindex.load(Relaxed)) => {}
            _ => return Ok(give_back(packet, taken)),
        }
        if flow.ttl <= 1 {
            return Err(self.complain(taken, flow, packet, IcmpError::TimeExceeded, DropReason::TtlExpired));
        }
        let route = match (op, entry.ifindex.load(Relaxed)) {
            (Some(FlowOp::Neigh), _) | (_, 0) => {
                let key = HopKey { saddr: F::load(&entry.new_saddr), daddr: F::load(&entry.new_daddr), iif: taken.ifindex };
                Route::Hop(self.lane.hops.resolve(self.snapshot, key)?)
            }
            (_, ifindex) => Route::Pod { ifindex, dmac: entry.dmac() },
        };
        let mut divided = None;
        if let Route::Hop(Hop::Uplink { mtu, .. } | Hop::Device { mtu, .. }) = route
            && flow.bytes() > mtu as usize
        {
            self.may_divide(taken, flow, packet, mtu)?;
            divided = Some(mtu);
        }
        let entry = self.lane.flows.slot(slot);
        self.lane.flows.touch(slot, Segment::of(flow, packet.bytes), self.now);
        nat::rewrite(packet.bytes, flow, entry);
        nat::decrement_ttl::<F>(packet.bytes, flow.l3);
        Ok(match (self.send(route, slot, flow.l3, packet), divided) {
            (Verdict::Uplink { uplink }, Some(mtu)) => Verdict::Divide { mtu, uplink: Some(uplink) },
            (Verdict::Host, Some(mtu)) => Verdict::Divide { mtu, uplink: None },
            (verdict, _) => verdict,
        })
    }

    /// Bytes of the largest packet that the device takes; of one that is not known it is for the kernel to say.
    fn mtu_of(&self, ifindex: u32) -> usize {
        self.snapshot.devices.get(ifindex).map_or(usize::MAX, |device| device.mtu as usize)
    }

    /// Writes the Ethernet header for where the packet goes. Packets of a `slot` take one member of a bond.
    #[inline]
    pub(super) fn send(&self, route: Route, slot: SlotIndex, l3: usize, packet: &mut Packet<'_>) -> Verdict {
        let (order, ifindex, source) = match route {
            Route::Hop(Hop::Uplink { uplink, dmac, .. }) => {
                let node = &self.snapshot.node;
                let Some(device) = node.uplinks.get(usize::from(uplink)) else { return Verdict::Drop(DropReason::NoRoute) };
                if let Some(port) = node.port_to(uplink, slot.into())
                    && self.shared.config.transmits_on.get(usize::from(port)) == Some(&true)
                {
                    write_macs(packet.bytes, dmac, device.mac);
                    return Verdict::Uplink { uplink: port };
                }
                // The kernel knows a bond's members, too.
                (Order::Neigh, device.ifindex, self.snapshot.node.rw1_mac)
            }
            Route::Hop(Hop::Device { ifindex, .. }) => (Order::Neigh, ifindex, self.snapshot.node.rw1_mac),
            Route::Pod { ifindex, dmac } => (Order::Peer, ifindex, dmac),
        };
        remove_tags(packet, l3);
        write_macs(packet.bytes, order_mac(order, ifindex), source);
        Verdict::Host
    }

    /// The slot's backend stopped serving, and the packet asks it for something.
    #[inline(always)]
    fn is_over(&self, slot: SlotIndex) -> bool {
        self.lane.flows.slot(slot).seen.load(Relaxed) & SEEN_STOPPED != 0
    }
}
