//! Maglev consistent selection (Eisenbud et al., NSDI 2016, section 3.4).

/// A lookup table from hash to the number of a backend.
#[derive(Debug, PartialEq, Eq)]
pub struct Maglev {
    table: Box<[u16]>,
}
