//! A bpffs of its own, programs loaded there, flows in their table.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use ringway_engine::flow::{FlowKey, FlowOp, FlowTable, Hook, NewFlow, Rewrite, Tuple};
use tempfile::TempDir;
use xdp_redirect::{LoadOptions, LoadReport, Programs, UplinkUse, bpffs, cleanup};

pub const FLOWS_MAX: usize = 1024;
/// The tick at which the tests' flows are made.
pub const NOW: u32 = 1000;

/// A state directory with a bpffs, removed with everything in it.
pub struct Scratch {
    dir: TempDir,
    pub pin_dir: PathBuf,
}

impl Scratch {
    pub fn new() -> Scratch {
        let dir = tempfile::Builder::new().prefix("rwx-").tempdir().expect("a folder below /tmp");
        let pin_dir = bpffs::ensure(dir.path()).expect("a bpffs").path;
        Scratch { dir, pin_dir }
    }

    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            pin_dir: self.pin_dir.clone(),
            flow_slots: FlowTable::slots_for(FLOWS_MAX),
            affinity_slots: 64,
            rw1_ifindex: 1,
            workers: 2,
            generic_uplinks: false,
        }
    }

    pub fn load(&self) -> (Programs, LoadReport) {
        Programs::load(self.options()).expect("programs")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Both even if one fails; a failure here must not hide the test's own.
        let cleaned = cleanup(&self.pin_dir);
        let unmounted = bpffs::unmount(self.dir.path());
        if !std::thread::panicking() {
            cleaned.expect("cleanup");
            unmounted.expect("unmount");
        }
    }
}

/// An uplink whose address is not known, so that every frame counts as sent to it.
pub fn uplink_use(ifindex: u32) -> UplinkUse {
    UplinkUse { ifindex, queue_base: 0, mac: [0; 6] }
}

/// The flow table of loaded programs.
pub fn table_of(programs: &Programs) -> FlowTable {
    FlowTable::over(programs.flow_slots(), FLOWS_MAX, 1, programs.seed(), NOW).0
}

/// Address and port.
pub type End = (Ipv4Addr, u16);

pub fn end(address: &str, port: u16) -> End {
    (address.parse().expect("an address"), port)
}

/// The rewrite to a tuple with `op`.
pub fn to(src: End, dst: End, op: FlowOp) -> Rewrite {
    Rewrite { tuple: Tuple::new(src, dst), op, ifindex: 0, dmac: [0; 6] }
}

/// A flow with `forward` and, as its other direction, one that no packet of the tests matches.
pub fn one_way(forward: FlowKey, rewrite: Rewrite) -> NewFlow {
    static FLOWS: AtomicU16 = AtomicU16::new(1);
    let nobody = (Ipv4Addr::new(192, 0, 2, 254), FLOWS.fetch_add(1, Ordering::Relaxed));
    let reverse = FlowKey::new(nobody, nobody, 0, Hook::UplinkOut, forward.protocol());
    NewFlow { forward: (forward, rewrite), reverse: (reverse, to(nobody, nobody, FlowOp::Pass)), snat: false }
}
