//! Pods of this node that no device of a pod leads to.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ringway_engine::tables::{DeviceKind, FibResult, Snapshot, Target};
use ringway_model::PodModel;

/// At most so many are named; the last sentence says how many more there are.
const NAMED_MAX: usize = 20;

/// Pods and endpoints of this node whose packets the kernel would send out of another device than a pod's: pods on a macvlan, an ipvlan or
/// a virtual function of the NIC bypass the node, and so us. A sentence for each.
///
/// `pods` are this node's, as far as they are known: without them only endpoints are found.
pub fn misplaced<'a>(snapshot: &Snapshot, pods: impl Iterator<Item = &'a Arc<PodModel>>) -> Vec<String> {
    let mut found: BTreeMap<Ipv4Addr, Misplaced> = BTreeMap::new();
    let mut find = |address: Ipv4Addr, note: &dyn Fn(&mut Misplaced)| {
        if let Some(known) = found.get_mut(&address) {
            note(known);
        } else if let Some(device) = leaves_by(snapshot, address) {
            let mut misplaced = Misplaced { device, pod: None, service: None };
            note(&mut misplaced);
            found.insert(address, misplaced);
        }
    };
    for pod in pods {
        for ip in &pod.ips {
            if let IpAddr::V4(address) = ip {
                find(*address, &|misplaced| misplaced.pod = Some(format!("{}/{}", pod.namespace, pod.name)));
            }
        }
    }
    for (_, frontend) in snapshot.frontends.iter() {
        // The short cut's list is the longer one.
        let Target::Backends(set) = &frontend.inside else { continue };
        for backend in set.backends.iter().filter(|backend| backend.local) {
            let service = &frontend.service;
            find(backend.address, &|misplaced| misplaced.service = Some(format!("{}/{}", service.namespace, service.name)));
        }
    }
    let more = found.len().saturating_sub(NAMED_MAX);
    let mut sentences: Vec<String> = found.into_iter().take(NAMED_MAX).map(|(address, misplaced)| misplaced.sentence(address)).collect();
    if more > 0 {
        sentences.push(format!("{more} more pods of this node have no pod's device"));
    }
    sentences
}

/// An address behind a device that is no pod's.
struct Misplaced {
    device: String,
    pod: Option<String>,
    /// One that it is an endpoint of.
    service: Option<String>,
}

impl Misplaced {
    fn sentence(&self, address: Ipv4Addr) -> String {
        let who = match (&self.pod, &self.service) {
            (Some(pod), Some(service)) => format!("Pod {pod} ({address}), an endpoint of Service {service},"),
            (Some(pod), None) => format!("Pod {pod} ({address})"),
            (None, service) => format!("endpoint {address} of Service {}", service.as_deref().unwrap_or_default()),
        };
        let clients = if self.service.is_some() { ", and clients may not reach it through this node" } else { "" };
        format!(
            "{who} is on this node, but its route leads to {}, not to a pod's device (is it on a macvlan, an ipvlan or a virtual function?): \
             its own connections to services are not served{clients}",
            self.device
        )
    }
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
