//! Refusals: the answer to a sender whose packet goes no further, made of the packet itself.
//!
//! Where nobody serves it, a TCP segment is answered by a reset (RFC 9293 §3.10.7.1), all else by an ICMP "port unreachable". So a
//! connect fails at once instead of timing out (contract §2, "reject or drop"). A packet that is too large for its next hop, or whose TTL
//! ends here, is answered as by any router (RFC 1812 §4.2.3.3, §5.3.1). ICMP errors quote the packet as it came, so that the sender finds
//! its socket, and come from the address that it was sent to: whoever sends to a VIP knows of no other.

use crate::checksum;
use crate::family::Family;
use crate::flow::{TICKS_PER_SECOND, Tuple};
use crate::wire::{IpFlow, Ping, TCP};

const TCP_BYTES: usize = 20;
const ICMP_BYTES: usize = 8;
/// RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c): as much of the packet as fits into 576 bytes, or into the least MTU of IPv6.
const ICMP_PACKET_BYTES_MAX: usize = 576;
const ICMPV6_PACKET_BYTES_MAX: usize = 1280;
/// RFC 792: the IP header and 8 bytes are the least that a sender needs to find its socket.
const QUOTED_L4_BYTES_MIN: usize = 8;
/// What Linux takes for packets of its own (net.ipv4.ip_default_ttl, net.ipv6.conf.*.hop_limit).
const TTL: u8 = 64;
/// RFC 1812 §4.3.2.5: errors have the precedence of network control, as Linux sets it. Not in IPv6.
const TOS_CONTROL: u8 = 0xc0;
const DONT_FRAGMENT: u16 = 0x4000;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What an ICMP error says (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    PortUnreachable,
    /// "Fragmentation needed" or "packet too big", with the MTU of the next hop, in bytes (RFC 1191 §4).
    TooBig {
        mtu: u32,
    },
    TimeExceeded,
}

impl IcmpError {
    /// Type, code, an empty checksum, and the rest of the header.
    fn header(self, is_v6: bool) -> [u8; ICMP_BYTES] {
        let (kind, code, rest) = match (self, is_v6) {
            (IcmpError::PortUnreachable, false) => (3, 3, 0),
            (IcmpError::TooBig { mtu }, false) => (3, 4, mtu.min(u16::MAX.into())),
            (IcmpError::TimeExceeded, false) => (11, 0, 0),
            (IcmpError::PortUnreachable, true) => (1, 4, 0),
            (IcmpError::TooBig { mtu }, true) => (2, 0, mtu),
            (IcmpError::TimeExceeded, true) => (3, 0, 0),
        };
        let [a, b, c, d] = rest.to_be_bytes();
        [kind, code, 0, 0, a, b, c, d]
    }
}

/// Turns the TCP segment at the beginning of `frame` into the reset that answers it, Ethernet header excepted. Returns the offset of the
/// byte behind it; `None`: it is a reset itself, or its header is cut.
///
/// RFC 9293 §3.10.7.1: "CLOSED state".
pub fn reset<F: Family>(frame: &mut [u8], flow: &IpFlow<F>) -> Option<usize> {
    if flow.tcp_flags & RST != 0 {
        return None;
    }
    let header = frame.get(flow.l4..flow.l4 + TCP_BYTES)?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (seq, ack) = (word(4), word(8));
    let payload_bytes = (flow.end - flow.l4).saturating_sub(usize::from(header[12] >> 4) * 4);
    let controls = u32::from(flow.tcp_flags & SYN != 0) + u32::from(flow.tcp_flags & FIN != 0);
    let (seq, ack, flags) = if flow.tcp_flags & ACK != 0 {
        (ack, 0, RST)
    } else {
        (0, seq.wrapping_add(payload_bytes as u32).wrapping_add(controls), RST | ACK)
    };
    let [a, b, c, d] = flow.tuple.ports.to_ne_bytes();
    let l4 = write_ip(frame, flow, TCP, TCP_BYTES, 0, DONT_FRAGMENT)?;
    let segment = frame.get_mut(l4..l4 + TCP_BYTES)?;
    segment.fill(0);
    segment[..4].copy_from_slice(&[c, d, a, b]);
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.to_be_bytes());
    segment[12] = (TCP_BYTES as u8 / 4) << 4;
    segment[13] = flags;
    let check = checksum::l4::<F>(flow.tuple.daddr, flow.tuple.saddr, TCP, segment);
    segment[16..18].copy_from_slice(&check.to_ne_bytes());
    Some(l4 + TCP_BYTES)
}

