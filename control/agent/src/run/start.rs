//! The order of start.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ringway_engine::affinity::AffinityTable;
use ringway_engine::flow::{FlowTable, FlowTables, slots_for};
use ringway_engine::tables::Uplink;
use ringway_io::{FrameSize, ethtool};
use ringway_model::{Compiler, Settings};
use rustix::thread::MembarrierCommand;
use xdp_redirect::probe::xdp_features;
use xdp_redirect::{LoadOptions, Programs, XdpMode};

use super::announce::{Announcer, Stations};
use super::bonds::{self, plan_uplinks};
use super::control::{Control, note_addresses, note_update};
use super::gone::Teller;
use super::hops::Hops;
use super::node::{Node, now_ticks};
use super::objects::Objects;
use super::packets::{Packets, Parts, Shape, modes};
use super::plan::{self, HostlinkPlan, Role, SocketMaps, UplinkPlan};
use super::probe;
use super::sources::Sources;
use super::stopped;
use crate::config::{Config, Mode};
use crate::filter::Filter;
use crate::health::Servers;
use crate::manifests::Watch;
use crate::netlink::{Follower, FollowerConfig, Hostlink, HostlinkConfig, RW0, RW1, Routes, Update};
use crate::preflight::facts::{DeviceFacts, Facts};
use crate::programs;
use crate::tables::{TableSettings, Tables};

