//! From a destination to the device and MAC that lead there: FIB, neighbors, devices; with a small cache per worker.

use crate::family::Family;
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
pub struct HopKey<F: Family> {
    pub saddr: F::Address,
    pub daddr: F::Address,
    /// The device at which the packet was received.
    pub iif: u32,
}

/// Resolves where a routed packet goes; `Err` is its verdict.
pub fn resolve<F: Family>(snapshot: &Snapshot, key: HopKey<F>) -> Result<Hop, Verdict> {
    let (src, dst) = (F::to_ip(key.saddr).into(), F::to_ip(key.daddr).into());
    // The destination spreads flows over the ways of a multipath route: one cached answer per destination suffices.
    let spread = F::mix(0, key.daddr, key.daddr);
    let FibResult::Via { ifindex, address, route_mtu } = snapshot.fib.lookup(src, dst, Some(key.iif), spread) else {
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

/// 1 024 entries of 48 bytes (IPv6: 72) stay in the second-level cache; a miss costs one FIB lookup.
const CACHE_ENTRIES: usize = 1024;

/// Direct-mapped cache of resolved hops. A new generation makes every entry stale at once.
#[derive(Debug)]
pub struct HopCache<F: Family> {
    generation: u64,
    entries: Box<[(u64, HopKey<F>, Hop)]>,
}

impl<F: Family> HopCache<F> {
    pub fn new() -> HopCache<F> {
        let never = (0, HopKey { saddr: F::Address::default(), daddr: F::Address::default(), iif: 0 }, Hop::Device { ifindex: 0, mtu: 0 });
        HopCache { generation: 1, entries: vec![never; CACHE_ENTRIES].into_boxed_slice() }
    }

    /// Begins a batch on this snapshot.
    pub fn begin(&mut self, snapshot: &Snapshot) {
        // Generations count from 1; 0 marks an empty entry.
        self.generation = snapshot.generation + 1;
    }

    #[inline]
    pub fn resolve(&mut self, snapshot: &Snapshot, key: HopKey<F>) -> Result<Hop, Verdict> {
        let mixed = F::mix(key.iif.into(), key.saddr, key.daddr).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let entry = &mut self.entries[(mixed >> 54) as usize % CACHE_ENTRIES];
        if entry.0 == self.generation && entry.1 == key {
            return Ok(entry.2);
        }
        let hop = resolve(snapshot, key)?;
        *entry = (self.generation, key, hop);
        Ok(hop)
    }
}

impl<F: Family> Default for HopCache<F> {
    fn default() -> HopCache<F> {
        HopCache::new()
    }
}
