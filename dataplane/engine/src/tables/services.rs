//! Frontends and their backends: what clients may address and where it leads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use crate::affinity::Affinity;
use crate::maglev::Maglev;

/// What clients address. `protocol` is the IP protocol number (6 TCP, 17 UDP, 132 SCTP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: u8,
}

/// Stands for all NodePorts towards the node's own sockets. The kernel never routes packets for the node's own addresses elsewhere, so
/// the BPF program `node` sends a socket that uses a NodePort here, and a route leads on to the hostlink. Link-local, so it is
/// nobody's service.
pub const NODE_PORT_ALIAS: Ipv4Addr = Ipv4Addr::new(169, 254, 82, 3);

/// Stands for all load-balancer and external addresses towards the node's own sockets, with a port of its own for each frontend: such
/// an address may be the node's own, or that of a host whose other ports are none of ours.
pub const VIP_ALIAS: Ipv4Addr = Ipv4Addr::new(169, 254, 82, 4);

/// [`NODE_PORT_ALIAS`] of IPv6: of a prefix for local use (RFC 4193), for a link-local address is of one device only.
pub const NODE_PORT_ALIAS6: Ipv6Addr = Ipv6Addr::new(0xfd52, 0x696e, 0x6777, 0x6179, 0, 0, 0, 3);

/// [`VIP_ALIAS`] of IPv6.
pub const VIP_ALIAS6: Ipv6Addr = Ipv6Addr::new(0xfd52, 0x696e, 0x6777, 0x6179, 0, 0, 0, 4);

/// Whether the address stands for others towards the node's own sockets.
pub fn is_alias(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4 == NODE_PORT_ALIAS || v4 == VIP_ALIAS,
        IpAddr::V6(v6) => v6 == NODE_PORT_ALIAS6 || v6 == VIP_ALIAS6,
    }
}

/// Which address of a Service a frontend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrontendKind {
    ClusterIp,
    NodePort,
    LoadBalancerIp,
    ExternalIp,
}

/// The name of a service port as Kubernetes users know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Empty for an unnamed port.
    pub port: Arc<str>,
}

/// Address and port of a pod or host-network process that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    /// The endpoint's `nodeName` is this node.
    pub local: bool,
}

/// Backends among which one is selected. Never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct BackendSet {
    pub backends: Box<[Backend]>,
    /// Present where other nodes announce the same address, so that all nodes agree.
    pub maglev: Option<Maglev>,
}

/// Where packets of one kind of client go (contract §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Backends(Arc<BackendSet>),
    /// No endpoint anywhere: reject.
    NoBackend,
    /// Policy `Local` and only remote endpoints: drop silently.
    PolicyLocal,
}

/// One frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub service: Arc<ServicePortName>,
    pub kind: FrontendKind,
    /// For packets from outside, that is, taken at an uplink.
    pub outside: Target,
    /// For packets of pods of this node and of the node itself.
    pub inside: Target,
    /// `loadBalancerSourceRanges` of this family; `None` = unrestricted. Load-balancer addresses only.
    pub source_ranges: Option<Arc<[IpNet]>>,
    /// A client sticks to its backend; all frontends of a service port have the same.
    pub affinity: Option<Affinity>,
}

/// A power of two; one shard of 10 000 services has about 40 frontends, cheap to copy when one of them changes.
const SHARDS: usize = 256;

type Shard = FxHashMap<FrontendKey, Arc<Frontend>>;

/// All frontends: an immutable map in shards, so that an update copies only the shards that it touches.
#[derive(Clone, Debug)]
pub struct Frontends {
    shards: Box<[Arc<Shard>]>,
    len: usize,
}

impl Default for Frontends {
    fn default() -> Frontends {
        let empty = Arc::new(FxHashMap::default());
        Frontends { shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(), len: 0 }
    }
}

impl Frontends {
    #[inline]
    pub fn lookup(&self, key: &FrontendKey) -> Option<&Arc<Frontend>> {
        self.shards[shard_of(key)].get(key)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (&FrontendKey, &Arc<Frontend>)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// A new generation with the changes applied; `None` removes. Untouched shards are shared.
    pub fn with<F: Into<Arc<Frontend>>>(&self, changes: impl IntoIterator<Item = (FrontendKey, Option<F>)>) -> Frontends {
        let mut next = self.clone();
        for (key, change) in changes {
            let shard = Arc::make_mut(&mut next.shards[shard_of(&key)]);
            match change {
                Some(frontend) => next.len += usize::from(shard.insert(key, frontend.into()).is_none()),
                None => next.len -= usize::from(shard.remove(&key).is_some()),
            }
        }
        next
    }
}

/// Service addresses often differ in their last bytes and their ports only: mix all of the key.
#[inline]
fn shard_of(key: &FrontendKey) -> usize {
    let address = match key.address {
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            let folded = bits as u64 ^ (bits >> 64) as u64;
            folded as u32 ^ (folded >> 32) as u32
        }
    };
    let low = address ^ (u32::from(key.port) << 8) ^ u32::from(key.protocol);
    (low.wrapping_mul(0x9e37_79b1) >> 24) as usize % SHARDS
}