/// Turns the packet at the beginning of `frame` into the ICMP error about it, Ethernet header excepted. Returns the offset of the byte
/// behind it, `None` if there is no room: `frame` should be longer than the packet, as the error is longer than what it quotes.
pub fn icmp_error<F: Family>(frame: &mut [u8], flow: &IpFlow<F>, error: IcmpError) -> Option<usize> {
    let headers_bytes = F::HEADER_BYTES + ICMP_BYTES;
    let quote_at = flow.l3 + headers_bytes;
    let room = frame.len().checked_sub(quote_at)?;
    let bytes_max = if F::IS_V6 { ICMPV6_PACKET_BYTES_MAX } else { ICMP_PACKET_BYTES_MAX };
    let quoted = flow.bytes().min(bytes_max - headers_bytes).min(room);
    if quoted < flow.l4 - flow.l3 + QUOTED_L4_BYTES_MIN {
        return None;
    }
    frame.copy_within(flow.l3..flow.l3 + quoted, quote_at);
    let l4 = write_ip(frame, flow, F::ICMP, ICMP_BYTES + quoted, TOS_CONTROL, 0)?;
    let message = frame.get_mut(l4..l4 + ICMP_BYTES + quoted)?;
    message[..ICMP_BYTES].copy_from_slice(&error.header(F::IS_V6));
    let check = if F::IS_V6 { checksum::l4::<F>(flow.tuple.daddr, flow.tuple.saddr, F::ICMP, message) } else { !checksum::sum(message) };
    message[2..4].copy_from_slice(&check.to_ne_bytes());
    Some(l4 + message.len())
}

/// Turns the echo request at the beginning of `frame` into its reply (RFC 792, RFC 4443 §4.2), Ethernet header excepted. Returns the offset
/// of the byte behind it, `None` if the offsets are not those of the frame.
pub fn pong<F: Family>(frame: &mut [u8], ping: &Ping<F>) -> Option<usize> {
    let message = frame.get_mut(ping.l3..ping.end)?;
    let (header, icmp) = message.split_at_mut_checked(F::HEADER_BYTES)?;
    F::write(header, F::ADDRESSES, ping.tuple.daddr);
    F::write(header, F::ADDRESSES + F::ADDRESS_BYTES, ping.tuple.saddr);
    if F::IS_V6 {
        header[7] = TTL;
    } else {
        header[8] = TTL;
        write_header_check(header);
    }
    // The type changes, and nothing else becomes another: what was spoiled on the way stays so.
    let reply = if F::IS_V6 { 129 } else { 0 };
    let [kind, _, high, low, ..] = icmp else { return None };
    let word = |kind| u32::from(u16::from_ne_bytes([kind, 0]));
    let diff = checksum::diff(&[word(*kind)], &[word(reply)]);
    *kind = reply;
    [*high, *low] = checksum::apply(u16::from_ne_bytes([*high, *low]), diff).to_ne_bytes();
    Some(ping.end)
}

/// An IP header without options from the packet's destination to its source; returns where its payload begins. `tos` and `fragment` are
/// of IPv4 only.
fn write_ip<F: Family>(frame: &mut [u8], flow: &IpFlow<F>, protocol: u8, payload_bytes: usize, tos: u8, fragment: u16) -> Option<usize> {
    let header = frame.get_mut(flow.l3..flow.l3 + F::HEADER_BYTES)?;
    write_header(header, &flow.tuple.reversed(), protocol, payload_bytes);
    if !F::IS_V6 {
        header[1] = tos;
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        write_header_check(header);
    }
    Some(flow.l3 + F::HEADER_BYTES)
}

/// An IP header without options at the beginning of `header`.
pub fn write_header<F: Family>(header: &mut [u8], tuple: &Tuple<F>, protocol: u8, payload_bytes: usize) {
    let header = &mut header[..F::HEADER_BYTES];
    header.fill(0);
    F::write(header, F::ADDRESSES, tuple.saddr);
    F::write(header, F::ADDRESSES + F::ADDRESS_BYTES, tuple.daddr);
    if F::IS_V6 {
        header[0] = 0x60;
        header[4..6].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
        (header[6], header[7]) = (protocol, TTL);
    } else {
        header[0] = 0x45;
        header[2..4].copy_from_slice(&((F::HEADER_BYTES + payload_bytes) as u16).to_be_bytes());
        (header[8], header[9]) = (TTL, protocol);
        write_header_check(header);
    }
}

/// Of an IPv4 header without options.
fn write_header_check(header: &mut [u8]) {
    header[10..12].fill(0);
    let check = !checksum::sum(header);
    header[10..12].copy_from_slice(&check.to_ne_bytes());
}

/// How often something is allowed.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: u32,
    burst: u32,
}

