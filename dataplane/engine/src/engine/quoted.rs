//! ICMP errors about flows of ours: they reach whoever sent the packet that they quote, and say what that one knows of it.

use std::sync::atomic::Ordering::Relaxed;

use super::{Engine, Packet, Route, give_back, leave};
use crate::admission::is_impossible;
use crate::flow::{FlowOp, Tuple};
use crate::hops::{Hop, HopKey};
use crate::nat;
use crate::place::Taken;
use crate::tables::Snapshot;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{Quote, read_word};

impl Engine {
    /// Sends an error on to the sender of what it quotes, if a worker executes that flow. Nothing is ever answered: an error about an error
    /// could go round for ever (RFC 1812 §4.3.2.7).
    #[cold]
    pub(super) fn pass_on(
        &mut self,
        snapshot: &Snapshot,
        taken: Taken,
        quote: &Quote,
        packet: &mut Packet<'_>,
    ) -> Result<Verdict, Verdict> {
        let key = quote.tuple.at(taken.zone, taken.hook, quote.protocol);
        let Some(slot) = self.flows.lookup(&key, self.flows.hash(&key)) else { return Ok(leave(snapshot, packet, taken)) };
        let entry = self.flows.slot(slot);
        if FlowOp::from_flags(entry.flags.load(Relaxed)) != Some(FlowOp::Worker) {
            return Ok(give_back(packet, taken));
        }
        packet.len = quote.end;
        let sender = read_word(packet.bytes, quote.l3 + 12).unwrap_or_default();
        if is_impossible(Tuple { saddr: sender, ..quote.tuple }) {
            return Err(Verdict::Drop(DropReason::LandAttack));
        }
        if quote.ttl <= 1 {
            return Err(Verdict::Drop(DropReason::TtlExpired));
        }
        let (saddr, daddr) = (entry.new_saddr.load(Relaxed), entry.new_daddr.load(Relaxed));
        let route = match entry.ifindex.load(Relaxed) {
            0 => Route::Hop(self.hops.resolve(snapshot, HopKey { saddr, daddr, iif: taken.ifindex })?),
            ifindex => Route::Pod { ifindex, dmac: entry.dmac() },
        };
        if let Route::Hop(Hop::Uplink { mtu, .. } | Hop::Device { mtu, .. }) = route
            && quote.bytes() > mtu as usize
        {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        nat::rewrite_quote(packet.bytes, quote, entry);
        nat::decrement_ttl(packet.bytes, quote.l3);
        let verdict = self.send(snapshot, route, quote.l3, packet);
        self.counts.icmp_errors += u64::from(!matches!(verdict, Verdict::Drop(_)));
        Ok(verdict)
    }
}
