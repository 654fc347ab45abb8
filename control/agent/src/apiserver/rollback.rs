//! A cluster that was restored from a backup, or made anew, counts its versions from an earlier one.
//!
//! A watch from a version that does not exist yet is not refused: it is silent until that version comes, and nobody would notice what is
//! different. So before a watch begins, the server is asked for its version: an object at most, a few times an hour.

use std::fmt;

use http::Request;
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde::Deserialize;

use super::credentials::Loaded;
use super::transport::Link;

/// One object, which Kubernetes limits to 1.5 MB.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The server's version is before that of the watch: list anew.
#[derive(Debug)]
pub struct RolledBack {
    wanted: u64,
    found: u64,
}

impl fmt::Display for RolledBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the cluster is at version {}, before {} that was seen already: it was restored or made anew", self.found, self.wanted)
    }
}

impl std::error::Error for RolledBack {}

/// The version from which a watch begins, if its URL names one.
pub fn version_of_watch(path_and_query: &str) -> Option<u64> {
    let (_, query) = path_and_query.split_once('?')?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="))?;
    value.parse().ok().filter(|version| *version > 0)
}

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
}

/// Asks the server for its version. A server that does not tell has not rolled back: the watch itself will show what is wrong.
///
/// # Errors
/// It is before that of the watch.
pub async fn check(link: &Link, credentials: &Loaded, path_and_query: &str, patience: std::time::Duration) -> Result<(), RolledBack> {
    let Some(wanted) = version_of_watch(path_and_query) else { return Ok(()) };
    match version(link, credentials, path_and_query, patience).await {
        Some(found) if found < wanted => Err(RolledBack { wanted, found }),
        _ => Ok(()),
    }
}

async fn version(link: &Link, credentials: &Loaded, path_and_query: &str, patience: std::time::Duration) -> Option<u64> {
    let (path, _) = path_and_query.split_once('?')?;
    // Without a version in the request, it is the latest that etcd has, whatever this server's cache knows.
    let request = Request::get(link.uri(&format!("{path}?limit=1")).ok()?).body(Body::empty()).ok()?;
    let response = link.ask(credentials.sign(request).await.ok()?, patience).await.ok()?;
    let answer = tokio::time::timeout(patience, Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect()).await.ok()?.ok()?;
    let list: List = serde_json::from_slice(&answer.to_bytes()).ok()?;
    list.metadata.resource_version.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_watches() {
        assert_eq!(version_of_watch("/api/v1/nodes?&watch=true&resourceVersion=42&allowWatchBookmarks=true"), Some(42));
        for none in ["/api/v1/nodes", "/api/v1/nodes?watch=true", "/a?resourceVersion=0", "/a?resourceVersion=", "/a?xresourceVersion=1"] {
            assert_eq!(version_of_watch(none), None, "{none}");
        }
    }
}
