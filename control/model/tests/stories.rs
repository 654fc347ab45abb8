//! Runs every story in `stories/`: manifests in, tables out, step by step until everything is empty. `stories/README.md` has the format.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use ringway_engine::tables::{Backend, Frontend, FrontendKey, FrontendKind, Target};
use ringway_model::manifest::ManifestFile;
use ringway_model::{Compiler, Folder, HealthCheck, IpFamily, NoLocalEndpoints, NodePortAddresses, ServiceName, Settings, Update, Vip};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Story {
    #[serde(rename = "about")]
    _about: String,
    /// Objects to refer to by YAML aliases.
    #[serde(default, rename = "let")]
    _shared: Value,
    #[serde(default)]
    settings: StorySettings,
    steps: Vec<Step>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StorySettings {
    node: Option<String>,
    node_port_addresses: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Step {
    step: String,
    #[serde(default)]
    files: BTreeMap<String, Value>,
    device_addresses: Option<Vec<IpAddr>>,
    #[serde(default)]
    frontends: Vec<String>,
    /// Checked where given.
    vips: Option<Vec<String>>,
    /// Likewise.
    service_cidrs: Option<Vec<String>>,
    #[serde(default)]
    stopped: Vec<String>,
    /// Endpoints that left; ` lost` if their node is out of reach.
    #[serde(default)]
    left: Vec<String>,
    /// Checked where given.
    health_checks: Option<Vec<String>>,
    /// `IPv4 internal 1 external 0`, checked where given.
    no_local_endpoints: Option<Vec<String>>,
    #[serde(default)]
    problems: Vec<String>,
}

/// The tables as a follower of the updates has them.
struct Run {
    folder: Folder,
    compiler: Compiler,
    frontends: BTreeMap<FrontendKey, Arc<Frontend>>,
    vips: BTreeMap<IpAddr, Vip>,
    service_cidrs: BTreeSet<IpNet>,
    health_checks: BTreeMap<(ServiceName, IpFamily), HealthCheck>,
    /// Of the last step.
    stopped: Vec<String>,
    left: Vec<String>,
}

impl Run {
    fn new(settings: StorySettings) -> Run {
        let settings = Settings {
            node_name: settings.node.unwrap_or_else(|| "node-a".into()),
            node_port_addresses: settings.node_port_addresses.map_or(NodePortAddresses::Primary, |nets| {
                NodePortAddresses::Within(nets.iter().map(|net| net.parse().unwrap()).collect())
            }),
        };
        Run {
            folder: Folder::default(),
            compiler: Compiler::new(settings),
            frontends: BTreeMap::new(),
            vips: BTreeMap::new(),
            service_cidrs: BTreeSet::new(),
            health_checks: BTreeMap::new(),
            stopped: Vec::new(),
            left: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        self.stopped.clear();
        self.left.clear();
        if let Some(addresses) = &step.device_addresses {
            let update = self.compiler.set_device_addresses(addresses.clone());
            self.follow(update);
        }
        let mut changes = Vec::new();
        for (name, content) in &step.files {
            changes.extend(match text(content) {
                Some(text) => self.folder.update(ManifestFile { file: name.clone(), text }),
                None => self.folder.remove(name),
            });
        }
        let update = self.compiler.apply(changes);
        self.follow(update);
    }

    /// Every published change must be one: the cost follows the change.
    fn follow(&mut self, update: Update) {
        self.stopped.extend(update.stopped.iter().map(|(key, backend)| format!("{} {backend}", address(key))));
        self.left.extend(update.left.iter().map(|left| {
            let lost = if left.is_lost { " lost" } else { "" };
            format!("{} {} {}{lost}", left.service, left.address, left.pod.name)
        }));
        for (key, frontend) in update.frontends {
            assert_ne!(self.frontends.get(&key), frontend.as_ref(), "{key:?} is published without a change");
            match frontend {
                Some(frontend) => self.frontends.insert(key, frontend),
                None => self.frontends.remove(&key),
            };
        }
        for (address, vip) in update.vips {
            assert_ne!(self.vips.get(&address).copied(), vip, "{address} is published without a change");
            match vip {
                Some(vip) => self.vips.insert(address, vip),
                None => self.vips.remove(&address),
            };
        }
        for (service, check) in update.health_checks {
            assert_ne!(self.health_checks.get(&service), check.as_ref(), "the health check of {service:?} is published without a change");
            match check {
                Some(check) => self.health_checks.insert(service, check),
                None => self.health_checks.remove(&service),
            };
        }
        if let Some(cidrs) = update.service_cidrs {
            assert_ne!(self.service_cidrs, cidrs, "ServiceCIDRs are published without a change");
            self.service_cidrs = cidrs;
        }
        let all: BTreeMap<_, _> = self.compiler.vips().collect();
        assert_eq!(all, self.vips);
    }

    fn check(&self, step: &Step, faults: &mut Vec<String>) {
        let frontends: Vec<String> = self.frontends.iter().map(|(key, frontend)| line(key, frontend)).collect();
        compare("frontends", &step.frontends, &frontends, faults);
        if let Some(expected) = &step.vips {
            let flag = |set, word| if set { word } else { "" };
            let line = |(address, vip): (&IpAddr, &Vip)| {
                format!("{address}{}{}", flag(vip.announced, " announced"), flag(vip.cluster_ip, " closed"))
            };
            let vips: Vec<String> = self.vips.iter().map(line).collect();
            compare("vips", expected, &vips, faults);
        }
        if let Some(expected) = &step.service_cidrs {
            compare("serviceCidrs", expected, &self.service_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), faults);
        }
        compare("stopped", &step.stopped, &self.stopped, faults);
        compare("left", &step.left, &self.left, faults);
        if let Some(expected) = &step.health_checks {
            let line = |((service, family), check): (&(ServiceName, IpFamily), &HealthCheck)| {
                format!("{service} {family} port {} local {}", check.port, check.local_endpoints)
            };
            let checks: Vec<String> = self.health_checks.iter().map(line).collect();
            compare("healthChecks", expected, &checks, faults);
        }
        if let Some(expected) = &step.no_local_endpoints {
            let counts = self.compiler.no_local_endpoints();
            let some = IpFamily::BOTH.into_iter().filter(|family| counts[*family] != NoLocalEndpoints::default());
            let line = |family| format!("{family} internal {} external {}", counts[family].internal, counts[family].external);
            compare("noLocalEndpoints", expected, &some.map(line).collect::<Vec<_>>(), faults);
        }
        let problems: Vec<String> = self
            .folder
            .problems()
            .into_iter()
            .chain(self.compiler.problems())
            .map(|problem| format!("{}: {problem}", serde_json::to_value(problem.severity).unwrap().as_str().unwrap()))
            .collect();
        compare("problems", &step.problems, &problems, faults);
    }
}

/// A file of a step is text, or a list of objects, or null (gone).
fn text(content: &Value) -> Option<String> {
    match content {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(objects) => Some(objects.iter().fold(String::new(), |mut text, object| {
            write!(text, "---\n{object}\n").unwrap();
            text
        })),
        other => panic!("a file is text, a list of objects, or null: {other}"),
    }
}

/// `192.0.2.1:80/TCP LoadBalancerIP default/web:http maglev from 10.0.0.0/8 -> 10.1.0.1:8080*, 10.1.1.1:8080`
fn line(key: &FrontendKey, frontend: &Frontend) -> String {
    let kind = match frontend.kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancerIp => "LoadBalancerIP",
        FrontendKind::ExternalIp => "ExternalIP",
    };
    let service = &frontend.service;
    let mut line = format!("{} {kind} {}/{}:{}", address(key), service.namespace, service.name, service.port);
    if let Some(ranges) = &frontend.source_ranges {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        write!(line, " from {}", ranges.join(",")).unwrap();
    }
    if let Some(affinity) = frontend.affinity {
        write!(line, " sticky {} ticks", affinity.timeout).unwrap();
    }
    if frontend.outside == frontend.inside {
        write!(line, " -> {}", target(&frontend.outside)).unwrap();
    } else {
        write!(line, " outside -> {} inside -> {}", target(&frontend.outside), target(&frontend.inside)).unwrap();
    }
    line
}

fn address(key: &FrontendKey) -> String {
    let protocol = match key.protocol {
        6 => "TCP",
        17 => "UDP",
        _ => "SCTP",
    };
    format!("{}/{protocol}", SocketAddr::new(key.address, key.port))
}

fn target(target: &Target) -> String {
    let backend = |backend: &Backend| format!("{}{}", SocketAddr::new(backend.address, backend.port), if backend.local { "*" } else { "" });
    match target {
        Target::Backends(set) => {
            let backends: Vec<String> = set.backends.iter().map(backend).collect();
            format!("{}{}", if set.maglev.is_some() { "maglev " } else { "" }, backends.join(", "))
        }
        Target::NoBackend => "reject".into(),
        Target::PolicyLocal => "drop".into(),
    }
}

fn compare(what: &str, expected: &[String], found: &[String], faults: &mut Vec<String>) {
    let (mut expected, mut found) = (expected.to_vec(), found.to_vec());
    expected.sort();
    found.sort();
    for line in found.iter().filter(|line| !expected.contains(line)) {
        faults.push(format!("    {what}: unexpected: {line}"));
    }
    for line in expected.iter().filter(|line| !found.contains(line)) {
        faults.push(format!("    {what}: missing:    {line}"));
    }
    if faults.is_empty() && expected.len() != found.len() {
        faults.push(format!("    {what}: a line stands {} times, expected {}", found.len(), expected.len()));
    }
}

/// Runs one story; returns what is wrong.
fn run(story: Story) -> Vec<String> {
    let mut run = Run::new(story.settings);
    let mut faults = Vec::new();
    for step in &story.steps {
        let mut here = Vec::new();
        run.take(step);
        run.check(step, &mut here);
        if !here.is_empty() {
            faults.push(format!("  step {:?}:", step.step));
            faults.append(&mut here);
        }
    }
    let files: Vec<String> = run.folder.files().map(str::to_owned).collect();
    for file in files {
        let changes = run.folder.remove(&file);
        let update = run.compiler.apply(changes);
        run.follow(update);
    }
    if !(run.frontends.is_empty()
        && run.vips.is_empty()
        && run.health_checks.is_empty()
        && run.compiler.is_empty()
        && run.folder.problems().is_empty())
    {
        faults.push("  after the removal of all files something is left".into());
    }
    faults
}

#[test]
fn every_story_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    names.sort();
    assert!(names.len() >= 12, "stories are missing in {}", folder.display());
    let mut faults = String::new();
    for path in names {
        let text = std::fs::read_to_string(&path).unwrap();
        let story = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found = run(story);
        if !found.is_empty() {
            writeln!(faults, "{}:\n{}", path.display(), found.join("\n")).unwrap();
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}
