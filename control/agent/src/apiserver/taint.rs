//! The startup taint: a node is registered with it (`kubelet --register-with-taints`), so that no pod is scheduled there before its
//! services work. It is removed when packets flow, and again whenever the node comes back with it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

/// Its key, whatever its effect and value.
pub const STARTUP_TAINT: &str = "ringway.dev/not-ready";

/// Until readiness is asked for again: it is tried with a packet each time.
const READY_EACH: Duration = Duration::from_millis(500);
/// After the apiserver refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Tells whether a packet of our own has just come through.
pub type IsReady = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// See the module.
pub struct StartupTaint {
    node_name: String,
    is_ready: IsReady,
    seen: watch::Sender<bool>,
    problem: Mutex<Option<String>>,
}

impl StartupTaint {
    pub fn new(node_name: String, is_ready: IsReady) -> StartupTaint {
        StartupTaint { node_name, is_ready, seen: watch::Sender::new(false), problem: Mutex::new(None) }
    }

    /// A version of a Node.
    pub fn see(&self, node: &Node) {
        if node.metadata.name.as_deref() == Some(&self.node_name) {
            self.seen.send_replace(has_startup_taint(node));
        }
    }

    /// Why the taint is still there, if we were refused.
    pub fn problem(&self) -> Option<String> {
        self.lock().clone()
    }

    /// Removes it whenever it is seen and packets flow. Never ends.
    pub async fn keep_off(&self, client: Client) {
        let nodes: Api<Node> = Api::all(client);
        let mut seen = self.seen.subscribe();
        loop {
            // The sender is ours: it does not go.
            let _ = seen.wait_for(|is_there| *is_there).await;
            while !(self.is_ready)().await {
                sleep(READY_EACH).await;
            }
            // Before we look: the watch may say something new meanwhile.
            self.seen.send_replace(false);
            match self.remove(&nodes).await {
                Ok(()) => *self.lock() = None,
                // Somebody else has written the Node just then.
                Err(kube::Error::Api(status)) if status.code == 409 => drop(self.seen.send_replace(true)),
                Err(error) => {
                    let sentence = format!("cannot remove the taint {STARTUP_TAINT} of node {}: {error}", self.node_name);
                    if self.lock().replace(sentence.clone()).as_ref() != Some(&sentence) {
                        tracing::warn!("{sentence}");
                    }
                    sleep(REFUSED_PAUSE).await;
                    self.seen.send_replace(true);
                }
            }
        }
    }

    /// Removes it, if the node is there and has it.
    async fn remove(&self, nodes: &Api<Node>) -> kube::Result<()> {
        let Some(node) = nodes.get_opt(&self.node_name).await?.filter(has_startup_taint) else { return Ok(()) };
        // Lists are replaced as a whole: with this version, so that nobody else's taint is lost. A conflict is tried again.
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": others(&node)},
        });
        nodes.patch(&self.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        tracing::info!("packets flow: the taint {STARTUP_TAINT} of node {} is removed", self.node_name);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn has_startup_taint(node: &Node) -> bool {
    taints(node).iter().any(|taint| taint.key == STARTUP_TAINT)
}

fn others(node: &Node) -> Vec<&Taint> {
    taints(node).iter().filter(|taint| taint.key != STARTUP_TAINT).collect()
}
