//! Changes on their way to the control loop: by object, so a burst is never longer than the cluster is large.

use ringway_model::{Change, ObjectRef};
use rustc_hash::FxHashMap;

/// See the module.
#[derive(Debug, Default)]
pub struct Pending {
    changes: FxHashMap<ObjectRef, Change>,
}

impl Pending {
    /// The last change of an object counts.
    pub fn push(&mut self, change: Change) {
        let object = match &change {
            Change::Upsert(model) => model.object_ref(),
            Change::Delete(object) => object.clone(),
        };
        self.changes.insert(object, change);
    }

    /// One for each object, in no order.
    pub fn take(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_model::{Kind, Model, NodeModel};

    #[test]
    fn a_burst_is_one_change() {
        let node = NodeModel {
            name: "n".into(),
            internal_ips: Vec::new(),
            zone: None,
            pod_cidrs: Vec::new(),
            deleting: false,
            to_be_deleted: false,
            unreachable: false,
        };
        let object = ObjectRef { kind: Kind::Node, namespace: "".into(), name: "n".into() };
        let mut pending = Pending::default();
        for _ in 0..1000 {
            pending.push(Change::Upsert(Model::Node(node.clone().into())));
        }
        pending.push(Change::Delete(object.clone()));
        assert_eq!(pending.take(), [Change::Delete(object)]);
        assert!(pending.take().is_empty());
    }
}
