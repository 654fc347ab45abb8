//! The kernel's view of this network namespace, followed and asked for over rtnetlink.
//!
//! ```text
//! links ─┐                        ┌─▶ Devices
//! addresses, routes, rules ─┼─▶ Follower ─┼─▶ Fib        (engine tables, immutable, only what changed)
//! neighbors, FDB ─┘                        └─▶ Neighbors
//! ```
//!
//! What Ringway itself puts into the kernel stands beside it: the [`Hostlink`], the [`Routes`], the multicast [`Groups`], and what
//! [`cleanup`] removes.
//! Every socket opened here belongs to the network namespace of the calling thread.

use std::net::{Ipv4Addr, Ipv6Addr};

mod bond;
mod cleanup;
mod convert;
mod facts;
mod follower;
mod groups;
mod hostlink;
mod ipv6;
mod kernel;
mod resolver;
mod routes;
mod socket;
mod view;

pub use bond::{Bond, Member, bond_mode};
pub use cleanup::cleanup;
pub use facts::NetworkFacts;
pub use follower::{Follower, FollowerConfig};
pub use groups::{GroupRefused, Groups, solicited_node};
pub use hostlink::{Hostlink, HostlinkAction, HostlinkConfig};
pub use ipv6::Ipv6;
pub use resolver::{REFRESH_INTERVAL, Resolver, next_hops};
pub use routes::{Reconciled, RouteConflict, Routes};
pub use socket::NetlinkError;
pub use view::{Event, LocalAddress, Update};

/// Our devices: `rw0` is the workers' side, `rw1` the host's.
pub const RW0: &str = "rw0";
/// See [`RW0`].
pub const RW1: &str = "rw1";

/// Gateway of the IPv4 routes on `rw1`: a link-local address that exists only as a permanent neighbor.
pub const HOSTLINK_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 82, 2);
/// That of the IPv6 routes.
pub const HOSTLINK_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x5252, 1);

/// `proto` of every route that Ringway adds (`ip route show proto 82`): what carries it is ours, what does not is never touched.
pub const ROUTE_PROTOCOL: u8 = 82;
