//! The control loop's side of the status socket.

use std::sync::Arc;

use serde::Serialize;

use super::control::Control;
use super::node::now_ticks;
use super::plan::{Role, UplinkPlan};
use crate::netlink::Member;
use crate::status::Topic;
use crate::status::answer::{self, mac_text};
use crate::status::documents::*;
use crate::status::server::Question;
use ringway_engine::tables::PodDelivery;
use ringway_io::{WorkerState, WorkerStatus, ethtool};
use xdp_redirect::{Receives, XdpMode};

/// The memory that a larger answer took goes back to the system at once.
const LARGE_ANSWER_BYTES: usize = 1 << 20;

impl Control {
    /// Answers a question. Flows are copied on another thread: the table may be large.
    pub fn answer(&self, question: Question) {
        let text = match question.topic {
            Topic::Status => json(&self.status()),
            Topic::Services => json(&ServicesDocument { services: self.compiler.view() }),
            Topic::Backends => json(&answer::backends(&self.compiler.view())),
            Topic::Neighbors => json(&answer::neighbors(&self.tables.snapshot(), &self.hops.in_use())),
            Topic::Stats => json(&self.stats()),
            Topic::Flows => {
                let (flows, devices) = (self.parts.flows.clone(), Arc::clone(&self.tables.snapshot().devices));
                let aliased = self.tables.aliased();
                tokio::task::spawn_blocking(move || {
                    // Whoever asked may be gone.
                    let _ = question.answer.send(json(&answer::flows(&flows, &devices, &aliased, now_ticks())));
                });
                return;
            }
        };
        let is_large = text.len() > LARGE_ANSWER_BYTES;
        // Likewise.
        let _ = question.answer.send(text);
        if is_large {
            tokio::task::spawn_blocking(ringway_io::release_free_memory);
        }
    }

    fn status(&self) -> StatusDocument {
        let (workers, stats) = (self.packets.dataplane.status(), self.packets.dataplane.stats());
        let snapshot = self.tables.snapshot();
        let publisher = self.packets.dataplane.publisher();
        let uplinks = self.packets.shape.uplinks.iter().zip(&self.node.uplinks).zip(&self.node.present).enumerate();
        let mut announced: Vec<_> = snapshot.announced.iter().copied().collect();
        announced.sort_unstable();
        StatusDocument {
            ready: workers.iter().all(|worker| worker.state == WorkerState::Running)
                && self.node.present.iter().all(|present| *present)
                && self.objects.are_known(),
            version: env!("CARGO_PKG_VERSION").into(),
            process_id: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            generation: publisher.current().generation,
            acting_generation: publisher.acting_generation(),
            node: snapshot.node.name.clone(),
            address: snapshot.node.addresses.v4,
            address6: snapshot.node.addresses.v6,
            pod_delivery: match snapshot.node.pod_delivery {
                PodDelivery::Edge => "edge".into(),
                PodDelivery::Direct => "direct".into(),
            },
            state_dir: self.config.state_dir.display().to_string(),
            uplinks: uplinks
                .map(|(number, ((plan, uplink), present))| {
                    let (queues, mode) = queues(number, plan, &workers);
                    UplinkDocument {
                        name: plan.name.clone(),
                        ifindex: uplink.ifindex,
                        mac: mac_text(uplink.mac),
                        mtu: uplink.mtu,
                        present: *present,
                        running: ethtool::link(&plan.name).is_ok_and(|link| link.running),
                        mode,
                        queues,
                        members: self.members(number, &workers),
                    }
                })
                .collect(),
            workers: answer::workers(&workers, &stats),
            limits: answer::limits(
                self.compiler.services_len(),
                &snapshot,
                self.tables.vips(),
                (&self.parts.flows, &self.parts.affinity),
                now_ticks(),
                &stats,
            ),
            snat: snapshot
                .node
                .snat
                .iter()
                .map(|snat| SnatDocument { address: snat.address, first_port: snat.ports.0, last_port: snat.ports.1 })
                .collect(),
            announced,
            apiserver: self.objects.apiserver_status(),
            problems: self.problems(),
        }
    }

    /// What there is to say of the members of the bond of this number; nothing of a NIC.
    fn members(&self, uplink: usize, workers: &[WorkerStatus]) -> Vec<MemberDocument> {
        let bond = self.node.bonds.get(uplink).and_then(Option::as_ref);
        let plans = &self.packets.shape.uplinks;
        let document = |member: &Member| {
            let place = plans.iter().position(|plan| plan.ifindex == member.ifindex);
            let (queues, mode) = place.map_or_else(Default::default, |port| queues(port, &plans[port], workers));
            let receives = match member.receives {
                Receives::Everything => "everything",
                Receives::Unicast => "unicast",
                Receives::Nothing => "nothing",
            };
            let (name, receives) = (member.name.clone(), receives.into());
            MemberDocument { name, ifindex: member.ifindex, transmits: member.transmits, receives, mode, queues }
        };
        bond.map_or_else(Vec::new, |bond| bond.members.iter().map(document).collect())
    }

    fn stats(&self) -> StatsDocument {
        let counters = self.programs.counters.read().unwrap_or_default();
        let programs = counters.into_iter().map(|(name, packets)| CounterDocument { name: name.into(), packets }).collect();
        answer::stats(&self.packets.dataplane.status(), &self.packets.dataplane.stats(), programs)
    }
}

/// Of the port of this number, with the mode in force.
fn queues(port: usize, plan: &UplinkPlan, workers: &[WorkerStatus]) -> (Vec<QueueDocument>, String) {
    let (queues, bound) = answer::queues(port as u8, workers);
    let mode = if plan.xdp == XdpMode::Generic && plan.role != Role::Bond { "generic".into() } else { bound };
    (queues, mode)
}

/// Documents are made of strings and numbers; such always serialize.
fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}
