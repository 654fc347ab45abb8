//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! All words are in network byte order, loaded as they stand (`from_ne_bytes`): the ones-complement sum of swapped words is the
//! swapped sum, so neither side swaps anything. The kernel's `csum_partial` does the same, and [`diff`] gives what
//! `bpf_l4_csum_replace` and `bpf_l3_csum_replace` take as `to` with `from` 0 and size 0.

use crate::family::Family;

/// Adds the carries back in until 16 bits remain.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// Folded sum of bytes that begin at an even offset of the data; an odd last byte counts as if a zero followed.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(4);
    let mut sum: u64 = words.by_ref().map(|w| u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]))).sum();
    for word in words.remainder().chunks(2) {
        sum += u64::from(u16::from_ne_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    }
    fold(sum)
}

/// What [`apply`] needs when `old` words become `new` ones: the sum of the new and of the complements of the old, folded.
#[inline]
pub fn diff(old: &[u32], new: &[u32]) -> u16 {
    let old: u64 = old.iter().map(|&word| u64::from(!word)).sum();
    let new: u64 = new.iter().map(|&word| u64::from(word)).sum();
    match fold(old + new) {
        // Both mean "no change"; 0 also leaves a checksum field as it stands that holds the other zero.
        0xffff => 0,
        diff => diff,
    }
}

/// A checksum field after its data changed by `diff`: RFC 1624 equation 3, the kernel's `csum_replace_by_diff`.
#[inline]
pub fn apply(check: u16, diff: u16) -> u16 {
    !fold(u64::from(!check) + u64::from(diff))
}

/// [`apply`] for UDP (RFC 768): 0 says that the sender computed none and stays, and a result of 0 is sent as 0xffff.
#[inline]
pub fn apply_udp(check: u16, diff: u16) -> u16 {
    match check {
        0 => 0,
        _ => udp_nonzero(apply(check, diff)),
    }
}

/// SCTP's checksum (CRC32c, RFC 9260 appendix A) of a packet of so many bytes after its first four changed. A sum that was wrong stays wrong:
/// it is not for us to vouch for the rest.
pub fn apply_crc32c(check: u32, old: [u8; 4], new: [u8; 4], bytes: usize) -> u32 {
    // The sum of two packets of one length is linear in their difference, and what follows it here is zeros.
    check ^ crc32c::crc32c_combine(crc32c::crc32c(&old) ^ crc32c::crc32c(&new), 0, bytes.saturating_sub(4))
}

/// Folded sum of a pseudo header (RFC 9293 §3.1, RFC 8200 §8.1): the words of its addresses, and the length, in bytes, of L4 header and
/// payload.
#[inline]
pub fn pseudo_header(addresses: &[u32], protocol: u8, bytes: u32) -> u16 {
    let addresses: u64 = addresses.iter().map(|&word| u64::from(word)).sum();
    fold(addresses + u64::from(u16::from(protocol).to_be()) + u64::from(bytes.to_be()))
}

/// The checksum field of a segment or ICMPv6 message whose checksum field is zero, over pseudo header and segment.
pub fn l4<F: Family>(saddr: F::Address, daddr: F::Address, protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = F::pseudo_header(saddr, daddr, protocol, segment.len() as u32);
    let check = !fold(u64::from(pseudo) + u64::from(sum(segment)));
    if protocol == 17 { udp_nonzero(check) } else { check }
}

#[inline]
fn udp_nonzero(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::family::{V4, V6};

    /// Word by word in host order, with the carry added at once: RFC 1071 §1 to the letter.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_be()
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2u16.to_be());
    }

    #[test]
    fn example_of_rfc_1624() {
        // §4: equation 2 would give 0xffff here.
        let diff = diff(&[0x5555u32.to_be()], &[0x3285u32.to_be()]);
        assert_eq!(apply(0xdd2fu16.to_be(), diff), 0);
    }

    #[test]
    fn fold_carries_to_the_end() {
        assert_eq!(fold(0), 0);
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0x1_0000), 1);
        assert_eq!(fold(0xffff_ffff_0000_0001), 1);
        assert_eq!(fold(0x0001_0000_ffff_ffff), 1);
    }

    #[test]
    fn udp_zero_means_no_checksum_and_is_never_made() {
        assert_eq!(apply_udp(0, 0x1234), 0);
        // A change by −!check leads to the sum 0xffff, whose complement is 0.
        assert_eq!(apply(0x1111, 0x1111), 0);
        assert_eq!(apply_udp(0x1111, 0x1111), 0xffff);
    }

    #[test]
    fn no_change_has_no_difference() {
        assert_eq!(diff(&[1, 2], &[1, 2]), 0);
        assert_eq!(diff(&[1, 2], &[2, 1]), 0);
    }

    proptest! {
        #[test]
        fn sum_is_that_of_rfc_1071(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(sum(&bytes), naive(&bytes));
        }

        #[test]
        fn incremental_is_recomputed(
            old in any::<[u32; 3]>(), new in any::<[u32; 3]>(), udp in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            // The checksum field stands at an even offset; where does not matter for the sum.
            let protocol = if udp { 17 } else { 6 };
            let segment = |ports: u32| [&ports.to_ne_bytes()[..], &[0, 0], &payload[..]].concat();
            let before = l4::<V4>(old[0], old[1], protocol, &segment(old[2]));
            let after = l4::<V4>(new[0], new[1], protocol, &segment(new[2]));
            let (addr_diff, port_diff) = (diff(&old[..2], &new[..2]), diff(&old[2..], &new[2..]));
            let apply = if udp { apply_udp } else { apply };
            prop_assert_eq!(apply(apply(before, addr_diff), port_diff), after);
            // A receiver sums everything up to 0xffff.
            let mut whole = segment(new[2]);
            whole[4..6].copy_from_slice(&after.to_ne_bytes());
            prop_assert_eq!(fold(u64::from(V4::pseudo_header(new[0], new[1], protocol, whole.len() as u32)) + u64::from(sum(&whole))), 0xffff);
        }

        #[test]
        fn the_sum_over_ipv6_is_that_of_its_bytes(addresses in any::<[u8; 32]>(), new in any::<[u8; 32]>(), payload in prop::collection::vec(any::<u8>(), 8..64)) {
            let address = |bytes: &[u8], at| V6::read(bytes, at).expect("16 bytes");
            let pseudo = |a: &[u8; 32]| [&a[..], &(payload.len() as u32).to_be_bytes(), &[0, 0, 0, 17], &payload].concat();
            let check = |a: &[u8; 32]| l4::<V6>(address(a, 0), address(a, 16), 17, &payload);
            prop_assert_eq!(check(&addresses), udp_nonzero(!naive(&pseudo(&addresses))));
            let diff = V6::diff([address(&addresses, 0), address(&addresses, 16)], [address(&new, 0), address(&new, 16)]);
            prop_assert_eq!(apply_udp(check(&addresses), diff), check(&new));
        }
    }
}