/// Starts everything; the preflight has found no error and the lock is held.
///
/// # Errors
/// What failed, on what, and what to do. What was made so far is left for the caller to remove.
pub async fn start(config: Config, facts: &Facts, servers: Servers) -> anyhow::Result<(Control, Sources)> {
    // Nothing depends on the order, but nothing decides either while this waits: so it is done before there are programs.
    let mut objects = Objects::start(&config, &servers.board).await?;
    servers.board.set_apiserver(objects.apiserver());
    servers.board.set_objects_known(objects.are_known());
    let waited = Instant::now();
    let bpffs = xdp_redirect::bpffs::ensure(&config.state_dir)?;
    if let xdp_redirect::bpffs::Mount::OwnNamespace { why } = &bpffs.mount {
        tracing::warn!("pins live in a mount namespace of this process only ({why}): flows end with it");
    }
    let nics = config.uplinks.iter().flat_map(|name| facts.nics(name));
    let workers = config.workers.unwrap_or_else(|| plan::workers_default(nics.map(|nic| nic.rx_queues), facts.cpus));
    // Before the follower starts, so that the first tables have it.
    let hostlink_config = HostlinkConfig { queues: workers as u32, mtu: hostlink_mtu(&config, facts) };
    let hostlink = Hostlink::ensure(hostlink_config).await.context("cannot make the hostlink")?;

    // Watch before reading, so that no change falls between.
    let watch = config.manifests.as_deref().map(Watch::new).transpose()?;
    let follower_config = FollowerConfig { uplinks: config.uplinks.clone(), ..FollowerConfig::default() };
    let mut follower = Follower::start(follower_config).await.context("cannot read the kernel's tables")?;
    let update = follower.changed().await.context("cannot read the kernel's tables")?;
    let uplinks = present_uplinks(&config, &update)?;
    let bonds = update.bonds.as_deref().cloned().unwrap_or_default();
    let mut plans = plan_uplinks(&uplinks, &bonds, |name| Ok(ethtool::channels(name)?.receiving()), config.mode)?;
    let mut load = LoadOptions {
        pin_dir: bpffs.path.clone(),
        flow_slots: slots_for(config.flows_max as usize),
        flow6_slots: slots_for(config.flows6_max as usize),
        affinity_slots: AffinityTable::slots_for(config.affinity_max as usize),
        rw1_ifindex: hostlink.rw1_ifindex,
        workers: workers as u32,
        generic_uplinks: plans.iter().any(|plan| plan.xdp == XdpMode::Generic),
    };
    let mut loaded = programs::load(load.clone())?;
    let node = Node::new(hostlink, uplinks, bonds, update.uplinks.as_deref().map_or(&[], Vec::as_slice));
    attach_hostlink(&loaded, &hostlink)?;
    let devices = update.devices.clone().unwrap_or_default();
    let edges = node.attach_edges(&loaded, &devices);
    while !attach_uplinks(&loaded, &mut plans, config.mode, &[])? {
        // The programs have to know that some uplink is generic; those that are attached are replaced in place.
        load.generic_uplinks = true;
        loaded = programs::load(load.clone())?;
        attach_hostlink(&loaded, &hostlink)?;
        node.attach_edges(&loaded, &devices);
    }
    loaded.uplinks.set(&bonds::uses(&plans, &node.uplinks, &node.bonds))?;
    let ifindexes: Vec<u32> = plans.iter().map(|plan| plan.ifindex).collect();
    programs::drop_stale_links(&loaded, &ifindexes, &edges)?;

    wait_for_programs().await;
    let (slots, slots6) = (loaded.flow_slots(), loaded.flow6_slots());
    let (v4, kept) = FlowTable::over(slots, config.flows_max as usize, workers, loaded.seed(), now_ticks());
    let (v6, kept6) = FlowTable::over(slots6, config.flows6_max as usize, workers, loaded.seed(), now_ticks());
    let flows = FlowTables { v4: Arc::new(v4), v6: Arc::new(v6) };
    tracing::info!("flow tables for {} IPv4 flows, {kept} kept, and {} IPv6 flows, {kept6} kept", config.flows_max, config.flows6_max);
    let filter = Filter::over(programs::filter_entries(&loaded)?);
    let mut tables = Tables::new(TableSettings::new(&config, hostlink.rw1_ifindex, hostlink.rw1_mac), filter);
    let mut compiler =
        Compiler::new(Settings { node_name: config.node_name.clone(), node_port_addresses: config.node_port_addresses.clone() });
    tables.apply_netlink(&update);
    tables.apply_model(compiler.set_device_addresses(tables.device_addresses(&node.uplinks)));
    note_addresses(&servers, &compiler, &config.node_port_addresses);
    let changes = [objects.scan(), objects.take()];
    let mut update = compiler.apply(changes.into_iter().flatten());
    note_update(&servers, &compiler, &config.node_name, &mut update);
    let announced = tables.apply_model(update).announced;
    tables.set_bonds(bonds::ports(&plans, &node.bonds));
    tables.set_node(node.uplinks.clone(), &crate::tables::internal_ips(&compiler, &config.node_name));

    tables.filter.retire_unwanted();
    // Without any object, every flow would seem to be stale.
    if objects.are_known() {
        stopped::remove_stale(&flows, &compiler, &tables);
    }
    tables.filter.before_snapshot(&mut programs::KernelMaps(&loaded));
    let maps = SocketMaps { uplinks: clone_fd(&loaded.xsks_uplinks)?, hostlink: clone_fd(&loaded.xsks_hostlink)? };
    let affinity = Arc::new(AffinityTable::over(loaded.affinity_slots(), loaded.seed()));
    let parts = Parts { flows, affinity, timeouts: config.timeouts.ticks(), maps, slots: slots.len().max(slots6.len()) };
    let frame_mtu = hostlink.mtu.max(node.uplinks.iter().map(|uplink| uplink.mtu).max().unwrap_or(0));
    let shape = Shape { uplinks: plans, hostlink: hostlink_plan(&hostlink), workers, frame_size: FrameSize::for_mtu(frame_mtu) };
    let packets = Packets::start(shape, &parts, tables.snapshot())?;
    servers.board.set_tables(parts.flows.clone(), Arc::clone(&loaded.counters));
    probe::hostlink(&packets.dataplane, &loaded).await?;

    let stations = Stations {
        dataplane: Arc::clone(&packets.dataplane),
        uplinks: node.uplinks.clone(),
        announced: Arc::clone(&tables.snapshot().announced),
    };
    let mut control = Control {
        servers,
        load,
        workers_missing: None,
        workers_outdated: None,
        routes: Routes::new(hostlink.rw1_ifindex)?,
        routed: Default::default(),
        routed_mtu: None,
        route_conflicts: Vec::new(),
        hops: Hops::new()?,
        announcer: Announcer::new(stations),
        teller: Teller::new(),
        misplaced: Default::default(),
        logged: BTreeSet::new(),
        started: Instant::now(),
        config,
        programs: loaded,
        parts,
        packets,
        node,
        tables,
        compiler,
        objects,
    };
    let sources =
        Sources::new(&control.config.state_dir, follower, watch, control.objects.apiserver(), Arc::clone(&control.servers.board))?;
    control.finish_start(announced, waited).await;
    Ok((control, sources))
}

