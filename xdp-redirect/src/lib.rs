//! The BPF programs of Ringway, their typed maps, attach and detach.
//!
//! [`Programs::load`] opens the object, takes over the maps that an earlier process pinned, loads and pins. The
//! programs are attached by links that are pinned too ([`Programs::attach_uplink`] and the like), so they outlive
//! the process; the next start puts its programs into the same links. [`cleanup`] removes it all.
//!
//! Of the workspace's crates only this one and `ringway-io` may use `unsafe`: here for system calls of `libbpf-sys`
//! that `libbpf-rs` does not offer, and for the mapping of the flow table.

pub mod bpffs;
pub mod cgroup;
mod counters;
mod error;
mod flows;
mod link;
mod maps;
mod pins;
pub mod probe;
mod program;
mod programs;
mod syscall;
mod test_run;

pub use counters::Counters;
pub use error::Error;
pub use link::{Attachment, PinnedLink, XdpMode, cleanup, pinned_links, prune};
pub use maps::{AddressUse, Addresses, DeviceMacs, FrontendUse, Frontends, Receives, Sockets, UplinkUse, Uplinks, XskMap};
pub use pins::MapFate;
pub use program::ProgramName;
pub use programs::{LoadOptions, LoadReport, Programs};
pub use test_run::{SkbContext, SkbResult, TcAction, XdpAction};

/// The generated skeleton: one typed field per program, map and constant of `src/bpf/ringway.bpf.c`.
#[allow(clippy::all, clippy::pedantic, unused, unsafe_op_in_unsafe_fn)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/ringway.skel.rs"));
}
