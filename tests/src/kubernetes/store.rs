//! Objects by the ten thousand, written straight into etcd: an apiserver takes minutes for them, and quarters of an hour for their ClusterIPs.
//! It serves what it finds there as if it had created it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use anyhow::{Context, Result, ensure};

use super::Cluster;

/// Of etcd: operations in one transaction (`--max-txn-ops` 128) and bytes in one request (`--max-request-bytes` 1.5 MiB).
const OBJECTS_AT_ONCE: usize = 100;

/// An object for [`Cluster::store`].
pub struct Stored {
    /// Below `/registry`: `services/specs`, `endpointslices`.
    pub place: &'static str,
    pub name: String,
    /// With apiVersion and kind; metadata is completed.
    pub object: Value,
}

impl Cluster {
    /// Writes objects of the namespace `default` that are valid and complete: no apiserver looks at them before.
    pub fn store(&self, objects: impl IntoIterator<Item = Stored>) -> Result<()> {
        let file = self.dir().join("transaction");
        let mut objects = objects.into_iter().enumerate().peekable();
        while objects.peek().is_some() {
            let puts: Vec<Value> = objects.by_ref().take(OBJECTS_AT_ONCE).map(|(number, object)| put(number, object)).collect();
            let count = puts.len();
            std::fs::write(&file, json!({ "success": puts }).to_string()).with_context(|| format!("cannot write {}", file.display()))?;
            let body = format!("@{}", file.display());
            let words = ["curl", "-sS", "--noproxy", "*", "--max-time", "30", "--data-binary", &body, "http://127.0.0.1:2379/v3/kv/txn"];
            let answer: Value = serde_json::from_str(&self.namespace.exec(&words)?).context("etcd's answer is no JSON")?;
            ensure!(answer["succeeded"] == true, "etcd does not take {count} objects: {answer}");
        }
        Ok(())
    }
}

fn put(number: usize, stored: Stored) -> Value {
    let Stored { place, name, mut object } = stored;
    object["metadata"]["name"] = json!(name);
    object["metadata"]["namespace"] = json!("default");
    object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{number:012}"));
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let key = format!("/registry/{place}/default/{name}");
    json!({"request_put": {"key": STANDARD.encode(key), "value": STANDARD.encode(object.to_string())}})
}
