//! Packets that are larger than their next hop takes: no router divides them (RFC 8200 §5), their senders are told (RFC 4443 §3.2).

use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::SCTP;

use super::*;

/// A TCP segment, a datagram and an SCTP packet of so many bytes in all.
fn packets(bytes: usize) -> [Vec<u8>; 3] {
    let payload = |headers: usize| vec![7; bytes - headers];
    [tcp(CLIENT_END, WEB, ACK, &payload(60)), udp(CLIENT_END, WEB, &payload(48)), sctp(CLIENT_END, WEB, 1, &payload(56))]
}

fn served() -> Bed {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    bed.serve(80, SCTP, &[(REMOTE, 8080)]);
    bed
}

#[test]
fn whoever_sends_too_much_is_told_at_once_and_always() {
    let mut bed = served();
    for fitting in packets(1500) {
        assert_eq!(bed.receive(&fitting).verdict, Verdict::Uplink { uplink: 0 });
    }
    for too_big in std::iter::repeat_n(packets(1501), 50).flatten() {
        let out = bed.receive(&too_big);
        assert_eq!((out.verdict, macs(&out.frame), out.frame.len()), (Verdict::Uplink { uplink: 0 }, (ROUTER_MAC, UPLINK_MAC), 14 + 1280));
        let quote = too_big[ETHERNET_BYTES..ETHERNET_BYTES + QUOTED_MAX].to_vec();
        let expected = SeenIcmp { src: VIP, dst: CLIENT, ttl: 64, kind: TOO_BIG, rest: 1500u32.to_be_bytes(), payload: quote };
        assert_eq!(read_icmp(&out.frame), expected);
    }
    assert_eq!(bed.engine.counts().refused, 150, "whoever asks has to know");
    let mut to_many = packets(1501)[1].clone();
    to_many[0] |= 1;
    assert_eq!(bed.receive(&to_many).verdict, Verdict::Drop(DropReason::TooBig));
}

#[test]
fn of_fragments_the_first_is_told_of() {
    let mut bed = served();
    let datagram = udp(CLIENT_END, WEB, &[7; 3000]);
    let fragments = cut(&datagram, 5, &[1480]);
    assert_eq!(read_icmp(&bed.receive(&fragments[0]).frame).kind, TOO_BIG);
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Drop(DropReason::FragmentAlone));
    // One that is larger than its first.
    let fragments = cut(&datagram, 6, &[1000]);
    assert_eq!(bed.receive(&fragments[0]).verdict, Verdict::Uplink { uplink: 0 });
    assert_eq!(bed.receive(&fragments[1]).verdict, Verdict::Drop(DropReason::TooBig));
    assert_eq!(bed.engine.counts().refused, 1);
}

#[test]
fn extension_headers_are_quoted_as_they_came() {
    let mut bed = served();
    for headers in [&[(HOP_BY_HOP, 1)][..], &[(ROUTING, 100), (DESTINATION_OPTIONS, 20)]] {
        let too_big = extended(&packets(1501)[0], headers);
        let seen = read_icmp(&bed.receive(&too_big).frame);
        assert_eq!((seen.kind, &seen.payload[..]), (TOO_BIG, &too_big[ETHERNET_BYTES..ETHERNET_BYTES + QUOTED_MAX]));
    }
    // So many that the ports do not fit behind them: the sender could not tell which socket it is about.
    let hidden = extended(&packets(1501)[0], &[(DESTINATION_OPTIONS, 149)]);
    assert_eq!(bed.receive(&hidden).verdict, Verdict::Drop(DropReason::TooBig));
}
