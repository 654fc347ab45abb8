//! The hash of the flow table, the same as `flow_hash` in `flow.h`.

use super::entry::FlowKey;

/// Hashes a key with the table's random seed.
#[inline(always)]
pub fn flow_hash(seed: u64, key: &FlowKey) -> u64 {
    let mut h = ((u64::from(key.saddr) << 32) | u64::from(key.daddr)) ^ seed;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 32;
    h ^= (u64::from(key.ports) << 32) | u64::from(key.meta);
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^= h >> 29;
    h = h.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 32)
}

/// The two buckets of a hash in a table of `1 << bits` buckets (1 ≤ bits ≤ 31): from the low bits and from the top ones.
#[inline(always)]
pub fn buckets_of(hash: u64, bits: u32) -> (usize, usize) {
    ((hash as u32 & ((1 << bits) - 1)) as usize, ((hash >> 32) as u32 >> (32 - bits)) as usize)
}
