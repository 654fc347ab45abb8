//! New workers while the process runs: for an uplink that was made anew, other queues, larger packets. Flows stay where they are.

use std::sync::Arc;

use anyhow::Context;
use ringway_engine::tables::{DeviceKind, Devices};
use ringway_io::{FrameSize, WorkerState, ethtool};
use xdp_redirect::XdpMode;

use super::bonds::{self, plan_uplinks};
use super::control::Control;
use super::packets::{Packets, Shape};
use super::plan::UplinkPlan;
use super::start::{attach_hostlink, attach_uplinks, hostlink_plan};
use crate::netlink::{Hostlink, HostlinkConfig, RW0, RW1};
use crate::programs;

/// The MTU that the hostlink needs for the packets of these devices.
fn hostlink_mtu(devices: &Devices) -> u32 {
    let carries = |kind: DeviceKind| matches!(kind, DeviceKind::Uplink(_) | DeviceKind::Pod | DeviceKind::Bridge);
    let mtus = devices.by_index.values().filter(|device| carries(device.kind)).map(|device| device.mtu);
    mtus.max().unwrap_or(1_500)
}

impl Control {
    /// Replaces the workers if they no longer fit the devices. What fails is logged and tried again with the next event: a device that
    /// was just made is often not up yet.
    ///
    /// Returns whether there are new workers.
    pub async fn rework(&mut self) -> bool {
        if let Err(error) = self.follow_hostlink_mtu().await {
            tracing::error!("{error:#}");
        }
        if !self.node.present.iter().all(|present| *present) || !self.is_misfit() {
            return false;
        }
        tracing::warn!("the uplinks have changed: new workers");
        self.packets.dataplane.stop();
        self.workers_missing = None;
        match self.replace_workers().await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{error:#}; tried again later");
                self.workers_missing = Some(format!("{error:#}"));
                false
            }
        }
    }

    /// Whether the workers run for other devices, queues or packets than there are.
    fn is_misfit(&self) -> bool {
        let plans = &self.packets.shape.uplinks;
        let fits = |(wanted, plan): (&UplinkPlan, &UplinkPlan)| {
            let same = wanted.role == plan.role && wanted.ifindex == plan.ifindex;
            // The sockets of a member that went down wait for it.
            same && (wanted.queues == plan.queues || wanted.queues == 0)
        };
        // What cannot be planned is said by the attempt.
        let moved = self.plan().map_or(true, |wanted| wanted.len() != plans.len() || !wanted.iter().zip(plans).all(fits));
        // Sockets for packets that do not come any more do no harm; new workers would.
        let outgrown = |multi_buffer: bool, mtu: u32| !multi_buffer && FrameSize::is_spanned_by(mtu);
        let grown = plans.iter().zip(&self.node.uplinks).any(|(plan, uplink)| outgrown(plan.multi_buffer, uplink.mtu))
            || outgrown(self.packets.shape.hostlink.multi_buffer, self.node.hostlink.mtu);
        moved || grown || self.frame_size() != self.packets.shape.frame_size || self.workers_missing.is_some() || self.is_broken()
    }

    /// Whether a worker or socket has failed whose device works: a device that was down, or a worker that panicked.
    fn is_broken(&self) -> bool {
        self.packets.dataplane.status().iter().any(|worker| {
            let usable = |name: &str| ethtool::link(name).is_ok_and(|link| link.up);
            let failed = worker.sockets.iter().filter(|socket| socket.failed.is_some());
            matches!(worker.state, WorkerState::Failed(_)) || failed.into_iter().any(|socket| usable(&socket.ifname))
        })
    }

    /// The plans for the devices as they are now. A device that does not tell its queues has what it had; one that comes has one.
    fn plan(&self) -> anyhow::Result<Vec<UplinkPlan>> {
        let before = |name: &str| self.packets.shape.uplinks.iter().find(|plan| plan.name == name).map_or(1, |plan| plan.queues);
        let queues = |name: &str| Ok(ethtool::channels(name).map_or_else(|_| before(name), |channels| channels.receiving()));
        plan_uplinks(&self.node.uplinks, &self.node.bonds, queues, self.config.mode)
    }

    /// The frames that uplinks and hostlink need.
    fn frame_size(&self) -> FrameSize {
        let uplinks = self.node.uplinks.iter().map(|uplink| uplink.mtu);
        let mtu = uplinks.chain([self.node.hostlink.mtu]).max().unwrap_or(0);
        // Frames that are larger than needed do no harm; new workers would.
        FrameSize::for_mtu(mtu).max(self.packets.shape.frame_size)
    }

    async fn replace_workers(&mut self) -> anyhow::Result<()> {
        let mut plans = self.plan()?;
        for before in &self.packets.shape.uplinks {
            if let Some(plan) = plans.iter_mut().find(|plan| plan.name == before.name) {
                (plan.xdp, plan.bind) = (before.xdp, before.bind);
            }
            if !plans.iter().any(|plan| plan.ifindex == before.ifindex) {
                self.programs.detach_uplink(before.ifindex)?;
            }
        }
        while !attach_uplinks(&self.programs, &mut plans, &self.node.bonds, self.config.mode)? {
            // The programs have to know that some uplink is generic; those that are attached are replaced in place.
            self.load.generic_uplinks = true;
            self.programs = programs::load(self.load.clone())?;
            attach_hostlink(&self.programs, &self.node.hostlink)?;
            self.node.attach_edges(&self.programs, &self.tables.snapshot().devices);
        }
        self.load.generic_uplinks = plans.iter().any(|plan| plan.xdp == XdpMode::Generic);
        let internal_ips = self.internal_ips();
        self.tables.set_bonds(bonds::ports(&plans, &self.node.bonds));
        self.tables.set_node(self.node.uplinks.clone(), &internal_ips);
        let hostlink = hostlink_plan(&self.node.hostlink);
        let shape = Shape { uplinks: plans, hostlink, frame_size: self.frame_size(), ..self.packets.shape.clone() };
        self.packets = Packets::start(shape, &self.parts, self.tables.snapshot()).context("cannot serve the changed uplinks")?;
        self.servers.board.set_tables(self.parts.flows.clone(), Arc::clone(&self.programs.counters));
        self.servers.board.set_dataplane(Arc::clone(&self.packets.dataplane));
        self.announcer.set_stations(self.stations());
        Ok(())
    }

    /// When somebody sets the hostlink down, the kernel forgets its permanent neighbors: all is set again.
    pub async fn repair_hostlink(&mut self) {
        let hostlink = self.node.hostlink;
        let is_up = |name| ethtool::link(name).is_ok_and(|link| link.up);
        if is_up(RW0) && is_up(RW1) && hostlink.is_intact(&self.tables.snapshot().neighbors) {
            return;
        }
        tracing::warn!("the hostlink is down or has lost a neighbor, or IPv6 came or went: it is set up again");
        let config = HostlinkConfig { queues: self.packets.shape.workers as u32, mtu: hostlink.mtu };
        match Hostlink::ensure(config).await {
            Ok(hostlink) => self.node.hostlink = hostlink,
            Err(error) => tracing::error!("cannot set up the hostlink: {error}"),
        }
    }

    /// A pod or uplink with larger packets has come: the hostlink must carry them.
    async fn follow_hostlink_mtu(&mut self) -> anyhow::Result<()> {
        let devices = Arc::clone(&self.tables.snapshot().devices);
        let mtu = hostlink_mtu(&devices);
        if mtu <= self.node.hostlink.mtu {
            return Ok(());
        }
        tracing::info!("the hostlink's MTU grows to {mtu}");
        let config = HostlinkConfig { queues: self.packets.shape.workers as u32, mtu };
        self.node.hostlink = Hostlink::ensure(config).await.context("cannot enlarge the hostlink")?;
        Ok(())
    }
}
