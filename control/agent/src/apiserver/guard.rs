//! `default/kubernetes` never drops to no backends (Calico's rule): without it, nobody could ask an apiserver through its Service that it
//! is back. Pure.
//!
//! When no slice of it has a usable endpoint any more, the last good slices stay in force until one has.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ringway_model::{Change, EndpointSliceModel, Kind, Model, ObjectRef};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

type Slices = BTreeMap<Arc<str>, Arc<EndpointSliceModel>>;

/// Between the objects and the tables.
#[derive(Debug, Default)]
pub struct Guard {
    /// As the apiserver has them.
    actual: Slices,
    /// As the tables have them.
    in_force: Slices,
}

impl Guard {
    /// Hands a change on, or keeps it back, or adds to it what was kept back before.
    pub fn pass(&mut self, change: Change) -> Vec<Change> {
        match &change {
            Change::Upsert(Model::EndpointSlice(slice)) if is_guarded(slice) => {
                self.actual.insert(Arc::clone(&slice.name), Arc::clone(slice));
                self.decide()
            }
            Change::Upsert(Model::EndpointSlice(slice)) if &*slice.service.namespace == NAMESPACE => {
                // It may have been one of ours until its label changed; then the tables move it.
                self.actual.remove(&slice.name);
                self.in_force.remove(&slice.name);
                vec![change]
            }
            Change::Delete(ObjectRef { kind: Kind::EndpointSlice, namespace, name }) if **namespace == *NAMESPACE => {
                if self.actual.remove(name).is_some() || self.in_force.contains_key(name) { self.decide() } else { vec![change] }
            }
            _ => vec![change],
        }
    }

    fn decide(&mut self) -> Vec<Change> {
        if !has_usable(&self.actual) && has_usable(&self.in_force) {
            return Vec::new();
        }
        let gone = self
            .in_force
            .keys()
            .filter(|name| !self.actual.contains_key(*name))
            .map(|name| Change::Delete(ObjectRef { kind: Kind::EndpointSlice, namespace: NAMESPACE.into(), name: Arc::clone(name) }));
        let changed = self.actual.iter().filter(|(name, slice)| self.in_force.get(*name) != Some(slice));
        let changes = gone.chain(changed.map(|(_, slice)| Change::Upsert(Model::EndpointSlice(Arc::clone(slice))))).collect();
        self.in_force = self.actual.clone();
        changes
    }

    /// Whether the tables keep what the apiserver does not have any more.
    pub fn holds(&self) -> bool {
        self.actual != self.in_force
    }

    /// The slices that the tables have, to be kept on disk.
    pub fn in_force(&self) -> impl Iterator<Item = &Arc<EndpointSliceModel>> {
        self.in_force.values()
    }

    /// Whether a slice is the guard's business.
    pub fn knows(&self, slice: &EndpointSliceModel) -> bool {
        is_guarded(slice)
    }

    /// Where apiservers answer, by the slices in force.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        let mut endpoints = Vec::new();
        for slice in self.in_force.values() {
            let port = slice.ports.iter().find(|port| *port.name == *"https").or(slice.ports.first());
            let Some(port) = port.map(|port| port.port.get()) else { continue };
            let usable = slice.endpoints.iter().filter(|endpoint| is_usable(endpoint));
            endpoints.extend(usable.map(|endpoint| SocketAddr::new(endpoint.address, port)));
        }
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints
    }
}

fn is_guarded(slice: &EndpointSliceModel) -> bool {
    &*slice.service.namespace == NAMESPACE && &*slice.service.name == NAME
}

fn is_usable(endpoint: &ringway_model::Endpoint) -> bool {
    endpoint.ready || endpoint.serving && endpoint.terminating
}

fn has_usable(slices: &Slices) -> bool {
    slices.values().any(|slice| !slice.ports.is_empty() && slice.endpoints.iter().any(is_usable))
}

