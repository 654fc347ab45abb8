//! Neighbor advertisements for announced addresses (RFC 4861 §7.2), as `arp` has replies.

use std::net::{IpAddr, Ipv6Addr};

use rustc_hash::FxHashSet;

use crate::checksum;
use crate::family::{Family, V6};
use crate::verdict::DropReason;
use crate::wire;

const ETHERNET_BYTES: usize = 14;
/// Type, code, checksum, reserved or flags, target.
const MESSAGE_BYTES: usize = 24;
/// A link-layer address of Ethernet: type, length in units of eight bytes, MAC.
const OPTION_BYTES: usize = 8;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// What no router lets through (RFC 4861 §7.1.1): the sender is on this link.
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// What to do with a neighbor solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdpAction {
    /// The frame now holds our advertisement: send it out where it came from. Its length follows.
    Reply {
        len: usize,
    },
    /// Not for an address of ours: the kernel's.
    NotOurs,
    Drop(DropReason),
}

/// Answers a solicitation in place. `l3` is the offset of the IP header, `end` that of the byte behind the packet; tags in front of it are
/// kept. The frame's memory may be longer than the packet. `mac` is the uplink's.
pub fn answer(frame: &mut [u8], l3: usize, end: usize, announced: &FxHashSet<IpAddr>, mac: [u8; 6]) -> NdpAction {
    let malformed = NdpAction::Drop(DropReason::Malformed);
    let icmp = l3 + V6::HEADER_BYTES;
    let Some(message) = frame.get(icmp..end).filter(|message| message.len() >= MESSAGE_BYTES) else { return malformed };
    let (Some(saddr), Some(daddr), Some(target)) = (V6::read(frame, l3 + 8), V6::read(frame, l3 + 24), V6::read(message, 8)) else {
        return malformed;
    };
    let (sender, target_ip) = (V6::to_ip(saddr), V6::to_ip(target));
    if !announced.contains(&target_ip.into()) {
        return NdpAction::NotOurs;
    }
    let sum =
        checksum::fold(u64::from(V6::pseudo_header(saddr, daddr, V6::ICMP, message.len() as u32)) + u64::from(checksum::sum(message)));
    if frame[l3 + 7] != HOP_LIMIT || message[1] != 0 || sum != 0xffff || sender.is_multicast() {
        return malformed;
    }
    let Ok(said) = source_mac(&message[MESSAGE_BYTES..]) else { return malformed };
    if announced.contains(&sender.into()) {
        // A station that uses the address already would take an answer for a confirmation.
        return NdpAction::Drop(DropReason::ArpConflict);
    }
    let (to, to_mac, flags) = if sender.is_unspecified() {
        if said.is_some() || daddr != V6::from_ip(solicited_node(target_ip)) {
            return malformed;
        }
        // A station that is about to use the address (duplicate address detection, RFC 4862 §5.4.3) has to know that it is in use; as it
        // has none yet, all are told.
        (V6::from_ip(ALL_NODES), ALL_NODES_MAC, OVERRIDE)
    } else {
        (saddr, said.unwrap_or(wire::source_mac(frame)), SOLICITED | OVERRIDE)
    };
    if !sender.is_unspecified() && (to_mac[0] & 1 != 0 || to_mac == [0; 6]) {
        // A group address cannot be a station's.
        return malformed;
    }
    let Some(reply) = frame.get_mut(..l3 + V6::HEADER_BYTES + MESSAGE_BYTES + OPTION_BYTES) else { return malformed };
    reply[..6].copy_from_slice(&to_mac);
    write(reply, l3, Advertisement { target, to, flags, mac });
    NdpAction::Reply { len: reply.len() }
}

/// The multicast group of a station that has the address (RFC 4291 §2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// An unsolicited advertisement to all nodes (RFC 4861 §7.2.6): who knows the address by another MAC takes this one.
pub fn unsolicited(address: Ipv6Addr, mac: [u8; 6]) -> [u8; ETHERNET_BYTES + V6::HEADER_BYTES + MESSAGE_BYTES + OPTION_BYTES] {
    let mut frame = [0; ETHERNET_BYTES + V6::HEADER_BYTES + MESSAGE_BYTES + OPTION_BYTES];
    frame[..6].copy_from_slice(&ALL_NODES_MAC);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let advertisement = Advertisement { target: V6::from_ip(address), to: V6::from_ip(ALL_NODES), flags: OVERRIDE, mac };
    write(&mut frame, ETHERNET_BYTES, advertisement);
    frame
}

/// The sender's MAC as an option says it (RFC 4861 §4.6.1), if one does.
///
/// # Errors
/// An option of no length, or cut off: the whole message is to be ignored (RFC 4861 §7.1.1).
fn source_mac(mut options: &[u8]) -> Result<Option<[u8; 6]>, ()> {
    let mut mac = None;
    while let [kind, units, ..] = *options {
        let bytes = usize::from(units) * 8;
        if bytes == 0 || bytes > options.len() {
            return Err(());
        }
        if kind == SOURCE_LINK_LAYER_ADDRESS {
            mac = options[2..8].try_into().ok();
        }
        options = &options[bytes..];
    }
    if options.is_empty() { Ok(mac) } else { Err(()) }
}

struct Advertisement {
    target: [u64; 2],
    to: [u64; 2],
    flags: u8,
    mac: [u8; 6],
}

/// Writes source MAC, IP header and message; `frame` ends with the message.
fn write(frame: &mut [u8], l3: usize, advertisement: Advertisement) {
    let Advertisement { target, to, flags, mac } = advertisement;
    frame[6..12].copy_from_slice(&mac);
    let (header, message) = frame[l3..].split_at_mut(V6::HEADER_BYTES);
    header.fill(0);
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
    (header[6], header[7]) = (V6::ICMP, HOP_LIMIT);
    V6::write(header, 8, target);
    V6::write(header, 24, to);
    message.fill(0);
    (message[0], message[4]) = (ADVERTISEMENT, flags);
    V6::write(message, 8, target);
    (message[24], message[25]) = (TARGET_LINK_LAYER_ADDRESS, 1);
    message[26..32].copy_from_slice(&mac);
    let check = checksum::l4::<V6>(target, to, V6::ICMP, message);
    message[2..4].copy_from_slice(&check.to_ne_bytes());
}

#[cfg(test)]
mod tests;
