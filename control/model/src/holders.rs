//! Who holds an object that both sources know. Pure.
//!
//! The apiserver does: it is where the cluster's truth is changed, and a manifest of the same name is most likely a copy from before it
//! could be reached. The manifest takes effect again when the apiserver's object goes.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::{Change, Model, ObjectRef};
use crate::problem::{Problem, Severity};

/// Between the sources and the [`crate::Compiler`].
#[derive(Debug, Default)]
pub struct Holders {
    apiserver: HashSet<ObjectRef>,
    manifests: HashMap<ObjectRef, Model>,
}

impl Holders {
    /// Changes of the apiserver's objects: what they mean for the tables.
    pub fn apiserver(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<Change> {
        let decide = |change| match change {
            Change::Upsert(model) => {
                self.apiserver.insert(model.object_ref());
                Change::Upsert(model)
            }
            Change::Delete(object) => {
                self.apiserver.remove(&object);
                self.manifests.get(&object).map_or_else(|| Change::Delete(object), |model| Change::Upsert(model.clone()))
            }
        };
        changes.into_iter().map(decide).collect()
    }

    /// Changes of the manifests' objects: what they mean for the tables.
    pub fn manifests(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<Change> {
        let mut meant = Vec::new();
        for change in changes {
            let object = match &change {
                Change::Upsert(model) => model.object_ref(),
                Change::Delete(object) => object.clone(),
            };
            match &change {
                Change::Upsert(model) => drop(self.manifests.insert(object.clone(), model.clone())),
                Change::Delete(object) => drop(self.manifests.remove(object)),
            }
            if !self.apiserver.contains(&object) {
                meant.push(change);
            }
        }
        meant
    }

    /// A problem for each manifest that has no effect, by object.
    pub fn problems(&self) -> Vec<Problem> {
        let contested: BTreeSet<&ObjectRef> = self.manifests.keys().filter(|object| self.apiserver.contains(*object)).collect();
        let problem = |object: &ObjectRef| Problem {
            kind: Some(object.kind.to_string()),
            namespace: (!object.namespace.is_empty()).then(|| object.namespace.to_string()),
            name: Some(object.name.to_string()),
            ..Problem::new(Severity::Notice, "the manifest has no effect: the apiserver has an object of this name, which counts")
        };
        contested.into_iter().map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::folder::Folder;
    use crate::manifest::ManifestFile;

    fn node(zone: &str) -> Change {
        let text = format!("{{apiVersion: v1, kind: Node, metadata: {{name: node, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}");
        Folder::default().update(ManifestFile { file: "a.yaml".into(), text }).remove(0)
    }

    #[test]
    fn the_apiserver_holds_what_both_have() {
        let gone = Change::Delete(ObjectRef { kind: Kind::Node, namespace: "".into(), name: "node".into() });
        let mut holders = Holders::default();
        assert_eq!(holders.manifests([node("m1")]), [node("m1")]);
        assert!(holders.problems().is_empty());
        assert_eq!(holders.apiserver([node("a1")]), [node("a1")]);
        assert_eq!(holders.problems().len(), 1);
        assert_eq!(holders.manifests([node("m2")]), []);
        assert_eq!(holders.apiserver([gone.clone()]), [node("m2")], "the manifest as it is now");
        assert!(holders.problems().is_empty());
        assert_eq!(holders.manifests([gone.clone()]).len(), 1);
        holders.apiserver([node("a2")]);
        holders.manifests([node("m3")]);
        assert_eq!(holders.manifests([gone.clone()]), [], "the apiserver's stays");
        assert_eq!(holders.apiserver([gone.clone()]), [gone]);
    }
}
