//! From a destination to the device and MAC that lead there: FIB, neighbors, devices; with a small cache per worker.

use std::net::Ipv4Addr;

use crate::tables::{DeviceKind, FibResult, Snapshot};
use crate::verdict::{DropReason, Verdict};

/// How a worker sends a packet on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Out of an uplink to this MAC.
    Uplink { uplink: u8, dmac: [u8; 6], mtu: u32 },
    /// Out of another device, by the kernel's own neighbors.
    Device { ifindex: u32, mtu: u32 },
}

/// What a lookup takes into account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopKey {
    pub saddr: u32,
    pub daddr: u32,
    /// The device at which the packet was received.
    pub iif: u32,
}

/// Resolves where a routed packet goes; `Err` is its verdict.
pub fn resolve(snapshot: &Snapshot, key: HopKey) -> Result<Hop, Verdict> {
    let dst = address(key.daddr);
    // The destination spreads flows over the ways of a multipath route: one cached answer per destination suffices.
    let spread = u64::from(key.daddr).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let FibResult::Via { ifindex, address, route_mtu } = snapshot.fib.lookup(self::address(key.saddr), dst, Some(key.iif), spread) else {
        return Err(Verdict::Drop(DropReason::NoRoute));
    };
    let device = snapshot.devices.get(ifindex).ok_or(Verdict::Drop(DropReason::NoRoute))?;
    let mtu = route_mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu));
    match device.kind {
        DeviceKind::Uplink(uplink) => match snapshot.neighbors.lookup(ifindex, address) {
            Some(dmac) => Ok(Hop::Uplink { uplink, dmac, mtu }),
            None => Err(Verdict::Hold { ifindex, address }),
        },
        _ => Ok(Hop::Device { ifindex, mtu }),
    }
}

/// The address behind a word of a flow key.
#[inline(always)]
pub fn address(word: u32) -> Ipv4Addr {
    Ipv4Addr::from(word.to_ne_bytes())
}

/// 1 024 entries of 48 bytes stay in the second-level cache; a miss costs one FIB lookup.
const CACHE_ENTRIES: usize = 1024;

/// Direct-mapped cache of resolved hops. A new generation makes every entry stale at once.
#[derive(Debug)]
pub struct HopCache {
    generation: u64,
    entries: Box<[(u64, HopKey, Hop)]>,
}

impl HopCache {
    pub fn new() -> HopCache {
        let never = (0, HopKey { saddr: 0, daddr: 0, iif: 0 }, Hop::Device { ifindex: 0, mtu: 0 });
        HopCache { generation: 1, entries: vec![never; CACHE_ENTRIES].into_boxed_slice() }
    }

    /// Begins a batch on this snapshot.
    pub fn begin(&mut self, snapshot: &Snapshot) {
        // Generations count from 1; 0 marks an empty entry.
        self.generation = snapshot.generation + 1;
    }

    #[inline]
    pub fn resolve(&mut self, snapshot: &Snapshot, key: HopKey) -> Result<Hop, Verdict> {
        let mixed = (key.daddr ^ key.saddr.rotate_left(16) ^ key.iif).wrapping_mul(0x9e37_79b1);
        let entry = &mut self.entries[(mixed >> 22) as usize % CACHE_ENTRIES];
        if entry.0 == self.generation && entry.1 == key {
            return Ok(entry.2);
        }
        let hop = resolve(snapshot, key)?;
        *entry = (self.generation, key, hop);
        Ok(hop)
    }
}

impl Default for HopCache {
    fn default() -> HopCache {
        HopCache::new()
    }
}
