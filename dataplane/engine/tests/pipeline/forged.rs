//! Segments of nobody's: they end no connection, and a SYN takes no one's place.

use std::sync::atomic::Ordering::Relaxed;

use ringway_engine::flow::{FlowState, Numbers, Segment, TICKS_PER_SECOND};
use ringway_engine::tables::PodDelivery;
use ringway_engine::verdict::Verdict;
use ringway_engine::wire::TCP;

use super::*;

const FAR: u32 = 0x4000_0000;

/// A connection of the client, and where its two sides stand in their sequences.
struct Connection {
    bed: Bed,
    /// What the backend knows as its client, and the backend.
    there: (Endpoint, Endpoint),
    client: u32,
    backend: u32,
}

impl Connection {
    fn open(client: u32, backend: u32) -> Connection {
        let mut bed = Bed::served((REMOTE, 8080), PodDelivery::Edge);
        let there = read(&bed.receive(&segment(CLIENT_END, WEB, SYN, (client, 0), b"")).frame);
        let mut connection = Connection { bed, there: (there.src, there.dst), client: client.wrapping_add(1), backend };
        connection.answer(SYN | ACK, 0, 0);
        connection.backend = backend.wrapping_add(1);
        connection.send(ACK, 0, 0);
        assert_eq!(connection.state(), FlowState::Established);
        connection
    }

    /// A segment of the client so far from where it is; `Seen` by the backend.
    fn send(&mut self, flags: u8, away: u32, acknowledged_away: u32) -> Seen {
        let numbers = (self.client.wrapping_add(away), self.backend.wrapping_add(acknowledged_away));
        let out = self.bed.receive(&segment(CLIENT_END, WEB, flags, numbers, b""));
        assert_eq!(out.verdict, Verdict::Uplink { uplink: 0 }, "its receiver judges it");
        read(&out.frame)
    }

    /// Likewise of the backend.
    fn answer(&mut self, flags: u8, away: u32, acknowledged_away: u32) {
        let numbers = (self.backend.wrapping_add(away), self.client.wrapping_add(acknowledged_away));
        let out = self.bed.receive(&segment(self.there.1, self.there.0, flags, numbers, b""));
        assert_eq!(out.verdict, Verdict::Uplink { uplink: 0 });
    }

    fn state(&self) -> FlowState {
        self.bed.flows.records(self.bed.now)[0].state
    }

    /// What the backend sees of a SYN. Long after the flow began, so that one that begins anew may get another source.
    fn syn(&mut self, away: u32) -> Seen {
        self.bed.now += 5 * TICKS_PER_SECOND;
        let frame = segment(CLIENT_END, WEB, SYN, (self.client.wrapping_add(away), 0), b"");
        read(&self.bed.receive(&frame).frame)
    }

    /// Passes more than the time-out of flows that ended, with all frontends led to another backend: it is still the same flow.
    fn ensure_goes_on(&mut self) {
        let timeouts = node::config().timeouts;
        self.bed.serve(80, TCP, &[(remote(9), 8080)]);
        self.bed.now += timeouts.tcp_closed + TICKS_PER_SECOND;
        self.bed.engine.sweep(self.bed.now, usize::MAX);
        let there = self.there;
        let seen = self.send(ACK, 0, 0);
        assert_eq!((seen.src, seen.dst), there);
        self.answer(ACK, 0, 0);
    }
}

#[test]
fn resets_and_fins_out_of_the_window_end_nothing() {
    for (client, backend) in [(1_000, 9), (u32::MAX, u32::MAX - 1)] {
        let mut connection = Connection::open(client, backend);
        for flags in [RST, RST | ACK, FIN | ACK, FIN | RST, FIN] {
            for away in [FAR, FAR.wrapping_neg(), 1 << 31] {
                connection.send(flags, away, away);
                connection.answer(flags, away, away);
            }
        }
        assert_eq!(connection.state(), FlowState::Established);
        let seen = connection.syn(FAR);
        assert_eq!((seen.src, seen.dst), connection.there, "nor does a SYN take its place");
        connection.ensure_goes_on();
        assert_eq!(connection.state(), FlowState::Established);
    }
}

