//! Kubernetes objects to model types: parse, don't validate.
//!
//! What an apiserver would have refused is refused here too, since manifests never met one. A field that only means something with another
//! `type` has no effect and is a notice: an apiserver drops such fields when the type changes.

mod check;
mod node;
mod pod;
mod service;
mod service_cidr;
mod slice;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::manifest::Object;
use crate::model::{Kind, Model, ObjectRef};
use crate::problem::{Problem, Severity};

pub use service::RESET_GONE_ANNOTATION;

/// Present with any value: another proxy serves the object (contract §1.1).
const SERVICE_PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Present with any value: the object is for DNS only (contract §1.1).
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What an object is to us.
#[derive(Clone, Debug, PartialEq)]
pub enum Converted {
    /// In force, with notices on parts that have no effect.
    Ours(Model, Vec<Problem>),
    /// Right, but nothing to serve (contract §1.1, §1.2): an earlier version goes out of force.
    NotOurs(ObjectRef, Vec<Problem>),
}

/// An object that breaks a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// `None` if not even its name is right.
    pub object: Option<ObjectRef>,
    /// All that is wrong, without a place; at least one error.
    pub problems: Vec<Problem>,
}

/// Converts one object, or says all that is wrong with it.
pub fn convert(object: &Object) -> Result<Converted, Refused> {
    match object {
        Object::Service(object) => service::convert(object),
        Object::EndpointSlice(object) => slice::convert(object),
        Object::Node(object) => node::convert(object),
        Object::ServiceCidr(object) => service_cidr::convert(object),
        Object::Pod(object) => pod::convert(object),
    }
}

/// Collects what is wrong with one object.
struct Findings {
    kind: Kind,
    namespace: Arc<str>,
    name: Arc<str>,
    /// The name is right, so earlier versions can be found.
    named: bool,
    problems: Vec<Problem>,
}

impl Findings {
    /// Begins with the name. The namespace defaults to `default`, as with kubectl.
    fn of(kind: Kind, metadata: &ObjectMeta) -> Findings {
        let namespace = match metadata.namespace.as_deref() {
            _ if !kind.is_namespaced() => "",
            None | Some("") => "default",
            Some(namespace) => namespace,
        };
        let name = metadata.name.as_deref().unwrap_or_default();
        let mut findings = Findings { kind, namespace: namespace.into(), name: name.into(), named: true, problems: Vec::new() };
        let name_rule = match kind {
            Kind::Service => check::dns_label,
            Kind::EndpointSlice | Kind::Node | Kind::ServiceCidr | Kind::Pod => check::dns_subdomain,
        };
        if findings.name.is_empty() {
            findings.error("metadata.name", "missing");
        } else if let Err(message) = name_rule(&findings.name) {
            findings.error("metadata.name", message);
        }
        if kind.is_namespaced()
            && let Err(message) = check::dns_label(&findings.namespace)
        {
            findings.error("metadata.namespace", message);
        }
        findings.named = findings.problems.is_empty();
        findings
    }

    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.add(Severity::Error, field.into(), message.into());
    }

    fn notice(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.add(Severity::Notice, field.into(), message.into());
    }

    fn add(&mut self, severity: Severity, field: String, message: String) {
        self.problems.push(Problem {
            kind: Some(self.kind.to_string()),
            namespace: self.kind.is_namespaced().then(|| self.namespace.to_string()),
            name: (!self.name.is_empty()).then(|| self.name.to_string()),
            field: Some(field),
            ..Problem::new(severity, message)
        });
    }

    /// Keeps a good value, notes an error.
    fn take<T>(&mut self, field: impl Into<String>, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.error(field, message)).ok()
    }

    fn object_ref(&self) -> ObjectRef {
        ObjectRef { kind: self.kind, namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.name) }
    }

    fn refuse(self) -> Refused {
        Refused { object: self.named.then(|| self.object_ref()), problems: self.problems }
    }

    /// `model` holds every required part if nothing is wrong, for each missing part left an error.
    fn ours(self, model: Option<Model>) -> Result<Converted, Refused> {
        match model {
            Some(model) if self.problems.iter().all(|problem| problem.severity == Severity::Notice) => {
                Ok(Converted::Ours(model, self.problems))
            }
            _ => Err(self.refuse()),
        }
    }

    fn not_ours(self) -> Result<Converted, Refused> {
        if self.named { Ok(Converted::NotOurs(self.object_ref(), self.problems)) } else { Err(self.refuse()) }
    }
}

/// Whether the label selector of contract §1.1 takes the object.
fn is_selected(metadata: &ObjectMeta) -> bool {
    let has = |label| metadata.labels.as_ref().is_some_and(|labels: &BTreeMap<String, String>| labels.contains_key(label));
    !has(SERVICE_PROXY_NAME_LABEL) && !has(HEADLESS_LABEL)
}
