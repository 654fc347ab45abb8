//! The hash of the flow table, the same as `flow_hash` in `flow.h`.

use super::entry::FlowKey;
use crate::family::Family;

/// Hashes a key with the table's random seed.
#[inline(always)]
pub fn flow_hash<F: Family>(seed: u64, key: &FlowKey<F>) -> u64 {
    let mut h = F::mix(seed, key.saddr, key.daddr);
    h ^= (u64::from(key.ports) << 32) | u64::from(key.meta);
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^= h >> 29;
    h = h.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 32)
}

/// Buckets in 32 KiB: eight pages of 4 KiB, whose entries in the page table are one cache line.
const BUCKETS_NEARBY: u32 = 128;

/// The two buckets of a hash in a table of `1 << bits` buckets (1 ≤ bits ≤ 31): the low bits say which is the first, the top ones
/// which of its neighbors is the second. Nearby, for the table is mapped in small pages, and the walk of the page table for a second
/// one that is far costs more than the miss in the cache; not in the same page, for then ten times as many keys find both full.
#[inline(always)]
pub fn buckets_of(hash: u64, bits: u32) -> (usize, usize) {
    let first = hash as u32 & ((1 << bits) - 1);
    let others = BUCKETS_NEARBY.min(1 << bits) - 1;
    let distance = 1 + (((hash >> 56) as u32 * others) >> 8);
    (first as usize, (first ^ distance) as usize)
}

/// Buckets in a row where an entry goes that finds no slot in its two.
pub const OVERFLOW_BUCKETS: u32 = 4;

/// The `number`-th of the [`OVERFLOW_BUCKETS`] of a hash. Anywhere, for the neighbors of its two are probably crowded too.
#[inline(always)]
pub fn overflow_bucket_of(hash: u64, number: u32, bits: u32) -> usize {
    (((hash >> 32) as u32).wrapping_add(number) & ((1 << bits) - 1)) as usize
}
