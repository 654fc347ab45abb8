//! Gates: at most one worker at a time creates a flow with a given key.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};

/// A power of two. With 64 workers that always create flows, two of them meet by chance in one of eight inserts at most.
const GATES: usize = 1024;
/// About a microsecond: longer than an insert takes, shorter than waiting for a worker that was descheduled inside.
const SPINS_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Gates {
    closed: Box<[AtomicBool]>,
}

/// Two gates held; they open again when this is dropped.
#[derive(Debug)]
pub(crate) struct Passage<'a> {
    first: &'a AtomicBool,
    second: Option<&'a AtomicBool>,
}

impl Gates {
    pub fn new() -> Gates {
        Gates { closed: (0..GATES).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Closes the gates of two key hashes behind the caller, in ascending order; `None` if another worker stays inside too long.
    pub fn enter(&self, forward_hash: u64, reverse_hash: u64) -> Option<Passage<'_>> {
        let (a, b) = (forward_hash as usize % GATES, reverse_hash as usize % GATES);
        let first = close(&self.closed[a.min(b)])?;
        // From here on `first` opens again by itself, also when the second gate stays closed.
        let mut passage = Passage { first, second: None };
        if a != b {
            passage.second = Some(close(&self.closed[a.max(b)])?);
        }
        Some(passage)
    }
}

fn close(gate: &AtomicBool) -> Option<&AtomicBool> {
    for _ in 0..SPINS_MAX {
        if !gate.swap(true, Ordering::Acquire) {
            return Some(gate);
        }
        spin_loop();
    }
    None
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.first.store(false, Ordering::Release);
        if let Some(second) = self.second {
            second.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_admits_one() {
        let gates = Gates::new();
        let passage = gates.enter(10, 20).unwrap();
        for (a, b) in [(10, 20), (20, 10), (10, 30), (30, 10), (20, 5), (5, 20), (10, 10)] {
            assert!(gates.enter(a, b).is_none(), "{a} {b}");
        }
        assert!(gates.enter(30, 5).is_some(), "a refused worker leaves no gate closed");
        drop(passage);
        assert!(gates.enter(20, 10).is_some());
    }

    #[test]
    fn both_keys_may_have_one_gate() {
        let gates = Gates::new();
        let passage = gates.enter(7, 7 + GATES as u64).unwrap();
        assert!(gates.enter(7, 8).is_none());
        drop(passage);
        assert!(gates.enter(7, 8).is_some());
    }
}
