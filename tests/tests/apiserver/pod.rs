//! `ringway` as a pod of the DaemonSet: the file of its ConfigMap, its service account, and what Kubernetes tells every pod.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use ringway_agent::apiserver::{SERVICE_ACCOUNT_DIR, cache_path};
use ringway_tests::kubernetes::ClusterOptions;
use ringway_tests::lab::{Ringway, RingwayOptions};

use crate::bed::{ADDRESS, slice};
use crate::packets::{wait_servers, wait_status, with_cluster};

/// What Kubernetes tells every pod: the ClusterIP of `default/kubernetes`.
const TOLD: &str = "https://10.96.0.1:443";

/// The file of `deploy/configmap.yaml`, with the line that gives apiservers in force, or not.
fn config(url: Option<&str>) -> Result<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/configmap.yaml"))?;
    let configmap: serde_json::Value = serde_saphyr::from_str(&text)?;
    let file = configmap["data"]["ringway.yaml"].as_str().context("no ringway.yaml")?;
    let line = file.lines().find(|line| line.starts_with("# apiserver: [")).context("the ConfigMap shows no apiserver")?;
    Ok(url.map_or_else(|| file.to_owned(), |url| file.replace(line, &format!("apiserver: ['{url}']"))))
}

/// Words that put the service account where pods have it, in a mount namespace of its own, and run what follows.
fn in_pod(service_account: &Path) -> Vec<String> {
    let place = format!(
        "mount -t tmpfs none /var && mkdir -p {SERVICE_ACCOUNT_DIR} && cp {0}/ca.crt {0}/token {SERVICE_ACCOUNT_DIR}/ && exec \"$@\"",
        service_account.display()
    );
    let words = ["env", "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443", "unshare", "--mount", "sh", "-c", &place, "sh"];
    words.map(str::to_owned).to_vec()
}

#[test]
fn without_kube_proxy_the_apiserver_is_reached_by_its_own_address() -> Result<()> {
    with_cluster("api_pod", ClusterOptions::default(), |net, cluster| {
        cluster.create(&slice("kubernetes", "kubernetes", ADDRESS, 6443))?;
        let file = net.lab.state_dir().join("ringway.yaml");
        std::fs::write(&file, config(Some(&cluster.url(0)))?)?;
        let sources = vec!["--config".to_owned(), file.display().to_string()];
        let under = in_pod(&cluster.service_account_dir()?);
        let ringway = Ringway::start(net, &RingwayOptions { sources, under, ..RingwayOptions::default() }, &[])?;
        wait_servers(net, &["a1", "b1"])?;
        // What pods are told works on the node, now that we serve it, and is a candidate like the others.
        wait_status(&ringway, "both ways to the apiserver are up", |status| {
            let candidates = status["apiserver"]["candidates"].as_array().cloned().unwrap_or_default();
            let up = |url: &str| candidates.iter().any(|candidate| candidate["url"] == url && candidate["health"] == "up");
            up(&cluster.url(0)) && up(TOLD)
        })?;

        // The same on a new node that is told nothing else.
        ringway.terminate()?;
        std::fs::remove_file(cache_path(ringway.state_dir())).context("nothing was kept")?;
        std::fs::write(&file, config(None)?)?;
        ringway.launch()?;
        wait_status(&ringway, "the remedy is told", |status| {
            let problems = status["problems"].to_string();
            [TOLD, "no apiserver answers", "control-plane nodes", "apiServers"].iter().all(|part| problems.contains(part))
        })?;
        ensure!(ringway.status()?["ready"] == false, "ready without any object");
        std::fs::write(&file, config(Some(&cluster.url(0)))?)?;
        ringway.terminate()?;
        ringway.start_again()?;
        wait_servers(net, &["a1", "b1"])
    })
}
