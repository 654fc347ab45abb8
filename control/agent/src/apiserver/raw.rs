//! An object as it comes from an apiserver: only what is needed is kept, and one that does not fit its type spoils no list.

use std::borrow::Cow;
use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use ringway_model::convert::RESET_GONE_ANNOTATION;
use ringway_model::manifest::Object;
use ringway_model::{Kind, ObjectRef};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// When the controller saw the change that led to this version of an EndpointSlice.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The annotations that are read.
const ANNOTATIONS: [&str; 2] = [TRIGGER_TIME, RESET_GONE_ANNOTATION];

/// A kind that is watched.
pub trait Watched: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static {
    const KIND: Kind;
    /// Of contract §1.1; empty: all.
    const SELECTOR: &'static str;
    /// Not every Kubernetes that we serve has it.
    const OPTIONAL: bool = false;

    /// Field selector of what is watched; empty: all.
    fn fields(_node_name: &str) -> String {
        String::new()
    }

    fn object(self) -> Object;

    /// Itself, if it is one.
    fn node(&self) -> Option<&Node> {
        None
    }

    /// Forgets when the change happened: for objects of a list, whose changes are of long ago.
    fn without_trigger(mut self) -> Self {
        if let Some(annotations) = &mut self.meta_mut().annotations {
            annotations.remove(TRIGGER_TIME);
        }
        self
    }
}

/// What kube-proxy watches (contract §1.1).
const NOT_ANOTHER_PROXYS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

impl Watched for Service {
    const KIND: Kind = Kind::Service;
    const SELECTOR: &'static str = NOT_ANOTHER_PROXYS;

    fn object(self) -> Object {
        Object::Service(Box::new(self))
    }
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;
    const SELECTOR: &'static str = NOT_ANOTHER_PROXYS;

    fn object(self) -> Object {
        Object::EndpointSlice(Box::new(self))
    }
}

impl Watched for Node {
    const KIND: Kind = Kind::Node;
    const SELECTOR: &'static str = "";

    fn object(self) -> Object {
        Object::Node(Box::new(self))
    }

    fn node(&self) -> Option<&Node> {
        Some(self)
    }
}

impl Watched for ServiceCIDR {
    const KIND: Kind = Kind::ServiceCidr;
    const SELECTOR: &'static str = "";
    const OPTIONAL: bool = true;

    fn object(self) -> Object {
        Object::ServiceCidr(Box::new(self))
    }
}

impl Watched for Pod {
    const KIND: Kind = Kind::Pod;
    const SELECTOR: &'static str = "";

    /// This node's only.
    fn fields(node_name: &str) -> String {
        format!("spec.nodeName={node_name}")
    }

    fn object(self) -> Object {
        Object::Pod(Box::new(self))
    }
}

/// An object, or why it is none of its type.
#[derive(Clone, Debug)]
pub struct Raw<K> {
    pub metadata: ObjectMeta,
    pub parsed: Result<K, String>,
}

impl<K: Watched> Raw<K> {
    /// The resourceVersion, a number that grows.
    pub fn version(&self) -> Option<u64> {
        self.metadata.resource_version.as_ref()?.parse().ok()
    }

    pub fn object_ref(&self) -> ObjectRef {
        ObjectRef {
            kind: K::KIND,
            namespace: self.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: self.metadata.name.as_deref().unwrap_or_default().into(),
        }
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Raw<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw<K>, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let mut metadata = ObjectMeta::default();
        if let Some(found) = value.get_mut("metadata") {
            if let Some(found) = found.as_object_mut() {
                // Often larger than the rest.
                found.remove("managedFields");
                if let Some(annotations) = found.get_mut("annotations").and_then(Value::as_object_mut) {
                    annotations.retain(|key, _| ANNOTATIONS.contains(&key.as_str()));
                }
            }
            metadata = ObjectMeta::deserialize(&*found).map_err(serde::de::Error::custom)?;
        }
        let parsed = serde_path_to_error::deserialize(value).map_err(|error| error.to_string());
        Ok(Raw { metadata, parsed })
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Raw<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_dropped() {
        let text = r#"{"metadata": {"name": "a", "namespace": "n", "uid": "u", "managedFields": [{"manager": "m"}],
            "annotations": {"x": "y", "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"}},
            "addressType": "IPv4", "endpoints": []}"#;
        let raw: Raw<EndpointSlice> = serde_json::from_str(text).unwrap();
        assert_eq!(raw.metadata.managed_fields, None);
        assert_eq!(raw.metadata.annotations.as_ref().unwrap().len(), 1);
        let parsed = raw.parsed.as_ref().unwrap();
        assert!(parsed.metadata.managed_fields.is_none());
        assert!(parsed.metadata.annotations.as_ref().unwrap().contains_key(TRIGGER_TIME));
        assert_eq!(raw.object_ref(), ObjectRef { kind: Kind::EndpointSlice, namespace: "n".into(), name: "a".into() });
    }

    #[test]
    fn what_a_service_says_to_us_is_read_from_a_list_too() {
        let text = r#"{"metadata": {"name": "a", "annotations": {"x": "y", "ringway.dev/reset-gone-endpoints": "false"}}, "spec": {}}"#;
        let raw: Raw<Service> = serde_json::from_str(text).unwrap();
        let annotations = raw.parsed.unwrap().without_trigger().metadata.annotations.unwrap();
        assert_eq!(annotations.into_iter().collect::<Vec<_>>(), [(RESET_GONE_ANNOTATION.to_owned(), "false".to_owned())]);
    }

    #[test]
    fn an_object_that_does_not_fit_spoils_no_list() {
        let text = r#"[{"metadata": {"name": "bad"}, "spec": {"ports": "none"}}, {"metadata": {"name": "good"}, "spec": {}}]"#;
        let list: Vec<Raw<Service>> = serde_json::from_str(text).unwrap();
        assert!(list[0].parsed.as_ref().is_err_and(|why| why.contains("spec.ports")), "{:?}", list[0].parsed);
        assert!(list[1].parsed.is_ok());
    }
}
