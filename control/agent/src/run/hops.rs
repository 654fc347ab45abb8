//! The neighbors that packets are sent to. The kernel does not see our packets, so it would let them grow stale: we ask for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ringway_engine::tables::{DeviceKind, Frontend, Snapshot, Target};
use ringway_io::Dataplane;
use rustc_hash::FxHashSet;

use crate::netlink::{Resolver, next_hops};

/// The kernel forgets neighbors beyond `gc_thresh3`, 1024 of each family by default, so asking for more defeats itself.
const KEPT_FRESH_MAX: usize = 1_024;

/// Which neighbors are in use.
pub struct Hops {
    resolver: Resolver,
    /// A worker asked for it.
    asked: FxHashSet<(u32, IpAddr)>,
    /// Next hops of the backends.
    backends: FxHashSet<(u32, IpAddr)>,
}

impl Hops {
    /// # Errors
    /// A netlink socket cannot be opened.
    pub fn new() -> anyhow::Result<Hops> {
        Ok(Hops { resolver: Resolver::new()?, asked: FxHashSet::default(), backends: FxHashSet::default() })
    }

    /// All neighbors in use.
    pub fn in_use(&self) -> FxHashSet<(u32, IpAddr)> {
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
    pub async fn follow_backends(&mut self, snapshot: &Snapshot, backends: FxHashSet<IpAddr>) {
        let mut hops = ways(snapshot, backends);
        hops.retain(|hop| !self.backends.contains(hop));
        let new = not_too_many(hops.iter().copied());
        self.backends.extend(hops);
        self.resolve(new, snapshot).await;
    }

    /// Keeps those in use fresh. Those of a worker's wish that the kernel could not resolve are forgotten; it would ask again.
    pub async fn refresh(&mut self, snapshot: &Snapshot) {
        self.backends = ways(snapshot, backends_of(snapshot.frontends.iter().map(|(_, frontend)| &**frontend)));
        self.asked.retain(|key| snapshot.neighbors.by_address.contains_key(key));
        self.resolve(not_too_many(self.in_use().into_iter()), snapshot).await;
    }

    async fn resolve(&mut self, wanted: impl IntoIterator<Item = (u32, IpAddr)>, snapshot: &Snapshot) {
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
pub fn backends_of<'a>(frontends: impl Iterator<Item = &'a Frontend>) -> FxHashSet<IpAddr> {
    let targets = frontends.flat_map(|frontend| [&frontend.outside, &frontend.inside]);
    let sets = targets.filter_map(|target| if let Target::Backends(set) = target { Some(set) } else { None });
    // Frontends of one service share their sets.
    let mut seen = FxHashSet::default();
    sets.filter(|set| seen.insert(Arc::as_ptr(set))).flat_map(|set| set.backends.iter().map(|backend| backend.address)).collect()
}

/// Where the workers send what is for these backends: the source only matters where a rule names it, and the device where it names that.
fn ways(snapshot: &Snapshot, backends: FxHashSet<IpAddr>) -> FxHashSet<(u32, IpAddr)> {
    let addresses = snapshot.node.addresses;
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = backends.into_iter().partition(IpAddr::is_ipv4);
    let mut hops = next_hops(&snapshot.fib, addresses.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(), None, v4);
    hops.extend(next_hops(&snapshot.fib, addresses.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(), None, v6));
    hops
}

/// At most [`KEPT_FRESH_MAX`] of each family.
fn not_too_many(neighbors: impl Iterator<Item = (u32, IpAddr)>) -> Vec<(u32, IpAddr)> {
    let (mut v4, v6): (Vec<_>, Vec<_>) = neighbors.partition(|(_, address)| address.is_ipv4());
    v4.truncate(KEPT_FRESH_MAX);
    v4.extend(v6.into_iter().take(KEPT_FRESH_MAX));
    v4
}

/// Not what somebody has set for good, nor behind devices to which the kernel sends for us: it resolves what it needs there.
fn is_ours_to_ask(snapshot: &Snapshot, neighbor: &(u32, IpAddr)) -> bool {
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
        let (free, fixed) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let neighbors = Neighbors { permanent: [(1, fixed)].into_iter().collect(), ..Neighbors::default() };
        let snapshot = Snapshot { devices: Arc::new(devices), neighbors: Arc::new(neighbors), ..Snapshot::default() };
        let asked = |ifindex, address| is_ours_to_ask(&snapshot, &(ifindex, address));
        assert_eq!([1, 2, 3, 4, 5, 6].map(|ifindex| asked(ifindex, free)), [true, true, true, false, false, false]);
        assert!(!asked(1, fixed) && asked(2, fixed));
    }

    #[test]
    fn a_family_with_many_neighbors_leaves_room_for_the_other() {
        let many = (0..2 * KEPT_FRESH_MAX as u32).map(|number| (1, IpAddr::from(Ipv4Addr::from(number))));
        let few = (0..3).map(|number| (1, IpAddr::from(Ipv6Addr::from(number))));
        let asked = not_too_many(many.chain(few));
        assert_eq!(asked.len(), KEPT_FRESH_MAX + 3);
        assert_eq!(asked.iter().filter(|(_, address)| address.is_ipv6()).count(), 3);
    }
}
