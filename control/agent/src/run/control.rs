//! The control loop: one event after the other, each to its end.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use ipnet::IpNet;
use ringway_engine::tables::{DeviceKind, FibResult};
use ringway_model::{Change, Compiler, IpFamily, Left, NodePortAddresses};
use rustc_hash::FxHashSet;
use xdp_redirect::{LoadOptions, Programs};

use super::announce::{Announcer, Stations};
use super::clients::Way;
use super::hops::{Hops, backends_of};
use super::misplaced::Misplaced;
use super::node::Node;
use super::objects::Objects;
use super::packets::{Packets, Parts};
use super::sources::{Event, Sources, StopSignals};
use super::stopped;
use super::{bonds, doubted, gone};
use crate::config::{Config, OnStop};
use crate::filter::FilterKey;
use crate::health::{PortsChange, Servers};
use crate::netlink::{RouteConflict, Routes, Update};
use crate::programs::KernelMaps;
use crate::status::socket_path;
use crate::tables::{Applied, Tables, internal_ips};
use crate::{cleanup, netlink};

/// Tells the servers what they have to know of an update that is about to be published, and takes their part out of it.
pub fn note_update(servers: &Servers, compiler: &Compiler, node_name: &str, update: &mut ringway_model::Update) {
    servers.board.take_changes(std::mem::take(&mut update.changed), compiler.no_local_endpoints());
    servers.board.set_node(compiler.cluster().node(node_name).map(|node| node.is_eligible()));
    if !update.health_checks.is_empty() {
        servers.change_ports(PortsChange::Checks(std::mem::take(&mut update.health_checks)));
    }
}

/// Tells the servers where health check ports answer: in each family on the NodePorts' addresses if these are restricted, else on all.
pub fn note_addresses(servers: &Servers, compiler: &Compiler, restriction: &NodePortAddresses) {
    let addresses = IpFamily::BOTH.into_iter().flat_map(|family| {
        let is_restricted = match restriction {
            NodePortAddresses::Primary => false,
            NodePortAddresses::Within(nets) => !nets.iter().any(|net| IpFamily::of(&net.addr()) == family && net.prefix_len() == 0),
        };
        let some = compiler.node_port_addresses().iter().filter(move |address| is_restricted && IpFamily::of(address) == family);
        some.copied().chain((!is_restricted).then(|| family.unspecified()))
    });
    servers.change_ports(PortsChange::Addresses(addresses.collect()));
}

/// Everything that the control half holds.
pub struct Control {
    pub config: Config,
    pub servers: Servers,
    pub started: Instant,
    /// How the programs were loaded.
    pub load: LoadOptions,
    pub programs: Programs,
    pub parts: Parts,
    pub packets: Packets,
    /// Why the workers could not be replaced; tried again.
    pub workers_missing: Option<String>,
    /// Why the workers that run do not follow the uplinks, which have changed; tried again.
    pub workers_outdated: Option<String>,
    pub node: Node,
    pub tables: Tables,
    pub compiler: Compiler,
    pub objects: Objects,
    pub routes: Routes,
    /// Whose routes were asked for last.
    pub routed: FxHashSet<IpNet>,
    /// And with which MTU.
    pub routed_mtu: Option<u32>,
    pub route_conflicts: Vec<RouteConflict>,
    pub hops: Hops,
    pub announcer: Announcer,
    pub teller: gone::Teller,
    /// Looked for with each refresh.
    pub misplaced: Misplaced,
    /// Problems that were logged already and still stand.
    pub logged: BTreeSet<String>,
}

impl Control {
    /// The last steps of the start: routes, neighbors, announcement.
    pub async fn finish_start(&mut self, announced: Vec<IpAddr>, waited: Instant) {
        self.add_routes().await;
        // What sends packets of the node there comes after the routes, and ready after both.
        self.tables.filter.after_snapshot(&mut KernelMaps(&self.programs));
        let dataplane = &self.packets.dataplane;
        self.servers.board.set_dataplane(Arc::clone(dataplane));
        self.servers.board.published(dataplane.publisher().current().generation);
        self.hops.refresh(&self.tables.snapshot()).await;
        self.announcer.announce(announced);
        self.log_problems();
        let node = self.tables.node();
        let of = |address: Option<IpAddr>, family| address.map_or_else(|| format!("no {family} address"), |address| address.to_string());
        tracing::info!(
            "ready: node {} ({}, {}), {} workers, {} frontends, {} ms after the wait for the objects of the apiserver",
            node.name,
            of(node.addresses.v4.map(IpAddr::from), IpFamily::V4),
            of(node.addresses.v6.map(IpAddr::from), IpFamily::V6),
            self.packets.shape.workers,
            self.tables.snapshot().frontends.len(),
            waited.elapsed().as_millis()
        );
        doubted::ask(self.parts.flows.clone(), Arc::clone(&self.servers.board));
        // Their flows were kept, and nobody was there to tell their clients.
        if let Some(source) = self.objects.apiserver() {
            self.tell_clients(self.compiler.left_since(&source.take_earlier()));
        }
        tokio::task::spawn_blocking(ringway_io::release_free_memory);
    }

