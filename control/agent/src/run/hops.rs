//! The neighbors that packets are sent to. The kernel does not see our packets, so it would let them grow stale: we ask for them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ringway_engine::tables::{DeviceKind, Frontend, Snapshot, Target};
use ringway_io::Dataplane;
use rustc_hash::FxHashSet;

use crate::netlink::{Resolver, next_hops};

/// The kernel forgets neighbors beyond `gc_thresh3`, 1024 by default, so asking for more defeats itself.
const KEPT_FRESH_MAX: usize = 1_024;

/// Which neighbors are in use.
pub struct Hops {
    resolver: Resolver,
    /// A worker asked for it.
    asked: FxHashSet<(u32, Ipv4Addr)>,
    /// Next hops of the backends.
    backends: FxHashSet<(u32, Ipv4Addr)>,
}

impl Hops {
    /// # Errors
    /// A netlink socket cannot be opened.
    pub fn new() -> anyhow::Result<Hops> {
        Ok(Hops { resolver: Resolver::new()?, asked: FxHashSet::default(), backends: FxHashSet::default() })
    }

    /// All neighbors in use.
    pub fn in_use(&self) -> FxHashSet<(u32, Ipv4Addr)> {
        self.asked.union(&self.backends).copied().collect()
    }

    /// Passes the workers' wishes on to the kernel: packets wait for them.
    pub async fn resolve_requests(&mut self, dataplane: &Dataplane, snapshot: &Snapshot) {
        let wanted: FxHashSet<_> =
            std::iter::from_fn(|| dataplane.next_neighbor_request()).map(|request| (request.ifindex, request.address)).collect();
        if wanted.is_empty() {
            return;
        }
        self.asked.extend(&wanted);
        self.resolve(wanted, snapshot).await;
    }

    /// Some frontends have changed: the ways to their backends are resolved before the first packet. Those that are in use no more
    /// are forgotten by the next [`Hops::refresh`].
    pub async fn follow_backends(&mut self, snapshot: &Snapshot, backends: FxHashSet<Ipv4Addr>) {
        let mut hops = ways(snapshot, backends);
        hops.retain(|hop| !self.backends.contains(hop));
        let new: Vec<_> = hops.iter().take(KEPT_FRESH_MAX).copied().collect();
        self.backends.extend(hops);
        self.resolve(new, snapshot).await;
    }

    /// Keeps those in use fresh. Those of a worker's wish that the kernel could not resolve are forgotten; it would ask again.
    pub async fn refresh(&mut self, snapshot: &Snapshot) {
        self.backends = ways(snapshot, backends_of(snapshot.frontends.iter().map(|(_, frontend)| &**frontend)));
        self.asked.retain(|key| snapshot.neighbors.by_address.contains_key(key));
        let in_use: Vec<_> = self.in_use().into_iter().take(KEPT_FRESH_MAX).collect();
        self.resolve(in_use, snapshot).await;
    }

    async fn resolve(&mut self, wanted: impl IntoIterator<Item = (u32, Ipv4Addr)>, snapshot: &Snapshot) {
        let wanted = wanted.into_iter().filter(|neighbor| is_ours_to_ask(snapshot, neighbor));
        match self.resolver.resolve(wanted).await {
            Ok(refused) => {
                for (ifindex, address) in refused {
                    tracing::debug!("the kernel does not resolve {address} on device {ifindex}: it is gone or down");
                    self.asked.remove(&(ifindex, address));
                }
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

/// The addresses of the backends of these frontends.
pub fn backends_of<'a>(frontends: impl Iterator<Item = &'a Frontend>) -> FxHashSet<Ipv4Addr> {
    let targets = frontends.flat_map(|frontend| [&frontend.outside, &frontend.inside]);
    let sets = targets.filter_map(|target| if let Target::Backends(set) = target { Some(set) } else { None });
    // Frontends of one service share their sets.
    let mut seen = FxHashSet::default();
    sets.filter(|set| seen.insert(Arc::as_ptr(set))).flat_map(|set| set.backends.iter().map(|backend| backend.address)).collect()
}

/// Where the workers send what is for these backends: the source only matters where a rule names it, and the device where it names that.
fn ways(snapshot: &Snapshot, backends: FxHashSet<Ipv4Addr>) -> FxHashSet<(u32, Ipv4Addr)> {
    let source = snapshot.node.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    next_hops(&snapshot.fib, source, None, backends)
}

/// Not what somebody has set for good, nor behind devices to which the kernel sends for us: it resolves what it needs there.
fn is_ours_to_ask(snapshot: &Snapshot, neighbor: &(u32, Ipv4Addr)) -> bool {
    let kind = snapshot.devices.get(neighbor.0).map(|device| device.kind);
    let ours = matches!(kind, Some(DeviceKind::Uplink(_) | DeviceKind::Pod | DeviceKind::Bridge));
    ours && !snapshot.neighbors.permanent.contains(neighbor)
}

#[cfg(test)]
mod tests {
    use super::*;

    use ringway_engine::tables::{Device, Devices, Neighbors};

    #[test]
    fn permanent_neighbors_and_overlays_are_left_alone() {
        let device = |kind| Device { name: "d".into(), kind, mac: [0; 6], mtu: 1500, bridge: None };
        let kinds = [DeviceKind::Uplink(0), DeviceKind::Pod, DeviceKind::Bridge, DeviceKind::Overlay { ethernet: true }, DeviceKind::Other];
        let devices = Devices { by_index: (1..).zip(kinds.map(device)).collect(), ..Devices::default() };
        let (free, fixed) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let neighbors = Neighbors { permanent: [(1, fixed)].into_iter().collect(), ..Neighbors::default() };
        let snapshot = Snapshot { devices: Arc::new(devices), neighbors: Arc::new(neighbors), ..Snapshot::default() };
        let asked = |ifindex, address| is_ours_to_ask(&snapshot, &(ifindex, address));
        assert_eq!([1, 2, 3, 4, 5, 6].map(|ifindex| asked(ifindex, free)), [true, true, true, false, false, false]);
        assert!(!asked(1, fixed) && asked(2, fixed));
    }
}
