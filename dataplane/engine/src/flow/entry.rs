//! The flow entry: one direction of a flow, 64 bytes for IPv4 and 128 for IPv6, shared with the BPF programs.
//!
//! The layout is that of `struct flow4` and `struct flow6` in `xdp-redirect/src/bpf/flow.h`; a test compares both sides.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU16, AtomicU32};

use crate::family::{Family, V4, V6};

/// Where a packet is looked at. Part of the flow key, for one tuple passes several hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// tc ingress of a pod's host-side device: packets *from* the pod. Zone = ifindex.
    PodIn = 0,
    /// tc egress of a pod's host-side device: packets *to* the pod. Zone = ifindex.
    PodOut = 1,
    /// XDP or tc ingress of any uplink. Zone = 0.
    UplinkIn = 2,
    /// tc egress of any uplink. Zone = 0.
    UplinkOut = 3,
    /// tc egress of `rw1`: packets of the node's own sockets. Zone = 0.
    NodeOut = 4,
}

impl Hook {
    /// The hook of a value that came over the hostlink or out of shared memory.
    pub fn from_u8(value: u8) -> Option<Hook> {
        [Hook::PodIn, Hook::PodOut, Hook::UplinkIn, Hook::UplinkOut, Hook::NodeOut].get(usize::from(value)).copied()
    }
}

/// What follows the rewrite; `enum flow_op` in `flow.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowOp {
    /// Go on through the kernel.
    Pass = 0,
    /// Write `dmac` as destination and go on: a bridge switches it.
    Bridge = 1,
    /// Write `dmac`, `bpf_redirect_peer(ifindex)`: into the pod's own network namespace.
    Peer = 2,
    /// `bpf_redirect_neigh(ifindex)`: out of that device, the kernel resolves the neighbor.
    Neigh = 3,
    /// Write `dmac`, mark, `bpf_redirect(ifindex, BPF_F_INGRESS)`: as if received there.
    Received = 4,
    /// A worker executes this entry.
    Worker = 5,
}

impl FlowOp {
    /// The op in the low byte of [`FlowSlot::flags`].
    pub fn from_flags(flags: u16) -> Option<FlowOp> {
        use FlowOp::*;
        [Pass, Bridge, Peer, Neigh, Received, Worker].get((flags & 0xff) as usize).copied()
    }
}

/// Bit of [`FlowSlot::flags`]: this entry matches client → frontend.
pub const FLOW_FORWARD: u16 = 0x100;
/// Bit of [`FlowSlot::flags`]: the flow holds a NAT binding (an address or port of ours as source).
pub const FLOW_SNAT: u16 = 0x200;

/// Bits of [`FlowSlot::seen`]: TCP flags (RFC 9293 §3.1) of the packets that hit the entry, but for those that fit into no connection.
/// A reset is noted in both entries, so that segments of either side are looked at closely.
pub const SEEN_FIN: u32 = 0x01;
pub const SEEN_SYN: u32 = 0x02;
pub const SEEN_RST: u32 = 0x04;
pub const SEEN_ACK: u32 = 0x10;
/// Bit of [`FlowSlot::seen`]: any packet hit the entry.
pub const SEEN_ANY: u32 = 0x100;
/// Bit of [`FlowSlot::seen`] of a forward entry: the backend stopped serving (UDP), so the next packet is the first of a new flow; or it
/// is gone (TCP), so the next packet is answered by a reset, but for a SYN, which is the first of a new one.
pub const SEEN_STOPPED: u32 = 0x200;
/// Bit of [`FlowSlot::seen`]: the upper half of it is known.
pub const SEEN_POSITION: u32 = 0x400;
/// Bit of [`FlowSlot::seen`] of a forward entry: a SYN of the client went to the backend, [`FlowSlot::asked`], and the connection is not complete.
pub const SEEN_ASKED: u32 = 0x800;
/// Bit of [`FlowSlot::seen`] of a forward entry: client and backend are asked whether the connection lives that is said to be reset.
pub const SEEN_CHALLENGED: u32 = 0x1000;
/// The upper half of [`FlowSlot::seen`] is that of a TCP sequence number.
pub const POSITION_SHIFT: u32 = 16;
pub const POSITION_MASK: u32 = u32::MAX << POSITION_SHIFT;

/// [`FlowSlot::last`] and [`FlowSlot::created`] count `CLOCK_MONOTONIC` in units of 2^24 ns (16.8 ms).
pub const TICK_SHIFT: u32 = 24;
/// Ticks in about one second.
pub const TICKS_PER_SECOND: u32 = 60;

/// What an entry matches. Addresses and ports in network byte order, as they stand in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<F: Family = V4> {
    /// Source address as read from the packet ([`Family::read`]).
    pub saddr: F::Address,
    /// Destination address, likewise.
    pub daddr: F::Address,
    /// The first four bytes of the L4 header (`from_ne_bytes`): source and destination port.
    pub ports: u32,
    /// `zone << 11 | hook << 8 | protocol`, see [`FlowKey::meta_of`]. Never 0 in a key.
    pub meta: u32,
}

/// Addresses and ports as the entry writes them, in network byte order like [`FlowKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<F: Family = V4> {
    pub saddr: F::Address,
    pub daddr: F::Address,
    pub ports: u32,
}

