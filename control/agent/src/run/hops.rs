//! The neighbors that packets are sent to. The kernel does not see our packets, so it would let them grow stale: we ask for them.

use std::net::Ipv4Addr;

use ringway_engine::tables::{Snapshot, Target};
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
    pub async fn resolve_requests(&mut self, dataplane: &Dataplane) {
        let wanted: FxHashSet<_> =
            std::iter::from_fn(|| dataplane.next_neighbor_request()).map(|request| (request.ifindex, request.address)).collect();
        if wanted.is_empty() {
            return;
        }
        self.asked.extend(&wanted);
        self.resolve(wanted).await;
    }

    /// The backends or the ways to them have changed: resolve before the first packet.
    pub async fn follow_backends(&mut self, snapshot: &Snapshot) {
        let targets = snapshot.frontends.iter().flat_map(|(_, frontend)| [&frontend.outside, &frontend.inside]);
        let sets = targets.filter_map(|target| if let Target::Backends(set) = target { Some(set) } else { None });
        let addresses: FxHashSet<Ipv4Addr> = sets.flat_map(|set| set.backends.iter().map(|backend| backend.address)).collect();
        // From where the workers send: their source only matters where a rule names it, and the device where it names that.
        let source = snapshot.node.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let hops = next_hops(&snapshot.fib, source, None, addresses);
        let new: Vec<_> = hops.difference(&self.backends).take(KEPT_FRESH_MAX).copied().collect();
        self.backends = hops;
        self.resolve(new).await;
    }

    /// Keeps those in use fresh. Those of a worker's wish that the kernel could not resolve are forgotten; it would ask again.
    pub async fn refresh(&mut self, snapshot: &Snapshot) {
        self.follow_backends(snapshot).await;
        self.asked.retain(|key| snapshot.neighbors.by_address.contains_key(key));
        let in_use: Vec<_> = self.in_use().into_iter().take(KEPT_FRESH_MAX).collect();
        self.resolve(in_use).await;
    }

    async fn resolve(&mut self, wanted: impl IntoIterator<Item = (u32, Ipv4Addr)>) {
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
