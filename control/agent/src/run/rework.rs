//! New workers while the process runs: for an uplink that was made anew, other queues, larger packets. Flows stay where they are.

use std::sync::Arc;

use anyhow::Context;
use ringway_engine::tables::{DeviceKind, Devices};
use ringway_io::{FrameSize, WorkerState, ethtool};
use xdp_redirect::XdpMode;

use super::bonds::{self, plan_uplinks};
use super::control::Control;
use super::packets::{Packets, Shape};
use super::plan::{Role, UplinkPlan};
use super::start::{attach_hostlink, attach_uplinks, hostlink_plan};
use crate::netlink::{Hostlink, HostlinkConfig, RW0, RW1};
use crate::programs;

/// The MTU that the hostlink needs for the packets of these devices.
fn hostlink_mtu(devices: &Devices) -> u32 {
    let carries = |kind: DeviceKind| matches!(kind, DeviceKind::Uplink(_) | DeviceKind::Pod | DeviceKind::Bridge);
    let mtus = devices.by_index.values().filter(|device| carries(device.kind)).map(|device| device.mtu);
    mtus.max().unwrap_or(1_500)
}

/// The plans by which to replace those that run; `None` if these fit, and nothing else is unfit.
///
/// # Errors
/// Of the plans: then those that run stay, whatever they are.
fn replacement(running: &[UplinkPlan], wanted: anyhow::Result<Vec<UplinkPlan>>, is_unfit: bool) -> anyhow::Result<Option<Vec<UplinkPlan>>> {
    let wanted = wanted?;
    let fits = |(wanted, plan): (&UplinkPlan, &UplinkPlan)| {
        let same = wanted.role == plan.role && wanted.ifindex == plan.ifindex;
        // The sockets of a member that went down wait for it.
        same && (wanted.queues == plan.queues || wanted.queues == 0)
    };
    let is_moved = wanted.len() != running.len() || !wanted.iter().zip(running).all(fits);
    Ok((is_unfit || is_moved).then_some(wanted))
}

