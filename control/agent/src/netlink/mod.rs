//! The kernel's view of this network namespace, followed and asked for over rtnetlink.
//!
//! ```text
//! links ─┐                        ┌─▶ Devices
//! addresses, routes, rules ─┼─▶ Follower ─┼─▶ Fib        (engine tables, immutable, only what changed)
//! neighbors, FDB ─┘                        └─▶ Neighbors
//! ```
//!
//! What Ringway itself puts into the kernel stands beside it: the [`Hostlink`], the [`Routes`], and what [`cleanup`] removes.
//! Every socket opened here belongs to the network namespace of the calling thread.

mod cleanup;
mod convert;
mod facts;
mod follower;
mod hostlink;
mod kernel;
mod resolver;
mod routes;
mod socket;
mod view;

pub use cleanup::cleanup;
pub use facts::NetworkFacts;
pub use follower::{Follower, FollowerConfig};
pub use hostlink::{Hostlink, HostlinkAction, HostlinkConfig};
pub use resolver::{REFRESH_INTERVAL, Resolver, next_hops};
pub use routes::{Reconciled, RouteConflict, Routes};
pub use socket::NetlinkError;
pub use view::{Event, LocalAddress, Update};

/// Our devices: `rw0` is the workers' side, `rw1` the host's.
pub const RW0: &str = "rw0";
/// See [`RW0`].
pub const RW1: &str = "rw1";

/// Gateway of the routes on `rw1`: a link-local address that exists only as a permanent neighbor.
pub const HOSTLINK_GATEWAY: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 82, 2);

/// `proto` of every route that Ringway adds (`ip route show proto 82`): what carries it is ours, what does not is never touched.
pub const ROUTE_PROTOCOL: u8 = 82;
