//! Fragments: the first one is a packet like others, those that follow go where it went.

use std::sync::atomic::Ordering::Relaxed;

use super::{Engine, Packet, Staged, give_back};
use crate::flow::{FlowKey, FlowOp, Hook, SlotIndex};
use crate::fragments::Fate;
use crate::place::Taken;
use crate::tables::Snapshot;
use crate::verdict::{DropReason, Verdict};
use crate::wire::Ipv4Flow;

/// What all fragments of a datagram have in common (RFC 791 §3.2), where they were taken included.
fn datagram(taken: Taken, flow: &Ipv4Flow) -> FlowKey {
    FlowKey { ports: flow.id.into(), ..flow.tuple.at(taken.zone, taken.hook, flow.protocol) }
}

impl Engine {
    /// Forwards the first fragment, and notes for those that follow what became of it.
    #[cold]
    pub(super) fn forward_first(&mut self, snapshot: &Snapshot, now: u32, staged: &Staged, packet: &mut Packet<'_>) -> Verdict {
        let refused = self.counts.refused;
        let verdict = self.forward(snapshot, now, staged, packet).unwrap_or_else(|early| early);
        let fate = match verdict {
            // It will be forwarded once more.
            Verdict::Hold { .. } | Verdict::Again | Verdict::AwaitFirst => Fate::AwaitHeld,
            Verdict::Drop(_) => Fate::Drop,
            _ if self.counts.refused != refused => Fate::Drop,
            Verdict::Uplink { .. } | Verdict::Host | Verdict::Divide { .. } => {
                let slot = self.flows.lookup(&staged.key, staged.hash).filter(|&slot| self.is_executed_here(slot, staged.taken.hook));
                slot.map_or(Fate::GiveBack, |slot| Fate::Execute { slot, key: staged.key })
            }
        };
        self.fragments.note(&datagram(staged.taken, &staged.flow), &staged.flow, fate, now);
        verdict
    }

    /// Forwards a fragment without ports, or keeps it until the first one comes.
    #[cold]
    pub(super) fn forward_later(
        &mut self,
        snapshot: &Snapshot,
        now: u32,
        taken: Taken,
        flow: &Ipv4Flow,
        packet: &mut Packet<'_>,
    ) -> Result<Verdict, Verdict> {
        let datagram = datagram(taken, flow);
        let verdict = match self.fragments.fate(&datagram, now) {
            Fate::Await | Fate::AwaitHeld => Err(Verdict::AwaitFirst),
            Fate::Drop => Err(Verdict::Drop(DropReason::FragmentAlone)),
            // Not `leave`: `edge` may have seen the first one.
            Fate::GiveBack => Ok(give_back(packet, taken)),
            Fate::Execute { slot, key } if self.flows.key_of(slot) == key => {
                packet.len = flow.end;
                self.execute(snapshot, now, taken, flow, slot, packet)
            }
            Fate::Execute { .. } => Err(Verdict::Drop(DropReason::FragmentAlone)),
        };
        if !matches!(verdict, Err(Verdict::AwaitFirst | Verdict::Hold { .. })) {
            self.fragments.passed(&datagram, flow);
        }
        verdict
    }

    /// As `execute` has it.
    fn is_executed_here(&self, slot: SlotIndex, hook: Hook) -> bool {
        hook == Hook::NodeOut || FlowOp::from_flags(self.flows.slot(slot).flags.load(Relaxed)) == Some(FlowOp::Worker)
    }
}