/// Waits until every BPF program that runs now has ended: one of them may hold an entry that the earlier process cleared as it died.
async fn wait_for_programs() {
    /// Without the system call: longer than any of them takes.
    const LONG: Duration = Duration::from_secs(1);
    // An RCU grace period (kernel/sched/membarrier.c), which is what programs run under.
    let waited = tokio::task::spawn_blocking(|| rustix::thread::membarrier(MembarrierCommand::Global)).await;
    if !matches!(waited, Ok(Ok(()))) {
        tokio::time::sleep(LONG).await;
    }
}

/// The MTU for the packets of uplinks and of what may be pods' devices, see [`super::rework`] for later ones.
fn hostlink_mtu(config: &Config, facts: &Facts) -> u32 {
    let carries =
        |device: &&DeviceFacts| config.uplinks.contains(&device.name) || matches!(device.kind.as_deref(), Some("veth" | "bridge"));
    let ours = |device: &&DeviceFacts| [RW0, RW1].contains(&device.name.as_str());
    let mtus = facts.devices.iter().filter(carries).filter(|device| !ours(device)).map(|device| device.mtu);
    mtus.max().unwrap_or(1_500)
}

/// All uplinks; the preflight has seen them, but they may have gone since.
fn present_uplinks(config: &Config, update: &Update) -> anyhow::Result<Vec<Uplink>> {
    let found = update.uplinks.as_deref().cloned().unwrap_or_default();
    let uplinks = config
        .uplinks
        .iter()
        .zip(found)
        .map(|(name, uplink)| uplink.with_context(|| format!("uplink {name} has vanished: start again when it is there")));
    uplinks.collect()
}

pub fn hostlink_plan(hostlink: &Hostlink) -> HostlinkPlan {
    HostlinkPlan { rw0_ifindex: hostlink.rw0_ifindex, multi_buffer: FrameSize::is_spanned_by(hostlink.mtu) }
}

/// Attaches what serves the hostlink and the node's own sockets.
pub fn attach_hostlink(programs: &Programs, hostlink: &Hostlink) -> anyhow::Result<()> {
    programs::log_attachment("hostlink", "rw0", &programs.attach_hostlink(hostlink.rw0_ifindex)?);
    programs::log_attachment("deliver", "rw1", &programs.attach_deliver(hostlink.rw1_ifindex)?);
    programs::log_attachment("edge", "rw1", &programs.attach_edge_node(hostlink.rw1_ifindex)?);
    programs::attach_node(programs)?;
    Ok(())
}

/// Attaches `edge` and `uplink` to all uplinks but the devices that have them; of a bond, `edge` to itself and `uplink` to its members.
/// False if one of them refused native XDP: its plan now says generic, and the programs must be loaded anew. A member that refuses more
/// than that has no queues then.
///
/// # Errors
/// Somebody else's program is on an uplink that is no bond, or the wanted mode is impossible there.
pub fn attach_uplinks(programs: &Programs, plans: &mut [UplinkPlan], mode: Mode, attached: &[u32]) -> anyhow::Result<bool> {
    for plan in plans.iter_mut().filter(|plan| !attached.contains(&plan.ifindex)) {
        if !matches!(plan.role, Role::Member(_)) {
            let attachment = programs.attach_edge_uplink(plan.ifindex).with_context(|| format!("uplink {}", plan.name))?;
            programs::log_attachment("edge", &plan.name, &attachment);
        }
        if plan.queues == 0 {
            continue;
        }
        match attach_xdp(programs, plan, mode) {
            Ok(true) => {}
            Ok(false) => {
                (plan.xdp, plan.bind) = modes(Mode::Generic);
                return Ok(false);
            }
            Err(error) if matches!(plan.role, Role::Member(_)) => plan.refuse(format!("{error:#}")),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn attach_xdp(programs: &Programs, plan: &UplinkPlan, mode: Mode) -> anyhow::Result<bool> {
    // Asked here, for a socket would be refused only when the workers that run now have stopped.
    if mode == Mode::ZeroCopy && xdp_features(plan.ifindex).is_ok_and(|features| !features.zero_copy) {
        anyhow::bail!("the driver of {} has no zero-copy: use --mode auto or --mode copy", plan.name);
    }
    programs::attach_uplink(programs, &plan.name, plan.ifindex, plan.xdp, mode == Mode::Auto)
}

fn clone_fd(map: &impl AsFd) -> anyhow::Result<Arc<std::os::fd::OwnedFd>> {
    Ok(Arc::new(map.as_fd().try_clone_to_owned().context("cannot duplicate the descriptor of a map of sockets")?))
}
