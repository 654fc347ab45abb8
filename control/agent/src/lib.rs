//! The modules of the `ringway` binary, as a library for its tests.
#![forbid(unsafe_code)]

pub mod netlink;
