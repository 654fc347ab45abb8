//! The rules of the house, as tests: who may depend on what, who may write `unsafe`, how long a file may be, where a README stands.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Crates that talk to a cluster, and those that talk to the kernel.
const CLUSTER: [&str; 4] = ["kube", "kube-client", "kube-runtime", "k8s-openapi"];
const NETLINK: [&str; 5] = ["rtnetlink", "netlink-sys", "netlink-proto", "netlink-packet-route", "netlink-packet-core"];
const BPF: [&str; 2] = ["libbpf-rs", "libbpf-sys"];
const SYSTEM: [&str; 8] = ["tokio", "mio", "socket2", "libc", "nix", "rustix", "notify", "inotify"];

/// The crates that may contain `unsafe`.
const UNSAFE: [&str; 2] = ["xdp-redirect", "ringway-io"];

/// A newcomer reads a file in one sitting.
const FILE_LINES_MAX: usize = 400;

const FOLDERS: [&str; 7] = ["xdp-redirect", "dataplane", "control", "bench", "perf", "tests", "deploy"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// Absent for a normal dependency.
    kind: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn metadata() -> Result<Metadata> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(["metadata", "--format-version", "1", "--locked"]).current_dir(root()).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata printed something else")
}

/// Names of all crates that `name` links, itself excluded.
fn linked_by(metadata: &Metadata, name: &str) -> Result<BTreeSet<String>> {
    let names: BTreeMap<&str, &str> = metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let start = metadata.packages.iter().find(|package| package.name == name).with_context(|| format!("no crate {name}"))?;
    let mut linked = BTreeSet::new();
    let mut open = vec![start.id.as_str()];
    while let Some(id) = open.pop() {
        let node = nodes.get(id).with_context(|| format!("{id} is not resolved"))?;
        for dependency in node.deps.iter().filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none())) {
            if linked.insert(names[dependency.pkg.as_str()].to_owned()) {
                open.push(&dependency.pkg);
            }
        }
    }
    Ok(linked)
}

#[test]
fn crates_link_only_what_they_may() -> Result<()> {
    let metadata = metadata()?;
    let all = [&CLUSTER[..], &NETLINK, &BPF, &SYSTEM].concat();
    let pure_but_objects: Vec<&str> = all.iter().copied().filter(|name| !CLUSTER.contains(name)).collect();
    let rules = [
        ("ringway-engine", all.clone()),
        // Kubernetes' types are its input; nothing that fetches them.
        ("ringway-model", [&pure_but_objects[..], &["kube", "kube-client", "kube-runtime"]].concat()),
        ("ringway-io", [&CLUSTER[..], &NETLINK, &["tokio", "ringway-model"]].concat()),
        ("xdp-redirect", [&CLUSTER[..], &NETLINK, &["tokio", "ringway-model", "ringway-io"]].concat()),
    ];
    for (name, forbidden) in rules {
        let linked = linked_by(&metadata, name)?;
        let wrong: Vec<&&str> = forbidden.iter().filter(|crate_name| linked.contains(**crate_name)).collect();
        ensure!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    }
    Ok(())
}

#[test]
fn unsafe_lives_in_two_crates() -> Result<()> {
    let metadata = metadata()?;
    let members = metadata.packages.iter().filter(|package| metadata.workspace_members.contains(&package.id));
    let mut missing = Vec::new();
    for package in members.filter(|package| !UNSAFE.contains(&package.name.as_str())) {
        for target in package.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "lib" || kind == "bin")) {
            if !std::fs::read_to_string(&target.src_path)?.contains("#![forbid(unsafe_code)]") {
                missing.push(target.src_path.clone());
            }
        }
    }
    ensure!(missing.is_empty(), "#![forbid(unsafe_code)] is missing in {missing:?}");
    Ok(())
}

#[test]
fn every_unsafe_block_says_why_it_is_safe() -> Result<()> {
    let mut silent = Vec::new();
    for path in sources(&["rs"])? {
        let text = std::fs::read_to_string(&path)?;
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            // Blocks and impls; an `unsafe fn` states its conditions in its documentation.
            let is_block = code.contains(concat!("unsafe", " {")) || code.contains(concat!("unsafe", " impl"));
            let before = &lines[number.saturating_sub(6)..=number];
            if is_block && !before.iter().any(|line| line.contains("SAFETY:")) {
                silent.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    ensure!(silent.is_empty(), "no `// SAFETY:` above {silent:#?}");
    Ok(())
}

#[test]
fn files_are_read_in_one_sitting() -> Result<()> {
    let mut long = Vec::new();
    for path in sources(&["rs", "c", "h", "py", "sh"])? {
        let lines = std::fs::read_to_string(&path)?.lines().count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{} has {lines} lines", path.display()));
        }
    }
    ensure!(long.is_empty(), "more than {FILE_LINES_MAX} lines: {long:#?}");
    Ok(())
}

#[test]
fn every_folder_has_a_readme() -> Result<()> {
    for folder in FOLDERS {
        let path = root().join(folder).join("README.md");
        ensure!(path.is_file(), "{} is missing", path.display());
    }
    Ok(())
}

#[test]
fn example_manifests_are_good() -> Result<()> {
    let dir = root().join("deploy/examples");
    let mut folder = ringway_model::Folder::default();
    let mut objects = 0;
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let file = ringway_model::manifest::ManifestFile { file: path.display().to_string(), text: std::fs::read_to_string(&path)? };
        objects += folder.update(file).len();
    }
    ensure!(folder.problems().is_empty(), "{:#?}", folder.problems());
    ensure!(objects >= 4, "only {objects} objects are read");
    Ok(())
}

/// Source files of the workspace with these endings.
fn sources(endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = FOLDERS.iter().map(|folder| root().join(folder)).chain([root().join("scripts")]).collect();
    while let Some(dir) = open.pop() {
        let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| endings.iter().any(|ending| extension == *ending)) {
                found.push(path);
            }
        }
    }
    Ok(found)
}
