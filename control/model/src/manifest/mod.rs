//! The text of one manifest file to Kubernetes objects.
//!
//! A file is cut into documents first, so that a broken document costs no other. Each document becomes plain JSON values, as it would on its
//! way to an apiserver, and then a typed object.

mod split;
mod typed;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::Value;

use crate::model::{Kind, ObjectRef};
use crate::problem::{Problem, Severity};
use typed::typed;

pub use split::{Document, documents};

/// A larger file is refused: as one document it would take gigabytes. 100 000 endpoints take about 20 MB.
pub const FILE_BYTES_MAX: usize = 64 << 20;

/// One file of the manifests folder, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Name in the folder.
    pub file: String,
    pub text: String,
}

/// Mappings, sequences and scalars of one document, aliases expanded. 4 Mi are 100 000 endpoints with all their fields.
const DOCUMENT_NODES_MAX: usize = 4 << 20;

/// Parser events that aliases of one document may expand to. Real manifests use a handful; bombs use billions.
const ALIAS_EVENTS_MAX: usize = 100_000;

/// An object of one of the kinds that we read.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Node(Box<Node>),
    ServiceCidr(Box<ServiceCIDR>),
    /// Of an apiserver only: those in manifests are templates of an application, without a node or an address.
    Pod(Box<Pod>),
}

/// What [`parse`] made of one document. Never nothing: what cannot be read is a problem.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedDocument {
    /// Each with its path in the document: empty, or `items[3].` in a List.
    pub objects: Vec<(String, Object)>,
    /// Objects that are there by name, but could not be read: their last good versions stay.
    pub refused: Vec<ObjectRef>,
    /// Something could not be read that may have been any object: all that the file had before stays.
    pub unreadable: bool,
    /// Lines count within the document, from 1.
    pub problems: Vec<Problem>,
}

/// Parses one document: an object, or a List of them.
pub fn parse(text: &str) -> ParsedDocument {
    let mut parsed = ParsedDocument::default();
    match serde_saphyr::from_str_with_options::<Value>(text, options()) {
        Ok(Value::Null) => {}
        Ok(value) => parsed.take_document(value),
        Err(error) => {
            let line = error.location().map_or(1, |location| location.line().max(1));
            parsed.problems.push(Problem { line: Some(line), ..problem(yaml_message(&error)) });
            parsed.unreadable = true;
        }
    }
    parsed
}

/// As Kubernetes' own YAML reading, but with limits. Duplicate keys are errors: which of the two was meant?
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: DOCUMENT_NODES_MAX,
            max_events: 2 * DOCUMENT_NODES_MAX,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIAS_EVENTS_MAX },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        emit_comments: false,
        with_snippet: false,
    }
}

/// The parser's message without its "at line 3, column 4", which counts within the document.
fn yaml_message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let first = text.lines().next().unwrap_or_default();
    let message = first.rfind(" at line ").map_or(first, |end| &first[..end]);
    format!("the document is no valid YAML: {message}")
}

fn problem(message: impl Into<String>) -> Problem {
    Problem { line: Some(1), ..Problem::new(Severity::Error, message) }
}

