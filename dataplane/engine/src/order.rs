//! Orders and upcalls: what a worker and the BPF programs tell each other in the Ethernet header of a hostlink frame.
//!
//! On the hostlink the MAC addresses are ours to use. An upcall (`edge` → worker) and an order (worker → `deliver`)
//! stand in the destination address; the source address carries the MAC that the receiver needs.
//!
//! ```text
//! upcall  destination 02:53:hook:ifindex(3, big endian)   source: the packet's own source MAC, untouched
//! order   destination 02:52:op:ifindex(3, big endian)     source: see `Order`
//! ```

use crate::flow::Hook;

const PREFIX_ORDER: [u8; 2] = [0x02, 0x52];
const PREFIX_UPCALL: [u8; 2] = [0x02, 0x53];

/// What `deliver` is to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Back as if received on the device, marked. `deliver` writes the device's own MAC as destination; the source stays.
    Received = 1,
    /// Out of the device by `bpf_redirect_neigh`, marked: the kernel writes both MACs.
    Neigh = 2,
    /// Into the network namespace behind the device by `bpf_redirect_peer`. The frame's *source* field holds the pod's MAC,
    /// which becomes the destination; the device's own MAC becomes the source.
    Peer = 3,
    /// A probe of the hostlink: `deliver` counts and drops it.
    Probe = 4,
    /// A probe of the hostlink in both directions: `deliver` counts it and sends it out of the device, which is `rw1`, as an upcall of
    /// this number, which is no hook's, by the queue whose number is the last byte of the *source* field. The worker of that queue finds it and drops it as [`crate::verdict::DropReason::Echo`].
    Echo = 64,
}

/// An upcall as read from a frame of the hostlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upcall {
    pub hook: Hook,
    /// The device at which the packet was taken (`rw1` for [`Hook::NodeOut`]).
    pub ifindex: u32,
}

/// Destination MAC of an order for `ifindex` (at most 2^24 − 1).
pub fn order_mac(order: Order, ifindex: u32) -> [u8; 6] {
    let i = ifindex.to_be_bytes();
    [PREFIX_ORDER[0], PREFIX_ORDER[1], order as u8, i[1], i[2], i[3]]
}

/// Destination MAC of an upcall; also the lladdr of the permanent neighbor on `rw1`, so that packets of the node's own
/// sockets arrive as upcalls of [`Hook::NodeOut`].
pub fn upcall_mac(upcall: Upcall) -> [u8; 6] {
    let i = upcall.ifindex.to_be_bytes();
    [PREFIX_UPCALL[0], PREFIX_UPCALL[1], upcall.hook as u8, i[1], i[2], i[3]]
}

/// Whether a frame of the hostlink is an echo that comes back.
pub fn is_echo(dmac: [u8; 6]) -> bool {
    dmac[..3] == [PREFIX_UPCALL[0], PREFIX_UPCALL[1], Order::Echo as u8]
}

/// Reads the upcall out of a frame's destination MAC; `None` if it is none.
pub fn parse_upcall(dmac: [u8; 6]) -> Option<Upcall> {
    if dmac[..2] != PREFIX_UPCALL {
        return None;
    }
    let hook = Hook::from_u8(dmac[2])?;
    Some(Upcall { hook, ifindex: u32::from_be_bytes([0, dmac[3], dmac[4], dmac[5]]) })
}
