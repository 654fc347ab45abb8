//! The manifests of `deploy/` hold nothing that an apiserver does not know, and no flag that `ringway` does not know; the chart makes
//! the same objects.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Node, PodSpec, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use ringway_agent::apiserver::CredentialsOrigin;
use ringway_agent::cli::{Cli, Command as Subcommand};
use ringway_agent::config::{OnStop, Settings};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Kind and name → object.
type Objects = BTreeMap<String, Value>;

fn parse(text: &str) -> Result<Objects> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    let mut objects = Objects::new();
    for object in documents.into_iter().filter(|object| !object.is_null()) {
        check(&object)?;
        let name = format!("{} {}", object["kind"].as_str().unwrap_or("?"), object["metadata"]["name"].as_str().unwrap_or("?"));
        ensure!(objects.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    Ok(objects)
}

fn read(name: &str) -> Result<Objects> {
    let path = deploy().join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| name.to_owned())
}

/// Whether the object is one of its kind, with fields that the kind has.
fn check(object: &Value) -> Result<()> {
    let kind = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    match kind {
        ("v1", "ConfigMap") => strictly::<ConfigMap>(object),
        ("v1", "ServiceAccount") => strictly::<ServiceAccount>(object),
        ("v1", "Service") => strictly::<Service>(object),
        ("v1", "Node") => strictly::<Node>(object),
        ("discovery.k8s.io/v1", "EndpointSlice") => strictly::<EndpointSlice>(object),
        ("apps/v1", "DaemonSet") => strictly::<DaemonSet>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => strictly::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => strictly::<ClusterRoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => strictly::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => strictly::<RoleBinding>(object),
        other => bail!("{other:?} is no kind that is deployed: teach this test"),
    }
}

fn strictly<T: DeserializeOwned>(object: &Value) -> Result<()> {
    let mut unknown = Vec::new();
    let parsed: Result<T, _> = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()));
    parsed.with_context(|| format!("{} {}", object["kind"], object["metadata"]["name"]))?;
    ensure!(unknown.is_empty(), "{} {}: unknown fields {unknown:?}", object["kind"], object["metadata"]["name"]);
    Ok(())
}

fn pod(objects: &Objects, name: &str) -> Result<PodSpec> {
    let daemonset = objects.get(name).with_context(|| format!("no {name}"))?;
    let daemonset: DaemonSet = serde_json::from_value(daemonset.clone())?;
    daemonset.spec.and_then(|spec| spec.template.spec).context("no pod")
}

fn command_line(container: &Container) -> Result<Cli> {
    let arguments = container.args.iter().flatten().map(String::as_str);
    Cli::try_parse_from(["ringway"].into_iter().chain(arguments)).with_context(|| format!("the arguments of {}", container.name))
}

#[test]
fn every_manifest_is_known_to_an_apiserver() -> Result<()> {
    let mut files = BTreeSet::new();
    for dir in [deploy(), deploy().join("examples")] {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                parse(&std::fs::read_to_string(&path)?).with_context(|| path.display().to_string())?;
                files.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
    }
    for expected in ["rbac.yaml", "configmap.yaml", "daemonset.yaml", "cleanup.yaml", "web.yaml"] {
        ensure!(files.contains(expected), "{expected} is missing: {files:?}");
    }
    Ok(())
}

#[test]
fn unknown_fields_are_found() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, nmespace: b}\n";
    let error = format!("{:#}", parse(text).unwrap_err());
    assert!(error.contains("nmespace"), "{error}");
}

#[test]
fn the_daemonset_runs_what_ringway_knows() -> Result<()> {
    let pod = pod(&read("daemonset.yaml")?, "DaemonSet ringway")?;
    ensure!(pod.host_network == Some(true) && pod.host_pid == Some(true) && pod.containers.len() == 1);
    let container = &pod.containers[0];
    let Subcommand::Run(args) = command_line(container)?.command else { bail!("it does not run `ringway run`") };
    ensure!(args.settings.on_stop == Some(OnStop::Keep), "an update would break connections");
    ensure!(args.config.as_deref() == Some(Path::new("/etc/ringway/ringway.yaml")));

    let configmap: ConfigMap = serde_json::from_value(read("configmap.yaml")?["ConfigMap ringway"].clone())?;
    let file = configmap.data.unwrap_or_default().remove("ringway.yaml").context("no ringway.yaml in the ConfigMap")?;
    // Without apiservers it asks the one that pods are told of, and here is no pod: so with those that the comment shows.
    ensure!(Settings::from_yaml(&file)?.apiserver.is_empty(), "an address of nobody's cluster");
    let file = file.replace("# apiserver: [", "apiserver: [");
    let config = args.settings.or(Settings::from_yaml(&file)?).resolve()?;
    let access = config.apiserver.context("no apiserver")?;
    ensure!(access.endpoints.len() == 2 && matches!(access.credentials, CredentialsOrigin::ServiceAccount(_)), "{access:?}");
    ensure!(pod.service_account_name.as_deref() == Some("ringway") && pod.automount_service_account_token != Some(false));

    let mounts: Vec<&str> = container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect();
    ensure!(mounts.contains(&"/etc/ringway") && mounts.contains(&&*config.state_dir.to_string_lossy()), "{mounts:?}");
    let probe = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
        probe.as_ref().and_then(|probe| probe.http_get.as_ref()).and_then(|get| get.path.clone()).unwrap_or_default()
    };
    ensure!((probe(&container.liveness_probe), probe(&container.readiness_probe)) == ("/livez".into(), "/readyz".into()));
    let ports: Vec<i32> = container.ports.iter().flatten().map(|port| port.container_port).collect();
    ensure!(config.healthz.is_some_and(|healthz| ports == [i32::from(healthz.port())]), "{ports:?}");
    Ok(())
}

