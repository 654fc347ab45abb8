//! Division of a packet that is larger than the MTU of its next hop and may be divided (RFC 791 §3.2).

use arrayvec::ArrayVec;

use crate::checksum;
use crate::family::{Family, V4};
use crate::wire::{self, DONT_FRAGMENT, FRAGMENT_OFFSET_MASK, MORE_FRAGMENTS, read_u16};

/// The largest frame of a fragment: a datagram with its Ethernet header and two VLAN tags.
const FRAME_BYTES_MAX: usize = 65_535 + wire::ETHERNET_BYTES + 2 * 4;
/// IP options (RFC 791 §3.1).
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
/// Of an option's type: it stands in every fragment.
const COPIED: u8 = 0x80;

/// Calls `put` with the frame of each fragment of the IPv4 packet in `frame`, in order, until that says false; the Ethernet header is that
/// of the whole. `mtu` is in bytes of an IP packet. A fragment can be divided further. False if `put` said so, or if it is no such packet,
/// may not be divided, ends behind the largest datagram, or has no room for anything but its header.
pub fn divide(frame: &[u8], mtu: u32, mut put: impl FnMut(&[u8]) -> bool) -> bool {
    pieces(frame, mtu, &mut put).unwrap_or(false)
}

fn pieces(frame: &[u8], mtu: u32, put: &mut impl FnMut(&[u8]) -> bool) -> Option<bool> {
    let l3 = wire::ipv4_offset(frame)?;
    let total = usize::from(read_u16(frame, l3 + 2)?);
    let flags = read_u16(frame, l3 + 6)?;
    let header_bytes = usize::from(frame.get(l3)? & 0x0f) * 4;
    let l4 = l3 + header_bytes;
    let payload = frame.get(l4..l3 + total)?;
    let room = (mtu as usize).checked_sub(header_bytes)? / 8 * 8;
    let end = usize::from(flags & FRAGMENT_OFFSET_MASK) * 8 + payload.len();
    if flags & DONT_FRAGMENT != 0 || end > usize::from(u16::MAX) || room == 0 || payload.is_empty() || header_bytes < V4::HEADER_BYTES {
        return None;
    }
    let mut out = ArrayVec::<u8, FRAME_BYTES_MAX>::new();
    out.try_extend_from_slice(&frame[..l4]).ok()?;
    let last = payload.len().div_ceil(room) - 1;
    for (number, piece) in payload.chunks(room).enumerate() {
        out.truncate(l4);
        out.try_extend_from_slice(piece).ok()?;
        let header = &mut out[l3..l4];
        if number == 1 {
            keep_copied_options(&mut header[V4::HEADER_BYTES..]);
        }
        let offset = (flags & FRAGMENT_OFFSET_MASK) + (number * room / 8) as u16;
        let more = if number < last { MORE_FRAGMENTS } else { flags & MORE_FRAGMENTS };
        header[2..4].copy_from_slice(&((header_bytes + piece.len()) as u16).to_be_bytes());
        header[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        header[10..12].fill(0);
        let check = !checksum::sum(header);
        header[10..12].copy_from_slice(&check.to_ne_bytes());
        if !put(&out) {
            return Some(false);
        }
    }
    Some(true)
}

/// The options of the first fragment become those of the others, in as many bytes.
fn keep_copied_options(mut options: &mut [u8]) {
    while let [kind, rest @ ..] = options {
        let bytes = match (*kind, rest.first()) {
            (END_OF_OPTIONS, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(&bytes)) if (2..=rest.len() + 1).contains(&usize::from(bytes)) => usize::from(bytes),
            // Nobody can tell where it ends.
            _ => return,
        };
        let (option, others) = std::mem::take(&mut options).split_at_mut(bytes);
        if option[0] & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        options = others;
    }
}
