//! Endpoints of this node that no device of a pod leads to.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ringway_engine::tables::{DeviceKind, FibResult, Snapshot, Target};

/// At most so many are named; the last sentence says how many more there are.
const NAMED_MAX: usize = 20;

/// Endpoints with this node's name whose packets the kernel would send out of another device than a pod's: pods on a macvlan, an
/// ipvlan or a virtual function of the NIC bypass the node, and so us. A sentence for each.
pub fn misplaced(snapshot: &Snapshot) -> Vec<String> {
    let mut found: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
    for (_, frontend) in snapshot.frontends.iter() {
        // The short cut's list is the longer one.
        let Target::Backends(set) = &frontend.inside else { continue };
        for backend in set.backends.iter().filter(|backend| backend.local) {
            if !found.contains_key(&backend.address)
                && let Some(device) = leaves_by(snapshot, backend.address)
            {
                let service = format!("{}/{}", frontend.service.namespace, frontend.service.name);
                found.insert(
                    backend.address,
                    format!(
                        "endpoint {} of Service {service} is on this node, but its route leads to {device}, not to a pod's device (is it on a \
                         macvlan, an ipvlan or a virtual function?): its own connections to services are not served, and clients may not \
                         reach it through this node",
                        backend.address
                    ),
                );
            }
        }
    }
    let more = found.len().saturating_sub(NAMED_MAX);
    let mut sentences: Vec<String> = found.into_values().take(NAMED_MAX).collect();
    if more > 0 {
        sentences.push(format!("{more} more endpoints of this node have no pod's device"));
    }
    sentences
}

/// The device that leads elsewhere, if the address is neither the node's own nor a pod's.
fn leaves_by(snapshot: &Snapshot, address: Ipv4Addr) -> Option<String> {
    let FibResult::Via { ifindex, .. } = snapshot.fib.lookup(Ipv4Addr::UNSPECIFIED, address, None, 0) else { return None };
    match snapshot.devices.get(ifindex) {
        Some(device) if matches!(device.kind, DeviceKind::Pod | DeviceKind::Bridge) => None,
        Some(device) => Some(device.name.clone()),
        None => Some(format!("device {ifindex}")),
    }
}
