//! The engine among TCP stacks: a client and two backends (smoltcp's, another implementation than any kernel's) on a network that loses,
//! doubles and reorders packets, cuts some of them in pieces, and changes the service's backends meanwhile. What arrives is what was sent.
//!
//! Every run follows from its seed: `RINGWAY_SEEDS=5000` tries so many, `RINGWAY_SEED=17` only that one.
#![forbid(unsafe_code)]

#[path = "../pipeline/bed/mod.rs"]
#[expect(dead_code, reason = "the simulation uses a part of it")]
mod bed;
#[path = "../pipeline/frames.rs"]
#[expect(dead_code, reason = "the simulation uses a part of it")]
mod frames;
mod host;
mod network;
mod pieces;

use std::net::IpAddr;

use ringway_engine::family::{V4, V6};
use ringway_engine::wire::TCP;

use bed::node::Bed;
use bed::{Endpoint, Side, v4, v6};
use host::Host;
use network::{Dice, Network};

const SERVER_PORT: u16 = 8080;
const CONNECTIONS: usize = 3;
/// Longer than retransmissions need, with pauses that double, on a network that loses every tenth packet.
const PATIENCE_MS: u64 = 600_000;

/// What a connection sends, and expects back.
fn message(dice: &mut Dice) -> Vec<u8> {
    let bytes = 1 + dice.roll(30_000) as usize;
    (0..bytes).map(|_| dice.roll(256) as u8).collect()
}

/// Who takes part in a run.
struct Cast {
    web: Endpoint,
    client: IpAddr,
    servers: [IpAddr; 2],
    /// Hosts' MTUs are from here to 1500.
    mtu_min: u64,
}

/// By turns of IPv4 and IPv6.
fn run(seed: u64) {
    if seed.is_multiple_of(2) {
        play::<V4>(seed, Cast { web: v4::WEB, client: v4::CLIENT, servers: [v4::REMOTE, v4::remote(6)], mtu_min: 576 });
    } else {
        play::<V6>(seed, Cast { web: v6::WEB, client: v6::CLIENT, servers: [v6::REMOTE, v6::remote(6)], mtu_min: 1280 });
    }
}

fn play<F: Side>(seed: u64, cast: Cast) {
    let Cast { web, client, servers: [one, other], mtu_min } = cast;
    let mut dice = Dice::new(seed);
    let mut bed = Bed::<F>::small();
    let sets: [&[Endpoint]; 3] = [&[(one, SERVER_PORT)], &[(one, SERVER_PORT), (other, SERVER_PORT)], &[(other, SERVER_PORT)]];
    bed.serve(web.1, TCP, sets[dice.roll(3) as usize]);
    let mut hosts = [client, one, other].map(|address| Host::new(address, (mtu_min + dice.roll(1501 - mtu_min)) as usize, dice.next()));
    hosts[1..].iter_mut().for_each(|server| server.serve(SERVER_PORT, 3 * CONNECTIONS));
    let messages: Vec<Vec<u8>> = (0..CONNECTIONS).map(|_| message(&mut dice)).collect();
    for (number, message) in messages.iter().enumerate() {
        hosts[0].connect(web, 40_000 + number as u16, message.clone());
    }
    let mut network = Network::new(&mut dice);
    for now_ms in 0..PATIENCE_MS {
        bed.now = 1000 + (now_ms * 60 / 1000) as u32;
        if dice.roll(200) == 0 {
            bed.serve(web.1, TCP, sets[dice.roll(3) as usize]);
        }
        if now_ms % 50 == 0 {
            bed.engine.sweep(bed.now, 16);
        }
        for host in &mut hosts {
            host.poll(now_ms);
            for packet in host.sent() {
                network.send(&mut dice, packet, now_ms);
            }
        }
        network.move_on(&mut dice, &mut bed, &mut hosts, now_ms);
        if hosts[0].is_done() {
            break;
        }
    }
    let is_done = hosts[0].is_done();
    for (number, (message, echo)) in messages.iter().zip(hosts[0].echoes()).enumerate() {
        assert!(*message == echo, "seed {seed}: connection {number} sent {} bytes, {} came back", message.len(), echo.len());
    }
    assert_eq!(bed.engine.counts().refused, 0, "seed {seed}: the engine itself resets nothing");
    assert!(hosts[0].resets <= 3, "seed {seed}: {} connections were reset", hosts[0].resets);
    assert!(is_done, "seed {seed}: not closed after {PATIENCE_MS} ms");
}

#[test]
fn whatever_the_network_does_the_bytes_arrive() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("RINGWAY_SEED") {
        Some(seed) => run(seed),
        None => (0..number("RINGWAY_SEEDS").unwrap_or(100)).for_each(run),
    }
}