/// Whether a Service is `default/kubernetes`.
pub fn is_kubernetes(service: &ringway_model::ServiceModel) -> bool {
    &*service.name.namespace == NAMESPACE && &*service.name.name == NAME
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_model::{Endpoint, IpFamily, Protocol, ServiceName, SlicePort};

    fn slice(name: &str, service: &str, addresses: &[&str]) -> Arc<EndpointSliceModel> {
        let endpoint = |address: &&str| Endpoint {
            address: address.parse().unwrap(),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            hints: None,
            pod: None,
        };
        Arc::new(EndpointSliceModel {
            name: name.into(),
            service: ServiceName { namespace: "default".into(), name: service.into() },
            family: IpFamily::V4,
            ports: vec![SlicePort { name: "https".into(), protocol: Protocol::Tcp, port: 6443.try_into().unwrap() }],
            endpoints: addresses.iter().map(endpoint).collect(),
            last_change_trigger: None,
        })
    }

    fn upsert(slice: &Arc<EndpointSliceModel>) -> Change {
        Change::Upsert(Model::EndpointSlice(Arc::clone(slice)))
    }

    fn delete(name: &str) -> Change {
        Change::Delete(ObjectRef { kind: Kind::EndpointSlice, namespace: "default".into(), name: name.into() })
    }

    #[test]
    fn the_last_good_endpoints_stay() {
        let mut guard = Guard::default();
        let (good, empty) = (slice("kubernetes", "kubernetes", &["192.0.2.1"]), slice("kubernetes", "kubernetes", &[]));
        assert_eq!(guard.pass(upsert(&good)), [upsert(&good)]);
        assert_eq!(guard.pass(upsert(&empty)), []);
        assert!(guard.holds());
        assert_eq!(guard.pass(delete("kubernetes")), []);
        assert_eq!(guard.endpoints(), ["192.0.2.1:6443".parse().unwrap()]);
        let other = slice("kubernetes-2", "kubernetes", &["192.0.2.2"]);
        assert_eq!(guard.pass(upsert(&other)), [delete("kubernetes"), upsert(&other)], "now the deletion takes effect");
        assert!(!guard.holds());
    }

    #[test]
    fn an_unready_endpoint_is_none() {
        let mut guard = Guard::default();
        let good = slice("kubernetes", "kubernetes", &["192.0.2.1"]);
        let mut unready = (*good).clone();
        unready.endpoints[0].ready = false;
        guard.pass(upsert(&good));
        assert_eq!(guard.pass(upsert(&Arc::new(unready.clone()))), []);
        unready.endpoints[0].terminating = true;
        assert_eq!(guard.pass(upsert(&Arc::new(unready))).len(), 1, "one that ends still serves");
    }

    #[test]
    fn one_of_two_slices_may_become_empty() {
        let mut guard = Guard::default();
        let (a, b) = (slice("a", "kubernetes", &["192.0.2.1"]), slice("b", "kubernetes", &["192.0.2.2"]));
        guard.pass(upsert(&a));
        guard.pass(upsert(&b));
        assert_eq!(guard.pass(delete("a")), [delete("a")]);
        assert_eq!(guard.pass(delete("b")), []);
        assert_eq!(guard.pass(upsert(&a)), [delete("b"), upsert(&a)]);
    }

    #[test]
    fn others_pass() {
        let mut guard = Guard::default();
        let (good, empty) = (slice("web", "web", &["192.0.2.1"]), slice("web", "web", &[]));
        assert_eq!(guard.pass(upsert(&good)), [upsert(&good)]);
        assert_eq!(guard.pass(upsert(&empty)), [upsert(&empty)]);
        assert_eq!(guard.pass(delete("web")), [delete("web")]);
        let first = slice("kubernetes", "kubernetes", &[]);
        assert_eq!(guard.pass(upsert(&first)), [upsert(&first)], "empty from the beginning");
    }

    #[test]
    fn a_slice_that_changes_its_service() {
        let mut guard = Guard::default();
        guard.pass(upsert(&slice("s", "kubernetes", &["192.0.2.1"])));
        let moved = slice("s", "web", &["192.0.2.1"]);
        assert_eq!(guard.pass(upsert(&moved)), [upsert(&moved)]);
        assert_eq!(guard.pass(delete("s")), [delete("s")]);
    }
}
