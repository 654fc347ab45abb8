//! The two families of IP addresses. What differs between them is here and in `wire`; all else on the packet path is written once and
//! compiled for each.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::checksum;

/// A family of addresses: [`V4`] or [`V6`].
pub trait Family: Copy + Debug + Default + Eq + Hash + Send + Sync + 'static {
    /// An address as it stands in a packet, loaded in memory order.
    type Address: Copy + Debug + Default + Eq + Hash + Send + Sync + 'static;
    /// One in shared memory.
    type AtomicAddress: Debug + Default + Send + Sync + 'static;
    /// One for people and tables.
    type Ip: Copy + Debug + Display + Eq + Hash + Ord + Into<IpAddr> + Send + Sync + 'static;

    const IS_V6: bool;
    /// Bytes of an IP header without options or extension headers.
    const HEADER_BYTES: usize;
    /// Where in the header the source address stands; the destination follows it.
    const ADDRESSES: usize;
    const ADDRESS_BYTES: usize;
    /// Number of the family's ICMP.
    const ICMP: u8;

    fn load(address: &Self::AtomicAddress) -> Self::Address;
    fn store(place: &Self::AtomicAddress, address: Self::Address);
    fn to_ip(address: Self::Address) -> Self::Ip;
    fn from_ip(ip: Self::Ip) -> Self::Address;
    /// `None` if the address is of the other family.
    fn ip_of(address: IpAddr) -> Option<Self::Ip>;
    /// Reads [`Family::ADDRESS_BYTES`] at `at`.
    fn read(bytes: &[u8], at: usize) -> Option<Self::Address>;
    /// Writes as many.
    ///
    /// # Panics
    /// If they do not lie within `bytes`.
    fn write(bytes: &mut [u8], at: usize, address: Self::Address);
    /// First part of [`flow_hash`](crate::flow::flow_hash).
    fn mix(seed: u64, saddr: Self::Address, daddr: Self::Address) -> u64;
    /// What a checksum that covers both addresses changes by, see [`checksum::diff`].
    fn diff(old: [Self::Address; 2], new: [Self::Address; 2]) -> u16;
    /// Folded sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1). `bytes` of L4 header and payload.
    fn pseudo_header(saddr: Self::Address, daddr: Self::Address, protocol: u8, bytes: u32) -> u16;
    /// Who sends, as far as limits are concerned: of IPv6 the first 64 bits, for a station may take any address of its link.
    fn sender(address: Self::Address) -> u64;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct V4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct V6;

impl Family for V4 {
    type Address = u32;
    type AtomicAddress = AtomicU32;
    type Ip = Ipv4Addr;

    const IS_V6: bool = false;
    const HEADER_BYTES: usize = 20;
    const ADDRESSES: usize = 12;
    const ADDRESS_BYTES: usize = 4;
    const ICMP: u8 = 1;

    #[inline(always)]
    fn load(address: &AtomicU32) -> u32 {
        address.load(Relaxed)
    }

    #[inline(always)]
    fn store(place: &AtomicU32, address: u32) {
        place.store(address, Relaxed);
    }

    #[inline(always)]
    fn to_ip(address: u32) -> Ipv4Addr {
        Ipv4Addr::from(address.to_ne_bytes())
    }

    #[inline(always)]
    fn from_ip(ip: Ipv4Addr) -> u32 {
        u32::from_ne_bytes(ip.octets())
    }

    fn ip_of(address: IpAddr) -> Option<Ipv4Addr> {
        match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        }
    }

    #[inline(always)]
    fn read(bytes: &[u8], at: usize) -> Option<u32> {
        let b = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
    }

    #[inline(always)]
    fn write(bytes: &mut [u8], at: usize, address: u32) {
        bytes[at..at + 4].copy_from_slice(&address.to_ne_bytes());
    }

    #[inline(always)]
    fn mix(seed: u64, saddr: u32, daddr: u32) -> u64 {
        let h = (((u64::from(saddr) << 32) | u64::from(daddr)) ^ seed).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^ (h >> 32)
    }

    #[inline]
    fn diff(old: [u32; 2], new: [u32; 2]) -> u16 {
        checksum::diff(&old, &new)
    }

    #[inline]
    fn pseudo_header(saddr: u32, daddr: u32, protocol: u8, bytes: u32) -> u16 {
        checksum::pseudo_header(&[saddr, daddr], protocol, bytes)
    }

    #[inline(always)]
    fn sender(address: u32) -> u64 {
        address.into()
    }
}

impl Family for V6 {
    type Address = [u64; 2];
    type AtomicAddress = [AtomicU64; 2];
    type Ip = Ipv6Addr;

    const IS_V6: bool = true;
    const HEADER_BYTES: usize = 40;
    const ADDRESSES: usize = 8;
    const ADDRESS_BYTES: usize = 16;
    const ICMP: u8 = 58;

    #[inline(always)]
    fn load([a, b]: &[AtomicU64; 2]) -> [u64; 2] {
        [a.load(Relaxed), b.load(Relaxed)]
    }

    #[inline(always)]
    fn store([a, b]: &[AtomicU64; 2], address: [u64; 2]) {
        a.store(address[0], Relaxed);
        b.store(address[1], Relaxed);
    }

    #[inline(always)]
    fn to_ip(address: [u64; 2]) -> Ipv6Addr {
        Ipv6Addr::from(bytes_of(address))
    }

