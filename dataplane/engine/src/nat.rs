//! Rewriting of packets: addresses, ports, checksums, TTL. Incremental (RFC 1624), complete where a device hands over
//! unfinished checksums.

use std::sync::atomic::Ordering::Relaxed;

use crate::checksum;
use crate::family::Family;
use crate::flow::FlowSlot;
use crate::wire::{IpFlow, Part, Quote, SCTP, UDP, swap_ports};

/// Writes the slot's addresses and ports into the packet and updates its checksums. A later fragment has neither ports nor an L4
/// checksum; the first one's covers it with what changes there.
#[inline]
pub fn rewrite<F: Family>(frame: &mut [u8], flow: &IpFlow<F>, slot: &FlowSlot<F>) {
    let (addr_diff, port_diff) = (slot.addr_diff.load(Relaxed), slot.port_diff.load(Relaxed));
    apply_header_check::<F>(frame, flow.l3, addr_diff);
    write_addresses::<F>(frame, flow.l3, F::load(&slot.new_saddr), F::load(&slot.new_daddr));
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
fn rewrite_sctp_ports<F: Family>(frame: &mut [u8], flow: &IpFlow<F>, ports: u32) {
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
pub fn rewrite_quote<F: Family>(frame: &mut [u8], quote: &Quote<F>, slot: &FlowSlot<F>) {
    let (addr_diff, port_diff) = (slot.addr_diff.load(Relaxed), slot.port_diff.load(Relaxed));
    let (new_saddr, new_daddr) = (F::load(&slot.new_saddr), F::load(&slot.new_daddr));
    let mut icmp_diff = port_diff;
    if let Some(at) = quote.quoted_check {
        let old = read_check(frame, at);
        let new = if quote.protocol == UDP {
            checksum::apply_udp(checksum::apply_udp(old, addr_diff), port_diff)
        } else {
            checksum::apply(checksum::apply(old, addr_diff), port_diff)
        };
        frame[at..at + 2].copy_from_slice(&new.to_ne_bytes());
        icmp_diff = add(icmp_diff, checksum::diff(&[old.into()], &[new.into()]));
    }
    if F::IS_V6 {
        icmp_diff = add(icmp_diff, addr_diff);
    } else {
        // The quoted IP header sums up to the same as before.
        apply_header_check::<F>(frame, quote.quoted_l3, addr_diff);
    }
    write_addresses::<F>(frame, quote.quoted_l3, new_daddr, new_saddr);
    frame[quote.quoted_l4..quote.quoted_l4 + 4].copy_from_slice(&swap_ports(slot.new_ports.load(Relaxed)).to_ne_bytes());

    let sender = F::read(frame, quote.l3 + F::ADDRESSES).unwrap_or_default();
    let sender_now = if new_saddr == quote.tuple.saddr { sender } else { new_saddr };
    let outer_diff = F::diff([sender, quote.tuple.daddr], [sender_now, new_daddr]);
    if F::IS_V6 {
        // Its checksum covers the pseudo header (RFC 4443 §2.3).
        icmp_diff = add(icmp_diff, outer_diff);
    }
    apply_header_check::<F>(frame, quote.l3, outer_diff);
    write_addresses::<F>(frame, quote.l3, sender_now, new_daddr);
    apply_check(frame, quote.icmp + 2, icmp_diff);
}

/// The change by both.
fn add(a: u16, b: u16) -> u16 {
    checksum::fold(u64::from(a) + u64::from(b))
}

/// Into the IP header at `l3`.
#[inline(always)]
fn write_addresses<F: Family>(frame: &mut [u8], l3: usize, saddr: F::Address, daddr: F::Address) {
    F::write(frame, l3 + F::ADDRESSES, saddr);
    F::write(frame, l3 + F::ADDRESSES + F::ADDRESS_BYTES, daddr);
}

/// Of the IP header at `l3`; that of IPv6 has no checksum.
#[inline(always)]
fn apply_header_check<F: Family>(frame: &mut [u8], l3: usize, diff: u16) {
    if !F::IS_V6 {
        apply_check(frame, l3 + 10, diff);
    }
}

/// Decrements TTL or hop limit, which must be at least 1, and updates the header's checksum.
#[inline]
pub fn decrement_ttl<F: Family>(frame: &mut [u8], l3: usize) {
    if F::IS_V6 {
        frame[l3 + 7] -= 1;
        return;
    }
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
pub fn complete_checksum<F: Family>(frame: &mut [u8], flow: &IpFlow<F>) {
    if flow.protocol == SCTP {
        return complete_crc32c(frame, flow);
    }
    let at = flow.check_offset();
    let pseudo = F::pseudo_header(flow.tuple.saddr, flow.tuple.daddr, flow.protocol, (flow.end - flow.l4) as u32);
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
fn complete_crc32c<F: Family>(frame: &mut [u8], flow: &IpFlow<F>) {
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