#[test]
fn cleanup_has_the_rights_of_what_it_cleans_up() -> Result<()> {
    let ringway = pod(&read("daemonset.yaml")?, "DaemonSet ringway")?;
    let cleanup = pod(&read("cleanup.yaml")?, "DaemonSet ringway-cleanup")?;
    let container = cleanup.init_containers.as_ref().and_then(|containers| containers.first()).context("no init container")?;
    ensure!(matches!(command_line(container)?.command, Subcommand::Cleanup(_)));
    ensure!(cleanup.host_network == ringway.host_network && cleanup.host_pid == ringway.host_pid);
    let context = |container: &Container| container.security_context.clone().context("no security context");
    ensure!(context(container)? == context(&ringway.containers[0])?, "other rights");
    ensure!(container.image == ringway.containers[0].image);
    let state = |container: &Container| {
        container.volume_mounts.iter().flatten().find(|mount| mount.mount_path == "/run/ringway").cloned().context("no state directory")
    };
    ensure!(state(container)? == state(&ringway.containers[0])?);
    Ok(())
}

/// The objects without what only a chart has: a checksum that makes new pods of another configuration.
fn comparable(mut objects: Objects) -> Result<Objects> {
    for object in objects.values_mut() {
        if let Some(metadata) = object.pointer_mut("/spec/template/metadata").and_then(Value::as_object_mut) {
            metadata.remove("annotations");
        }
        // Comments and the order of keys in the file of flags do not count.
        if let Some(file) = object.pointer_mut("/data/ringway.yaml") {
            *file = serde_saphyr::from_str(file.as_str().unwrap_or_default())?;
        }
    }
    Ok(objects)
}

#[test]
fn the_chart_makes_the_same_objects() -> Result<()> {
    let chart = deploy().join("chart");
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(chart.join("values.yaml"))?)?;
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(chart.join("values.schema.json"))?)?;
    for key in values.as_object().context("values")?.keys() {
        ensure!(schema["properties"].get(key).is_some(), "the schema does not know {key}");
    }
    let helm = std::env::var_os("HELM").unwrap_or_else(|| "helm".into());
    let render = |more: &[&str]| {
        Command::new(&helm)
            .args(["template", "ringway", "--namespace", "kube-system", "--kube-version", "1.36.0"])
            .arg(&chart)
            .args(more)
            .output()
    };
    let output = match render(&[]) {
        Ok(output) => output,
        Err(error) => {
            eprintln!("NOT RUN: the chart was not rendered: helm: {error}; install it, or name it by HELM=");
            return Ok(());
        }
    };
    ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
    let rendered = parse(&String::from_utf8(output.stdout)?)?;
    let checksum = |objects: &Objects| objects["DaemonSet ringway"]["spec"]["template"]["metadata"]["annotations"].clone();
    let default_checksum = checksum(&rendered);
    let rendered = comparable(rendered)?;
    let mut plain = Objects::new();
    for file in ["rbac.yaml", "configmap.yaml", "daemonset.yaml"] {
        plain.extend(read(file)?);
    }
    let plain = comparable(plain)?;
    ensure!(rendered.keys().eq(plain.keys()), "{:?} instead of {:?}", rendered.keys(), plain.keys());
    for (name, object) in &plain {
        ensure!(rendered[name] == *object, "{name} differs:\n{:#}\ninstead of\n{object:#}", rendered[name]);
    }
    for wrong in ["onStop=maybe", "confg.uplink={eth0}", "config.uplink=null", "apiServers={10.0.0.12}", "config.apiserver={https://a}"] {
        ensure!(!render(&["--set", wrong])?.status.success(), "the schema takes {wrong}");
    }
    let servers = "apiServers={https://10.0.0.12:6443#kubernetes,https://[fd00::1]:6443}";
    let other = render(&["--set", &format!("stateDir=/var/run/rw,imagePullSecrets={{a}},image.tag=v9,{servers}")])?;
    ensure!(other.status.success(), "helm: {}", String::from_utf8_lossy(&other.stderr));
    let objects = parse(&String::from_utf8(other.stdout)?)?;
    let pod = pod(&objects, "DaemonSet ringway")?;
    let Subcommand::Run(args) = command_line(&pod.containers[0])?.command else { bail!("it does not run `ringway run`") };
    ensure!(
        args.settings.state_dir.as_deref() == Some(Path::new("/var/run/rw")) && pod.containers[0].image.as_deref() == Some("ringway:v9")
    );
    let file = objects["ConfigMap ringway"]["data"]["ringway.yaml"].as_str().context("no file of flags")?;
    let given = Settings::from_yaml(file)?;
    let urls: Vec<String> = given.apiserver.iter().map(ToString::to_string).collect();
    ensure!(urls == ["https://10.0.0.12:6443", "https://[fd00::1]:6443"], "{urls:?}");
    ensure!(given.apiserver[0].server_name.as_deref() == Some("kubernetes") && given.uplink == ["eth0"], "{given:?}");
    ensure!(checksum(&objects) != default_checksum, "other apiservers, but no new pods");
    Ok(())
}
