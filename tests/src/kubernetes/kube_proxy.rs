//! kubernetes' own kube-proxy on a node of the lab: the peer, and the judge of what a Service does.

use anyhow::{Context, Result};

use super::{Cluster, program};
use crate::lab::{Namespace, Process};

/// Its configuration: nftables mode, and nothing that would change settings of the whole machine.
const CONFIGURATION: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: KUBECONFIG, qps: 100, burst: 200}
hostnameOverride: NODE
clusterCIDR: 10.244.0.0/16
detectLocalMode: ClusterCIDR
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {syncPeriod: 30s, minSyncPeriod: 1s}
";

/// A running kube-proxy. Dropping it ends the process and removes its rules.
pub struct KubeProxy {
    process: Process,
    node: Namespace,
}

impl KubeProxy {
    /// Starts on a node; it programs after a while.
    pub fn start(cluster: &Cluster, node: &Namespace, node_name: &str) -> Result<KubeProxy> {
        let path = cluster.dir().join("kube-proxy.yaml");
        let kubeconfig = cluster.admin_kubeconfig()?;
        let text = CONFIGURATION.replace("KUBECONFIG", &kubeconfig.to_string_lossy()).replace("NODE", node_name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let program = program("kube-proxy")?;
        let process = node.spawn("kube-proxy", &[&program.to_string_lossy(), "--config", &path.to_string_lossy(), "--v=1"])?;
        Ok(KubeProxy { process, node: node.clone() })
    }

    /// Resident memory (`VmRSS`), in KiB.
    pub fn memory_kib(&self) -> Result<u64> {
        self.process.memory_kib()
    }

    /// CPU time so far, that of the nft processes that it starts left out.
    pub fn cpu_ns(&self) -> Result<u64> {
        self.process.cpu_ns()
    }

    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        self.process.kill();
        for family in ["ip", "ip6"] {
            // Gone with the namespace otherwise.
            let _ = self.node.exec(&["nft", "delete", "table", family, "kube-proxy"]);
        }
    }
}
