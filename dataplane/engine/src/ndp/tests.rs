use etherparse::icmpv6::{Icmpv6PayloadSlice, NdpOptionSlice};
use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};

use super::*;

const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3456);
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SAID_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x19];
/// Of the source link-layer address.
const SAID: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 0x19];
const ROOM: usize = 64;

fn announced() -> FxHashSet<IpAddr> {
    FxHashSet::from_iter([VIP.into()])
}

/// What a solicitation says.
#[derive(Clone, Copy)]
struct Solicitation<'a> {
    from: Ipv6Addr,
    to: Ipv6Addr,
    target: Ipv6Addr,
    options: &'a [u8],
    hop_limit: u8,
    code: u8,
}

const PLAIN: Solicitation<'_> = Solicitation { from: CLIENT, to: GROUP, target: VIP, options: &SAID, hop_limit: HOP_LIMIT, code: 0 };
const PROBE: Solicitation<'_> = Solicitation { from: Ipv6Addr::UNSPECIFIED, options: &[], ..PLAIN };

/// The frame of a solicitation, its checksum by an independent library.
fn frame(solicitation: Solicitation<'_>) -> Vec<u8> {
    let Solicitation { from, to, target, options, hop_limit, code } = solicitation;
    let [.., a, b, c, d] = to.octets();
    let builder = etherparse::PacketBuilder::ethernet2(THEIR_MAC, [0x33, 0x33, a, b, c, d]);
    let builder = builder.ipv6(from.octets(), to.octets(), hop_limit).icmpv6_raw(135, code, [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[&target.octets()[..], options].concat()).expect("memory takes it");
    frame
}

/// What becomes of a frame with room behind it, and the frame.
fn answered(frame: &[u8]) -> (NdpAction, Vec<u8>) {
    let l3 = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let mut memory = [frame, &[0xa5; ROOM]].concat();
    let action = answer(&mut memory, l3, frame.len(), &announced(), OUR_MAC);
    if let NdpAction::Reply { len } = action {
        memory.truncate(len);
    }
    (action, memory)
}

/// Asserts that a frame advertises the VIP at our MAC; receiver, whether it was solicited, and MAC of the receiver.
fn advertised(frame: &[u8]) -> (Ipv6Addr, bool, [u8; 6]) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (&packet.net, &packet.transport) else { panic!("{packet:?}") };
    let header = ip.header();
    assert_eq!((header.source_addr(), header.hop_limit(), usize::from(header.payload_length())), (VIP, 255, icmp.slice().len()));
    assert!(icmp.is_checksum_valid(header.source(), header.destination()));
    let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else { panic!("{icmp:?}") };
    assert!(flags.r#override && !flags.router);
    let Ok(Icmpv6PayloadSlice::NeighborAdvertisement(body)) = icmp.payload_slice() else { panic!("{icmp:?}") };
    assert_eq!(body.target_address(), VIP);
    let options: Vec<_> = body.options_iterator().map(|option| option.expect("an option")).collect();
    let [NdpOptionSlice::TargetLinkLayerAddress(mac)] = &options[..] else { panic!("{options:?}") };
    assert_eq!((mac.link_layer_address(), &frame[6..12]), (&OUR_MAC[..], &OUR_MAC[..]));
    (header.destination_addr(), flags.solicited, frame[..6].try_into().expect("six bytes"))
}

#[test]
fn a_solicitation_is_answered_in_place() {
    let other = [14, 1, 0, 0, 0, 0, 0, 0];
    for (what, options, mac) in [
        ("with the sender's MAC", &SAID[..], SAID_MAC),
        ("without", &[], THEIR_MAC),
        ("behind another option", &[other, SAID].concat(), SAID_MAC),
        ("only another one", &other, THEIR_MAC),
    ] {
        for to in [GROUP, VIP] {
            let (action, frame) = answered(&frame(Solicitation { options, to, ..PLAIN }));
            assert_eq!(action, NdpAction::Reply { len: 14 + 40 + 32 }, "{what}");
            assert_eq!(advertised(&frame), (CLIENT, true, mac), "{what}");
        }
    }
}

/// RFC 4862 §5.4.3: who asks has no address yet.
#[test]
fn a_probe_for_a_duplicate_is_answered_to_all() {
    let (action, reply) = answered(&frame(PROBE));
    assert!(matches!(action, NdpAction::Reply { .. }));
    assert_eq!(advertised(&reply), (ALL_NODES, false, ALL_NODES_MAC));
    for no_probe in [Solicitation { options: &SAID, ..PROBE }, Solicitation { to: VIP, ..PROBE }, Solicitation { to: ALL_NODES, ..PROBE }] {
        assert_eq!(answered(&frame(no_probe)).0, NdpAction::Drop(DropReason::Malformed));
    }
}

#[test]
fn tags_are_kept() {
    let plain = frame(PLAIN);
    let (action, reply) = answered(&[&plain[..12], &[0x81, 0, 0x20, 7], &plain[12..]].concat());
    assert_eq!((action, &reply[12..16]), (NdpAction::Reply { len: 18 + 40 + 32 }, &[0x81, 0, 0x20, 7][..]));
    assert_eq!(advertised(&reply), (CLIENT, true, SAID_MAC));
}

#[test]
fn what_is_not_ours_stays_as_it_is() {
    let other = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3457);
    let before = frame(Solicitation { target: other, ..PLAIN });
    let (action, after) = answered(&before);
    assert_eq!((action, &after[..before.len()]), (NdpAction::NotOurs, &before[..]));
}

