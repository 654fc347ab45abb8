//! The objects in force.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use litemap::LiteMap;

use crate::left::Leaving;
use crate::model::{
    Change, Endpoint, EndpointSliceModel, IpFamily, Kind, Model, NodeModel, ObjectRef, ServiceCidrModel, ServiceModel, ServiceName,
};

/// What has to be compiled again after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub services: BTreeSet<ServiceName>,
    /// Names of the nodes that changed.
    pub nodes: BTreeSet<Arc<str>>,
    /// Endpoints that a slice does not have any more.
    pub leaving: Leaving,
    /// A ServiceCIDR changed.
    pub service_cidrs: bool,
    pub changed: Changed,
}

/// How many objects became different, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub services: u64,
    pub endpoint_slices: u64,
    /// Of each new version of a slice that says so: its family, and when what led to it happened.
    pub triggers: Vec<(IpFamily, Timestamp)>,
}

/// The last good version of every object, found by kind, namespace and name.
#[derive(Debug, Default)]
pub struct Cluster {
    services: HashMap<ServiceName, Arc<ServiceModel>>,
    /// Those of them that keep connections to endpoints that are gone: few, if any.
    keepers: HashSet<ServiceName>,
    /// By service, then by name of the slice, so that "the last wins" (contract §1.6) is the same on every node.
    slices: HashMap<ServiceName, LiteMap<Arc<str>, Arc<EndpointSliceModel>>>,
    /// Namespace and name of a slice → its service, which a label can change.
    service_of_slice: HashMap<ServiceName, ServiceName>,
    nodes: HashMap<Arc<str>, Arc<NodeModel>>,
    service_cidrs: BTreeMap<Arc<str>, Arc<ServiceCidrModel>>,
}

impl Cluster {
    /// Takes one change in and adds what it touches to `touched`. A version equal to the one in force touches nothing.
    pub fn apply(&mut self, change: Change, touched: &mut Touched) {
        match change {
            Change::Upsert(Model::Service(service)) => {
                if self.services.get(&service.name) != Some(&service) {
                    touched.changed.services += 1;
                    touched.services.insert(service.name.clone());
                    if service.reset_gone {
                        self.keepers.remove(&service.name);
                    } else {
                        self.keepers.insert(service.name.clone());
                    }
                    self.services.insert(service.name.clone(), service);
                }
            }
            Change::Upsert(Model::EndpointSlice(slice)) => self.upsert_slice(slice, touched),
            Change::Upsert(Model::Node(node)) => {
                if self.nodes.get(&node.name) != Some(&node) {
                    touched.nodes.insert(node.name.clone());
                    self.nodes.insert(node.name.clone(), node);
                }
            }
            Change::Upsert(Model::ServiceCidr(cidr)) => {
                touched.service_cidrs = true;
                self.service_cidrs.insert(cidr.name.clone(), cidr);
            }
            // No table depends on pods.
            Change::Upsert(Model::Pod(_)) | Change::Delete(ObjectRef { kind: Kind::Pod, .. }) => {}
            Change::Delete(ObjectRef { kind: Kind::ServiceCidr, name, .. }) => {
                touched.service_cidrs |= self.service_cidrs.remove(&name).is_some();
            }
            Change::Delete(ObjectRef { kind: Kind::Node, name, .. }) => {
                if self.nodes.remove(&name).is_some() {
                    touched.nodes.insert(name);
                }
            }
            Change::Delete(ObjectRef { kind: Kind::Service, namespace, name }) => {
                let name = ServiceName { namespace, name };
                if self.services.remove(&name).is_some() {
                    self.keepers.remove(&name);
                    touched.changed.services += 1;
                    touched.services.insert(name);
                }
            }
            Change::Delete(ObjectRef { kind: Kind::EndpointSlice, namespace, name }) => {
                self.remove_slice(&ServiceName { namespace, name }, touched);
            }
        }
    }

    fn upsert_slice(&mut self, slice: Arc<EndpointSliceModel>, touched: &mut Touched) {
        let key = ServiceName { namespace: Arc::clone(&slice.service.namespace), name: Arc::clone(&slice.name) };
        if self.service_of_slice.get(&key).is_some_and(|before| *before != slice.service) {
            self.remove_slice(&key, touched);
        }
        // Nearly always one.
        let slices = self.slices.entry(slice.service.clone()).or_insert_with(|| LiteMap::with_capacity(1));
        if slices.get(&slice.name) != Some(&slice) {
            if let Some(before) = slices.get(&slice.name) {
                touched.leaving.compare(before, Some(&slice));
            }
            touched.changed.endpoint_slices += 1;
            touched.changed.triggers.extend(slice.last_change_trigger.map(|trigger| (slice.family, trigger)));
            touched.services.insert(slice.service.clone());
            self.service_of_slice.insert(key, slice.service.clone());
            slices.insert(Arc::clone(&slice.name), slice);
        }
    }

    fn remove_slice(&mut self, key: &ServiceName, touched: &mut Touched) {
        let Some(service) = self.service_of_slice.remove(key) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            if let Some(before) = slices.remove(&key.name) {
                touched.leaving.compare(&before, None);
            }
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        touched.changed.endpoint_slices += 1;
        touched.services.insert(service);
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceModel>> {
        self.services.get(name)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceModel>> {
        self.services.values()
    }

    /// The slices of a service, by name of the slice.
    pub fn slices(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<EndpointSliceModel>> {
        self.slices.get(service).into_iter().flat_map(LiteMap::values)
    }

    /// Services whose connections to endpoints that are gone are left to time out.
    pub fn keepers(&self) -> &HashSet<ServiceName> {
        &self.keepers
    }

    /// The endpoints of a service, as many times as slices hold them.
    pub fn endpoints(&self, service: &ServiceName) -> impl Iterator<Item = &Endpoint> {
        self.slices(service).flat_map(|slice| &slice.endpoints)
    }

    /// The ranges of all ServiceCIDRs, by name of the object.
    pub fn service_cidrs(&self) -> impl Iterator<Item = IpNet> {
        self.service_cidrs.values().flat_map(|object| object.cidrs.iter().copied())
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeModel>> {
        self.nodes.values()
    }

    pub fn node(&self, name: &str) -> Option<&Arc<NodeModel>> {
        self.nodes.get(name)
    }

    /// Whether nothing is left: for tests that end in "everything is empty".
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.slices.is_empty()
            && self.service_of_slice.is_empty()
            && self.nodes.is_empty()
            && self.service_cidrs.is_empty()
    }
}
