//! IPv6 extension headers (RFC 8200 §4) of frames that are made without.

pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;

const IP: usize = 14;
const HEADERS: usize = IP + 40;

/// A header of padding with at least so many bytes, its first byte (the next header) open.
pub fn padding(bytes: usize) -> Vec<u8> {
    let units = (bytes + 4).div_ceil(8);
    let mut header = vec![0; units * 8];
    header[1] = (units - 1) as u8;
    header[2..4].copy_from_slice(&[1, (units * 8 - 4) as u8]);
    header
}

/// The packet with one more header of this type, in front of all others.
pub fn with(frame: &[u8], kind: u8, header: &[u8]) -> Vec<u8> {
    insert(frame, IP + 6, HEADERS, kind, header)
}

/// The packet with a fragment header behind all others.
pub fn with_fragment(frame: &[u8], id: u32, offset: u16, more: bool) -> Vec<u8> {
    let place = (offset << 3 | u16::from(more)).to_be_bytes();
    let header = [&[0, 0][..], &place, &id.to_be_bytes()].concat();
    let (next, at) = *walk(frame).last().expect("at least the IP header");
    insert(frame, next, at, FRAGMENT, &header)
}

/// The packet without its fragment header.
pub fn without_fragment(frame: &[u8]) -> Vec<u8> {
    let steps = walk(frame);
    let (next, at) = *steps.iter().find(|(next, _)| frame[*next] == FRAGMENT).expect("a fragment header");
    let mut out = [&frame[..at], &frame[at + 8..]].concat();
    out[next] = frame[at];
    set_length(&mut out);
    out
}

/// Where the IP headers end.
pub fn end(frame: &[u8]) -> usize {
    walk(frame).last().expect("at least the IP header").1
}

/// Writes the payload length that the frame has.
pub fn set_length(frame: &mut [u8]) {
    let length = (frame.len() - HEADERS) as u16;
    frame[IP + 4..IP + 6].copy_from_slice(&length.to_be_bytes());
}

fn insert(frame: &[u8], next: usize, at: usize, kind: u8, header: &[u8]) -> Vec<u8> {
    let mut out = [&frame[..at], header, &frame[at..]].concat();
    out[at] = frame[next];
    out[next] = kind;
    set_length(&mut out);
    out
}

/// Of each header: where its type stands, and where it begins.
fn walk(frame: &[u8]) -> Vec<(usize, usize)> {
    let mut steps = vec![(IP + 6, HEADERS)];
    loop {
        let (next, at) = steps[steps.len() - 1];
        let bytes = match frame[next] {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (usize::from(frame[at + 1]) + 1) * 8,
            FRAGMENT => 8,
            _ => return steps,
        };
        steps.push((at, at + bytes));
    }
}