impl ParsedDocument {
    fn take_document(&mut self, value: Value) {
        if text_at(&value, &["kind"]) != Some("List") || text_at(&value, &["apiVersion"]) != Some("v1") {
            return self.take_object(value, "");
        }
        let mut value = value;
        match value.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => {
                for (index, item) in items.into_iter().enumerate() {
                    self.take_object(item, &format!("items[{index}]."));
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => {
                let problem = Problem { kind: Some("List".into()), field: Some("items".into()), ..problem("must be a list of objects") };
                self.problems.push(problem);
                self.unreadable = true;
            }
        }
    }

    /// `within` is the path of the object in its document: empty or `items[3].`.
    fn take_object(&mut self, value: Value, within: &str) {
        let Some(kind) = text_at(&value, &["kind"]).filter(|kind| !kind.is_empty()).map(str::to_owned) else {
            let message = if value.is_object() {
                "missing: every object has a kind"
            } else {
                "no Kubernetes object: a mapping with a kind is expected"
            };
            let problem = Problem { field: Some(format!("{within}kind")), ..problem(message) };
            self.problems.push(problem);
            self.unreadable = true;
            return;
        };
        let api_version = text_at(&value, &["apiVersion"]).unwrap_or_default().to_owned();
        let namespace = text_at(&value, &["metadata", "namespace"]).filter(|text| !text.is_empty()).map(str::to_owned);
        let name = text_at(&value, &["metadata", "name"]).filter(|text| !text.is_empty()).map(str::to_owned);
        type Typed = fn(Value, &mut Vec<String>) -> Result<Object, (String, String)>;
        let (known, read): (Kind, Typed) = match (kind.as_str(), api_version.as_str()) {
            ("Service", "v1") => (Kind::Service, |value, unknown| typed(value, unknown).map(|it| Object::Service(Box::new(it)))),
            ("EndpointSlice", "discovery.k8s.io/v1") => {
                (Kind::EndpointSlice, |value, unknown| typed(value, unknown).map(|it| Object::EndpointSlice(Box::new(it))))
            }
            ("Node", "v1") => (Kind::Node, |value, unknown| typed(value, unknown).map(|it| Object::Node(Box::new(it)))),
            ("ServiceCIDR", "networking.k8s.io/v1") => {
                (Kind::ServiceCidr, |value, unknown| typed(value, unknown).map(|it| Object::ServiceCidr(Box::new(it))))
            }
            _ => return self.skip(&kind, &api_version, namespace, name, within),
        };
        let namespace = known.is_namespaced().then(|| namespace.unwrap_or_else(|| "default".into()));
        let mut unknown = Vec::new();
        let object = read(value, &mut unknown);
        let about = Problem { kind: Some(kind), namespace, name, ..problem("") };
        for path in unknown {
            let message = "has no effect: Kubernetes has no such field here".to_owned();
            self.problems.push(Problem { severity: Severity::Notice, field: Some(format!("{within}{path}")), message, ..about.clone() });
        }
        match object {
            Ok(object) => self.objects.push((within.to_owned(), object)),
            Err((path, message)) => {
                self.refuse(known, &about);
                self.problems.push(Problem { field: Some(format!("{within}{path}")), message, ..about });
            }
        }
    }

    /// Remembers what must stay in force: the object if its name is known, else everything of the file.
    fn refuse(&mut self, kind: Kind, about: &Problem) {
        match &about.name {
            Some(name) => {
                let namespace = if kind.is_namespaced() { about.namespace.as_deref().unwrap_or("default") } else { "" };
                self.refused.push(ObjectRef { kind, namespace: namespace.into(), name: name.as_str().into() });
            }
            None => self.unreadable = true,
        }
    }

    /// Kinds of others are no error: people keep all of an application in one file. A misspelt apiVersion of ours is one.
    fn skip(&mut self, kind: &str, api_version: &str, namespace: Option<String>, name: Option<String>, within: &str) {
        let ours = match kind {
            "Service" => Some((Kind::Service, "v1")),
            "Node" => Some((Kind::Node, "v1")),
            "EndpointSlice" => Some((Kind::EndpointSlice, "discovery.k8s.io/v1")),
            "ServiceCIDR" => Some((Kind::ServiceCidr, "networking.k8s.io/v1")),
            _ => None,
        };
        let group = |api_version: &str| api_version.split_once('/').map(|(group, _)| group.to_owned());
        let about = Problem { kind: Some(kind.to_owned()), namespace, name, ..problem("") };
        // The same word in another API group (serving.knative.dev/v1 Service) is another kind.
        let problem = match ours.filter(|(_, ours)| group(api_version).is_none() || group(api_version) == group(ours)) {
            Some((known, ours)) => {
                self.refuse(known, &about);
                let message = format!("{api_version:?} is not read, only {ours:?}");
                Problem { field: Some(format!("{within}apiVersion")), message, ..about }
            }
            None => {
                let message = format!("skipped: {api_version:?} {kind} is no kind that Ringway reads");
                Problem { severity: Severity::Notice, message, ..about }
            }
        };
        self.problems.push(problem);
    }
}

fn text_at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, key| value.get(key))?.as_str()
}
