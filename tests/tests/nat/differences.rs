//! Where the engine does on purpose what the kernel does not. Nothing else may differ.

use crate::event::Event;
use crate::view::Outcome;

/// One difference.
pub struct Difference {
    pub name: &'static str,
    /// Whether this is what differs.
    pub is: fn(&Event, &Outcome, &Outcome) -> bool,
}

pub const DIFFERENCES: &[Difference] = &[];
