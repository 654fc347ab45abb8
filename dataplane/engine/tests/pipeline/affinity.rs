//! Session affinity (contract §2): which flows of a client go to one backend, and until when.

use std::net::IpAddr;
use std::sync::Arc;

use ringway_engine::affinity::Affinity;
use ringway_engine::flow::Hook;
use ringway_engine::tables::{Backend, BackendSet, Target};
use ringway_engine::verdict::Verdict;
use ringway_engine::wire::{TCP, UDP};

use super::*;

const TEN_SECONDS: u32 = 596;

fn backends(range: std::ops::RangeInclusive<u8>) -> Vec<Endpoint> {
    range.map(|last| (remote(last), 8080)).collect()
}

fn target(range: std::ops::RangeInclusive<u8>) -> Target {
    let backends = backends(range).into_iter().map(|(address, port)| Backend { address, port, local: false }).collect();
    Target::Backends(Arc::new(BackendSet { backends, maglev: None }))
}

/// Ports 80 and 81 are two frontends of one sticky service port with these backends.
fn sticky(range: std::ops::RangeInclusive<u8>) -> Bed {
    let mut bed = Bed::new();
    for port in [80, 81] {
        bed.serve(port, TCP, &backends(range.clone()));
        bed.publish(port, TCP, |frontend| frontend.affinity = Some(Affinity::new(&frontend.service, TCP, 10)));
    }
    bed
}

/// The backend of a new connection from outside.
fn connect(bed: &mut Bed, client: Endpoint, port: u16) -> IpAddr {
    let out = bed.receive(&tcp(client, (VIP, port), SYN, b""));
    assert_eq!(out.verdict, Verdict::Uplink { uplink: 0 });
    read(&out.frame).dst.0
}

#[test]
fn any_port_of_the_client_and_any_address_of_the_service_lead_to_one_backend() {
    let mut bed = sticky(1..=50);
    let first = connect(&mut bed, (CLIENT, 1), 80);
    for port in 2..40 {
        assert_eq!(connect(&mut bed, (CLIENT, port), if port % 2 == 0 { 80 } else { 81 }), first);
    }
    let others: std::collections::BTreeSet<_> = (1..40).map(|last| connect(&mut bed, (client(last + 50), 1), 80)).collect();
    assert!(others.len() > 10, "other clients are spread: {others:?}");
}

#[test]
fn another_service_port_is_another_matter() {
    let mut bed = sticky(1..=50);
    bed.serve(80, UDP, &backends(1..=50));
    bed.publish(80, UDP, |frontend| frontend.affinity = Some(Affinity::new(&frontend.service, UDP, 10)));
    let differs = (1..=20).any(|last| {
        let client = (client(last), 1);
        let out = bed.receive(&udp(client, (VIP, 80), b"x"));
        read(&out.frame).dst.0 != connect(&mut bed, client, 80)
    });
    assert!(differs, "TCP and UDP go together");
}

#[test]
fn the_time_out_counts_from_the_last_new_connection_and_ends_it() {
    let mut moved = 0;
    for last in 1..=20 {
        let mut bed = sticky(1..=50);
        let client = client(last);
        let first = connect(&mut bed, (client, 1), 80);
        for port in 2..6 {
            bed.now += TEN_SECONDS - 1;
            assert_eq!(connect(&mut bed, (client, port), 80), first, "refreshed");
        }
        // Packets of a connection do not keep it.
        bed.now += TEN_SECONDS / 2;
        bed.receive(&tcp((client, 5), (VIP, 80), ACK, b"x"));
        bed.now += TEN_SECONDS / 2;
        let next = connect(&mut bed, (client, 9), 80);
        moved += usize::from(next != first);
        assert_eq!(connect(&mut bed, (client, 10), 81), next, "the new one sticks");
    }
    assert!(moved > 10, "only {moved} of 20 clients moved");
}

#[test]
fn a_backend_out_of_reach_is_replaced_and_does_not_come_back() {
    let mut bed = sticky(1..=3);
    let first = connect(&mut bed, (CLIENT, 1), 80);
    let rest: Vec<_> = backends(1..=3).into_iter().filter(|(address, _)| *address != first).collect();
    let affinity = Affinity::new(&bed.snapshot.frontends.iter().next().expect("a frontend").1.service, TCP, 10);
    bed.serve(80, TCP, &rest);
    bed.publish(80, TCP, |frontend| frontend.affinity = Some(affinity));
    let second = connect(&mut bed, (CLIENT, 2), 80);
    assert_ne!(second, first);
    bed.serve(80, TCP, &backends(1..=3));
    bed.publish(80, TCP, |frontend| frontend.affinity = Some(affinity));
    for port in 3..20 {
        assert_eq!(connect(&mut bed, (CLIENT, port), 80), second);
    }
    // The old connection goes on.
    let out = bed.receive(&tcp((CLIENT, 1), (VIP, 80), ACK, b"x"));
    assert_eq!(read(&out.frame).dst.0, first);
}

/// Clients outside and inside may have different lists: what counts is the list of the one who asks.
#[test]
fn the_reachable_set_is_that_of_the_client() {
    let mut bed = sticky(1..=1);
    bed.publish(80, TCP, |frontend| frontend.inside = target(2..=2));
    connect(&mut bed, (A, 1), 80);
    bed.upcall(Hook::PodIn, POD_A, &tcp((A, 2), (VIP, 80), SYN, b""));
    let flow = bed.flows.records(bed.now).into_iter().find(|flow| flow.forward.0.tuple().src().1 == 2).expect("a flow");
    assert_eq!(flow.forward.1.tuple.dst().0, remote(2));
}

#[test]
fn it_is_switched_live() {
    let mut bed = sticky(1..=50);
    let first = connect(&mut bed, (CLIENT, 1), 80);
    bed.publish(80, TCP, |frontend| frontend.affinity = None);
    let spread: std::collections::BTreeSet<_> = (2..30).map(|port| connect(&mut bed, (CLIENT, port), 80)).collect();
    assert!(spread.len() > 5, "{spread:?}");
    bed.publish(80, TCP, |frontend| frontend.affinity = Some(Affinity::new(&frontend.service, TCP, 10)));
    let again = connect(&mut bed, (CLIENT, 40), 80);
    assert_eq!(connect(&mut bed, (CLIENT, 41), 80), again);
    // Port 1 is used again at once after its connection's end: it belongs to the affinity as all others do.
    bed.receive(&tcp((CLIENT, 30), (VIP, 80), SYN, b""));
    assert_eq!(again, first, "still within the time-out");
}

/// A port that is used again within moments keeps its backend, unless affinity says another one.
#[test]
fn a_reopened_port_follows_the_affinity() {
    let mut bed = sticky(1..=50);
    bed.publish(80, TCP, |frontend| frontend.affinity = None);
    let first = connect(&mut bed, (CLIENT, 1), 80);
    bed.receive(&tcp((CLIENT, 1), (VIP, 80), RST, b""));
    bed.publish(80, TCP, |frontend| frontend.affinity = Some(Affinity::new(&frontend.service, TCP, 10)));
    let stuck = (2..200).map(|last| {
        bed.publish(81, TCP, |frontend| frontend.affinity = Some(Affinity::new(&frontend.service, TCP, 10)));
        connect(&mut bed, (CLIENT, last), 81)
    });
    let stuck = stuck.last().expect("a connection");
    let again = connect(&mut bed, (CLIENT, 1), 80);
    assert_eq!(again, stuck, "{first} was the port's");
}
