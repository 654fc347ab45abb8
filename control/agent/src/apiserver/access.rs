//! Which apiserver, and as whom: what flags and surroundings say.

use std::path::{Path, PathBuf};

use super::credentials::{Origin, SERVICE_ACCOUNT_DIR};
use super::endpoint::Endpoint;

/// How to reach the apiserver.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// As given, in this order; the server of a kubeconfig is one more.
    pub endpoints: Vec<Endpoint>,
    pub credentials: Origin,
}

impl Access {
    /// With the credentials of the kubeconfig, else of the pod's service account.
    pub fn new(endpoints: Vec<Endpoint>, kubeconfig: Option<PathBuf>) -> Access {
        let credentials = kubeconfig.map_or_else(|| Origin::ServiceAccount(SERVICE_ACCOUNT_DIR.into()), Origin::Kubeconfig);
        Access { endpoints, credentials }
    }
}

/// A pod with a service account, seen from inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The apiserver as Kubernetes tells its pods.
    pub endpoint: Endpoint,
}

impl Pod {
    /// Looks whether this is one: the environment names the apiserver, and there is a token.
    pub fn here() -> Option<Pod> {
        let host = std::env::var("KUBERNETES_SERVICE_HOST").ok().filter(|host| !host.is_empty())?;
        let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".into());
        Path::new(SERVICE_ACCOUNT_DIR).join("token").exists().then_some(())?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Some(Pod { endpoint: format!("https://{host}:{port}").parse().ok()? })
    }
}
