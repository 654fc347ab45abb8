//! Nothing but benches: see `benches/` and the README.
#![forbid(unsafe_code)]
