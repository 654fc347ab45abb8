//! Pods of this node whose packets bypass it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ringway_engine::tables::{DeviceKind, FibResult, Snapshot, Target};
use ringway_model::{IpFamily, PodModel};

/// At most so many are named; the last sentence says how many more there are.
const NAMED_MAX: usize = 20;

/// Looks for pods and endpoints of this node whose packets the kernel would send out of an uplink: pods on a macvlan, an ipvlan or a
/// virtual function of the NIC bypass the node, and so us.
#[derive(Debug, Default)]
pub struct Misplaced {
    /// Found by the last look, with the uplink.
    suspects: BTreeMap<IpAddr, String>,
    sentences: Vec<String>,
}

/// Who has an address.
#[derive(Debug, Default)]
struct Holder {
    pod: Option<String>,
    /// One of whose endpoints it is.
    service: Option<String>,
}

impl Misplaced {
    /// A sentence for each that the last two looks found: one look may meet a pod that is coming or going.
    pub fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// `pods` are this node's, as far as they are known: without them only endpoints are found.
    pub fn look(&mut self, snapshot: &Snapshot, pods: &[Arc<PodModel>]) {
        let mut holders: BTreeMap<IpAddr, Holder> = BTreeMap::new();
        for pod in pods {
            for address in &pod.ips {
                holders.entry(*address).or_default().pod = Some(format!("{}/{}", pod.namespace, pod.name));
            }
        }
        for (_, frontend) in snapshot.frontends.iter() {
            // The short cut's list is the longer one.
            let Target::Backends(set) = &frontend.inside else { continue };
            for backend in set.backends.iter().filter(|backend| backend.local) {
                let holder = holders.entry(backend.address).or_default();
                if holder.service.is_none() {
                    holder.service = Some(format!("{}/{}", frontend.service.namespace, frontend.service.name));
                }
            }
        }
        let found: Vec<_> =
            holders.into_iter().filter_map(|(address, holder)| Some((address, holder, leaves_by(snapshot, address)?))).collect();
        let before = std::mem::take(&mut self.suspects);
        let again: Vec<_> = found.iter().filter(|(address, _, uplink)| before.get(address) == Some(uplink)).collect();
        self.sentences = again.iter().take(NAMED_MAX).map(|(address, holder, uplink)| sentence(*address, holder, uplink)).collect();
        if again.len() > NAMED_MAX {
            self.sentences.push(format!("{} more pods of this node bypass it", again.len() - NAMED_MAX));
        }
        self.suspects = found.into_iter().map(|(address, _, uplink)| (address, uplink)).collect();
    }
}

fn sentence(address: IpAddr, holder: &Holder, uplink: &str) -> String {
    let service = holder.service.iter().map(|service| format!("endpoint {address} of Service {service}"));
    let pod = holder.pod.iter().map(|pod| format!("Pod {pod} ({address})"));
    let who = pod.chain(service).collect::<Vec<_>>().join(", ");
    let clients = if holder.service.is_some() { ", and clients may not reach it through this node" } else { "" };
    format!(
        "{who} is on this node, but its route leads to {uplink}, not to a pod's device (is it on a macvlan, an ipvlan or a virtual \
         function?): its own connections to services are not served{clients}"
    )
}

/// The uplink that leads there, if one does. Other devices that are no pod's prove nothing: a CNI may reach its pods by a switch of its own.
fn leaves_by(snapshot: &Snapshot, address: IpAddr) -> Option<String> {
    let FibResult::Via { ifindex, .. } = snapshot.fib.lookup(IpFamily::of(&address).unspecified(), address, None, 0) else { return None };
    snapshot.devices.get(ifindex).filter(|device| matches!(device.kind, DeviceKind::Uplink(_))).map(|device| device.name.clone())
}
