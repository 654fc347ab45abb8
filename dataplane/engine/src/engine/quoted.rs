//! ICMP errors about flows of ours: they reach whoever sent the packet that they quote, and say what that one knows of it.

use std::sync::atomic::Ordering::Relaxed;

use super::{Engine, Packet, Route, give_back};
use crate::flow::FlowOp;
use crate::hops::{Hop, HopKey};
use crate::nat;
use crate::place::Taken;
use crate::tables::Snapshot;
use crate::verdict::{DropReason, Verdict};
use crate::wire::Quote;

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
        let found = self.flows.lookup(&key, self.flows.hash(&key));
        let entry = found.map(|slot| self.flows.slot(slot)).filter(|entry| entry_is_workers(entry.flags.load(Relaxed)));
        let Some(entry) = entry else { return Ok(give_back(packet, taken)) };
        packet.len = quote.end;
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
        self.counts.icmp_errors += 1;
        Ok(self.send(snapshot, route, quote.l3, packet))
    }
}

fn entry_is_workers(flags: u32) -> bool {
    FlowOp::from_flags(flags) == Some(FlowOp::Worker)
}
