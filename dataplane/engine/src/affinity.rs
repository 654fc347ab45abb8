//! Session affinity: which backend a client has at a service port (contract §2, `sessionAffinity: ClientIP`).
//!
//! One table for all workers, of fixed size, over plain atomics, in production a pinned BPF array: it outlives the process like the flow
//! table. Only the first packet of a flow asks it, and what stands there is read without a lock. To write a slot, a worker passes the
//! gate of its key and takes the slot by a compare-and-swap; so of two first connections of a client, the second one finds what the first
//! one chose.

use std::net::IpAddr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, fence};

use crate::family::{Family, V6};
use crate::flow::{Gates, TICK_SHIFT, elapsed};
use crate::tables::ServicePortName;

/// One client at one service port, 64 bytes; the layout is that of `struct affinity` in `maps.h`. Only atomics: all workers read it at any time.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct AffinitySlot {
    /// A keyed hash of service port and client; [`EMPTY`], [`TAKEN`].
    key: AtomicU64,
    /// The backend's address, of IPv4 as an IPv4-mapped one, in memory order.
    address: [AtomicU64; 2],
    /// Tick of the last new flow.
    last: AtomicU32,
    /// Ticks after which it ends, as of the last new flow: to find what is over when room is needed.
    timeout: AtomicU32,
    /// The backend's.
    port: AtomicU16,
}

const _: () = assert!(std::mem::size_of::<AffinitySlot>() == 64);

const EMPTY: u64 = 0;
/// Somebody writes the slot.
const TAKEN: u64 = 1;

/// A key has two buckets of eight slots: up to three quarters of the table, one key in ten thousand at most
/// finds both of its buckets full.
const BUCKET_ENTRIES: usize = 8;

/// Session affinity of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The service port, the same after a restart.
    pub service: u64,
    /// In ticks.
    pub timeout: u32,
}

impl Affinity {
    /// `protocol` is the IP protocol number: one port name may stand for two protocols.
    pub fn new(service: &ServicePortName, protocol: u8, timeout_s: u32) -> Affinity {
        let names = [service.namespace.as_bytes(), b"/", service.name.as_bytes(), b":", service.port.as_bytes(), &[0, protocol]];
        // FNV-1a; the table's seed makes it unpredictable.
        let service =
            names.concat().iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        // Exactly, for a minute is a minute: a "second" of 60 ticks is 7 ms longer.
        Affinity { service, timeout: ((u64::from(timeout_s) * 1_000_000_000) >> TICK_SHIFT) as u32 }
    }
}

/// Another worker writes the same key at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contended;

/// The table. `Sync`.
#[derive(Debug)]
pub struct AffinityTable {
    slots: &'static [AffinitySlot],
    gates: Gates,
    seed: u64,
    evicted: AtomicU64,
}

type BackendKey = (IpAddr, u16);

impl AffinityTable {
    /// A table in plain memory for tests and benches; the memory lives as long as the process.
    pub fn in_memory(entries: usize, seed: u64) -> AffinityTable {
        let slots: Box<[AffinitySlot]> = (0..AffinityTable::slots_for(entries)).map(|_| AffinitySlot::default()).collect();
        AffinityTable::over(Box::leak(slots), seed)
    }

    /// A table over shared memory; what an earlier process wrote with the same seed stays in force. No other process may write it.
    ///
    /// # Panics
    /// If the number of slots is not what [`AffinityTable::slots_for`] gives.
    pub fn over(slots: &'static [AffinitySlot], seed: u64) -> AffinityTable {
        assert!(slots.len().is_power_of_two() && slots.len() >= 2 * BUCKET_ENTRIES, "an affinity table of {} slots", slots.len());
        for slot in slots {
            // The earlier process died while it wrote.
            let _ = slot.key.compare_exchange(TAKEN, EMPTY, Relaxed, Relaxed);
        }
        AffinityTable { slots, gates: Gates::new(), seed, evicted: AtomicU64::new(0) }
    }

    /// Slots for this many entries: a power of two.
    pub fn slots_for(entries: usize) -> usize {
        entries.max(2 * BUCKET_ENTRIES).next_power_of_two()
    }

    /// Most entries at a time.
    pub fn entries_max(&self) -> usize {
        self.slots.len()
    }

    /// Entries in force. Reads all slots: for the control thread.
    pub fn len(&self, now: u32) -> usize {
        self.slots.iter().filter(|slot| slot.key.load(Relaxed) > TAKEN && !slot.is_over(now)).count()
    }

    /// Entries in force that made room for others since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// The backend that the client has now; this begins its time-out anew.
    pub fn renew(&self, affinity: Affinity, client: IpAddr, now: u32) -> Option<BackendKey> {
        let key = self.key(affinity, client);
        let slot = self.find(key)?;
        slot.read(key, affinity, now).inspect(|_| slot.touch(affinity, now))
    }

