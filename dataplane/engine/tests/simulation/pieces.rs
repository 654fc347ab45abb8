//! Packets in pieces on their way to the engine, and whole again behind it.

use etherparse::defrag::IpDefragPool;
use etherparse::{Ipv6FragmentHeader, SlicedPacket};
use ringway_engine::divide::divide;

use crate::bed::v6::*;
use crate::bed::*;
use crate::frames::*;
use crate::network::Dice;

#[path = "../pipeline/v6/headers.rs"]
#[expect(dead_code, reason = "the simulation uses a part of it")]
mod headers;

/// How long a receiver waits for the rest (RFC 8200 §4.5).
const ASSEMBLY_MS: u64 = 60_000;

/// The packet of a frame in pieces: as if a router had done it, for a stack that does not forbid it; in IPv6 as if its sender had.
pub fn cut(dice: &mut Dice, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    let (id, mtu) = (dice.next() as u32, 68 + dice.roll(600) as u32);
    if frame[12..14] == ETHERTYPE {
        let step = mtu as usize / 8 * 8;
        let at: Vec<usize> = (step..frame.len() - L4).step_by(step).collect();
        return headers::cut(&frame, id, &at);
    }
    allow_division(&mut frame[ETHERNET_BYTES..], id as u16);
    let mut pieces = Vec::new();
    divide(&frame, mtu, |piece| {
        pieces.push(piece.to_vec());
        true
    });
    pieces
}

/// Takes "don't fragment" off, and gives the packet an identification.
fn allow_division(packet: &mut [u8], id: u16) {
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6] &= !0x40;
    packet[10..12].fill(0);
    let check = !ringway_engine::checksum::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&check.to_ne_bytes());
}

/// Pieces of IPv6 packets, which smoltcp does not put together; those of IPv4 it does.
#[derive(Default)]
pub struct Assembly(IpDefragPool<u64, ()>);

impl Assembly {
    /// The IP packet of a frame, if it is whole or the last piece of one.
    pub fn add(&mut self, frame: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        let packet = &frame[ETHERNET_BYTES..];
        if frame[12..14] != ETHERTYPE || frame[PROTOCOL] != headers::FRAGMENT {
            return Some(packet.to_vec());
        }
        self.0.retain(|since_ms| since_ms + ASSEMBLY_MS > now_ms);
        let (header, rest) = Ipv6FragmentHeader::from_slice(&frame[L4..]).expect("a fragment header");
        let (protocol, payload) = if header.is_fragmenting_payload() {
            let piece = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
            let whole = self.0.process_sliced_packet(&piece, now_ms, ()).expect("pieces that fit together")?;
            (whole.ip_number, whole.payload)
        } else {
            (header.next_header, rest.to_vec())
        };
        let mut bytes = frame[..L4].to_vec();
        bytes[PROTOCOL] = protocol.0;
        set_payload_bytes(&mut bytes, payload.len());
        Some([&bytes[ETHERNET_BYTES..], &payload].concat())
    }
}
