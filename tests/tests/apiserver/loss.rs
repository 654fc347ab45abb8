//! Apiservers that die, hang, come back, or are learnt.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::kubernetes::{ClusterOptions, SERVER_NAME};
use serde_json::json;

use crate::bed::{ADDRESS, Bed, bed, service, service_path, slice, slice_path};

fn two() -> ClusterOptions {
    ClusterOptions { servers: 2, ..ClusterOptions::default() }
}

#[test]
fn deletions_during_a_restart_are_found() -> Result<()> {
    bed("api_restart", two(), |bed| {
        // Only server 0 is known to the source; server 1 lets us change things while that one is away.
        bed.cluster.create(&[service("stays", 1), service("goes", 2)].join("---\n"))?;
        bed.start()?;
        bed.wait_for("Service default/goes")?;
        bed.cluster.kill(0);
        bed.wait_problem(&["no apiserver answers", ":6443"])?;
        ensure!(bed.tables.contains_key("Service default/goes"), "what was known stays in force");
        bed.cluster.delete(&service_path("goes"))?;
        bed.cluster.create(&service("comes", 3))?;
        bed.cluster.launch(0, &[])?;
        bed.wait_for("Service default/comes")?;
        bed.wait_gone("Service default/goes")?;
        ensure!(bed.tables.contains_key("Service default/stays"), "nothing else changed");
        bed.wait_no_problem().map(drop)
    })
}

/// The watch cannot be resumed: etcd has forgotten the revision, so the server says 410.
#[test]
fn an_expired_watch_lists_anew() -> Result<()> {
    bed("api_expired", two(), |bed| {
        bed.cluster.create(&[service("stays", 1), service("goes", 2)].join("---\n"))?;
        bed.start()?;
        bed.wait_for("Service default/goes")?;
        bed.wait_fresh()?;
        let lists = bed.kind("Service")?.lists_total;
        bed.cluster.kill(0);
        bed.cluster.delete(&service_path("goes"))?;
        for number in 0..20 {
            bed.cluster.patch(&service_path("stays"), &json!({"metadata": {"annotations": {"n": number.to_string()}}}))?;
        }
        bed.cluster.create(&service("comes", 3))?;
        bed.cluster.compact()?;
        bed.cluster.launch(0, &["--watch-cache=false"])?;
        bed.wait_for("Service default/comes")?;
        bed.wait_gone("Service default/goes")?;
        ensure!(bed.kind("Service")?.lists_total > lists, "it was resumed: the test shows nothing");
        Ok(())
    })
}

/// A watch from a version that is yet to come would be silent, and show nothing of what is different.
#[test]
fn a_cluster_that_begins_anew_is_listed_anew() -> Result<()> {
    bed("api_anew", ClusterOptions::default(), |bed| {
        bed.cluster.create(&service("old", 1))?;
        for number in 0..400 {
            bed.cluster.patch(&service_path("old"), &json!({"metadata": {"annotations": {"n": number.to_string()}}}))?;
        }
        bed.start()?;
        bed.wait_for("Service default/old")?;
        bed.wait_fresh()?;
        bed.cluster.wipe()?;
        bed.cluster.launch(0, &[])?;
        bed.cluster.wait_ready(0)?;
        bed.cluster.grant()?;
        bed.wait_gone("Service default/old")?;
        bed.wait_for("Service default/kubernetes")?;
        bed.cluster.create(&service("new", 2))?;
        bed.wait_for("Service default/new")?;
        bed.wait_no_problem().map(drop)
    })
}

#[test]
fn one_of_two_and_then_both_are_lost() -> Result<()> {
    bed("api_two", two(), |bed| {
        let (first, second) = (bed.cluster.url(0), bed.cluster.url(1));
        bed.start_at(&[first.clone(), second.clone()])?;
        bed.wait_fresh()?;
        let chosen = usize::from(bed.candidate(&second)?.in_force);
        let urls = [&first, &second];
        let (mut alive, mut dead) = (1 - chosen, chosen);
        for round in 0..2 {
            bed.cluster.kill(dead);
            bed.cluster.create(&service(&format!("round{round}"), 10 + round))?;
            bed.wait_for(&format!("Service default/round{round}"))?;
            bed.ensure_in_force(urls[alive])?;
            ensure!(bed.candidate(urls[dead])?.last_failure.is_some(), "{:?}", bed.candidate(urls[dead])?);
            bed.cluster.launch(dead, &[])?;
            bed.cluster.wait_ready(dead)?;
            bed.wait("it is known to be back", |bed| {
                ensure!(bed.candidate(urls[dead])?.health == "up", "{:?}", bed.candidate(urls[dead])?);
                Ok(())
            })?;
            (alive, dead) = (dead, alive);
        }
        bed.cluster.kill(0);
        bed.cluster.kill(1);
        bed.wait_problem(&["no apiserver answers", ":6443", ":6444"])?;
        bed.cluster.launch(1, &[])?;
        bed.cluster.wait_ready(1)?;
        bed.cluster.create(&service("again", 20))?;
        bed.wait_for("Service default/again")?;
        bed.wait("the problem is over", |bed| bed.ensure_in_force(urls[1])).map(drop)
    })
}

/// Nothing resets the connection: only its silence tells.
#[test]
fn a_server_that_hangs_is_left_within_seconds() -> Result<()> {
    bed("api_hang", two(), |bed| {
        let urls = [bed.cluster.url(0), bed.cluster.url(1)];
        bed.start_at(&urls)?;
        bed.wait_fresh()?;
        let chosen = usize::from(bed.candidate(&urls[1])?.in_force);
        bed.cluster.signal(chosen, "STOP")?;
        let took = bed.wait("the other one is in force", |bed| bed.ensure_in_force(&urls[1 - chosen]))?;
        ensure!(took < Duration::from_secs(20), "{took:?}");
        bed.cluster.signal(chosen, "CONT")?;
        bed.cluster.create(&service("web", 1))?;
        bed.wait_for("Service default/web").map(drop)
    })
}

