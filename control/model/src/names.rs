//! Names that very many objects repeat, kept once: each endpoint names its node, and a cluster has far fewer nodes than endpoints. And each
//! object's own name, which is the key of most tables.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::{EndpointSliceModel, Model, ObjectRef, ServiceModel, ServiceName};

/// Nodes, zones and namespaces come and go; beyond this many all are forgotten, which costs memory and nothing else.
const NAMES_MAX: usize = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

impl Names {
    /// Makes the model use the names that others use already, and for its own those of `object`, which is its reference. One that others
    /// hold stays as it is.
    pub fn share_in(&mut self, model: &mut Model, object: &ObjectRef) {
        debug_assert_eq!(*object, model.object_ref());
        match model {
            Model::Service(service) => {
                let Some(ServiceModel { name, ports, .. }) = Arc::get_mut(service) else { return };
                *name = ServiceName { namespace: Arc::clone(&object.namespace), name: Arc::clone(&object.name) };
                ports.iter_mut().for_each(|port| self.share(&mut port.name));
            }
            Model::EndpointSlice(slice) => {
                let Some(EndpointSliceModel { name, service, ports, endpoints, .. }) = Arc::get_mut(slice) else { return };
                *name = Arc::clone(&object.name);
                service.namespace = Arc::clone(&object.namespace);
                ports.iter_mut().for_each(|port| self.share(&mut port.name));
                for endpoint in endpoints {
                    endpoint.node.iter_mut().chain(&mut endpoint.zone).for_each(|name| self.share(name));
                    let hints = endpoint.hints.iter_mut().flat_map(|hints| hints.nodes.iter_mut().chain(&mut hints.zones));
                    hints.for_each(|name| self.share(name));
                }
            }
            Model::Node(_) | Model::ServiceCidr(_) | Model::Pod(_) => {}
        }
    }

    /// Makes `name` one that others use already.
    pub fn share(&mut self, name: &mut Arc<str>) {
        if let Some(known) = self.0.get(name) {
            *name = Arc::clone(known);
            return;
        }
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        self.0.insert(Arc::clone(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, IpFamily, ServiceName};

    fn slice(name: &str, node: &str) -> Model {
        let endpoint = Endpoint {
            address: [10, 0, 0, 1].into(),
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.into()),
            zone: None,
            pod: None,
            hints: None,
        };
        Model::EndpointSlice(Arc::new(EndpointSliceModel {
            name: name.into(),
            service: ServiceName { namespace: "default".into(), name: name.into() },
            family: IpFamily::V4,
            ports: Vec::new(),
            endpoints: [endpoint].into(),
            last_change_trigger: None,
        }))
    }

    fn node_of(model: &Model) -> &Arc<str> {
        let Model::EndpointSlice(slice) = model else { panic!("a slice") };
        slice.endpoints[0].node.as_ref().expect("a node")
    }

    #[test]
    fn equal_names_are_kept_once() {
        let mut names = Names::default();
        let (mut one, mut two, mut other) = (slice("a", "node1"), slice("b", "node1"), slice("c", "node2"));
        let held = two.clone();
        for model in [&mut one, &mut two, &mut other] {
            names.share_in(model, &model.object_ref());
        }
        assert!(!Arc::ptr_eq(node_of(&one), node_of(&two)), "somebody else holds it");
        drop(held);
        let object = two.object_ref();
        names.share_in(&mut two, &object);
        assert!(Arc::ptr_eq(node_of(&one), node_of(&two)));
        assert_eq!((&**node_of(&one), &**node_of(&two), &**node_of(&other)), ("node1", "node1", "node2"));
        assert_eq!(two, slice("b", "node1"), "says the same");
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut names = Names::default();
        for number in 0..2 * NAMES_MAX {
            names.share(&mut Arc::from(number.to_string()));
            assert!(names.0.len() <= NAMES_MAX);
        }
    }
}
