//! Pods that are replaced, a Service that is scaled, Ringway itself that is replaced: nobody outside notices.

use std::time::Duration;

use anyhow::Result;

use crate::bed::{Bed, Report, judge};

/// What still is under way when all is said to be done.
const AFTERWARDS: Duration = Duration::from_secs(8);

#[test]
fn a_rolling_update_of_twenty_pods_loses_no_connection() -> Result<()> {
    let bed = Bed::open()?;
    let web = bed.web("story-rollout", 20)?;
    let loads = web.loads(500)?;
    web.kubectl("rollout restart deployment/web")?;
    web.kubectl("rollout status deployment/web --timeout=300s")?;
    let report = loads.after(AFTERWARDS)?;
    judge(&bed, "rolling update of 20 pods, 500 connections/s", &report, report.errors == 0 && report.requests > 2_000)
}

#[test]
fn ringway_is_replaced_under_load() -> Result<()> {
    let bed = Bed::open()?;
    if bed.proxy() != "ringway" {
        println!("story of Ringway's own updates: not of {}", bed.proxy());
        return Ok(());
    }
    let web = bed.web("story-update", 6)?;
    let replace = |how: &dyn Fn() -> Result<()>| -> Result<(Report, Report)> {
        let (loads, holds) = (web.loads(200)?, web.holds(200)?);
        how()?;
        bed.kubectl("-n kube-system rollout status daemonset/ringway --timeout=120s")?;
        std::thread::sleep(Duration::from_secs(2));
        Ok((loads.finish()?, holds.finish()?))
    };
    let restart = || bed.kubectl("-n kube-system rollout restart daemonset/ringway").map(drop);
    let (loads, holds) = replace(&restart)?;
    judge(&bed, "kubectl rollout restart, 200 new connections/s", &loads, loads.errors == 0 && loads.requests > 500)?;
    judge(&bed, "kubectl rollout restart, 200 open connections", &holds, holds.errors == 0 && holds.requests > 1_000)?;
    let deployed = bed.helm(&["list", "-n", "kube-system", "-q"])?;
    if deployed.contains("ringway") {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart");
        let upgrade = || {
            // Something that makes other pods, each time.
            let memory = format!("resources.requests.memory={}Mi", 200 + std::process::id() % 100);
            bed.helm(&["upgrade", "ringway", chart, "-n", "kube-system", "--reuse-values", "--set", &memory]).map(drop)
        };
        let (loads, holds) = replace(&upgrade)?;
        judge(&bed, "helm upgrade, 200 new connections/s", &loads, loads.errors == 0 && loads.requests > 500)?;
        judge(&bed, "helm upgrade, 200 open connections", &holds, holds.errors == 0 && holds.requests > 1_000)?;
    }
    Ok(())
}

/// A process that is killed has no time to leave anything in order: nothing breaks all the same, and new connections wait for the next one.
#[test]
fn ringway_is_killed_again_and_again() -> Result<()> {
    let bed = Bed::open()?;
    if bed.proxy() != "ringway" {
        println!("story of Ringway's own end: not of {}", bed.proxy());
        return Ok(());
    }
    let web = bed.web("story-kill", 6)?;
    let (loads, holds) = (web.loads(100)?, web.holds(60)?);
    for round in 0..4 {
        let node = if round % 2 == 0 { "node1" } else { "node2" };
        bed.kubectl(&format!(
            "-n kube-system delete pod -l app.kubernetes.io/name=ringway --field-selector spec.nodeName={node} --force --grace-period=0"
        ))?;
        bed.kubectl("-n kube-system rollout status daemonset/ringway --timeout=120s")?;
    }
    let (loads, holds) = (loads.after(Duration::from_secs(3))?, holds.finish()?);
    judge(&bed, "Ringway's pods killed four times, new connections", &loads, loads.errors == 0 && loads.requests > 500)?;
    judge(&bed, "Ringway's pods killed four times, open connections", &holds, holds.errors == 0 && holds.requests > 500)
}

/// Without endpoints a Service refuses at once; with some it answers. Who is sent to a pod that ends just then, before anybody can know it, waits.
#[test]
fn zero_to_fifty_and_back() -> Result<()> {
    let bed = Bed::open()?;
    let web = bed.web("story-scale", 0)?;
    let loads = web.loads(200)?;
    for _ in 0..2 {
        web.kubectl("scale deployment/web --replicas=50")?;
        web.kubectl("rollout status deployment/web --timeout=300s")?;
        web.kubectl("scale deployment/web --replicas=0")?;
        web.kubectl("wait --for=delete pod -l app=web --timeout=120s")?;
    }
    let report = loads.finish()?;
    judge(&bed, "0 → 50 → 0 pods, twice", &report, (report.errors - report.refused) * 100 < report.requests && report.requests > 1_000)
}