/// As behind a router that has died: nothing answers, neither the connections that are open nor new ones.
#[test]
fn a_server_that_is_cut_off_is_left_within_seconds() -> Result<()> {
    bed("api_cut_off", two(), |bed| {
        let urls = [bed.cluster.url(0), bed.cluster.url(1)];
        bed.start_at(&urls)?;
        bed.wait_fresh()?;
        let chosen = usize::from(bed.candidate(&urls[1])?.in_force);
        bed.cluster.cut_off(chosen)?;
        bed.cluster.create(&service("meanwhile", 1))?;
        let took = bed.wait_for("Service default/meanwhile")?;
        ensure!(took < Duration::from_secs(20), "{took:?}");
        bed.ensure_in_force(&urls[1 - chosen])?;
        let lost = bed.candidate(&urls[chosen])?;
        ensure!(lost.health == "down" && lost.last_failure.is_some(), "{lost:?}");
        bed.cluster.reconnect()?;
        bed.wait("it is known to be back", |bed| {
            ensure!(bed.candidate(&urls[chosen])?.health == "up", "{:?}", bed.candidate(&urls[chosen])?);
            Ok(())
        })?;
        bed.cluster.kill(1 - chosen);
        bed.cluster.create(&service("afterwards", 2))?;
        bed.wait_for("Service default/afterwards").map(drop)
    })
}

#[test]
fn endpoints_of_kubernetes_are_candidates_and_never_none() -> Result<()> {
    bed("api_learnt", two(), |bed| {
        let slices = |port: u16, name: &str| slice(name, "kubernetes", ADDRESS, port);
        bed.cluster.create(&slices(6444, "kubernetes"))?;
        bed.start()?;
        bed.wait_fresh()?;
        let learnt = bed.cluster.url(1);
        bed.wait("the endpoint is learnt", |bed| {
            let candidate = bed.candidate(&learnt)?;
            ensure!(candidate.origin == "endpoint" && candidate.health == "up", "{candidate:?}");
            let service = bed.candidate("https://10.96.0.1:443")?;
            ensure!(service.origin == "service", "{service:?}");
            Ok(())
        })?;
        bed.ensure_in_force(&bed.cluster.url(0))?;

        bed.cluster.patch(&slice_path("kubernetes"), &json!({"endpoints": []}))?;
        bed.wait_problem(&["default/kubernetes has no endpoint"])?;
        bed.cluster.delete(&slice_path("kubernetes"))?;
        bed.cluster.create(&service("after", 1))?;
        bed.wait_for("Service default/after")?;
        ensure!(bed.tables.contains_key("EndpointSlice default/kubernetes"), "the last good slice stays");

        bed.cluster.kill(0);
        bed.wait("the learnt one is in force", |bed| bed.ensure_in_force(&learnt))?;
        bed.cluster.create(&slices(6444, "kubernetes-new"))?;
        bed.wait_gone("EndpointSlice default/kubernetes")?;
        bed.wait_for("EndpointSlice default/kubernetes-new")?;
        bed.ensure_in_force(&learnt)?;

        // A choice is never final: the one that was given is returned to.
        bed.cluster.launch(0, &[])?;
        let given = bed.cluster.url(0);
        bed.wait("the given one is returned to", |bed| bed.ensure_in_force(&given))?;
        bed.cluster.create(&service("last", 2))?;
        bed.wait_for("Service default/last")?;
        bed.wait_no_problem().map(drop)
    })
}

#[test]
fn the_certificate_is_for_another_name() -> Result<()> {
    let options = ClusterOptions { named: true, ..ClusterOptions::default() };
    bed("api_name", options, |bed| {
        let url = bed.cluster.url(0);
        bed.start_at(std::slice::from_ref(&url))?;
        bed.wait_problem(&["no apiserver answers", "certificate"])?;
        bed.stop();
        bed.start_at(&[format!("{url}#{SERVER_NAME}")])?;
        bed.wait_fresh()?;
        ensure!(bed.candidate(&url)?.server_name.as_deref() == Some(SERVER_NAME), "{:?}", bed.candidate(&url)?);
        bed.stop();
        bed.start_at(&[format!("{url}#wrong.test")])?;
        bed.wait_problem(&["no apiserver answers", "certificate"]).map(drop)
    })
}

/// More changes than anybody takes: what waits is never more than there are objects, and the end is right.
#[test]
fn a_burst_ends_equal_to_the_objects() -> Result<()> {
    bed("api_burst", ClusterOptions::default(), |bed| {
        bed.start()?;
        bed.wait_fresh()?;
        bed.drain()?;
        bed.cluster.create(&service("web", 1))?;
        for number in 0..40 {
            bed.cluster.patch(&service_path("web"), &json!({"spec": {"ports": [{"port": 1000 + number}]}}))?;
        }
        let last = |bed: &Bed| matches!(bed.tables.get("Service default/web"), Some(ringway_model::Model::Service(web)) if web.ports[0].port.get() == 1039);
        let waiting = || -> Result<usize> {
            std::thread::sleep(Duration::from_millis(500));
            Ok(bed.source()?.take().len())
        };
        let pending = waiting()?;
        ensure!(pending == 1, "{pending} changes wait for one object");
        bed.cluster.patch(&service_path("web"), &json!({"spec": {"ports": [{"port": 1039, "name": "x"}]}}))?;
        bed.wait("the last version", |bed| {
            ensure!(last(bed), "{:?}", bed.tables);
            Ok(())
        })
        .map(drop)
    })
}
