//! Who may write a slot, in memory of this process only.
//!
//! The slots themselves are shared with BPF programs, which only read. Workers agree here on who fills or clears a slot:
//!
//! ```text
//!          claim                  publish               take                    retire
//!  free ───────────▶ claimed ───────────────▶ live ───────────▶ claimed ──────────────────▶ quarantined
//!   ▲ ▲                │ release                                                                │ │
//!   │ └────────────────┘                          grace period over: claim, or ripen by sweep  │ │
//!   └───────────────────────────────────────────────────────────────────────────────────────────┘ │
//!                     claimed ◀────────────────────────────────────────────────────────────────────┘
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use super::entry::TICKS_PER_SECOND;

/// A cleared slot is used again after this many ticks. A BPF program may have found the entry just before it was cleared and
/// copies it for some hundred nanoseconds more; a whole second covers interrupts and stolen time. One tick more, because a tick
/// may end right after it was read.
pub(super) const GRACE_TICKS: u32 = TICKS_PER_SECOND + 1;

const STATE_BITS: u32 = 2;
const STATE_MASK: u32 = (1 << STATE_BITS) - 1;
const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const LIVE: u32 = 2;
/// With the tick of the clearing in the upper 30 bits.
const QUARANTINED: u32 = 3;

/// One word per slot.
#[derive(Debug)]
pub(super) struct Ownership {
    words: Box<[AtomicU32]>,
}

impl Ownership {
    /// All slots free.
    pub fn new(slots: usize) -> Ownership {
        Ownership { words: (0..slots).map(|_| AtomicU32::new(FREE)).collect() }
    }

    /// The slot can be claimed now: free, or quarantined long enough.
    pub fn is_usable(&self, index: usize, now: u32) -> bool {
        usable(self.words[index].load(Ordering::Relaxed), now)
    }

    pub fn is_live(&self, index: usize) -> bool {
        self.words[index].load(Ordering::Acquire) == LIVE
    }

    /// Free or quarantined → claimed. False if it is not usable or another worker was faster.
    pub fn claim(&self, index: usize, now: u32) -> bool {
        let word = self.words[index].load(Ordering::Relaxed);
        // Acquire pairs with the release in `retire`: our stores to the slot come after the clearing of its meta.
        usable(word, now) && self.words[index].compare_exchange(word, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Claimed → free: nothing of the slot was published.
    pub fn release(&self, index: usize) {
        self.words[index].store(FREE, Ordering::Release);
    }

    /// Claimed → live: the entry is published.
    pub fn publish(&self, index: usize) {
        self.words[index].store(LIVE, Ordering::Release);
    }

    /// Live → claimed: the caller alone removes it. False if another worker was faster.
    pub fn take(&self, index: usize) -> bool {
        self.words[index].compare_exchange(LIVE, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Claimed → quarantined since `now`: the slot's meta is cleared.
    pub fn retire(&self, index: usize, now: u32) {
        self.words[index].store((now << STATE_BITS) | QUARANTINED, Ordering::Release);
    }

    /// Quarantined → free if the grace period is over. Sweeps call it, for a tick of 30 bits may not stand for years.
    pub fn ripen(&self, index: usize, now: u32) {
        let word = self.words[index].load(Ordering::Relaxed);
        if word & STATE_MASK == QUARANTINED && usable(word, now) {
            let _ = self.words[index].compare_exchange(word, FREE, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

fn usable(word: u32, now: u32) -> bool {
    match word & STATE_MASK {
        FREE => true,
        QUARANTINED => {
            // Ages in the upper half are a tick of another CPU that is ahead of ours.
            let age = (now << STATE_BITS).wrapping_sub(word & !STATE_MASK) >> STATE_BITS;
            (GRACE_TICKS..1 << 29).contains(&age)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_of_another_cpu_may_be_ahead() {
        let ownership = Ownership::new(1);
        for cleared in [105, 2, 1 << 30] {
            assert!(ownership.claim(0, cleared));
            ownership.retire(0, cleared);
            assert!(!ownership.is_usable(0, cleared.wrapping_sub(5)));
            assert!(!ownership.claim(0, cleared));
            assert!(ownership.is_usable(0, cleared + GRACE_TICKS));
            ownership.ripen(0, cleared + GRACE_TICKS);
        }
    }
}
