//! What the control half and the workers share.

use std::net::Ipv4Addr;

/// A worker's wish: the MAC of this neighbor, because packets wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighborRequest {
    pub ifindex: u32,
    pub address: Ipv4Addr,
}
