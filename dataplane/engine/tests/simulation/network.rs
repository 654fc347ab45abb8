//! The network around the engine: between the hosts there is only it.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket};
use ringway_engine::verdict::Verdict;

use crate::bed::node::Bed;
use crate::bed::{NODE2_MAC, ROUTER_MAC, Side, UPLINK_MAC, v4, v6};
use crate::host::Host;
use crate::pieces::{Assembly, cut};

/// Random numbers that follow from a seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }
}

/// Frames under way, on both sides of the engine.
pub struct Network {
    /// Of a hundred packets, so many are lost, come twice, or are cut in pieces on their way to the engine.
    lost: u64,
    doubled: u64,
    cut: u64,
    /// A packet takes up to so many milliseconds: others overtake it.
    delay_ms: u64,
    to_engine: Vec<(u64, Vec<u8>)>,
    to_hosts: Vec<(u64, Vec<u8>)>,
    /// Fragments that the engine keeps.
    held: Vec<Vec<u8>>,
    assembly: Assembly,
}

impl Network {
    pub fn new(dice: &mut Dice) -> Network {
        let (lost, doubled, cut, delay_ms) = (dice.roll(11), dice.roll(6), dice.roll(31), 1 + dice.roll(20));
        Network {
            lost,
            doubled,
            cut,
            delay_ms,
            to_engine: Vec::new(),
            to_hosts: Vec::new(),
            held: Vec::new(),
            assembly: Assembly::default(),
        }
    }

    /// Takes an IP packet of a host.
    pub fn send(&mut self, dice: &mut Dice, packet: Vec<u8>, now_ms: u64) {
        let frame = framed(&packet);
        let frames = if dice.roll(100) < self.cut { cut(dice, frame) } else { vec![frame] };
        for frame in frames {
            self.put(dice, frame, now_ms);
        }
    }

    fn put(&mut self, dice: &mut Dice, frame: Vec<u8>, now_ms: u64) {
        let copies = if dice.roll(100) < self.lost { 0 } else { 1 + u64::from(dice.roll(100) < self.doubled) };
        for _ in 0..copies {
            self.to_engine.push((now_ms + 1 + dice.roll(self.delay_ms), frame.clone()));
        }
    }

    /// Gives the engine what arrives there now, and the hosts what it sends.
    pub fn move_on<F: Side>(&mut self, dice: &mut Dice, bed: &mut Bed<F>, hosts: &mut [Host], now_ms: u64) {
        let mut arriving = std::mem::take(&mut self.held);
        arriving.extend(due(&mut self.to_engine, now_ms));
        for frame in arriving {
            let out = bed.receive(&frame);
            match out.verdict {
                Verdict::Uplink { .. } => self.to_hosts.push((now_ms + 1 + dice.roll(self.delay_ms), out.frame)),
                Verdict::AwaitFirst => self.held.push(frame),
                // Handed back, or dropped: what came too late, or once too often.
                Verdict::Host | Verdict::Drop(_) => {}
                other => panic!("{other:?} for {frame:02x?}"),
            }
        }
        for frame in due(&mut self.to_hosts, now_ms) {
            assert!(frame[..6] == NODE2_MAC || frame[..6] == ROUTER_MAC, "{frame:02x?}");
            let Some(packet) = self.assembly.add(&frame, now_ms) else { continue };
            let host = hosts.iter_mut().find(|host| host.address == destination(&frame));
            host.expect("packets go to the hosts only").receive(packet);
        }
    }
}

fn due(under_way: &mut Vec<(u64, Vec<u8>)>, now_ms: u64) -> Vec<Vec<u8>> {
    let (due, later) = std::mem::take(under_way).into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
    *under_way = later;
    let due: Vec<(u64, Vec<u8>)> = due;
    due.into_iter().map(|(_, frame)| frame).collect()
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 6 { v6::ETHERTYPE } else { v4::ETHERTYPE };
    [&UPLINK_MAC[..], &ROUTER_MAC, &ethertype, packet].concat()
}

fn destination(frame: &[u8]) -> IpAddr {
    match SlicedPacket::from_ethernet(frame).expect("a well-formed frame").net {
        Some(NetSlice::Ipv4(ip)) => ip.header().destination_addr().into(),
        Some(NetSlice::Ipv6(ip)) => ip.header().destination_addr().into(),
        other => panic!("no IP: {other:?}"),
    }
}
