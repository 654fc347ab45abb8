//! The packet half as the control half holds it: started with a plan, replaced when the plan changes.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use anyhow::Context;
use ringway_engine::affinity::AffinityTable;
use ringway_engine::engine::{Engine, EngineConfig};
use ringway_engine::flow::{FlowTables, Timeouts};
use ringway_engine::tables::Snapshot;
use ringway_io::{BindWanted, Dataplane, DataplaneConfig, FrameSize};
use xdp_redirect::XdpMode;
use xdp_redirect::probe::xdp_features;

use super::notices::NoticeThread;
use super::plan::{self, HostlinkPlan, SocketMaps, UplinkPlan};
use crate::config::Mode;

/// What the workers are built from. A change of it means new workers; flows and programs stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub uplinks: Vec<UplinkPlan>,
    pub hostlink: HostlinkPlan,
    pub workers: usize,
    pub frame_size: FrameSize,
}

/// The running workers.
pub struct Packets {
    pub dataplane: Arc<Dataplane>,
    pub notices: NoticeThread,
    pub shape: Shape,
}

/// What all starts have in common.
#[derive(Clone, Debug)]
pub struct Parts {
    pub flows: FlowTables,
    pub affinity: Arc<AffinityTable>,
    pub timeouts: Timeouts,
    pub maps: SocketMaps,
    /// Slots of the larger flow table.
    pub slots: usize,
}

impl Packets {
    /// Starts the workers; the programs are attached, the snapshot becomes generation 1.
    ///
    /// # Errors
    /// A socket cannot be bound, with the device, queue and remedy.
    pub fn start(shape: Shape, parts: &Parts, snapshot: Snapshot) -> anyhow::Result<Packets> {
        // As the kernel decides it at bind, by the same flag (net/xdp/xsk_buff_pool.c).
        let has_zero_copy = |ifindex| xdp_features(ifindex).map_or(true, |features| features.zero_copy);
        let workers = plan::workers(&shape.uplinks, shape.hostlink, shape.workers, &cores(), &parts.maps, has_zero_copy);
        let engine = |(number, worker)| {
            let config = EngineConfig {
                worker: number,
                workers: shape.workers,
                transmits_on: plan::transmits_on(worker, shape.uplinks.len()),
                timeouts: parts.timeouts,
                seed: random(),
            };
            Engine::new(config, parts.flows.clone(), Arc::clone(&parts.affinity))
        };
        let engines = workers.iter().enumerate().map(engine).collect();
        let mut config = DataplaneConfig::new(workers);
        config.frame_size = shape.frame_size;
        config.sweep_slots = parts.slots / shape.workers;
        let dataplane = Dataplane::start(config, engines, snapshot).context("cannot start the workers")?;
        let notices = NoticeThread::start(dataplane.notices())?;
        Ok(Packets { dataplane: Arc::new(dataplane), notices, shape })
    }
}

/// How sockets of an uplink bind and how its XDP runs, at first.
pub fn modes(mode: Mode) -> (XdpMode, BindWanted) {
    match mode {
        Mode::Auto => (XdpMode::Native, BindWanted::Auto),
        Mode::ZeroCopy => (XdpMode::Native, BindWanted::ZeroCopy),
        Mode::Copy => (XdpMode::Native, BindWanted::Copy),
        Mode::Generic => (XdpMode::Generic, BindWanted::Copy),
    }
}

/// The CPUs on which this process may run, in order.
fn cores() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// A random number: the keys of the standard library's hash maps come from the kernel.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