    /// The client's backend: what it has, if `may_reach` it; else what `choose` gives, which it has from now on.
    ///
    /// # Errors
    /// Another worker is choosing for this client.
    pub fn settle(
        &self,
        affinity: Affinity,
        client: IpAddr,
        now: u32,
        may_reach: impl Fn(BackendKey) -> bool,
        choose: impl FnOnce() -> Option<BackendKey>,
    ) -> Result<Option<BackendKey>, Contended> {
        if let Some(backend) = self.renew(affinity, client, now).filter(|backend| may_reach(*backend)) {
            return Ok(Some(backend));
        }
        let key = self.key(affinity, client);
        let _passage = self.gates.enter(key, key).ok_or(Contended)?;
        // Whoever was in here before us has chosen.
        if let Some(backend) = self.renew(affinity, client, now).filter(|backend| may_reach(*backend)) {
            return Ok(Some(backend));
        }
        let Some(backend) = choose() else { return Ok(None) };
        if let Some(slot) = self.take(key, now) {
            slot.fill(key, backend, affinity, now);
        }
        Ok(Some(backend))
    }

    fn key(&self, affinity: Affinity, client: IpAddr) -> u64 {
        // The finalizer of SplitMix64, three times: with an unknown seed nobody can aim at a bucket, or at another client's key.
        let mix = |word: u64| {
            let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        };
        let [a, b] = words(client);
        mix(mix(mix(affinity.service ^ self.seed).wrapping_add(a)).wrapping_add(b)).max(TAKEN + 1)
    }

    fn buckets(&self, key: u64) -> [&[AffinitySlot]; 2] {
        let buckets = self.slots.len() / BUCKET_ENTRIES;
        let first = key as usize % buckets;
        // Always another one.
        let second = (first + 1 + (key >> 32) as usize % (buckets - 1)) % buckets;
        [first, second].map(|bucket| &self.slots[bucket * BUCKET_ENTRIES..(bucket + 1) * BUCKET_ENTRIES])
    }

    fn find(&self, key: u64) -> Option<&AffinitySlot> {
        self.buckets(key).into_iter().flatten().find(|slot| slot.key.load(Acquire) == key)
    }

    /// Takes a slot for the key, whose gate is held: its own; else an empty one in the emptier bucket; else one that is over, or the one
    /// that was not used for longest. `None` if others took all of them at this moment: then the client goes without.
    fn take(&self, key: u64, now: u32) -> Option<&AffinitySlot> {
        if let Some(own) = self.find(key)
            && own.key.compare_exchange(key, TAKEN, AcqRel, Relaxed).is_ok()
        {
            return Some(own);
        }
        let [a, b] = self.buckets(key);
        let empty = |bucket: &[AffinitySlot]| bucket.iter().filter(|slot| slot.key.load(Relaxed) == EMPTY).count();
        let (first, second) = if empty(b) > empty(a) { (b, a) } else { (a, b) };
        let both = || first.iter().chain(second);
        let take = |slot: &&AffinitySlot, held: u64| held != TAKEN && slot.key.compare_exchange(held, TAKEN, AcqRel, Relaxed).is_ok();
        if let Some(slot) = both().find(|slot| take(slot, EMPTY)) {
            return Some(slot);
        }
        let held = both().map(|slot| (slot.key.load(Acquire), slot)).max_by_key(|(_, slot)| (slot.is_over(now), slot.idle(now)));
        let (held, slot) = held.filter(|(held, slot)| take(slot, *held))?;
        if held != EMPTY && !slot.is_over(now) {
            self.evicted.fetch_add(1, Relaxed);
        }
        Some(slot)
    }
}

impl AffinitySlot {
    /// The backend, if the slot still holds the key and was used within the time-out.
    fn read(&self, key: u64, affinity: Affinity, now: u32) -> Option<BackendKey> {
        let (last, address, port) = (self.last.load(Relaxed), V6::load(&self.address), self.port.load(Relaxed));
        // Pairs with the fence in `fill`: if we read what another key's worker wrote, we see that the slot is taken.
        fence(Acquire);
        let is_ours = self.key.load(Relaxed) == key;
        (is_ours && elapsed(last, now) < affinity.timeout).then(|| (V6::to_ip(address).to_canonical(), port))
    }

    /// Written only if it changes. Should the slot have another client by now, that one lives a moment longer.
    fn touch(&self, affinity: Affinity, now: u32) {
        if self.last.load(Relaxed) != now {
            self.last.store(now, Relaxed);
        }
        if self.timeout.load(Relaxed) != affinity.timeout {
            self.timeout.store(affinity.timeout, Relaxed);
        }
    }

    /// Of a slot that the caller has taken.
    fn fill(&self, key: u64, (address, port): BackendKey, affinity: Affinity, now: u32) {
        fence(Release);
        V6::store(&self.address, words(address));
        self.port.store(port, Relaxed);
        self.last.store(now, Relaxed);
        self.timeout.store(affinity.timeout, Relaxed);
        self.key.store(key, Release);
    }

    fn idle(&self, now: u32) -> u32 {
        elapsed(self.last.load(Relaxed), now)
    }

    fn is_over(&self, now: u32) -> bool {
        self.idle(now) >= self.timeout.load(Relaxed)
    }
}

/// An address as the table has it.
fn words(address: IpAddr) -> [u64; 2] {
    V6::from_ip(match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    })
}

#[cfg(test)]
mod tests;
