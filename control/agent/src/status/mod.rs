//! What people and programs ask a running process: one JSON request line on a unix socket, one JSON document back.
//!
//! [`documents`] are the answers, shared by both sides; [`server`] takes requests for the control loop, [`client`] is the command
//! line's side, [`render`] makes tables for people.

pub mod answer;
mod apiserver;
pub mod client;
pub mod documents;
pub mod render;
pub mod server;
mod table;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    Status,
    Services,
    Backends,
    Flows,
    Neighbors,
    Stats,
}

/// The request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub topic: Topic,
}

/// The answer to a request that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    pub error: String,
}

/// Where the process listens.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("ringway.sock")
}
