//! Both families at one node: they share its tables, and never meet.

use std::sync::Arc;

use ringway_engine::affinity::Affinity;
use ringway_engine::engine::Origin;
use ringway_engine::tables::{NodeAddresses, NodeTables, PodDelivery};
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_engine::wire::{TCP, UDP};

use crate::bed::v4::Bed;
use crate::bed::*;
use crate::frames::*;

const SENT: Verdict = Verdict::Uplink { uplink: 0 };

/// Ports 80 of both VIPs, each with a backend of its family.
fn served() -> Bed {
    let mut bed = Bed::with(4096, (10_000, 29_999), PodDelivery::Edge);
    for protocol in [TCP, UDP] {
        bed.serve_at(v4::WEB, protocol, &[(v4::REMOTE, 8080)]);
        bed.serve_at(v6::WEB, protocol, &[(v6::REMOTE, 8080)]);
    }
    bed
}

#[test]
fn frames_of_both_in_one_batch_are_translated_each_by_its_own() {
    let mut bed = served();
    let requests: Vec<(Vec<u8>, Endpoint)> = (0..64u16)
        .map(|number| {
            let port = 40_000 + number / 4;
            match number % 4 {
                0 => (tcp((v4::CLIENT, port), v4::WEB, SYN, b"four"), (v4::CLIENT, port)),
                1 => (tcp((v6::CLIENT, port), v6::WEB, SYN, b"six"), (v6::CLIENT, port)),
                2 => (udp((v6::CLIENT, port), v6::WEB, b"six"), (v6::CLIENT, port)),
                _ => (udp((v4::CLIENT, port), v4::WEB, b"four"), (v4::CLIENT, port)),
            }
        })
        .collect();
    let batch: Vec<_> = requests.iter().map(|(frame, _)| (Origin::Uplink(0), &frame[..])).collect();
    let sent = bed.run_batch(&batch);
    let mut answers = Vec::new();
    for (out, (_, client)) in sent.iter().zip(&requests) {
        let there = read(&out.frame);
        let (node, backend, payload) = match client.0.is_ipv6() {
            true => (v6::NODE, v6::REMOTE, &b"six"[..]),
            false => (v4::NODE, v4::REMOTE, &b"four"[..]),
        };
        assert_eq!((out.verdict, there.src.0, there.dst, &there.payload[..]), (SENT, node, (backend, 8080), payload), "{client:?}");
        let is_udp = out.frame[if client.0.is_ipv6() { v6::PROTOCOL } else { v4::PROTOCOL }] == UDP;
        answers.push(if is_udp { udp(there.dst, there.src, payload) } else { tcp(there.dst, there.src, SYN | ACK, payload) });
    }
    let batch: Vec<_> = answers.iter().map(|frame| (Origin::Uplink(0), &frame[..])).collect();
    for (out, (_, client)) in bed.run_batch(&batch).iter().zip(&requests) {
        let (vip, back) = (if client.0.is_ipv6() { v6::WEB } else { v4::WEB }, read(&out.frame));
        assert_eq!((out.verdict, back.src, back.dst), (SENT, vip, *client));
    }
    assert_eq!((bed.flow_tables.v4.len(), bed.flow_tables.v6.len()), (32, 32));
}

/// The same 32 bits, written as an IPv6 address in the ways that there are.
#[test]
fn an_address_that_is_written_otherwise_is_another() {
    let mut bed = served();
    let ping = |dst| icmp(v6::CLIENT, dst, v6::ECHO, [0; 4], b"");
    for vip in [ip("::ffff:192.0.2.10"), ip("::192.0.2.10"), ip("64:ff9b::192.0.2.10")] {
        for frame in [tcp(v6::CLIENT_END, (vip, 80), SYN, b""), udp(v6::CLIENT_END, (vip, 80), b""), ping(vip)] {
            let out = bed.receive(&frame);
            assert_eq!((out.verdict, &out.frame[6..]), (Verdict::Host, &frame[6..]), "{vip} is not ours");
        }
    }
    // A client whose address ends like that of another is another one.
    assert_eq!(bed.receive(&tcp(v4::CLIENT_END, v4::WEB, SYN, b"")).verdict, SENT);
    for (client, verdict) in [("::198.51.100.7", SENT), ("::ffff:198.51.100.7", Verdict::Drop(DropReason::LandAttack))] {
        assert_eq!(bed.receive(&tcp((ip(client), 40_000), v6::WEB, SYN, b"")).verdict, verdict, "{client}");
    }
    assert_eq!((bed.flow_tables.v4.len(), bed.flow_tables.v6.len()), (1, 1));
    let solicited = icmp(v6::ROUTER, v6::VIP, (135, 0), [0; 4], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 10]);
    assert_eq!(bed.receive(&solicited).verdict, Verdict::Host, "announced by ARP only");
}

