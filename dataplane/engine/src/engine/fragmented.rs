//! Fragments: the first one is a packet like others, those that follow go where it went.

use std::sync::atomic::Ordering::Relaxed;

use super::{Packet, Path, Staged, give_back};
use crate::family::Family;
use crate::flow::{FlowKey, FlowOp, Hook, SlotIndex};
use crate::fragments::Fate;
use crate::place::Taken;
use crate::verdict::{DropReason, Verdict};
use crate::wire::IpFlow;

/// What all fragments of a datagram have in common (RFC 791 §3.2), where they were taken included.
fn datagram<F: Family>(taken: Taken, flow: &IpFlow<F>) -> FlowKey<F> {
    FlowKey { ports: flow.id, ..flow.tuple.at(taken.zone, taken.hook, flow.protocol) }
}

impl<F: Family> Path<'_, F> {
    /// Forwards the first fragment, and notes for those that follow what became of it.
    #[cold]
    pub(super) fn forward_first(&mut self, staged: &Staged<F>, packet: &mut Packet<'_>) -> Verdict {
        let datagram = datagram(staged.taken, &staged.flow);
        if !self.lane.fragments.may_begin(&datagram, &staged.flow, self.now) {
            return Verdict::Drop(DropReason::FragmentOverlap);
        }
        let refused = self.shared.counts.refused;
        let verdict = self.forward(staged, packet).unwrap_or_else(|early| early);
        let fate = match verdict {
            // It will be forwarded once more.
            Verdict::Hold { .. } | Verdict::Again | Verdict::AwaitFirst => Fate::AwaitHeld,
            Verdict::Drop(_) => Fate::Drop,
            _ if self.shared.counts.refused != refused => Fate::Drop,
            Verdict::Uplink { .. } | Verdict::Host | Verdict::Divide { .. } => {
                let key = staged.key();
                let slot = self.lane.flows.lookup(&key, staged.hash).filter(|&slot| self.is_executed_here(slot, staged.taken.hook));
                slot.map_or(Fate::GiveBack, |slot| Fate::Execute { slot, key })
            }
        };
        self.lane.fragments.note(&datagram, &staged.flow, fate, self.now);
        verdict
    }

    /// Forwards a fragment without ports, or keeps it until the first one comes.
    #[cold]
    pub(super) fn forward_later(&mut self, taken: Taken, flow: &IpFlow<F>, packet: &mut Packet<'_>) -> Result<Verdict, Verdict> {
        let datagram = datagram(taken, flow);
        let verdict = match self.lane.fragments.fate(&datagram, flow, self.now) {
            Fate::Await | Fate::AwaitHeld => return Err(Verdict::AwaitFirst),
            Fate::Overlap => return Err(Verdict::Drop(DropReason::FragmentOverlap)),
            Fate::Drop => Verdict::Drop(DropReason::FragmentAlone),
            // Not `leave`: `edge` may have seen the first one.
            Fate::GiveBack => give_back(packet, taken),
            // One that waits comes again, and one that is dropped on its way has not come.
            Fate::Execute { slot, key } if self.lane.flows.key_of(slot) == key => {
                packet.len = flow.end;
                self.execute(taken, flow, slot, packet)?
            }
            Fate::Execute { .. } => return Err(Verdict::Drop(DropReason::FragmentAlone)),
        };
        self.lane.fragments.passed(&datagram, flow);
        Ok(verdict)
    }

    /// As `execute` has it.
    fn is_executed_here(&self, slot: SlotIndex, hook: Hook) -> bool {
        hook == Hook::NodeOut || FlowOp::from_flags(self.lane.flows.slot(slot).flags.load(Relaxed)) == Some(FlowOp::Worker)
    }
}
