//! The DaemonSet that runs us. A pod of it that ends may be replaced, and then leaves its flows to the next one (`--on-stop keep`); with the
//! DaemonSet deleted nobody comes, and nothing may stay on the node.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::runtime::watcher;
use kube::{Api, Client};
use serde::Deserialize;
use tokio::time::sleep;

/// After the apiserver refused, or did not answer.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// `--daemonset NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DaemonSetName {
    pub namespace: String,
    pub name: String,
}

impl FromStr for DaemonSetName {
    type Err = String;

    fn from_str(text: &str) -> Result<DaemonSetName, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(DaemonSetName { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(format!("{text:?} is not NAMESPACE/NAME")),
        }
    }
}

impl TryFrom<String> for DaemonSetName {
    type Error = String;

    fn try_from(text: String) -> Result<DaemonSetName, String> {
        text.parse()
    }
}

impl fmt::Display for DaemonSetName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// Whether it is still there.
pub struct Owner {
    name: DaemonSetName,
    /// One that never was there, as a wrong name, is not gone.
    was_seen: AtomicBool,
    is_deleted: AtomicBool,
    problem: Mutex<Option<String>>,
}

impl Owner {
    pub fn new(name: DaemonSetName) -> Owner {
        Owner { name, was_seen: AtomicBool::new(false), is_deleted: AtomicBool::new(false), problem: Mutex::new(None) }
    }

    /// It was there, and is deleted or about to be (foreground deletion waits for the pods).
    pub fn is_deleted(&self) -> bool {
        self.is_deleted.load(Relaxed)
    }

    /// Why nothing is known of it.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows it. Never ends.
    ///
    /// A watch, not a question at the end: by then the right to ask may be deleted, too.
    pub async fn follow(&self, client: Client) {
        let api: Api<DaemonSet> = Api::namespaced(client, &self.name.namespace);
        loop {
            let mut versions = std::pin::pin!(watcher::watch_object(api.clone(), &self.name.name));
            while let Some(version) = versions.next().await {
                match version {
                    Ok(found) => self.see(found.as_ref()),
                    Err(error) => {
                        self.note(&error);
                        sleep(REFUSED_PAUSE).await;
                    }
                }
            }
        }
    }

    fn see(&self, found: Option<&DaemonSet>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let is_there = found.is_some_and(|found| found.metadata.deletion_timestamp.is_none());
        if is_there {
            self.was_seen.store(true, Relaxed);
        }
        let is_deleted = !is_there && self.was_seen.load(Relaxed);
        if self.is_deleted.swap(is_deleted, Relaxed) != is_deleted && is_deleted {
            tracing::info!("the DaemonSet {} is deleted: a stop leaves nothing on the node", self.name);
        }
    }

    fn note(&self, error: &watcher::Error) {
        // An apiserver that does not answer is told elsewhere.
        let is_refused = matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) | watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 403);
        // With the DaemonSet its rights go.
        if !is_refused || self.is_deleted() {
            tracing::debug!("cannot follow the DaemonSet {}: {error}", self.name);
            return;
        }
        let sentence = format!(
            "whether the DaemonSet {} is deleted is not known, so programs and flows stay on the node when it is: {error}; allow the verbs \
             `list` and `watch` on the resource `daemonsets` of that name",
            self.name
        );
        if self.problem.lock().unwrap_or_else(PoisonError::into_inner).replace(sentence.clone()).as_ref() != Some(&sentence) {
            tracing::warn!("{sentence}");
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    use super::*;

    #[test]
    fn names() {
        let name: DaemonSetName = "kube-system/ringway".parse().unwrap();
        assert_eq!((name.to_string().as_str(), name.name.as_str()), ("kube-system/ringway", "ringway"));
        for wrong in ["", "ringway", "/ringway", "kube-system/", "a/b/c"] {
            assert!(wrong.parse::<DaemonSetName>().unwrap_err().contains("NAMESPACE/NAME"), "{wrong}");
        }
    }

    #[test]
    fn deleted_is_what_was_there_and_is_not_replaced() {
        let owner = Owner::new("kube-system/ringway".parse().unwrap());
        let there = DaemonSet::default();
        let leaving = DaemonSet {
            metadata: ObjectMeta { deletion_timestamp: Some(Time(Default::default())), ..ObjectMeta::default() },
            ..there.clone()
        };
        let seen = |found: Option<&DaemonSet>| {
            owner.see(found);
            owner.is_deleted()
        };
        assert!(!seen(None), "a wrong name");
        assert!(!seen(Some(&there)));
        assert!(seen(Some(&leaving)));
        assert!(seen(None));
        assert!(!seen(Some(&there)), "made again under its name: its pods take over");
        assert!(seen(None));
    }
}
