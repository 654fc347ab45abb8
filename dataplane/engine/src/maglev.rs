//! Maglev consistent selection (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Every node that announces an address builds the same table from the same backends, so a flow that arrives at another node
//! after a failover reaches the backend that it has. Nodes of different versions must agree too: the hash in this file, the sizes
//! and the order of filling are part of what nodes have in common, so a change of them moves flows.

/// Table sizes: primes, so that every skip visits every slot; each about twice the one before, because a change of the size moves
/// most flows. The last is the paper's small table.
const SIZES: [u32; 10] = [101, 211, 503, 1009, 2003, 4001, 8009, 16_001, 32_003, 65_537];

/// Slots per backend from which on the shares of two backends differ by about 1 % (the paper, section 5.3).
const SLOTS_PER_BACKEND: usize = 100;

/// A backend's number has 16 bits.
const BACKENDS_MAX: usize = u16::MAX as usize;

/// A lookup table from hash to the number of a backend.
#[derive(Debug, PartialEq, Eq)]
pub struct Maglev {
    table: Box<[u16]>,
}

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaglevError {
    /// No backend to select from.
    NoBackend,
    /// More backends than a table can number.
    TooMany { backends: usize },
}

impl std::fmt::Display for MaglevError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MaglevError::NoBackend => write!(f, "building a Maglev table: there is no backend to select from"),
            MaglevError::TooMany { backends } => {
                write!(f, "building a Maglev table: {backends} backends, at most {BACKENDS_MAX} fit; split the service")
            }
        }
    }
}

impl std::error::Error for MaglevError {}

impl Maglev {
    /// Builds the table of the backends with these identities (address and port, say: the same bytes on every node). The same set
    /// and seed select the same backends, whatever the order; [`Maglev::select`] gives positions in the order given here.
    ///
    /// # Errors
    ///
    /// Without backends, or with more than 65 535.
    pub fn build<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>, seed: u64) -> Result<Maglev, MaglevError> {
        let mut backends: Vec<(K, u16)> = Vec::new();
        let mut count = 0;
        for key in keys {
            backends.push((key, count as u16));
            count += 1;
        }
        if backends.is_empty() {
            return Err(MaglevError::NoBackend);
        }
        if count > BACKENDS_MAX {
            return Err(MaglevError::TooMany { backends: count });
        }
        // Where two backends want one slot, the order decides: make it that of the identities.
        backends.sort_unstable_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()).then(a.1.cmp(&b.1)));
        Ok(Maglev { table: fill(&backends, size_for(count), seed) })
    }

    /// The position of the backend for a hash of the client. The hash must be the same on every node: not the flow table's.
    #[inline]
    pub fn select(&self, hash: u64) -> usize {
        usize::from(self.table[(hash % self.table.len() as u64) as usize])
    }
}

fn size_for(backends: usize) -> u32 {
    let wanted = backends * SLOTS_PER_BACKEND;
    SIZES.into_iter().find(|&size| size as usize >= wanted).unwrap_or(SIZES[SIZES.len() - 1])
}

/// The paper's pseudo code 1: backends take turns, each takes the next free slot of its own permutation.
fn fill<K: AsRef<[u8]>>(backends: &[(K, u16)], size: u32, seed: u64) -> Box<[u16]> {
    const EMPTY: u16 = u16::MAX;
    let mut table = vec![EMPTY; size as usize].into_boxed_slice();
    let mut walks: Vec<(u32, u32)> = backends
        .iter()
        .map(|(key, _)| {
            let hash = hash(key.as_ref(), seed);
            ((hash >> 32) as u32 % size, hash as u32 % (size - 1) + 1)
        })
        .collect();
    let mut free = size;
    loop {
        for ((position, skip), (_, backend)) in walks.iter_mut().zip(backends) {
            while table[*position as usize] != EMPTY {
                *position = (*position + *skip) % size;
            }
            table[*position as usize] = *backend;
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

/// 64 bits of a backend's identity: eight bytes a step, mixed by the finalizer of SplitMix64.
fn hash(key: &[u8], seed: u64) -> u64 {
    key.chunks(8).fold(mix(seed ^ key.len() as u64), |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

fn mix(hash: u64) -> u64 {
    let hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: impl IntoIterator<Item = u32>) -> Vec<[u8; 4]> {
        numbers.into_iter().map(u32::to_be_bytes).collect()
    }

    fn shares(maglev: &Maglev, backends: usize) -> Vec<usize> {
        let mut shares = vec![0; backends];
        (0..maglev.table.len()).for_each(|hash| shares[maglev.select(hash as u64)] += 1);
        shares
    }

    #[test]
    fn sizes_are_primes_in_order() {
        assert!(SIZES.is_sorted());
        for size in SIZES {
            assert!((2..size).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d)), "{size} is no prime");
        }
    }

    #[test]
    fn size_follows_the_backends() {
        let size = |backends| Maglev::build(keys(0..backends), 1).unwrap().table.len();
        assert_eq!([size(1), size(2), size(3), size(10), size(100), size(700)], [101, 211, 503, 1009, 16_001, 65_537]);
    }

    #[test]
    fn any_order_selects_the_same_backend() {
        let forward = keys(0..50);
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        let (a, b) = (Maglev::build(&forward, 7).unwrap(), Maglev::build(&backward, 7).unwrap());
        for hash in (0..5000).map(mix) {
            assert_eq!(forward[a.select(hash)], backward[b.select(hash)]);
        }
        assert_ne!(a, Maglev::build(&forward, 8).unwrap());
    }

    #[test]
    fn shares_are_even() {
        for backends in [1, 2, 3, 10, 100, 655] {
            let shares = shares(&Maglev::build(keys(0..backends as u32), 3).unwrap(), backends);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            // Whole turns: the shares differ by one slot at most.
            assert!(most - least <= 1, "{backends} backends: {least}..{most}");
        }
    }

    #[test]
    fn a_removed_backend_moves_few_others() {
        let all = keys(0..15);
        let fewer = keys(1..15);
        let (a, b) = (Maglev::build(&all, 3).unwrap(), Maglev::build(&fewer, 3).unwrap());
        assert_eq!(a.table.len(), b.table.len());
        let moved = (0..a.table.len() as u64).filter(|&hash| a.select(hash) != 0 && all[a.select(hash)] != fewer[b.select(hash)]).count();
        // A few percent, like figure 12 of the paper; a modulo would move 93 %.
        assert!(moved * 100 < a.table.len() * 15, "{moved} of {} slots moved", a.table.len());
    }

    #[test]
    fn limits() {
        assert_eq!(Maglev::build(keys(0..0), 0), Err(MaglevError::NoBackend));
        assert_eq!(Maglev::build(keys(0..65_536), 0), Err(MaglevError::TooMany { backends: 65_536 }));
        let most = Maglev::build(keys(0..65_535), 0).unwrap();
        assert!(shares(&most, 65_535).iter().all(|&share| (1..=2).contains(&share)));
    }
}