#[test]
fn a_claim_is_never_confirmed() {
    assert_eq!(answered(&frame(Solicitation { from: VIP, ..PLAIN })).0, NdpAction::Drop(DropReason::ArpConflict));
}

/// RFC 4861 §7.1.1.
#[test]
fn what_is_no_right_solicitation_is_dropped() {
    let with = |change: fn(&mut Vec<u8>)| {
        let mut frame = frame(PLAIN);
        change(&mut frame);
        frame
    };
    for (what, frame) in [
        ("over a router", frame(Solicitation { hop_limit: 254, ..PLAIN })),
        ("another code", frame(Solicitation { code: 1, ..PLAIN })),
        ("from a group", frame(Solicitation { from: GROUP, ..PLAIN })),
        ("an option of no length", frame(Solicitation { options: &[1, 0, 2, 0, 0, 0, 0, 9], ..PLAIN })),
        ("an option that is cut", frame(Solicitation { options: &[1, 2, 2, 0, 0, 0, 0, 9], ..PLAIN })),
        ("a byte of an option", frame(Solicitation { options: &[14, 1, 0, 0, 0, 0, 0, 0, 1], ..PLAIN })),
        ("the group address of a station", frame(Solicitation { options: &[1, 1, 3, 0, 0, 0, 0, 9], ..PLAIN })),
        ("no address of a station", frame(Solicitation { options: &[1, 1, 0, 0, 0, 0, 0, 0], ..PLAIN })),
        ("a wrong checksum", with(|frame| frame[14 + 42] ^= 1)),
        ("a target that was spoiled", with(|frame| frame[14 + 44] ^= 1)),
    ] {
        assert_eq!(answered(&frame).0, NdpAction::Drop(DropReason::Malformed), "{what}");
    }
    let whole = frame(Solicitation { options: &[], ..PLAIN });
    for len in 14 + 40..whole.len() {
        assert_eq!(answered(&whole[..len]).0, NdpAction::Drop(DropReason::Malformed), "cut at {len}");
    }
    // Without room for the option of the answer.
    let mut tight = whole.clone();
    assert_eq!(answer(&mut tight, 14, whole.len(), &announced(), OUR_MAC), NdpAction::Drop(DropReason::Malformed));
    assert_eq!(tight, whole);
}

#[test]
fn an_unsolicited_advertisement_tells_all() {
    assert_eq!(advertised(&unsolicited(VIP, OUR_MAC)), (ALL_NODES, false, ALL_NODES_MAC));
}
