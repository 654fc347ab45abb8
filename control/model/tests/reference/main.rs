//! Random clusters, changed step by step: what the compiler publishes must be what a reference, written straight from the contract, says.
//!
//! A history is three to four clusters on average, so `make test-long` compares a million: `PROPTEST_CASES=300000`.
#![forbid(unsafe_code)]

mod describe;
mod expected;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use ringway_engine::tables::{Frontend, FrontendKey, Target};
use ringway_model::manifest::ManifestFile;
use ringway_model::{Change, Compiler, Folder, Settings, Severity, Update, Vip};
use serde_json::Value;

use describe::{Event, HERE, history};
use expected::{Expected, ExpectedFrontend, World};

/// Enough to meet every combination of rules a few times.
const CASES: u32 = 1000;

/// Time-outs are held in units of 2^24 ns.
const TICK_S: f64 = 0.016_777_216;

fn config() -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { default } else { ProptestConfig { cases: CASES, ..default } }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_compiler_agrees_with_the_contract(history in history()) {
        let mut run = Run::default();
        for batch in &history {
            let stopped = run.take(batch);
            let expected = run.world.frontends();
            run.check(&expected);
            run.check_flows(&stopped, &expected);
        }
        run.check_from_scratch();
        run.remove_everything();
    }
}

struct Run {
    world: World,
    folder: Folder,
    compiler: Compiler,
    frontends: BTreeMap<FrontendKey, Arc<Frontend>>,
    vips: BTreeMap<IpAddr, Vip>,
    /// A UDP flow of each frontend to each backend that ever served it, less those that were stopped.
    flows: BTreeSet<(FrontendKey, (IpAddr, u16))>,
}

impl Default for Run {
    fn default() -> Run {
        Run {
            world: World::default(),
            folder: Folder::default(),
            compiler: compiler(),
            frontends: BTreeMap::new(),
            vips: BTreeMap::new(),
            flows: BTreeSet::new(),
        }
    }
}

