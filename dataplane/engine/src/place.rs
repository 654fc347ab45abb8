//! Where a packet was taken.

use crate::engine::{Origin, Packet};
use crate::flow::Hook;
use crate::order::{is_echo, parse_upcall};
use crate::tables::{DeviceKind, Snapshot, Uplink};
use crate::verdict::{DropReason, Verdict};
use crate::wire;

/// Where a packet was taken: the way back for what is not ours, and the place in the flow key.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub hook: Hook,
    /// The device that handed the packet over.
    pub ifindex: u32,
    /// `ifindex` for pods' devices, 0 elsewhere.
    pub zone: u32,
}

/// Finds where the packet was taken: the uplink itself, or what an upcall says.
#[inline]
pub fn locate(snapshot: &Snapshot, packet: &Packet<'_>) -> Result<Taken, Verdict> {
    let bad = Err(Verdict::Drop(DropReason::BadUpcall));
    match packet.origin {
        Origin::Uplink(port) => match snapshot.node.uplink_of(port) {
            Some(Uplink { ifindex, .. }) => Ok(Taken { hook: Hook::UplinkIn, ifindex: *ifindex, zone: 0 }),
            None => bad,
        },
        Origin::Host => {
            let mac = wire::destination_mac(packet.bytes);
            let Some(upcall) = parse_upcall(mac) else {
                return if is_echo(mac) { Err(Verdict::Drop(DropReason::Echo)) } else { bad };
            };
            let kind = snapshot.devices.get(upcall.ifindex).map(|device| device.kind);
            let zone = match (upcall.hook, kind) {
                (Hook::PodIn, Some(DeviceKind::Pod)) => upcall.ifindex,
                (Hook::UplinkIn, Some(DeviceKind::Uplink(_) | DeviceKind::Overlay { .. })) => 0,
                (Hook::NodeOut, _) if upcall.ifindex == snapshot.node.rw1_ifindex => 0,
                _ => return bad,
            };
            Ok(Taken { hook: upcall.hook, ifindex: upcall.ifindex, zone })
        }
    }
}

/// Whether packets from there may have unfinished checksums.
pub fn partial_checksums(snapshot: &Snapshot, origin: Origin) -> bool {
    match origin {
        Origin::Uplink(port) => snapshot.node.uplink_of(port).is_some_and(|uplink| uplink.partial_checksums),
        // `rw1` has its checksum offload off: what comes over the hostlink is complete.
        Origin::Host => false,
    }
}
