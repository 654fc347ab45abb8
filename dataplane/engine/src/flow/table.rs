//! The lock-free table of flows: what it is made of, and lookup.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use prefetch_index::prefetch_index;

use super::doubt::{DOUBTED_MAX, Doubted};
use super::entry::{BUCKET_ENTRIES, FlowKey, FlowOp, FlowSlot, Rewrite};
use super::gates::Gates;
use super::hash::{buckets_of, flow_hash};
use super::ownership::Ownership;
use super::position::Segment;
use crate::family::{Family, V4, V6};

/// Number of a slot in the table. It stays good for the grace period of about a second: use it within the batch, do not keep it.
pub type SlotIndex = u32;

/// The flow table of one family. One for all workers; `Sync`.
#[derive(Debug)]
pub struct FlowTable<F: Family = V4> {
    pub(super) slots: &'static [FlowSlot<F>],
    pub(super) ownership: Ownership,
    pub(super) gates: Gates,
    pub(super) shares: Box<[CachePadded<WorkerShare>]>,
    pub(super) doubted: ArrayQueue<Doubted<F>>,
    /// The latest tick that any worker brought, with bit 32 set; 0 before the first.
    latest_tick: CachePadded<AtomicU64>,
    seed: u64,
    /// Base-2 logarithm of the number of buckets.
    pub(super) bucket_bits: u32,
    flows_max: usize,
}

/// The tables of both families.
#[derive(Clone, Debug)]
pub struct FlowTables {
    pub v4: Arc<FlowTable<V4>>,
    pub v6: Arc<FlowTable<V6>>,
}

impl FlowTables {
    /// Tables in plain memory, for as many flows each: see [`FlowTable::in_memory`].
    pub fn in_memory(flows_max: usize, workers: usize, seed: u64) -> FlowTables {
        FlowTables {
            v4: Arc::new(FlowTable::in_memory(flows_max, workers, seed)),
            v6: Arc::new(FlowTable::in_memory(flows_max, workers, seed)),
        }
    }
}

/// Slots that a table of `flows_max` flows needs: two entries per flow at load ≤ 0.5, rounded up to a power of two.
///
/// Where flows come and go, 20 in a million new entries find both buckets full at a load of 0.35, 140 at 0.4, 2 500 at 0.5. They
/// overflow into others.
pub fn slots_for(flows_max: usize) -> usize {
    (flows_max.max(2) * 4).next_power_of_two()
}

/// What one worker writes alone, or nearly.
#[derive(Debug, Default)]
pub(super) struct WorkerShare {
    /// Flows inserted less flows removed by this worker; negative if it removed those of others.
    pub flows: AtomicIsize,
    /// Where the next sweep begins, counted in slots of this worker's share.
    pub cursor: AtomicUsize,
}

impl<F: Family> FlowTable<F> {
    /// A table in plain memory for tests and benches: at least `2 * 2 * flows_max` slots. The memory lives as long as the process.
    pub fn in_memory(flows_max: usize, workers: usize, seed: u64) -> FlowTable<F> {
        let slots: Box<[FlowSlot<F>]> = (0..slots_for(flows_max)).map(|_| FlowSlot::default()).collect();
        FlowTable::empty_over(Box::leak(slots), flows_max, workers, seed)
    }

    /// A table over shared memory (a mapped BPF array): `slots.len()` is a power of two ≥ 8. Takes over what is in it:
    /// live pairs are kept and counted, halves whose other direction is missing are removed. Returns the table and how many flows were kept.
    ///
    /// No other process may write the memory. No BPF program may still hold an entry that the earlier process cleared: every program that
    /// ran when it died has ended. (Were those slots to rest instead, a busy table would take no new flow for a second.)
    ///
    /// # Panics
    ///
    /// If the number of slots is not as said, or there is no worker.
    pub fn over(slots: &'static [FlowSlot<F>], flows_max: usize, workers: usize, seed: u64, now: u32) -> (FlowTable<F>, usize) {
        let table = FlowTable::empty_over(slots, flows_max, workers, seed);
        let kept = table.take_over(now);
        (table, kept)
    }