/// So near that the flow takes them for resets of its connection, which its ends know better. A SYN after them is no proof either.
#[test]
fn resets_nearby_end_nothing_whose_client_answers() {
    for (by_client, flags) in [(true, RST), (true, RST | ACK), (false, RST), (false, RST | ACK)] {
        for with_syn in [false, true] {
            let mut connection = Connection::open(1_000, 9);
            match by_client {
                true => _ = connection.send(flags, 1_000_000, 0),
                false => connection.answer(flags, 100_000, 0),
            }
            assert_eq!(connection.state(), FlowState::Closed);
            if with_syn {
                let seen = connection.syn(100_000);
                assert_eq!((seen.src, seen.dst), connection.there, "its backend knows");
                assert_eq!(connection.state(), FlowState::Closed);
            }
            let Bed { now, engine, flows, .. } = &mut connection.bed;
            *now += 5 * TICKS_PER_SECOND;
            assert_eq!(engine.sweep(*now, usize::MAX), 0);
            let asked = flows.next_doubted().expect("asked");
            assert_eq!(ends(asked.key.tuple()), (CLIENT_END, WEB));
            connection.send(ACK, 0, 0);
            assert_eq!(connection.state(), FlowState::Established);
            connection.ensure_goes_on();
            assert_eq!(connection.state(), FlowState::Established);
        }
    }
}

/// The client uses its port again: at once, and where it may be served.
#[test]
fn a_syn_after_a_reset_begins_anew() {
    for (by_client, is_served) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut connection = Connection::open(1_000, 9);
        match by_client {
            true => _ = connection.send(RST, 3_000, 0),
            false => connection.answer(RST | ACK, 0, 0),
        }
        assert_eq!(connection.state(), FlowState::Closed);
        if !is_served {
            connection.bed.serve(80, TCP, &[(remote(9), 8080)]);
        }
        let seen = connection.syn(FAR);
        assert_eq!((seen.dst, connection.bed.flows.len()), (if is_served { connection.there.1 } else { (remote(9), 8080) }, 1));
        let again = connection.syn(FAR);
        assert_eq!((again.src, again.dst), (seen.src, seen.dst), "repeated");
        connection.there = (seen.src, seen.dst);
        (connection.client, connection.backend) = (connection.client.wrapping_add(FAR + 1), FAR * 3);
        connection.answer(SYN | ACK, 0, 0);
        connection.backend += 1;
        connection.send(ACK, 0, 0);
        assert_eq!(connection.state(), FlowState::Established);
        connection.ensure_goes_on();
    }
}

/// What is handed back for `edge` has to be what `edge` executes, or it would come up again.
#[test]
fn a_syn_after_a_reset_passes_at_the_edge() {
    let mut bed = Bed::served((A, 8080), PodDelivery::Edge);
    bed.receive(&segment(CLIENT_END, WEB, SYN, (1_000, 0), b""));
    let record = bed.flows.records(bed.now)[0].clone();
    let noted = |flags, sequence, acknowledged| Segment { flags, numbers: Some(Numbers { sequence, acknowledged }) };
    let reverse = bed.flows.slot(record.slot).peer.load(Relaxed);
    bed.flows.touch(record.slot, noted(SYN, 1_000, 0), bed.now);
    bed.flows.touch(reverse, noted(SYN | ACK, 9, 1_001), bed.now);
    bed.flows.touch(record.slot, noted(ACK, 1_001, 10), bed.now);
    bed.flows.touch(reverse, noted(RST, 10, 0), bed.now);
    bed.now += 5 * TICKS_PER_SECOND;
    assert!(bed.flows.has_ended(record.slot));
    let out = bed.receive(&segment(CLIENT_END, WEB, SYN, (FAR, 0), b""));
    assert_eq!((out.verdict, bed.flows.records(bed.now)[0].age), (Verdict::Host, 5 * TICKS_PER_SECOND));
    assert!(!bed.flows.has_ended(record.slot));
}