impl Control {
    /// Replaces the workers if they no longer fit the devices. What fails is a problem and tried again with the next event: a device that
    /// was just made is often not up yet. Until there are plans and programs for new workers, those that run stay.
    ///
    /// Returns whether there are new workers.
    pub async fn rework(&mut self) -> bool {
        if let Err(error) = self.follow_hostlink_mtu().await {
            tracing::error!("{error:#}");
        }
        if !self.node.present.iter().all(|present| *present) {
            return false;
        }
        let prepared = self.prepare();
        self.workers_outdated = prepared.as_ref().err().map(|error| format!("no new workers for the changed uplinks: {error:#}"));
        let Ok(Some(plans)) = prepared else { return false };
        tracing::warn!("the uplinks have changed: new workers");
        self.packets.dataplane.stop();
        self.workers_missing = None;
        match self.replace_workers(plans).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{error:#}; tried again later");
                self.workers_missing = Some(format!("{error:#}"));
                false
            }
        }
    }

    /// The plans of new workers, to whose devices the programs are attached; `None` while those that run fit.
    ///
    /// # Errors
    /// The devices as they are cannot be served.
    fn prepare(&mut self) -> anyhow::Result<Option<Vec<UplinkPlan>>> {
        let is_broken = self.workers_missing.is_some() || self.is_broken();
        let is_unfit = is_broken || self.is_outgrown();
        let running = &self.packets.shape.uplinks;
        let Some(mut plans) = replacement(running, self.plan(), is_unfit)? else { return Ok(None) };
        for plan in &mut plans {
            if let Some(before) = running.iter().find(|before| before.name == plan.name) {
                (plan.xdp, plan.bind) = (before.xdp, before.bind);
            }
        }
        let has_programs = |plan: &&UplinkPlan| !is_broken && (plan.queues > 0 || plan.role == Role::Bond);
        let mut attached: Vec<u32> = running.iter().filter(has_programs).map(|plan| plan.ifindex).collect();
        while !attach_uplinks(&self.programs, &mut plans, self.config.mode, &attached)? {
            // The programs have to know that some uplink is generic; those that are attached are replaced in place.
            self.load.generic_uplinks = true;
            self.programs = programs::load(self.load.clone())?;
            self.servers.board.set_tables(self.parts.flows.clone(), Arc::clone(&self.programs.counters));
            attach_hostlink(&self.programs, &self.node.hostlink)?;
            self.node.attach_edges(&self.programs, &self.tables.snapshot().devices);
            attached.clear();
        }
        // Nothing may be left to do: a member whose programs were refused before is refused again.
        replacement(&self.packets.shape.uplinks, Ok(plans), is_unfit)
    }

    /// Whether packets are larger than the workers can take.
    fn is_outgrown(&self) -> bool {
        let plans = &self.packets.shape.uplinks;
        // Sockets for packets that do not come any more do no harm; new workers would.
        let outgrown = |multi_buffer: bool, mtu: u32| !multi_buffer && FrameSize::is_spanned_by(mtu);
        let grown = plans.iter().zip(&self.node.uplinks).any(|(plan, uplink)| outgrown(plan.multi_buffer, uplink.mtu))
            || outgrown(self.packets.shape.hostlink.multi_buffer, self.node.hostlink.mtu);
        grown || self.frame_size() != self.packets.shape.frame_size
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

    async fn replace_workers(&mut self, plans: Vec<UplinkPlan>) -> anyhow::Result<()> {
        for before in &self.packets.shape.uplinks {
            if !plans.iter().any(|plan| plan.ifindex == before.ifindex) {
                self.programs.detach_uplink(before.ifindex)?;
            }
        }
        self.programs.uplinks.set(&bonds::uses(&plans, &self.node.uplinks, &self.node.bonds))?;
        self.load.generic_uplinks = plans.iter().any(|plan| plan.xdp == XdpMode::Generic);
        let internal_ips = self.internal_ips();
        self.tables.set_bonds(bonds::ports(&plans, &self.node.bonds));
        self.tables.set_node(self.node.uplinks.clone(), &internal_ips);
        let hostlink = hostlink_plan(&self.node.hostlink);
        let shape = Shape { uplinks: plans, hostlink, frame_size: self.frame_size(), ..self.packets.shape.clone() };
        self.packets = Packets::start(shape, &self.parts, self.tables.snapshot()).context("cannot serve the changed uplinks")?;
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

#[cfg(test)]
mod tests {
    use ringway_io::BindWanted;

    use super::*;

    /// A NIC, a bond, and its members with these queues.
    fn plans(members: &[u32]) -> Vec<UplinkPlan> {
        let roles = [(Role::Nic, 2), (Role::Bond, 0)].into_iter().chain(members.iter().map(|queues| (Role::Member(1), *queues)));
        let plan = |(ifindex, (role, queues))| {
            let (name, xdp, bind) = (format!("eth{ifindex}"), XdpMode::Native, BindWanted::Auto);
            UplinkPlan { role, name, ifindex, mac: [2; 6], queues, refused: None, base: 0, xdp, bind, multi_buffer: false }
        };
        (1..).zip(roles).map(plan).collect()
    }

    #[test]
    fn what_cannot_be_planned_leaves_the_workers_that_run() {
        for is_unfit in [false, true] {
            let planned = replacement(&plans(&[2, 2]), Err(anyhow::anyhow!("1025 queues")), is_unfit);
            assert_eq!(planned.unwrap_err().to_string(), "1025 queues");
        }
    }

    #[test]
    fn a_refused_member_replaces_workers_once() {
        let refused = |mut plans: Vec<UplinkPlan>| {
            plans.last_mut().unwrap().refuse("somebody else's program is there".into());
            plans
        };
        let replaced = |running: &[UplinkPlan], wanted: Vec<UplinkPlan>| replacement(running, Ok(wanted), false).unwrap().is_some();
        let running = refused(plans(&[2, 2]));
        assert!(replaced(&plans(&[2]), running.clone()), "it comes");
        assert!(!replaced(&running, refused(plans(&[2, 2]))), "it is refused again");
        assert!(replaced(&running, plans(&[2, 2])), "it is accepted");
        assert!(replacement(&running, Ok(running.clone()), true).unwrap().is_some(), "something else is unfit");
    }

    #[test]
    fn plans_that_differ_replace_workers() {
        let replaced = |wanted: Vec<UplinkPlan>| replacement(&plans(&[2, 2]), Ok(wanted), false).unwrap().is_some();
        assert!(!replaced(plans(&[2, 2])) && !replaced(plans(&[2, 0])), "one that is down");
        assert!(replaced(plans(&[2])) && replaced(plans(&[2, 4])) && replaced(plans(&[2, 2, 0])));
        let mut anew = plans(&[2, 2]);
        anew[0].ifindex = 9;
        assert!(replaced(anew));
    }
}