fn compiler() -> Compiler {
    Compiler::new(Settings { node_name: HERE.into(), ..Settings::default() })
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

impl Run {
    /// Returns the UDP flows that the last update stopped.
    fn take(&mut self, batch: &[Event]) -> BTreeSet<(FrontendKey, (IpAddr, u16))> {
        let mut changes = Vec::new();
        for event in batch {
            match event.clone() {
                Event::Service(index, service) => {
                    changes.extend(write(&mut self.folder, &format!("service-{index}"), service.as_ref().map(|it| it.manifest(index))));
                    self.world.services[index] = service;
                }
                Event::Slice(index, slice) => {
                    changes.extend(write(&mut self.folder, &format!("slice-{index}"), slice.as_ref().map(|it| it.manifest(index))));
                    self.world.slices[index] = slice;
                }
                Event::Node(node) => {
                    changes.extend(write(&mut self.folder, "node", node.as_ref().map(|it| it.manifest())));
                    self.world.node = node;
                }
                Event::Devices(devices) => {
                    let update = self.compiler.set_device_addresses(addresses(&devices));
                    self.follow(update);
                    self.world.devices = devices;
                }
            }
        }
        let update = self.compiler.apply(changes);
        let stopped: BTreeSet<_> = update.stopped.iter().map(|(key, backend)| (*key, (backend.ip(), backend.port()))).collect();
        self.follow(update);
        stopped
    }

    /// No flow is left to a backend that does not serve, and none that does was stopped.
    fn check_flows(&mut self, stopped: &BTreeSet<(FrontendKey, (IpAddr, u16))>, expected: &BTreeMap<FrontendKey, ExpectedFrontend>) {
        let serving = self.world.serving(expected);
        assert_eq!(self.flows.difference(&serving).next(), None, "black hole");
        assert_eq!(stopped.intersection(&serving).next(), None, "stopped without need");
        self.flows.extend(serving);
    }

    fn follow(&mut self, update: Update) {
        for (key, backend) in &update.stopped {
            self.flows.remove(&(*key, (backend.ip(), backend.port())));
        }
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
    }

    fn check(&self, expected: &BTreeMap<FrontendKey, ExpectedFrontend>) {
        let errors: Vec<_> = self.folder.problems().into_iter().filter(|problem| problem.severity == Severity::Error).collect();
        assert_eq!(errors, [], "the descriptions break no rule");
        let found: BTreeMap<_, _> = self.frontends.iter().map(|(key, frontend)| (*key, observed(frontend))).collect();
        assert_eq!(&found, expected);
        self.check_affinity();
        assert_eq!(self.vips, self.world.vips());
        self.check_view();
    }

    /// §2: a client keeps its endpoint at a service port, whichever of its addresses it uses, and at that one only.
    fn check_affinity(&self) {
        let (mut by_name, mut by_number) = (BTreeMap::new(), BTreeMap::new());
        for (key, frontend) in &self.frontends {
            let Some(affinity) = frontend.affinity else { continue };
            let name = (&frontend.service.name, &frontend.service.port, key.protocol);
            assert_eq!(
                *by_name.entry(name).or_insert(affinity.service),
                affinity.service,
                "addresses of {name:?} have endpoints of their own"
            );
            assert_eq!(*by_number.entry(affinity.service).or_insert(name), name, "two service ports share clients' endpoints");
        }
    }

    /// What people are shown must be what is in force.
    fn check_view(&self) {
        let shown: BTreeSet<(IpAddr, u16, u8)> = self
            .compiler
            .view()
            .iter()
            .flat_map(|port| {
                let protocol = match port.protocol {
                    ringway_model::Protocol::Tcp => 6,
                    ringway_model::Protocol::Udp => 17,
                    ringway_model::Protocol::Sctp => 132,
                };
                port.frontends
                    .iter()
                    .filter(|frontend| frontend.held_by.is_none())
                    .map(move |frontend| (frontend.address, frontend.port, protocol))
            })
            .collect();
        let keys: BTreeSet<_> = self.frontends.keys().map(|key| (key.address, key.port, key.protocol)).collect();
        assert_eq!(shown, keys);
    }

    /// The way to a state must not matter: shared sets and Maglev tables included.
    fn check_from_scratch(&self) {
        let mut scratch = Run::default();
        let mut batch = vec![Event::Node(self.world.node.clone()), Event::Devices(self.world.devices.clone())];
        batch.extend(self.world.slices.iter().cloned().enumerate().map(|(index, slice)| Event::Slice(index, slice)));
        batch.extend(self.world.services.iter().cloned().enumerate().map(|(index, service)| Event::Service(index, service)));
        scratch.take(&batch);
        assert_eq!(scratch.frontends, self.frontends);
        assert_eq!(scratch.vips, self.vips);
    }

    fn remove_everything(&mut self) {
        let files: Vec<String> = self.folder.files().map(str::to_owned).collect();
        for file in files {
            let update = self.compiler.apply(self.folder.remove(&file));
            self.follow(update);
        }
        assert!(self.frontends.is_empty() && self.vips.is_empty() && self.compiler.is_empty());
    }
}

fn write(folder: &mut Folder, file: &str, content: Option<Value>) -> Vec<Change> {
    match content {
        Some(object) => folder.update(ManifestFile { file: file.into(), text: object.to_string() }),
        None => folder.remove(file),
    }
}

fn observed(frontend: &Frontend) -> ExpectedFrontend {
    let target = |target: &Target| match target {
        Target::Backends(set) => Expected::To {
            backends: set.backends.iter().map(|backend| (backend.address, backend.port, backend.local)).collect(),
            maglev: set.maglev.is_some(),
        },
        Target::NoBackend => Expected::Reject,
        Target::PolicyLocal => Expected::Drop,
    };
    ExpectedFrontend {
        service: frontend.service.name.to_string(),
        port: frontend.service.port.to_string(),
        kind: frontend.kind,
        outside: target(&frontend.outside),
        inside: target(&frontend.inside),
        ranges: frontend.source_ranges.as_ref().map(|ranges| ranges.iter().map(ToString::to_string).collect()),
        sticky: frontend.affinity.map(|affinity| (f64::from(affinity.timeout) * TICK_S).round() as u32),
    }
}
