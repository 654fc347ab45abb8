//! Kubernetes objects to tables, pure: no I/O, no clock, no thread.
//!
//! ```text
//! text of a file ─▶ Folder (parse, convert) ─▶ changes ─┐
//!                                                        ├▶ Holders ─▶ Compiler ─▶ Update (what to publish)
//! watch of an apiserver ─▶ convert ─▶ changes ───────────┘
//! ```
//!
//! ```
//! use ringway_model::manifest::ManifestFile;
//! use ringway_model::{Compiler, Folder, Settings};
//!
//! let mut folder = Folder::default();
//! let mut compiler = Compiler::new(Settings { node_name: "node-a".into(), ..Settings::default() });
//! let changes = folder.update(ManifestFile { file: "a.yaml".into(), text: "kind: Service\n".into() });
//! let update = compiler.apply(changes);
//! assert!(update.frontends.is_empty());
//! assert_eq!(folder.problems().len(), 1, "a Service without apiVersion is named");
//! ```
#![forbid(unsafe_code)]

mod cluster;
mod compile;
pub mod convert;
mod folder;
mod holders;
mod left;
pub mod manifest;
mod model;
mod names;
mod problem;
mod reading;
mod select;
mod view;

pub use cluster::{Changed, Cluster, Touched};
pub use compile::{Compiler, HealthCheck, NoLocalEndpoints, NodePortAddresses, Settings, Update, Vip};
pub use folder::Folder;
pub use holders::Holders;
pub use left::{Left, PodRef};
pub use model::{
    Change, Endpoint, EndpointSliceModel, Hints, IpFamily, Kind, Model, NodeModel, ObjectRef, PerFamily, PodModel, Protocol,
    ServiceCidrModel, ServiceModel, ServiceName, ServicePort, ServiceType, SessionAffinity, SlicePort, TrafficPolicy,
};
pub use names::Names;
pub use problem::{Problem, Severity};
pub use view::{EndpointView, FrontendKindView, FrontendView, ServicePortView, TargetView};
