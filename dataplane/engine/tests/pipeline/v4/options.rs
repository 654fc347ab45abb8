//! IP options, and what else only IPv4's headers have.

use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::{TCP, UDP};

use super::*;

/// Four bytes of options in the IP header: no operations.
fn with_options(frame: &[u8]) -> Vec<u8> {
    let mut frame = [&frame[..L4], &[1; 4], &frame[L4..]].concat();
    frame[ETHERNET_BYTES] = 0x46;
    let total = (frame.len() - ETHERNET_BYTES) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[24..26].fill(0);
    let check = !ringway_engine::checksum::sum(&frame[ETHERNET_BYTES..L4 + 4]);
    frame[24..26].copy_from_slice(&check.to_ne_bytes());
    frame
}

#[test]
fn a_packet_with_options_is_translated_with_them() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let out = bed.receive(&with_options(&tcp(CLIENT_END, WEB, SYN, b"payload")));
    assert_eq!(out.frame[L4..L4 + 4], [1; 4]);
    let seen = read(&out.frame);
    assert_eq!((seen.src.0, seen.dst, seen.payload), (NODE, (REMOTE, 8080), b"payload".to_vec()));
}

#[test]
fn options_are_left_out_of_the_reset() {
    let mut bed = Bed::new();
    bed.serve(80, TCP, &[]);
    let out = bed.receive(&with_options(&tcp(CLIENT_END, WEB, SYN, b"x")));
    assert_eq!((read(&out.frame).dst, out.frame.len()), (CLIENT_END, L4 + 20));
}

#[test]
fn a_ping_with_options_is_not_answered() {
    let ping = with_options(&icmp(CLIENT, VIP, ECHO, [0; 4], b"payload"));
    assert_eq!(Bed::new().receive(&ping).verdict, Verdict::Drop(DropReason::NotForwarded));
}

#[test]
fn a_header_shorter_than_a_header_is_none() {
    let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
    let mut header = tcp(CLIENT_END, WEB, SYN, b"payload");
    header[ETHERNET_BYTES] = 0x44;
    assert_eq!(bed.receive(&header).verdict, Verdict::Drop(DropReason::Malformed));
    // Nor one that is quoted, nor that of a later fragment.
    let sent = bed.receive(&tcp(CLIENT_END, WEB, ACK, b"request")).frame;
    for (at, byte) in [(0, 0x44), (7, 1)] {
        let mut quoted = sent[ETHERNET_BYTES..].to_vec();
        quoted[at] = byte;
        let out = bed.receive(&icmp(HOP, NODE, TOO_BIG, [0; 4], &quoted));
        assert_eq!((out.verdict, bed.engine.counts().icmp_errors), (Verdict::Host, 0), "byte {at}");
    }
}

#[test]
fn udp_without_checksum_keeps_none() {
    let mut bed = Bed::new();
    bed.serve(53, UDP, &[(REMOTE, 5353)]);
    let mut frame = udp(CLIENT_END, (VIP, 53), b"question");
    frame[L4 + 6..L4 + 8].fill(0);
    let out = bed.receive(&frame);
    assert_eq!(out.verdict, Verdict::Uplink { uplink: 0 });
    assert_eq!(out.frame[L4 + 6..L4 + 8], [0, 0]);
    assert_eq!(read(&out.frame).dst, (REMOTE, 5353));
}
