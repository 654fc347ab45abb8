//! Rewriting of packets: addresses, ports, checksums, TTL. Incremental (RFC 1624), complete where a device hands over
//! unfinished checksums.

use std::sync::atomic::Ordering::Relaxed;

use crate::checksum;
use crate::flow::FlowSlot;
use crate::wire::{Ipv4Flow, Part, Quote, SCTP, UDP, swap_ports};

/// Writes the slot's addresses and ports into the packet and updates its checksums. A later fragment has neither ports nor an L4
/// checksum; the first one's covers it with what changes there.
#[inline]
pub fn rewrite(frame: &mut [u8], flow: &Ipv4Flow, slot: &FlowSlot) {
    let (addr_diff, port_diff) = (slot.addr_diff.load(Relaxed), slot.port_diff.load(Relaxed));
    apply_check(frame, flow.l3 + 10, addr_diff);
    frame[flow.l3 + 12..flow.l3 + 16].copy_from_slice(&slot.new_saddr.load(Relaxed).to_ne_bytes());
    frame[flow.l3 + 16..flow.l3 + 20].copy_from_slice(&slot.new_daddr.load(Relaxed).to_ne_bytes());
    if flow.part == Part::Later {
        return;
    }
    if flow.protocol == SCTP {
        return rewrite_sctp_ports(frame, flow, slot.new_ports.load(Relaxed));
    }
    let at = flow.check_offset();
    let check = read_check(frame, at);
    let check = if flow.protocol == UDP {
        checksum::apply_udp(checksum::apply_udp(check, addr_diff), port_diff)
    } else {
        checksum::apply(checksum::apply(check, addr_diff), port_diff)
    };
    frame[at..at + 2].copy_from_slice(&check.to_ne_bytes());
    frame[flow.l4..flow.l4 + 4].copy_from_slice(&slot.new_ports.load(Relaxed).to_ne_bytes());
}

/// SCTP's checksum does not cover addresses (RFC 9260 §6.8).
#[cold]
fn rewrite_sctp_ports(frame: &mut [u8], flow: &Ipv4Flow, ports: u32) {
    let at = flow.check_offset();
    let check = u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let (old, new) = (flow.tuple.ports.to_ne_bytes(), ports.to_ne_bytes());
    frame[at..at + 4].copy_from_slice(&checksum::apply_crc32c(check, old, new, flow.end - flow.l4).to_le_bytes());
    frame[flow.l4..flow.l4 + 4].copy_from_slice(&new);
}

/// Translates an ICMP error about a packet of the flow. `slot` is the entry of packets that answer the quoted one, so the quoted packet
/// becomes one that its new receiver has sent; the error itself goes where such an answer goes, and if that gets another source, the
/// error gets it too: its receiver knows nobody else (`nf_nat_icmp_reply_translation` does the same).
#[cold]
pub fn rewrite_quote(frame: &mut [u8], quote: &Quote, slot: &FlowSlot) {
    let (addr_diff, port_diff) = (slot.addr_diff.load(Relaxed), slot.port_diff.load(Relaxed));
    let (new_saddr, new_daddr) = (slot.new_saddr.load(Relaxed), slot.new_daddr.load(Relaxed));
    let quoted = quote.quoted_l3;
    let mut icmp_diff = port_diff;
    if let Some(at) = quote.quoted_check {
        let old = read_check(frame, at);
        let new = if quote.protocol == UDP {
            checksum::apply_udp(checksum::apply_udp(old, addr_diff), port_diff)
        } else {
            checksum::apply(checksum::apply(old, addr_diff), port_diff)
        };
        frame[at..at + 2].copy_from_slice(&new.to_ne_bytes());
        icmp_diff = checksum::fold(u64::from(icmp_diff) + u64::from(checksum::diff(&[old.into()], &[new.into()])));
    }
    // The quoted IP header sums up to the same as before.
    apply_check(frame, quoted + 10, addr_diff);
    frame[quoted + 12..quoted + 16].copy_from_slice(&new_daddr.to_ne_bytes());
    frame[quoted + 16..quoted + 20].copy_from_slice(&new_saddr.to_ne_bytes());
    frame[quote.quoted_l4..quote.quoted_l4 + 4].copy_from_slice(&swap_ports(slot.new_ports.load(Relaxed)).to_ne_bytes());
    apply_check(frame, quote.icmp + 2, icmp_diff);

    let word = |at: usize| u32::from_ne_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let sender = word(quote.l3 + 12);
    let sender_now = if new_saddr == quote.tuple.saddr { sender } else { new_saddr };
    apply_check(frame, quote.l3 + 10, checksum::diff(&[sender, quote.tuple.daddr], &[sender_now, new_daddr]));
    frame[quote.l3 + 12..quote.l3 + 16].copy_from_slice(&sender_now.to_ne_bytes());
    frame[quote.l3 + 16..quote.l3 + 20].copy_from_slice(&new_daddr.to_ne_bytes());
}

/// Decrements the TTL, which must be at least 1, and updates the header's checksum.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], l3: usize) {
    // TTL and protocol share a 16-bit word of the header: the word's change is the checksum's.
    let old = read_check(frame, l3 + 8);
    frame[l3 + 8] -= 1;
    let new = read_check(frame, l3 + 8);
    let diff = checksum::diff(&[u32::from(old)], &[u32::from(new)]);
    apply_check(frame, l3 + 10, diff);
}

/// Completes an L4 checksum that a software device left unfinished (`CHECKSUM_PARTIAL`): the field then holds the plain
/// sum of the pseudo header, in SCTP 0. A packet whose finished checksum happens to be that number comes out the same.
#[inline]
pub fn complete_checksum(frame: &mut [u8], flow: &Ipv4Flow) {
    if flow.protocol == SCTP {
        return complete_crc32c(frame, flow);
    }
    let at = flow.check_offset();
    let pseudo = checksum::pseudo_header(flow.tuple.saddr, flow.tuple.daddr, flow.protocol, (flow.end - flow.l4) as u16);
    if read_check(frame, at) != pseudo {
        return;
    }
    // The field takes part in the sum with the pseudo header's sum in it: just what is needed.
    let mut check = !checksum::sum(&frame[flow.l4..flow.end]);
    if flow.protocol == UDP && check == 0 {
        check = 0xffff;
    }
    frame[at..at + 2].copy_from_slice(&check.to_ne_bytes());
}

#[cold]
fn complete_crc32c(frame: &mut [u8], flow: &Ipv4Flow) {
    let at = flow.check_offset();
    if frame[at..at + 4] == [0; 4] {
        let check = crc32c::crc32c(&frame[flow.l4..flow.end]);
        frame[at..at + 4].copy_from_slice(&check.to_le_bytes());
    }
}

#[inline(always)]
fn apply_check(frame: &mut [u8], at: usize, diff: u16) {
    let check = checksum::apply(read_check(frame, at), diff);
    frame[at..at + 2].copy_from_slice(&check.to_ne_bytes());
}

/// A checksum as it stands in memory; sums are in that order too. The offset lies within the packet by parsing.
#[inline(always)]
fn read_check(frame: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([frame[at], frame[at + 1]])
}