/// How often one source and all sources of a worker, forged ones included, get answers of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    per_source: Rate,
    per_worker: Rate,
}

/// Of ICMP errors. Linux sends one source one a second after a burst of six (net.ipv4.icmp_ratelimit); a resolver that asks for several
/// names at once should learn of each. For all: net.ipv4.icmp_msgs_per_sec.
pub const ICMP_ERRORS: Limits =
    Limits { per_source: Rate { per_second: 10, burst: 20 }, per_worker: Rate { per_second: 1_000, burst: 1_000 } };
/// Of resets and replies to pings. They are no larger than what they answer; a client that connects in a loop, or many behind one
/// address, should still fail at once.
pub const SAME_SIZE: Limits =
    Limits { per_source: Rate { per_second: 1_000, burst: 2_000 }, per_worker: Rate { per_second: 50_000, burst: 50_000 } };

/// Sources that a worker tells apart. A power of two; 24 bytes each.
const SOURCES: usize = 1024;

/// A token bucket; its credit is counted in answers times [`TICKS_PER_SECOND`].
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    source: u64,
    credit: u32,
    since: u32,
}

impl Bucket {
    fn full(source: u64, rate: Rate, now: u32) -> Bucket {
        Bucket { source, credit: rate.burst * TICKS_PER_SECOND, since: now }
    }

    fn take(&mut self, rate: Rate, now: u32) -> bool {
        let elapsed = now.wrapping_sub(self.since);
        self.since = now;
        self.credit = self.credit.saturating_add(elapsed.saturating_mul(rate.per_second)).min(rate.burst * TICKS_PER_SECOND);
        let has = self.credit >= TICKS_PER_SECOND;
        self.credit -= if has { TICKS_PER_SECOND } else { 0 };
        has
    }

    /// It would be full again by now: nothing is lost if another source takes it.
    fn is_idle(&self, rate: Rate, now: u32) -> bool {
        now.wrapping_sub(self.since).saturating_mul(rate.per_second) >= rate.burst * TICKS_PER_SECOND
    }
}

/// Limits answers: per source, and in all. Of one worker; a source that changes its ports may reach several workers.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    sources: Box<[Option<Bucket>]>,
    all: Option<Bucket>,
}

impl Limiter {
    pub fn new(limits: Limits) -> Limiter {
        Limiter { limits, sources: vec![None; SOURCES].into_boxed_slice(), all: None }
    }

    /// Whether `source` ([`Family::sender`]) may get an answer at this tick. Two sources that meet in one bucket share it while both are active.
    #[inline]
    pub fn admit(&mut self, source: u64, now: u32) -> bool {
        let Limits { per_source, per_worker } = self.limits;
        let place = &mut self.sources[place_of(source)];
        let bucket = match place {
            Some(bucket) if bucket.source == source || !bucket.is_idle(per_source, now) => bucket,
            _ => place.insert(Bucket::full(source, per_source, now)),
        };
        bucket.take(per_source, now) && self.all.get_or_insert(Bucket::full(0, per_worker, now)).take(per_worker, now)
    }
}

fn place_of(source: u64) -> usize {
    (source.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize % SOURCES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_burst_and_then_its_rate() {
        let mut limiter = Limiter::new(ICMP_ERRORS);
        let admitted = |limiter: &mut Limiter, now| (0..100).filter(|_| limiter.admit(7, now)).count();
        assert_eq!(admitted(&mut limiter, 1000), 20);
        assert_eq!(admitted(&mut limiter, 1000 + TICKS_PER_SECOND), 10);
        assert_eq!(admitted(&mut limiter, 1000 + 10 * TICKS_PER_SECOND), 20);
        assert!(limiter.admit(8, 1000), "another source has credit of its own");
    }

    #[test]
    fn all_sources_together_have_a_limit() {
        let mut limiter = Limiter::new(ICMP_ERRORS);
        let admitted = (0..100_000).filter(|source| limiter.admit(*source, u32::MAX)).count();
        assert!(admitted <= 1000, "{admitted}");
        // Over the wrap of the tick.
        assert!(limiter.admit(200_000, u32::MAX.wrapping_add(TICKS_PER_SECOND)));
    }

    #[test]
    fn a_bucket_that_is_full_again_goes_to_another_source() {
        let mut limiter = Limiter::new(ICMP_ERRORS);
        let other = (8..).find(|source| place_of(*source) == place_of(7)).expect("two sources of one place");
        while limiter.admit(7, 0) {}
        assert!(!limiter.admit(other, 0));
        assert!(limiter.admit(other, 2 * TICKS_PER_SECOND));
    }
}
