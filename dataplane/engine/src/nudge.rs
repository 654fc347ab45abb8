//! What an end of a connection is sent that may live or not, and a client whose backend is gone, which it would find out in minutes.
//!
//! Nobody knows where an idle connection stands in its sequence: the table does not follow it. But its ends tell: a segment of long ago
//! is answered by an ACK with both sequence numbers (RFC 9293 §3.10.7.4), or, without the connection, by a reset that stands
//! nowhere. The ACK takes back what somebody said of a reset; or the entry, marked by [`stop`](crate::flow::FlowTable::stop), answers it
//! with the reset that fits. A datagram's socket is told by an error.
//!
//! A SYN in the middle of a connection would be answered, too (RFC 5961 §4.2). But connection trackers on the way translate none, and a
//! client that just begins anew takes it for its backend's.

use arrayvec::ArrayVec;

use crate::checksum;
use crate::family::Family;
use crate::flow::{Numbers, Tuple};
use crate::refuse::{self, IcmpError};
use crate::wire::{IpFlow, Part, TCP, UDP};

const ETHERNET_BYTES: usize = 14;
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const TTL: u8 = 64;
const ACK: u8 = 0x10;

/// A frame, whose MAC addresses are left to the caller.
pub type Frame = ArrayVec<u8, 128>;

/// An ACK to the sender of segments with this tuple: from the frontend to the client, if it is client → frontend. For the numbers see
/// [`numbers_of_long_ago`](crate::flow::FlowTable::numbers_of_long_ago).
pub fn ack<F: Family>(tuple: &Tuple<F>, numbers: Numbers) -> Frame {
    let mut frame = headers(&tuple.reversed(), TCP, TCP_BYTES);
    let l4 = ETHERNET_BYTES + F::HEADER_BYTES;
    let segment = &mut frame[l4..];
    segment[4..8].copy_from_slice(&numbers.sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&numbers.acknowledged.to_be_bytes());
    segment[12] = (TCP_BYTES as u8 / 4) << 4;
    segment[13] = ACK;
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let check = checksum::l4::<F>(tuple.daddr, tuple.saddr, TCP, segment);
    segment[16..18].copy_from_slice(&check.to_ne_bytes());
    frame
}

/// "Port unreachable", from the frontend to the client, about a datagram that the client (`tuple`, likewise) may have sent.
pub fn port_unreachable<F: Family>(tuple: &Tuple<F>) -> Frame {
    let mut frame = headers(tuple, UDP, UDP_BYTES);
    let (l3, l4, end) = (ETHERNET_BYTES, ETHERNET_BYTES + F::HEADER_BYTES, frame.len());
    frame[l4 + 4..l4 + 6].copy_from_slice(&(UDP_BYTES as u16).to_be_bytes());
    let check = checksum::l4::<F>(tuple.saddr, tuple.daddr, UDP, &frame[l4..]);
    frame[l4 + 6..].copy_from_slice(&check.to_ne_bytes());
    let flow =
        IpFlow { l3, l4, end, protocol: UDP, ttl: TTL, tcp_flags: 0, part: Part::Whole, id: 0, offset: 0, has_more: false, tuple: *tuple };
    // Room for the error's own headers; the capacity is more than both families need.
    for _ in 0..F::HEADER_BYTES + UDP_BYTES {
        frame.push(0);
    }
    refuse::icmp_error(&mut frame, &flow, IcmpError::PortUnreachable);
    frame
}

/// Ethernet and IP headers, and as many zeros as the rest needs, with the ports at its beginning.
fn headers<F: Family>(tuple: &Tuple<F>, protocol: u8, l4_bytes: usize) -> Frame {
    let mut frame = Frame::from_iter(std::iter::repeat_n(0, ETHERNET_BYTES + F::HEADER_BYTES + l4_bytes));
    let ethertype: [u8; 2] = if F::IS_V6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    frame[12..14].copy_from_slice(&ethertype);
    refuse::write_header(&mut frame[ETHERNET_BYTES..], tuple, protocol, l4_bytes);
    let l4 = ETHERNET_BYTES + F::HEADER_BYTES;
    frame[l4..l4 + 4].copy_from_slice(&tuple.ports.to_ne_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{V4, V6};
    use crate::wire::{self, Parsed, read_u32};

    const NUMBERS: Numbers = Numbers { sequence: 7, acknowledged: 9 };

    fn checked<F: Family>(frame: &Frame, parsed: Parsed<F>, client: F::Ip, vip: F::Ip) {
        let tuple = Tuple::<F>::new((client, 40_000), (vip, 80));
        let Parsed::Flow(flow) = parsed else { panic!("{parsed:?}") };
        assert_eq!((flow.tcp_flags, read_u32(frame, flow.l4 + 4), read_u32(frame, flow.l4 + 8)), (ACK, Some(7), Some(9)));
        assert_eq!((flow.tuple, flow.end), (tuple.reversed(), frame.len()));
        let segment = &frame[flow.l4..];
        let pseudo = F::pseudo_header(flow.tuple.saddr, flow.tuple.daddr, TCP, segment.len() as u32);
        assert_eq!(checksum::fold(u64::from(pseudo) + u64::from(checksum::sum(segment))), 0xffff);
    }

    #[test]
    fn a_question_comes_from_the_frontend() {
        let (client, vip) = ([198, 51, 100, 7].into(), [192, 0, 2, 10].into());
        let frame = ack(&Tuple::<V4>::new((client, 40_000), (vip, 80)), NUMBERS);
        let wire::Frame::V4(parsed) = wire::parse(&frame) else { panic!("no IPv4") };
        checked(&frame, parsed, client, vip);
        assert_eq!(checksum::sum(&frame[14..34]), 0xffff, "IP checksum");

        let (client, vip) = ("2001:db8::7".parse().unwrap(), "2001:db8:1::10".parse().unwrap());
        let frame = ack(&Tuple::<V6>::new((client, 40_000), (vip, 80)), NUMBERS);
        let wire::Frame::V6(parsed) = wire::parse(&frame) else { panic!("no IPv6") };
        checked(&frame, parsed, client, vip);
    }

    #[test]
    fn an_error_quotes_a_datagram_of_the_client() {
        let tuple = Tuple::<V4>::new(([198, 51, 100, 7].into(), 40_000), ([192, 0, 2, 10].into(), 53));
        let frame = port_unreachable(&tuple);
        let wire::Frame::V4(Parsed::Quote(quote)) = wire::parse(&frame) else { panic!("no error") };
        assert_eq!((quote.tuple, quote.protocol, quote.end), (tuple.reversed(), UDP, frame.len()));
        assert_eq!((checksum::sum(&frame[14..34]), checksum::sum(&frame[34..])), (0xffff, 0xffff));

        let tuple = Tuple::<V6>::new(("2001:db8::7".parse().unwrap(), 40_000), ("2001:db8:1::10".parse().unwrap(), 53));
        let frame = port_unreachable(&tuple);
        let wire::Frame::V6(Parsed::Quote(quote)) = wire::parse(&frame) else { panic!("no error") };
        assert_eq!((quote.tuple, quote.protocol, quote.end), (tuple.reversed(), UDP, frame.len()));
        let pseudo = V6::pseudo_header(tuple.daddr, tuple.saddr, V6::ICMP, (frame.len() - quote.icmp) as u32);
        assert_eq!(checksum::fold(u64::from(pseudo) + u64::from(checksum::sum(&frame[quote.icmp..]))), 0xffff);
    }
}