    /// Serves until a signal comes, and returns its name.
    ///
    /// # Errors
    /// The kernel's tables cannot be followed any more: everything stays as it is for the next start.
    pub async fn serve(&mut self, sources: &mut Sources, signals: &mut StopSignals) -> anyhow::Result<&'static str> {
        loop {
            let event = tokio::select! {
                biased;
                signal = signals.received() => return Ok(signal),
                event = sources.next(&self.packets) => event?,
            };
            self.servers.board.turn_begins();
            match event {
                Event::Kernel(update) => self.apply_kernel(&update).await?,
                Event::Manifests => {
                    let changes = self.objects.scan();
                    self.apply_objects(changes).await;
                }
                Event::Apiserver => {
                    let changes = self.objects.take();
                    self.apply_objects(changes).await;
                }
                Event::Workers => self.look_at_workers().await,
                Event::Question(question) => self.answer(question),
                Event::Ports => self.log_problems(),
                Event::Refresh => self.refresh().await,
            }
            self.servers.board.turn_ends();
        }
    }

    async fn apply_kernel(&mut self, update: &Update) -> anyhow::Result<()> {
        self.tables.apply_netlink(update);
        let devices = Arc::clone(&self.tables.snapshot().devices);
        if devices.get(self.node.hostlink.rw1_ifindex).is_none() {
            anyhow::bail!("the hostlink was removed by somebody else: start again");
        }
        let change = self.node.apply(&self.programs, update, &devices);
        let carriers = self.tables.snapshot().node.bonds.clone();
        let moved = change.bonds_changed && self.follow_bonds(&carriers);
        let mut applied = Applied::default();
        if change.addresses_changed {
            let addresses = self.tables.device_addresses(&self.node.uplinks);
            applied = self.tables.apply_model(self.compiler.set_device_addresses(addresses));
            note_addresses(&self.servers, &self.compiler, &self.config.node_port_addresses);
        }
        // Before what asks devices, which waits for whoever configures one: until then packets leave by a member that has failed.
        let mut generation = self.publish().await;
        if update.neighbors.is_some() || update.devices.is_some() {
            self.repair_hostlink().await;
        }
        let reworked = (update.devices.is_some() || change.bonds_changed) && self.rework().await;
        if reworked {
            generation = self.publish().await;
        }
        stopped::end_flows(&self.parts.flows, self.packets.dataplane.publisher(), generation, applied.stopped);
        let is_resized = update.devices.is_some() && self.route_mtu() != self.routed_mtu;
        if change.addresses_changed || is_resized || update.fib.is_some() && self.misses_routes() {
            self.add_routes().await;
        }
        if change.macs_changed || moved || reworked {
            applied.announced = self.tables.snapshot().announced.iter().copied().collect();
        }
        self.announcer.announce(applied.announced);
        Ok(())
    }

    async fn apply_objects(&mut self, changes: Vec<Change>) {
        self.servers.board.set_objects_known(self.objects.are_known());
        if !changes.is_empty() {
            let mut update = self.compiler.apply(changes);
            note_update(&self.servers, &self.compiler, &self.config.node_name, &mut update);
            let backends = backends_of(update.frontends.iter().filter_map(|(_, frontend)| frontend.as_deref()));
            let left = std::mem::take(&mut update.left);
            let applied = self.tables.apply_model(update);
            let generation = self.publish().await;
            self.tell_clients(left);
            stopped::end_flows(&self.parts.flows, self.packets.dataplane.publisher(), generation, applied.stopped);
            self.announcer.announce(applied.announced);
            self.hops.follow_backends(&self.tables.snapshot(), backends).await;
        }
        self.log_problems();
    }

    /// Endpoints that left may be gone.
    fn tell_clients(&self, left: Vec<Left>) {
        let Some(source) = self.objects.apiserver().filter(|_| !left.is_empty()) else { return };
        let place = gone::Place {
            flows: self.parts.flows.clone(),
            way: Way::by(Arc::clone(&self.packets.dataplane)),
            source,
            kept: self.compiler.cluster().keepers().clone(),
        };
        self.teller.tell(place, left);
    }

    /// Publishes what the tables have become: removals before, the snapshot, additions after. Returns the generation.
    async fn publish(&mut self) -> u64 {
        let internal_ips = self.internal_ips();
        self.tables.set_bonds(bonds::ports(&self.packets.shape.uplinks, &self.node.bonds));
        self.tables.set_node(self.node.uplinks.clone(), &internal_ips);
        self.tables.filter.before_snapshot(&mut KernelMaps(&self.programs));
        self.remove_routes().await;
        let generation = self.packets.dataplane.publisher().publish(self.tables.snapshot());
        self.servers.board.published(generation);
        // The routes before what sends packets of the node there.
        if self.tables.routed() != self.routed {
            self.add_routes().await;
        }
        self.tables.filter.after_snapshot(&mut KernelMaps(&self.programs));
        self.end_draining().await;
        self.announcer.set_stations(self.stations());
        tracing::debug!("generation {generation} published");
        generation
    }

    /// Frontends that were removed and have no flow any more are forgotten.
    async fn end_draining(&mut self) {
        let draining: Vec<_> = self.tables.filter.draining().map(|(key, _)| key).collect();
        if draining.is_empty() {
            return;
        }
        let in_use = stopped::in_use(&self.parts.flows);
        for key in draining.into_iter().filter(|key| !in_use.contains(key)) {
            self.tables.filter.want(FilterKey::Frontend(key), None);
        }
        self.tables.filter.before_snapshot(&mut KernelMaps(&self.programs));
        if self.tables.routed() != self.routed {
            self.remove_routes().await;
        }
    }

    pub fn stations(&self) -> Stations {
        let announced = Arc::clone(&self.tables.snapshot().announced);
        Stations { dataplane: Arc::clone(&self.packets.dataplane), uplinks: self.node.uplinks.clone(), announced }
    }

    async fn remove_routes(&mut self) {
        let wanted = self.tables.routed();
        // What becomes part of a ServiceCIDR, and a ServiceCIDR whose addresses get their own routes, waits until those are there.
        let cidrs: Vec<&IpNet> = wanted.iter().filter(|net| !is_single(net)).collect();
        let is_over = |net: &IpNet| is_single(net) && !wanted.contains(net) && !cidrs.iter().any(|cidr| cidr.contains(net));
        if self.routed.iter().any(is_over) {
            let kept = self.routed.iter().filter(|net| !is_over(net)).copied().collect();
            self.reconcile_routes(kept).await;
        }
    }

    /// Whether somebody, or the kernel when `rw1` was down, has removed a route of ours.
    fn misses_routes(&self) -> bool {
        let (node, fib) = (&self.tables.node(), &self.tables.snapshot().fib);
        let is_there = |source: IpAddr, net: &IpNet| match fib.lookup(source, net.network(), None, 0) {
            FibResult::Via { ifindex, .. } => ifindex == node.rw1_ifindex,
            FibResult::Local => true,
            FibResult::None => false,
        };
        // Without an address of its own in a family the node cannot be a client there, and there are no routes.
        let source_of = |net: &IpNet| match net {
            IpNet::V4(_) => node.addresses.v4.map(IpAddr::from),
            IpNet::V6(_) => node.addresses.v6.map(IpAddr::from),
        };
        !self.routed.iter().all(|net| source_of(net).is_none_or(|source| is_there(source, net)))
    }

    /// The MTU of the narrowest way that leads from `rw1` to backends, if that is narrower than `rw1`: `edge` sends the node's packets straight
    /// out of pods' devices, overlays and uplinks, where nobody would divide those that are too large for them, or say so.
    fn route_mtu(&self) -> Option<u32> {
        let devices = &self.tables.snapshot().devices;
        let leads_there = |kind| matches!(kind, DeviceKind::Pod | DeviceKind::Overlay { .. } | DeviceKind::Uplink(_));
        let narrowest = devices.by_index.values().filter(|device| leads_there(device.kind)).map(|device| device.mtu).min()?;
        (narrowest < self.node.hostlink.mtu).then_some(narrowest)
    }

    async fn add_routes(&mut self) {
        let wanted = self.tables.routed();
        let cidrs = |nets: &FxHashSet<IpNet>| nets.iter().filter(|net| !is_single(net)).copied().collect::<BTreeSet<_>>();
        if cidrs(&wanted) != cidrs(&self.routed) {
            // First what is new, then without what it replaces: at no moment is an address without its route.
            let both = wanted.union(&self.routed).copied().collect();
            self.reconcile_routes(both).await;
        }
        self.reconcile_routes(self.tables.routed()).await;
    }

    async fn reconcile_routes(&mut self, wanted: FxHashSet<IpNet>) {
        let sources = self.tables.node().addresses;
        let mtu = self.route_mtu();
        match self.routes.reconcile(&wanted, sources, mtu).await {
            Ok(reconciled) => {
                self.routed_mtu = mtu;
                let refused = reconciled.conflicts.iter().map(|conflict| conflict.net).filter(|net| !is_single(net));
                self.tables.refuse_cidrs(refused.collect());
                self.route_conflicts = reconciled.conflicts;
                self.routed = wanted;
            }
            Err(error) => tracing::error!("cannot set the routes into the hostlink: {error}"),
        }
    }

    async fn look_at_workers(&mut self) {
        self.servers.board.settle();
        self.hops.resolve_requests(&self.packets.dataplane, &self.tables.snapshot()).await;
        if !self.worker_problems().is_empty() {
            self.log_problems();
        }
    }

    async fn refresh(&mut self) {
        self.repair_hostlink().await;
        self.hops.refresh(&self.tables.snapshot()).await;
        self.end_draining().await;
        self.misplaced.look(&self.tables.snapshot(), &self.objects.pods());
        if self.rework().await {
            self.publish().await;
            self.announcer.announce(self.tables.snapshot().announced.iter().copied().collect());
        }
        self.servers.board.set_objects_known(self.objects.are_known());
        self.log_problems();
    }

    pub fn internal_ips(&self) -> Vec<IpAddr> {
        internal_ips(&self.compiler, &self.config.node_name)
    }

    /// Ends as `--on-stop` says.
    ///
    /// # Errors
    /// Something could not be removed; `ringway cleanup` tries again.
    pub async fn stop(self) -> anyhow::Result<()> {
        let has_successor = !self.objects.apiserver().is_some_and(|source| source.is_daemonset_deleted());
        self.objects.stop();
        match self.config.on_stop {
            OnStop::Keep if has_successor => self.leave(),
            OnStop::Keep | OnStop::Remove => self.remove().await,
        }
    }

    /// Transmits what the workers hold and leaves programs, flows, routes and the hostlink to the next process.
    fn leave(self) -> anyhow::Result<()> {
        self.packets.dataplane.stop();
        let socket = socket_path(&self.config.state_dir);
        std::fs::remove_file(&socket).with_context(|| format!("cannot remove {}", socket.display()))?;
        tracing::info!("stopped; established flows live on in what stays: start again, or remove it by `ringway cleanup`");
        Ok(())
    }

    /// Stops in order: attracts nothing any more, then the workers, then the rest.
    async fn remove(mut self) -> anyhow::Result<()> {
        let keys: Vec<FilterKey> =
            self.tables.filter.wanted_keys().filter(|key| !matches!(key, FilterKey::DeviceMac(_))).copied().collect();
        for key in keys {
            self.tables.filter.want(key, None);
        }
        self.tables.filter.before_snapshot(&mut KernelMaps(&self.programs));
        self.reconcile_routes(FxHashSet::default()).await;
        xdp_redirect::cleanup(self.programs.pin_dir()).context("cannot detach the programs")?;
        self.packets.dataplane.stop();
        let kept = if self.objects.apiserver().is_some() { ", but the objects for the next start" } else { "" };
        let Control { programs, config, .. } = self;
        drop(programs);
        let removed = cleanup::remove_all(&config.state_dir).await.context("cannot remove everything; run `ringway cleanup`")?;
        tracing::debug!("removed: {}", removed.join(", "));
        tracing::info!("stopped; nothing is left behind (hostlink {} and {} included){}", netlink::RW0, netlink::RW1, kept);
        Ok(())
    }
}

/// Whether it is one address.
fn is_single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}