/// Two frontends of one service may have different backends and policies (contract §2): those of the other family are no way out.
#[test]
fn backends_of_the_other_family_serve_nobody() {
    let mut bed = served();
    bed.serve_at(v4::WEB, TCP, &[(v6::REMOTE, 8080)]);
    bed.serve_at(v6::WEB, TCP, &[(v4::REMOTE, 8080)]);
    for (client, web) in [(v4::CLIENT_END, v4::WEB), (v6::CLIENT_END, v6::WEB)] {
        let out = bed.receive(&tcp(client, web, SYN, b""));
        assert_eq!((out.verdict, read(&out.frame).src), (SENT, web), "a reset");
    }
    bed.serve_at(v6::WEB, TCP, &[]);
    bed.serve_at(v4::WEB, TCP, &[(v4::REMOTE, 8080)]);
    let there = read(&bed.receive(&tcp(v4::CLIENT_END, v4::WEB, SYN, b"")).frame);
    assert_eq!(there.dst, (v4::REMOTE, 8080), "IPv4 goes on where IPv6 has no backend");
    assert_eq!((bed.engine.counts().refused, bed.flow_tables.v6.len()), (2, 0));
}

#[test]
fn each_takes_its_own_source_addresses() {
    let mut bed = served();
    let node = NodeTables::clone(&bed.snapshot.node);
    let snat = |is_v6: bool| node.snat.iter().copied().filter(move |snat| snat.address.is_ipv6() == is_v6);
    let only = |is_v6: bool| NodeTables {
        addresses: NodeAddresses { v4: node.addresses.v4.filter(|_| !is_v6), v6: node.addresses.v6.filter(|_| is_v6) },
        snat: snat(is_v6).collect(),
        ..node.clone()
    };
    for (number, is_v6) in [false, true].into_iter().enumerate() {
        bed.snapshot.node = Arc::new(only(is_v6));
        let port = 1 + number as u16;
        let verdicts = [
            bed.receive(&tcp((v4::CLIENT, port), v4::WEB, SYN, b"")).verdict,
            bed.receive(&tcp((v6::CLIENT, port), v6::WEB, SYN, b"")).verdict,
        ];
        let [with, without] = if is_v6 { [verdicts[1], verdicts[0]] } else { verdicts };
        assert_eq!((with, without), (SENT, Verdict::Drop(DropReason::NoSnatAddress)), "IPv6: {is_v6}");
    }
}

#[test]
fn a_client_sticks_to_one_backend_in_each() {
    let mut bed = served();
    let backends = |of: fn(u8) -> std::net::IpAddr| (1..=50).map(|number| (of(number), 8080)).collect::<Vec<_>>();
    bed.serve_at(v4::WEB, TCP, &backends(v4::remote));
    bed.serve_at(v6::WEB, TCP, &backends(v6::remote));
    for web in [v4::WEB, v6::WEB] {
        bed.publish_at(web, TCP, |frontend| frontend.affinity = Some(Affinity::new(&frontend.service, TCP, 10)));
    }
    let connect = |bed: &mut Bed, client: Endpoint, web| read(&bed.receive(&tcp(client, web, SYN, b"")).frame).dst.0;
    let first = (connect(&mut bed, (v4::CLIENT, 1), v4::WEB), connect(&mut bed, (v6::CLIENT, 1), v6::WEB));
    assert!(first.0.is_ipv4() && first.1.is_ipv6());
    for port in 2..20 {
        assert_eq!((connect(&mut bed, (v4::CLIENT, port), v4::WEB), connect(&mut bed, (v6::CLIENT, port), v6::WEB)), first);
    }
    assert_eq!(bed.affinity.len(bed.now), 2);
}

#[test]
fn fragments_of_one_identification_do_not_meet() {
    let mut bed = served();
    let (first, later) = (0, 1);
    let four = crate::v4::cut(&udp(v4::CLIENT_END, v4::WEB, &[4; 300]), 5, &[64]);
    let six = crate::v6::cut(&udp(v6::CLIENT_END, v6::WEB, &[6; 300]), 5, &[64]);
    assert_eq!(bed.receive(&four[first]).verdict, SENT);
    assert_eq!(bed.receive(&six[later]).verdict, Verdict::AwaitFirst);
    assert_eq!(bed.receive(&four[later]).verdict, SENT);
    assert_eq!(bed.receive(&six[first]).verdict, SENT);
    assert_eq!(bed.receive(&six[later]).verdict, SENT);
}

/// An error quotes a packet of its own family, or it is about nothing.
#[test]
fn errors_do_not_cross() {
    let mut bed = served();
    let four = bed.receive(&tcp(v4::CLIENT_END, v4::WEB, SYN, b"")).frame;
    let six = bed.receive(&tcp(v6::CLIENT_END, v6::WEB, SYN, b"")).frame;
    for frame in [
        icmp(v4::HOP, v4::NODE, v4::TOO_BIG, [0; 4], &six[ETHERNET_BYTES..]),
        icmp(v6::HOP, v6::NODE, v6::TOO_BIG, [0; 4], &four[ETHERNET_BYTES..]),
    ] {
        let out = bed.receive(&frame);
        assert_eq!((out.verdict, &out.frame[6..]), (Verdict::Host, &frame[6..]));
    }
    assert_eq!(bed.engine.counts().icmp_errors, 0);
}

#[test]
fn one_sweep_ends_the_flows_of_both() {
    let mut bed = served();
    bed.receive(&udp(v4::CLIENT_END, v4::WEB, b"x"));
    bed.receive(&udp(v6::CLIENT_END, v6::WEB, b"x"));
    bed.now += 60 * 60;
    assert_eq!(bed.engine.sweep(bed.now, usize::MAX), 2);
    assert!(bed.flow_tables.v4.is_empty() && bed.flow_tables.v6.is_empty());
}
