//! Publishing snapshots: one swap, read once per round, freed on the control side.
//!
//! ```text
//!  publish ─▶ ArcSwap ─▶ each worker's cache        a worker looks at one pointer per round; it takes the new snapshot
//!     │                                             only between rounds, then notes the generation it acts on
//!     └─▶ retired: the old ones, each kept until    so the last reference is always dropped here, and freeing a
//!         nobody else refers to it                  large table never stalls a worker
//! ```

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ringway_engine::tables::Snapshot;

use crate::shared::Shared;

/// Publishes snapshots to all workers. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

/// Pause between two looks at the acting generation: a spinning worker takes microseconds, one that is woken some tens.
const ACTING_PAUSE: Duration = Duration::from_micros(100);

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Publisher {
        Publisher { shared }
    }

    /// Makes `snapshot` the one that workers use from their next round on, and wakes those that sleep.
    /// Sets and returns its generation. Snapshots that no worker uses any more are freed here, on the caller's thread.
    pub fn publish(&self, mut snapshot: Snapshot) -> u64 {
        // The lock also orders publishers: generations appear in the order of their numbers.
        let mut retired = self.shared.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.shared.snapshot.load().generation + 1;
        snapshot.generation = generation;
        retired.push(self.shared.snapshot.swap(Arc::new(snapshot)));
        // Nobody can take a new reference to a retired snapshot, so a count of one stays one.
        retired.retain(|old| Arc::strong_count(old) > 1);
        drop(retired);
        for worker in &self.shared.workers {
            worker.wake.signal();
        }
        generation
    }

    /// The snapshot published last.
    pub fn current(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// The generation that every running worker acts on: no decision is based on an older one any more.
    pub fn acting_generation(&self) -> u64 {
        // Acquire pairs with the worker's release: what it did under the older generation is visible.
        let oldest = self.shared.workers.iter().map(|worker| worker.generation.load(Ordering::Acquire)).min();
        oldest.unwrap_or(u64::MAX).min(self.shared.snapshot.load().generation)
    }

    /// Waits until [`Publisher::acting_generation`] reaches `generation`; false if that took longer than `patience`.
    /// Blocks the thread; asynchronous callers wait for [`crate::Notices`] and compare.
    pub fn wait_acting(&self, generation: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.acting_generation() < generation {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(ACTING_PAUSE);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arc_swap::Cache;

    fn shared(workers: usize) -> Arc<Shared> {
        Arc::new(Shared::new(&vec![0; workers], Snapshot::default()).expect("eventfds"))
    }

    #[test]
    fn generations_count_from_one() {
        let publisher = Publisher::new(shared(0));
        assert_eq!(publisher.current().generation, 1);
        assert_eq!(publisher.publish(Snapshot::default()), 2);
        assert_eq!(publisher.publish(Snapshot { generation: 77, ..Snapshot::default() }), 3);
        assert_eq!(publisher.current().generation, 3);
    }

    #[test]
    fn what_a_worker_uses_is_kept_and_freed_by_a_later_publish() {
        let shared = shared(1);
        let publisher = Publisher::new(shared.clone());
        let mut worker = Cache::new(shared.snapshot.clone());
        let first = Arc::downgrade(worker.load());
        publisher.publish(Snapshot::default());
        publisher.publish(Snapshot::default());
        assert!(first.upgrade().is_some(), "the worker still uses it");
        assert_eq!(shared.retired.lock().expect("lock").len(), 1, "the second was used by nobody");
        assert_eq!(worker.load().generation, 3);
        assert!(first.upgrade().is_some(), "the worker's reference was not the last one");
        publisher.publish(Snapshot::default());
        assert!(first.upgrade().is_none());
    }

    #[test]
    fn the_acting_generation_is_that_of_the_slowest_worker() {
        let shared = shared(2);
        let publisher = Publisher::new(shared.clone());
        publisher.publish(Snapshot::default());
        shared.workers[0].generation.store(2, Ordering::Release);
        shared.workers[1].generation.store(1, Ordering::Release);
        assert_eq!(publisher.acting_generation(), 1);
        assert!(!publisher.wait_acting(2, Duration::from_millis(1)));
        shared.workers[1].generation.store(u64::MAX, Ordering::Release);
        assert_eq!(publisher.acting_generation(), 2, "a worker that ended holds nobody up");
        assert!(publisher.wait_acting(2, Duration::ZERO));
    }
}
