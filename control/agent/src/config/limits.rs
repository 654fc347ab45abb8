//! How much is remembered.

use std::ops::RangeInclusive;
use std::path::Path;

/// kube-proxy's limits of conntrack: 32 768 for each CPU, at least 131 072. Tables that large are enough wherever kube-proxy's are.
const FLOWS_PER_CPU: u32 = 32_768;
const FLOWS_LEAST: u32 = 131_072;
/// At 4 slots of 64 bytes for each flow 256 MiB: more memory only for those who ask.
const FLOWS_MOST: u32 = 1_048_576;

/// Least and most of `--flows-max` and `--flows6-max`. 2^24 flows are 4 GiB of table, of IPv6 8 GiB.
pub const FLOWS_MAX_RANGE: RangeInclusive<u32> = 64..=16_777_216;

/// Default of `--affinity-max`. 64 bytes each: 8 MiB.
pub const AFFINITY_MAX_DEFAULT: u32 = 131_072;
pub const AFFINITY_MAX_RANGE: RangeInclusive<u32> = 16..=16_777_216;

/// Default of `--flows-max` on this machine. By its CPUs, not by those that we may use: another limit of CPU time, and the pinned table
/// would not fit after the next start.
pub fn flows_max_default() -> u32 {
    let online = std::fs::read_to_string(Path::new("/sys/devices/system/cpu/online")).unwrap_or_default();
    flows_for(cpus_in(&online))
}

/// Default of `--flows6-max` on this node.
pub fn flows6_max_default(flows_max: u32) -> u32 {
    flows6_for(flows_max, has_ipv6(&std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default()))
}

/// An entry is twice as large as of IPv4, and where there are both families most flows still are of IPv4: so both tables take as much
/// memory, and neither is small. Unless the node cannot be reached over IPv6: then a sixteenth of that.
fn flows6_for(flows_max: u32, has_ipv6: bool) -> u32 {
    (flows_max / if has_ipv6 { 2 } else { 32 }).max(*FLOWS_MAX_RANGE.start())
}

/// Whether a list of addresses as in `/proc/net/if_inet6` (net/ipv6/addrconf.c, `if6_seq_show`: address, index, prefix length, scope,
/// flags, device) has one that is good beyond its link (scope 0).
fn has_ipv6(list: &str) -> bool {
    list.lines().any(|line| line.split_whitespace().nth(3) == Some("00"))
}

fn flows_for(cpus: u32) -> u32 {
    FLOWS_PER_CPU.saturating_mul(cpus).clamp(FLOWS_LEAST, FLOWS_MOST)
}

/// How many numbers a list of the kernel has, such as `0-3,8`; 0 if it is none.
fn cpus_in(list: &str) -> u32 {
    let count = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.saturating_add(1))
    };
    list.trim().split(',').filter_map(count).fold(0, u32::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_of_lists() {
        assert_eq!(["0", "0-1", "0-3,8,10-11\n", "", "x", "3-1"].map(cpus_in), [1, 2, 7, 0, 0, 0]);
    }

    #[test]
    fn flows_grow_with_the_machine() {
        assert_eq!([0, 2, 4, 8, 64, u32::MAX].map(flows_for), [131_072, 131_072, 131_072, 262_144, 1_048_576, 1_048_576]);
        assert!(FLOWS_MAX_RANGE.contains(&flows_max_default()));
    }

    #[test]
    fn as_much_memory_for_either_family_that_the_node_has() {
        assert_eq!([131_072, 64, 300, 16_777_216].map(|flows| flows6_for(flows, true)), [65_536, 64, 150, 8_388_608]);
        assert_eq!([131_072, 64, 16_777_216].map(|flows| flows6_for(flows, false)), [4_096, 64, 524_288]);
    }

    #[test]
    fn ipv6_is_an_address_beyond_the_link() {
        let lo = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let link = "fe80000000000000a8bbccfffedd0001 02 40 20 80     eth0\n";
        let ula = "fd000000000000000000000000000001 02 40 00 80     eth0\n";
        assert_eq!(["", lo, link, ula].map(has_ipv6), [false, false, false, true]);
        assert!(has_ipv6(&[lo, link, ula].concat()) && !has_ipv6(&[lo, link].concat()));
    }
}