/// It was taken out since: the next attempt goes elsewhere.
#[test]
fn a_refused_syn_is_not_repeated_to_a_backend_that_left() {
    let mut connection = Connection::open(1_000, 9);
    connection.answer(RST | ACK, 0, 0);
    let seen = connection.syn(FAR);
    assert_eq!(seen.dst, connection.there.1);
    connection.answer(RST | ACK, 0, FAR + 1);
    connection.bed.serve(80, TCP, &[(remote(9), 8080)]);
    assert_eq!(connection.syn(FAR * 2).dst, (remote(9), 8080));
}

/// The backend may still send for long. It knows whether the SYN is one of its client, who answers its challenge by a reset.
#[test]
fn a_syn_on_a_half_closed_flow_goes_to_its_backend() {
    for by_client in [true, false] {
        let mut connection = Connection::open(1_000, 9);
        if by_client {
            _ = connection.send(FIN | ACK, 0, 0)
        } else {
            connection.answer(FIN | ACK, 0, 0)
        }
        let seen = connection.syn(FAR);
        assert_eq!((seen.src, seen.dst, connection.state()), (connection.there.0, connection.there.1, FlowState::CloseWait));
        connection.ensure_goes_on();
        let again = connection.syn(FAR);
        assert_eq!((again.src, again.dst), connection.there);
        connection.answer(ACK, 1, 1);
        connection.send(RST, 1, 0);
        let seen = connection.syn(FAR);
        assert_eq!((seen.dst, connection.bed.flows.len()), ((remote(9), 8080), 1), "begun anew");
    }
}

/// RFC 6191: with timestamps the number may be lower, too, and other systems choose it at random.
#[test]
fn a_port_is_used_again_in_time_wait() {
    for away in [100_000, FAR, FAR.wrapping_neg(), 1] {
        let mut connection = Connection::open(u32::MAX - 1_000, 9);
        connection.send(FIN | ACK, 0, 0);
        connection.answer(FIN | ACK, 0, 1);
        connection.send(ACK, 1, 1);
        assert_eq!(connection.state(), FlowState::Closed);
        connection.bed.serve(80, TCP, &[(remote(9), 8080)]);
        let seen = connection.syn(away);
        assert_eq!((seen.dst, connection.state(), connection.bed.flows.len()), ((remote(9), 8080), FlowState::Embryonic, 1), "{away:#x}");
        let answer = (77, connection.client.wrapping_add(away).wrapping_add(1));
        connection.bed.receive(&segment(seen.dst, seen.src, SYN | ACK, answer, b""));
        connection.bed.receive(&segment(CLIENT_END, WEB, ACK, (answer.1, 78), b""));
        assert_eq!(connection.state(), FlowState::Established);
    }
}

/// A client that lost its memory meets a backend that did, too: what follows counts by the new numbers.
#[test]
fn a_backend_that_accepts_a_syn_begins_the_flow_anew() {
    let mut connection = Connection::open(1_000, 9);
    let seen = connection.syn(FAR);
    assert_eq!((seen.src, seen.dst), connection.there);
    (connection.client, connection.backend) = (connection.client.wrapping_add(FAR + 1), FAR * 3);
    connection.answer(SYN | ACK, 0, 0);
    connection.backend += 1;
    connection.send(ACK, 0, 0);
    assert_eq!(connection.state(), FlowState::Established);
    connection.send(FIN | ACK, FAR.wrapping_neg(), 0);
    assert_eq!(connection.state(), FlowState::Established, "of the old connection");
    connection.answer(FIN | ACK, 0, 0);
    connection.send(RST, 0, 0);
    assert_eq!(connection.state(), FlowState::Closed);
}
