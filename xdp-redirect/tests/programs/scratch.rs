//! A bpffs of its own, programs loaded there, flows in their table.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use ringway_engine::family::{Family, V4, V6};
use ringway_engine::flow::{FlowKey, FlowOp, FlowSlot, FlowTable, Hook, NewFlow, Rewrite, Tuple, slots_for};
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
            flow_slots: slots_for(FLOWS_MAX),
            flow6_slots: slots_for(FLOWS_MAX),
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
    UplinkUse { ifindex, ..UplinkUse::default() }
}

/// What a test needs to run for either family.
pub trait Addresses: Family {
    /// Instead of an address of IPv4 one of the family.
    fn ip(v4: Ipv4Addr) -> Self::Ip;

    fn slots(programs: &Programs) -> &'static [FlowSlot<Self>];
}

impl Addresses for V4 {
    fn ip(v4: Ipv4Addr) -> Ipv4Addr {
        v4
    }

    fn slots(programs: &Programs) -> &'static [FlowSlot<V4>] {
        programs.flow_slots()
    }
}

impl Addresses for V6 {
    fn ip(v4: Ipv4Addr) -> Ipv6Addr {
        let [a, b, c, d] = v4.octets();
        Ipv6Addr::from([0x20, 1, 0xd, 0xb8, a, b, c, d, 0, 0, 0, 0, a, b, c, d])
    }

    fn slots(programs: &Programs) -> &'static [FlowSlot<V6>] {
        programs.flow6_slots()
    }
}

/// Makes a test for each family of functions that are generic over it.
macro_rules! for_both_families {
    ($($name:ident)*) => {
        mod v4 { $(#[test] fn $name() { super::$name::<ringway_engine::family::V4>(); })* }
        mod v6 { $(#[test] fn $name() { super::$name::<ringway_engine::family::V6>(); })* }
    };
}
pub(crate) use for_both_families;

/// The flow table of loaded programs.
pub fn table_of<F: Addresses>(programs: &Programs) -> FlowTable<F> {
    FlowTable::over(F::slots(programs), FLOWS_MAX, 1, programs.seed(), NOW).0
}

/// Address and port.
pub type End<F> = (<F as Family>::Ip, u16);

pub fn end<F: Addresses>(address: &str, port: u16) -> End<F> {
    (ip::<F>(address), port)
}

/// The address that stands for one of IPv4.
pub fn ip<F: Addresses>(address: &str) -> F::Ip {
    F::ip(address.parse().expect("an address"))
}

/// The rewrite to a tuple with `op`.
pub fn to<F: Addresses>(src: End<F>, dst: End<F>, op: FlowOp) -> Rewrite<F> {
    Rewrite { tuple: Tuple::new(src, dst), op, ifindex: 0, dmac: [0; 6] }
}

/// A flow with `forward` and, as its other direction, one that no packet of the tests matches.
pub fn one_way<F: Addresses>(forward: FlowKey<F>, rewrite: Rewrite<F>) -> NewFlow<F> {
    static FLOWS: AtomicU16 = AtomicU16::new(1);
    let nobody = (ip::<F>("192.0.2.254"), FLOWS.fetch_add(1, Ordering::Relaxed));
    let reverse = FlowKey::new(nobody, nobody, 0, Hook::UplinkOut, forward.protocol());
    NewFlow { forward: (forward, rewrite), reverse: (reverse, to(nobody, nobody, FlowOp::Pass)), snat: false }
}
