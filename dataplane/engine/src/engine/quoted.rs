//! ICMP errors about flows of ours: they reach whoever sent the packet that they quote, and say what that one knows of it.

use std::sync::atomic::Ordering::Relaxed;

use super::forward::Route;
use super::{Packet, Path, give_back, leave};
use crate::admission::is_impossible;
use crate::family::Family;
use crate::flow::{FlowOp, Tuple};
use crate::hops::{Hop, HopKey};
use crate::nat;
use crate::place::Taken;
use crate::verdict::{DropReason, Verdict};
use crate::wire::Quote;

impl<F: Family> Path<'_, F> {
    /// Sends an error on to the sender of what it quotes, if a worker executes that flow. Nothing is ever answered: an error about an error
    /// could go round for ever (RFC 1812 §4.3.2.7).
    #[cold]
    pub(super) fn pass_on(&mut self, taken: Taken, quote: &Quote<F>, packet: &mut Packet<'_>) -> Result<Verdict, Verdict> {
        let key = quote.tuple.at(taken.zone, taken.hook, quote.protocol);
        let Some(slot) = self.lane.flows.lookup(&key, self.lane.flows.hash(&key)) else { return Ok(leave(self.snapshot, packet, taken)) };
        let entry = self.lane.flows.slot(slot);
        if FlowOp::from_flags(entry.flags.load(Relaxed)) != Some(FlowOp::Worker) {
            return Ok(give_back(packet, taken));
        }
        packet.len = quote.end;
        let sender = F::read(packet.bytes, quote.l3 + F::ADDRESSES).unwrap_or_default();
        if is_impossible(Tuple { saddr: sender, ..quote.tuple }) {
            return Err(Verdict::Drop(DropReason::LandAttack));
        }
        if quote.ttl <= 1 {
            return Err(Verdict::Drop(DropReason::TtlExpired));
        }
        let (saddr, daddr) = (F::load(&entry.new_saddr), F::load(&entry.new_daddr));
        let route = match entry.ifindex.load(Relaxed) {
            0 => Route::Hop(self.lane.hops.resolve(self.snapshot, HopKey { saddr, daddr, iif: taken.ifindex })?),
            ifindex => Route::Pod { ifindex, dmac: entry.dmac() },
        };
        if let Route::Hop(Hop::Uplink { mtu, .. } | Hop::Device { mtu, .. }) = route
            && quote.bytes() > mtu as usize
        {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        nat::rewrite_quote(packet.bytes, quote, entry);
        nat::decrement_ttl::<F>(packet.bytes, quote.l3);
        let verdict = self.send(route, slot, quote.l3, packet);
        self.shared.counts.icmp_errors += u64::from(!matches!(verdict, Verdict::Drop(_)));
        Ok(verdict)
    }
}
