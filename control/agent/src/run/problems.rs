//! What is wrong now: for `status`, the log and the metrics.

use std::collections::{BTreeMap, BTreeSet};

use ringway_io::WorkerState;
use ringway_model::{IpFamily, ServiceName, Severity};

use super::control::Control;
use super::plan::UplinkPlan;
use crate::tables::refused_services;

/// One thing that is wrong.
struct Trouble {
    severity: &'static str,
    /// What it concerns, a label of the metrics.
    kind: String,
    sentence: String,
}

impl Trouble {
    fn error(kind: &str, sentence: impl Into<String>) -> Trouble {
        Trouble { severity: "error", kind: kind.into(), sentence: sentence.into() }
    }
}

/// `kind` of an object's problem: the object's, or the file that could not be read as objects.
fn of_model(problem: &ringway_model::Problem) -> Trouble {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Notice => "notice",
    };
    let kind = problem
        .kind
        .as_deref()
        .filter(|kind| ["Service", "EndpointSlice", "Node", "ServiceCIDR", "Pod"].contains(kind))
        .unwrap_or("manifest");
    Trouble { severity, kind: kind.to_lowercase(), sentence: problem.to_string() }
}

impl Control {
    /// Everything that is wrong now, as sentences.
    pub fn problems(&self) -> Vec<String> {
        self.troubles().into_iter().map(|trouble| trouble.sentence).collect()
    }

    fn troubles(&self) -> Vec<Trouble> {
        let of = |kind: &'static str| move |sentence: String| Trouble::error(kind, sentence);
        let mut troubles: Vec<Trouble> = self.objects.manifest_problems().into_iter().map(of("manifest")).collect();
        troubles.extend(self.objects.apiserver_problems().into_iter().map(of("apiserver")));
        troubles.extend(self.objects.problems().iter().map(of_model));
        troubles.extend(self.compiler.problems().iter().map(of_model));
        let conflicts = self.route_conflicts.iter();
        troubles.extend(conflicts.map(|conflict| Trouble::error("route", format!("route to {}: {}", conflict.net, conflict.reason))));
        troubles
            .extend(self.tables.filter.refusals().collect::<BTreeSet<_>>().into_iter().map(|refusal| Trouble::error("filter", refusal)));
        let absent = self.node.uplinks.iter().zip(&self.node.present).filter(|(_, present)| !**present);
        troubles.extend(absent.map(|(uplink, _)| Trouble::error("uplink", format!("uplink {} is gone", uplink.name))));
        let mute = |name: &str| Trouble::error("uplink", format!("no member of the bond {name} may transmit"));
        troubles.extend(self.mute_bonds().map(mute));
        let nodes = self.compiler.cluster();
        if nodes.nodes().next().is_some() && nodes.node(&self.config.node_name).is_none() {
            let name = &self.config.node_name;
            let sentence = format!(
                "there is no Node {name} (--node-name): its zone, its NodePort address and which endpoints are local are not known; is the name right?"
            );
            troubles.push(Trouble::error("node", sentence));
        }
        for family in self.families_without_address() {
            let sentence =
                format!("the node has no {family} address: it cannot be a client of {family} VIPs, nor SNAT without --snat-address");
            troubles.push(Trouble::error("node", sentence));
        }
        troubles.extend(self.servers.board.port_problems().into_values().map(of("health_check_port")));
        troubles.extend(self.misplaced.sentences().iter().cloned().map(of("pod")));
        let refused = |plan: &UplinkPlan| Some(format!("the member {} of a bond is not served: {}", plan.name, plan.refused.as_ref()?));
        troubles.extend(self.packets.shape.uplinks.iter().filter_map(refused).map(of("uplink")));
        troubles.extend(self.workers_outdated.clone().map(of("uplink")));
        troubles.extend(self.workers_missing.clone().into_iter().chain(self.worker_problems()).map(of("worker")));
        troubles
    }

    /// Families in which the node has no address, but services have.
    fn families_without_address(&self) -> impl Iterator<Item = IpFamily> {
        let addresses = self.tables.node().addresses;
        let lacking = [(IpFamily::V4, addresses.v4.is_none()), (IpFamily::V6, addresses.v6.is_none())];
        let is_used = |family| self.tables.vips().keys().any(|address| IpFamily::of(address) == family);
        lacking.into_iter().filter(move |(family, lacks)| *lacks && is_used(*family)).map(|(family, _)| family)
    }

    /// What of each Service is not in force though it is written right: for its Event.
    fn unprogrammed(&self) -> BTreeMap<ServiceName, BTreeSet<String>> {
        let mut unprogrammed: BTreeMap<ServiceName, BTreeSet<String>> = BTreeMap::new();
        let mut note = |namespace: &str, name: &str, sentence: &str| {
            let service = ServiceName { namespace: namespace.into(), name: name.into() };
            unprogrammed.entry(service).or_default().insert(sentence.to_owned());
        };
        for problem in self.compiler.problems().iter().filter(|problem| problem.severity == Severity::Error) {
            if let (Some("Service"), Some(namespace), Some(name)) = (problem.kind.as_deref(), &problem.namespace, &problem.name) {
                note(namespace, name, &problem.message);
            }
        }
        for (service, whys) in refused_services(&self.tables.filter, &self.tables.snapshot().frontends) {
            whys.iter().for_each(|why| note(&service.namespace, &service.name, why));
        }
        for ((service, _), sentence) in self.servers.board.port_problems() {
            note(&service.namespace, &service.name, &sentence);
        }
        unprogrammed
    }

    pub fn worker_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for worker in self.packets.dataplane.status() {
            if let WorkerState::Failed(reason) = worker.state {
                problems.push(format!("worker {} has failed: {reason}", worker.worker));
            }
            problems.extend(worker.sockets.iter().filter_map(|socket| {
                let reason = socket.failed.as_ref()?;
                Some(format!("the socket of {} queue {} has failed: {reason}", socket.ifname, socket.queue))
            }));
        }
        problems
    }

    /// Logs each problem when it appears, and when the last one is solved.
    pub fn log_problems(&mut self) {
        self.servers.board.set_workers_missing(self.workers_missing.is_some() || !self.worker_problems().is_empty());
        let mut counts: BTreeMap<(&'static str, String), u64> = BTreeMap::new();
        let mut problems = BTreeSet::new();
        for trouble in self.troubles() {
            *counts.entry((trouble.severity, trouble.kind)).or_default() += 1;
            problems.insert(trouble.sentence);
        }
        self.servers.board.set_problem_counts(counts);
        self.objects.tell_unprogrammed(self.unprogrammed());
        for problem in problems.difference(&self.logged) {
            tracing::warn!("{problem}");
        }
        for problem in self.logged.difference(&problems) {
            tracing::info!("solved: {problem}");
        }
        self.logged = problems;
    }
}
