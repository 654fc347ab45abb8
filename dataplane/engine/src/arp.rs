//! ARP replies for announced addresses (RFC 826; RFC 5227 for probes and conflicts).

use std::net::{IpAddr, Ipv4Addr};

use rustc_hash::FxHashSet;

use crate::verdict::DropReason;

/// Hardware type Ethernet, protocol type IPv4, lengths 6 and 4: the only ARP that we answer.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_BYTES: usize = 28;
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// What to do with an ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpAction {
    /// The frame now holds our reply: send it out where it came from. Its length follows.
    Reply {
        len: usize,
    },
    /// Not a request for an address of ours: the kernel's.
    NotOurs,
    Drop(DropReason),
}

/// Answers a request in place. `l3` is the offset of the ARP header; tags in front of it are kept. `mac` is the uplink's.
pub fn answer(frame: &mut [u8], l3: usize, announced: &FxHashSet<IpAddr>, mac: [u8; 6]) -> ArpAction {
    let Some(arp) = frame.get(l3..l3 + ARP_BYTES) else { return ArpAction::Drop(DropReason::Malformed) };
    let sender = Ipv4Addr::new(arp[14], arp[15], arp[16], arp[17]);
    let target = Ipv4Addr::new(arp[24], arp[25], arp[26], arp[27]);
    if arp[..6] != ETHERNET_IPV4 || !announced.contains(&target.into()) {
        return ArpAction::NotOurs;
    }
    if announced.contains(&sender.into()) {
        // Gratuitous ARP or a station with our address: an answer to it would confirm its claim.
        return ArpAction::Drop(DropReason::ArpConflict);
    }
    if arp[6..8] != REQUEST {
        return ArpAction::NotOurs;
    }
    let mut requester = [0; 6];
    requester.copy_from_slice(&arp[8..14]);
    if requester[0] & 1 != 0 || requester == [0; 6] {
        // A group address cannot be a station's.
        return ArpAction::Drop(DropReason::Malformed);
    }
    let reply = &mut frame[l3..l3 + ARP_BYTES];
    reply[6..8].copy_from_slice(&REPLY);
    reply.copy_within(8..18, 18);
    reply[8..14].copy_from_slice(&mac);
    reply[14..18].copy_from_slice(&target.octets());
    frame[..6].copy_from_slice(&requester);
    frame[6..12].copy_from_slice(&mac);
    ArpAction::Reply { len: l3 + ARP_BYTES }
}

/// A gratuitous ARP frame (RFC 5944 §4.6): both forms are used, for some stations only believe one.
pub fn gratuitous(address: Ipv4Addr, mac: [u8; 6], reply: bool) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    frame[14..20].copy_from_slice(&ETHERNET_IPV4);
    frame[20..22].copy_from_slice(if reply { &REPLY } else { &REQUEST });
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    if reply {
        frame[32..38].copy_from_slice(&mac);
    }
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let mut frame = gratuitous(target, THEIR_MAC, false).to_vec();
        frame[28..32].copy_from_slice(&sender.octets());
        frame
    }

    fn announced() -> FxHashSet<IpAddr> {
        FxHashSet::from_iter([VIP.into()])
    }

    #[test]
    fn answers_a_request_in_place() {
        let client = Ipv4Addr::new(192, 0, 2, 1);
        let mut frame = request(client, VIP);
        assert_eq!(answer(&mut frame, 14, &announced(), OUR_MAC), ArpAction::Reply { len: 42 });
        let slice = etherparse::ArpPacketSlice::from_slice(&frame[14..]).expect("a well-formed reply");
        assert_eq!(slice.operation(), etherparse::ArpOperation::REPLY);
        assert_eq!((slice.sender_hw_addr(), slice.sender_protocol_addr()), (&OUR_MAC[..], &VIP.octets()[..]));
        assert_eq!((slice.target_hw_addr(), slice.target_protocol_addr()), (&THEIR_MAC[..], &client.octets()[..]));
        assert_eq!((&frame[..6], &frame[6..12]), (&THEIR_MAC[..], &OUR_MAC[..]));
    }

    #[test]
    fn answers_a_probe_whose_sender_is_unset() {
        let mut frame = request(Ipv4Addr::UNSPECIFIED, VIP);
        assert!(matches!(answer(&mut frame, 14, &announced(), OUR_MAC), ArpAction::Reply { .. }));
    }

    #[test]
    fn leaves_what_is_not_ours_as_it_is() {
        let mut frame = request(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 11));
        let before = frame.clone();
        assert_eq!(answer(&mut frame, 14, &announced(), OUR_MAC), ArpAction::NotOurs);
        assert_eq!(frame, before);
    }

    #[test]
    fn never_confirms_a_spoofed_claim() {
        let mut frame = request(VIP, VIP);
        assert_eq!(answer(&mut frame, 14, &announced(), OUR_MAC), ArpAction::Drop(DropReason::ArpConflict));
    }

    #[test]
    fn refuses_a_group_address_as_requester_and_short_frames() {
        let mut frame = request(Ipv4Addr::new(192, 0, 2, 1), VIP);
        frame[22] = 0xff;
        assert_eq!(answer(&mut frame, 14, &announced(), OUR_MAC), ArpAction::Drop(DropReason::Malformed));
        assert_eq!(answer(&mut frame[..41], 14, &announced(), OUR_MAC), ArpAction::Drop(DropReason::Malformed));
    }
}