    fn empty_over(slots: &'static [FlowSlot<F>], flows_max: usize, workers: usize, seed: u64) -> FlowTable<F> {
        let buckets = slots.len() / BUCKET_ENTRIES;
        assert!(slots.len().is_power_of_two() && (2..=1 << 30).contains(&buckets), "a flow table of {} slots", slots.len());
        assert!(workers > 0, "a flow table for no worker");
        FlowTable {
            slots,
            ownership: Ownership::new(slots.len()),
            gates: Gates::new(),
            shares: (0..workers).map(|_| CachePadded::default()).collect(),
            doubted: ArrayQueue::new(DOUBTED_MAX),
            latest_tick: CachePadded::default(),
            seed,
            bucket_bits: buckets.trailing_zeros(),
            flows_max,
        }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn flows_max(&self) -> usize {
        self.flows_max
    }

    /// Flows (pairs) that are live now, over all workers.
    pub fn len(&self) -> usize {
        // Sequentially consistent for `reserve`: of two workers at the limit, at least one sees the other's increment.
        let flows: isize = self.shares.iter().map(|share| share.flows.load(SeqCst)).sum();
        // While another worker removes what a third one inserts, the sum can be short of a flow for a moment.
        flows.max(0) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub fn hash(&self, key: &FlowKey<F>) -> u64 {
        flow_hash(self.seed, key)
    }

    /// Starts the loads of the two slots where most entries are, so that a later lookup of a batch finds them in the cache.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        // More would not pay: a CPU has few loads under way at a time. At 32 768 flows in a full table, in interleaved rounds, these two
        // make 67 ns per packet, one 99, a third in the other bucket 75.
        let (a, _) = self.buckets(hash);
        prefetch_index(self.slots, a);
        prefetch_index(self.slots, a + 1);
    }

    #[inline(always)]
    pub fn lookup(&self, key: &FlowKey<F>, hash: u64) -> Option<SlotIndex> {
        let (a, b) = self.buckets(hash);
        self.lookup_in(a, key).or_else(|| self.lookup_in(b, key)).or_else(|| self.lookup_overflowed(a, key, hash))
    }

    #[inline(always)]
    pub(super) fn lookup_in(&self, bucket: usize, key: &FlowKey<F>) -> Option<SlotIndex> {
        let entry = self.slots[bucket..bucket + BUCKET_ENTRIES].iter().position(|slot| slot.matches(key))?;
        Some((bucket + entry) as SlotIndex)
    }

    /// The first slots of both buckets of a hash.
    #[inline(always)]
    pub(super) fn buckets(&self, hash: u64) -> (usize, usize) {
        let (a, b) = buckets_of(hash, self.bucket_bits);
        (a * BUCKET_ENTRIES, b * BUCKET_ENTRIES)
    }

    /// The slot itself: read rewrite, flags, seen.
    #[inline]
    pub fn slot(&self, index: SlotIndex) -> &FlowSlot<F> {
        &self.slots[index as usize]
    }

    /// This slot and the one of the other direction.
    #[inline]
    pub(super) fn both(&self, index: SlotIndex) -> (&FlowSlot<F>, &FlowSlot<F>) {
        let slot = self.slot(index);
        (slot, self.slot(slot.peer.load(Relaxed)))
    }

    pub fn key_of(&self, index: SlotIndex) -> FlowKey<F> {
        self.slot(index).key()
    }

    pub fn rewrite_of(&self, index: SlotIndex) -> Rewrite<F> {
        let slot = self.slot(index);
        // An op that we do not know never gets in: `take_over` removes it. Should it be there, a worker looks at it again.
        slot.rewrite().unwrap_or(Rewrite { tuple: slot.key().tuple(), op: FlowOp::Worker, ifindex: 0, dmac: [0; 6] })
    }

    /// Notes a packet: that the flow lives, in `last` at a resolution of a second, and what the packet proves of its connection, in `seen`.
    #[inline]
    pub fn touch(&self, index: SlotIndex, segment: Segment, now: u32) {
        let slot = self.slot(index);
        // Read before write: a line that is only read stays in the caches of all CPUs.
        if slot.knows(&segment) || self.judge(slot, &segment, now) {
            slot.refresh(now);
        }
    }

    /// The later of `now` and the latest tick of any worker. A worker that was descheduled in the middle of a batch holds an old one;
    /// with it a grace period would end too soon.
    pub(super) fn latest_tick(&self, now: u32) -> u32 {
        const KNOWN: u64 = 1 << 32;
        let mut latest = self.latest_tick.load(Relaxed);
        while latest == 0 || (now.wrapping_sub(latest as u32) as i32) > 0 {
            match self.latest_tick.compare_exchange_weak(latest, KNOWN | u64::from(now), Relaxed, Relaxed) {
                Ok(_) => return now,
                Err(other) => latest = other,
            }
        }
        latest as u32
    }
}