/// What an entry does to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite<F: Family = V4> {
    pub tuple: Tuple<F>,
    pub op: FlowOp,
    /// Device of `op`, 0 where it needs none.
    pub ifindex: u32,
    /// Destination MAC of `op`, zero where it needs none.
    pub dmac: [u8; 6],
}

/// One slot of the flow table. Only atomics: BPF programs and all workers read it at any time.
///
/// Rule: key and rewrite never change while `meta != 0`. `meta` is stored last, with release, and cleared first.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct FlowSlot<F: Family = V4> {
    pub saddr: F::AtomicAddress,
    pub daddr: F::AtomicAddress,
    pub ports: AtomicU32,
    /// 0 = empty.
    pub meta: AtomicU32,
    pub new_saddr: F::AtomicAddress,
    pub new_daddr: F::AtomicAddress,
    pub new_ports: AtomicU32,
    /// [`FlowOp`] in the low byte, `FLOW_*` bits.
    pub flags: AtomicU16,
    /// Of a forward entry, with [`SEEN_ASKED`]: upper half of the sequence number of the client's last SYN. Neither key nor rewrite.
    pub asked: AtomicU16,
    /// Folded ones-complement difference of the addresses, new − old.
    pub addr_diff: AtomicU16,
    /// Folded ones-complement difference of the ports, new − old.
    pub port_diff: AtomicU16,
    pub ifindex: AtomicU32,
    /// `dmac` as three 16-bit words in memory order.
    pub dmac: [AtomicU16; 3],
    /// Not of this entry but, in the first slot of a bucket, of the bucket: how many entries of which it is the first bucket found no
    /// slot in their two and lie in one of [`overflow_bucket_of`](super::overflow_bucket_of).
    pub overflowed: AtomicU16,
    /// `SEEN_*` in the lower half; in the upper one, with [`SEEN_POSITION`], that of the last TCP sequence number of this direction's sender.
    pub seen: AtomicU32,
    /// Tick of the last packet; readers refresh it at most once a second.
    pub last: AtomicU32,
    /// Tick of creation.
    pub created: AtomicU32,
    /// Slot of the other direction.
    pub peer: AtomicU32,
}

const _: () = assert!(std::mem::size_of::<FlowSlot<V4>>() == 64 && std::mem::size_of::<FlowSlot<V6>>() == 128);

/// Entries in a bucket.
pub const BUCKET_ENTRIES: usize = 4;

impl<F: Family> FlowKey<F> {
    /// Packs the part of the key that is not in the packet.
    pub fn meta_of(zone: u32, hook: Hook, protocol: u8) -> u32 {
        zone << 11 | (hook as u32) << 8 | u32::from(protocol)
    }

    /// Builds a key from host-order values.
    pub fn new(src: (F::Ip, u16), dst: (F::Ip, u16), zone: u32, hook: Hook, protocol: u8) -> FlowKey<F> {
        let tuple = Tuple::<F>::new(src, dst);
        FlowKey { saddr: tuple.saddr, daddr: tuple.daddr, ports: tuple.ports, meta: FlowKey::<F>::meta_of(zone, hook, protocol) }
    }

    pub fn tuple(&self) -> Tuple<F> {
        Tuple { saddr: self.saddr, daddr: self.daddr, ports: self.ports }
    }

    pub fn protocol(&self) -> u8 {
        self.meta as u8
    }

    pub fn hook(&self) -> Option<Hook> {
        Hook::from_u8((self.meta >> 8) as u8 & 7)
    }

    /// The ifindex of a pod's device, 0 elsewhere.
    pub fn zone(&self) -> u32 {
        self.meta >> 11
    }
}

impl<F: Family> Tuple<F> {
    pub fn new(src: (F::Ip, u16), dst: (F::Ip, u16)) -> Tuple<F> {
        let (s, d) = (src.1.to_be_bytes(), dst.1.to_be_bytes());
        Tuple { saddr: F::from_ip(src.0), daddr: F::from_ip(dst.0), ports: u32::from_ne_bytes([s[0], s[1], d[0], d[1]]) }
    }

    pub fn src(&self) -> (F::Ip, u16) {
        let p = self.ports.to_ne_bytes();
        (F::to_ip(self.saddr), u16::from_be_bytes([p[0], p[1]]))
    }

    pub fn dst(&self) -> (F::Ip, u16) {
        let p = self.ports.to_ne_bytes();
        (F::to_ip(self.daddr), u16::from_be_bytes([p[2], p[3]]))
    }

    /// The tuple of the packets that answer this one.
    pub fn reversed(&self) -> Tuple<F> {
        let (s, d) = (self.src(), self.dst());
        Tuple::new(d, s)
    }

    /// This tuple as a key at a hook.
    pub fn at(&self, zone: u32, hook: Hook, protocol: u8) -> FlowKey<F> {
        FlowKey { saddr: self.saddr, daddr: self.daddr, ports: self.ports, meta: FlowKey::<F>::meta_of(zone, hook, protocol) }
    }
}

impl<F: Family> FlowSlot<F> {
    /// Destination MAC of the op.
    #[inline]
    pub fn dmac(&self) -> [u8; 6] {
        let [a, b, c] = self.dmac.each_ref().map(|word| word.load(Relaxed).to_ne_bytes());
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }
}