    #[inline(always)]
    fn from_ip(ip: Ipv6Addr) -> [u64; 2] {
        words_of(ip.octets())
    }

    fn ip_of(address: IpAddr) -> Option<Ipv6Addr> {
        match address {
            IpAddr::V6(v6) => Some(v6),
            IpAddr::V4(_) => None,
        }
    }

    #[inline(always)]
    fn read(bytes: &[u8], at: usize) -> Option<[u64; 2]> {
        bytes.get(at..at + 16)?.try_into().ok().map(words_of)
    }

    #[inline(always)]
    fn write(bytes: &mut [u8], at: usize, address: [u64; 2]) {
        bytes[at..at + 16].copy_from_slice(&bytes_of(address));
    }

    #[inline(always)]
    fn mix(seed: u64, saddr: [u64; 2], daddr: [u64; 2]) -> u64 {
        let mix = |h: u64, word: u64| {
            let h = (h ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
            h ^ (h >> 32)
        };
        mix(mix(mix(mix(seed, saddr[0]), saddr[1]), daddr[0]), daddr[1])
    }

    #[inline]
    fn diff([s, d]: [[u64; 2]; 2], [new_s, new_d]: [[u64; 2]; 2]) -> u16 {
        checksum::diff(&halves([s[0], s[1], d[0], d[1]]), &halves([new_s[0], new_s[1], new_d[0], new_d[1]]))
    }

    #[inline]
    fn pseudo_header(s: [u64; 2], d: [u64; 2], protocol: u8, bytes: u32) -> u16 {
        checksum::pseudo_header(&halves([s[0], s[1], d[0], d[1]]), protocol, bytes)
    }

    #[inline(always)]
    fn sender(address: [u64; 2]) -> u64 {
        address[0]
    }
}

#[inline(always)]
fn words_of(octets: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

#[inline(always)]
fn bytes_of([a, b]: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_ne_bytes());
    bytes[8..].copy_from_slice(&b.to_ne_bytes());
    bytes
}

/// The words of both addresses; in which order does not matter to a sum.
#[inline(always)]
fn halves(words: [u64; 4]) -> [u32; 8] {
    let [a, b, c, d] = words;
    let low = [a, b, c, d].map(|word| word as u32);
    let high = [a, b, c, d].map(|word| (word >> 32) as u32);
    [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowKey, Hook, flow_hash};

    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x1234, 0x5678, 0x9abc, 0xdef0, 0x1357, 0x2468);

    #[test]
    fn an_address_is_the_same_in_a_packet_and_for_people() {
        let mut bytes = [0; 40];
        V6::write(&mut bytes, 17, V6::from_ip(ADDRESS));
        assert_eq!((bytes[..17].iter().max(), &bytes[17..33], bytes[33..].iter().max()), (Some(&0), &ADDRESS.octets()[..], Some(&0)));
        assert_eq!(V6::read(&bytes, 17).map(V6::to_ip), Some(ADDRESS));
        assert_eq!((V6::read(&bytes, 24).is_some(), V6::read(&bytes, 25), V4::read(&bytes, 37)), (true, None, None));
        V4::write(&mut bytes, 1, V4::from_ip(Ipv4Addr::new(192, 0, 2, 10)));
        assert_eq!((&bytes[..5], V4::read(&bytes, 1).map(V4::to_ip)), (&[0, 192, 0, 2, 10][..], Some(Ipv4Addr::new(192, 0, 2, 10))));
        let shared = <V6 as Family>::AtomicAddress::default();
        V6::store(&shared, V6::from_ip(ADDRESS));
        assert_eq!(V6::to_ip(V6::load(&shared)), ADDRESS);
    }

    #[test]
    fn no_address_is_of_both_families() {
        let v4 = Ipv4Addr::new(192, 0, 2, 10);
        assert_eq!((V4::ip_of(v4.into()), V6::ip_of(v4.into())), (Some(v4), None));
        for v6 in [ADDRESS, v4.to_ipv6_mapped(), v4.to_ipv6_compatible()] {
            assert_eq!((V4::ip_of(v6.into()), V6::ip_of(v6.into())), (None, Some(v6)));
        }
    }

    /// Step by step as `flow_hash6` in `flow.h` has it, on a machine of little endian.
    #[test]
    #[cfg(target_endian = "little")]
    fn the_hash_of_ipv6_mixes_every_word() {
        let (source, destination) = (ADDRESS, Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7));
        let key = FlowKey::<V6>::new((source, 40_000), (destination, 80), 7, Hook::PodIn, 6);
        let mut h = 0x5eed_u64;
        for word in [0x7856_3412_b80d_0120_u64, 0x6824_5713_f0de_bc9a, 0x0300_0200_0100_00fd, 0x0700_0600_0500_0400] {
            h = (h ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
            h ^= h >> 32;
        }
        h ^= 0x5000_409c << 32 | 7 << 11 | 6;
        h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h = (h ^ h >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        assert_eq!(flow_hash(0x5eed, &key), h ^ h >> 32);
    }

    #[test]
    fn stations_of_one_link_are_one_sender() {
        let sender = |text: &str| V6::sender(V6::from_ip(text.parse().expect("an address")));
        assert_eq!(sender("2001:db8:0:1::1"), sender("2001:db8:0:1:ffff::2"));
        assert_ne!(sender("2001:db8:0:1::1"), sender("2001:db8:0:2::1"));
        assert_ne!(V4::sender(1), V4::sender(2));
    }
}
