//! The wall clock jumps, under the whole process; the kernel's monotonic clock does not.

use anyhow::{Context, Result, ensure};
use ringway_tests::kubernetes::{Cluster, ClusterOptions};
use ringway_tests::lab::{Net, Ringway, RingwayOptions, wait_for};
use serde_json::json;

use crate::bed::{PATIENCE, slice_path};
use crate::packets::{wait_servers, wait_status, with_cluster};

/// The library that shifts a process's wall clock by what a file says (faketime(1)), wherever the distribution puts it.
fn faketime() -> Result<String> {
    for folder in std::fs::read_dir("/usr/lib").context("cannot list /usr/lib")? {
        let library = folder?.path().join("faketime/libfaketime.so.1");
        if library.exists() {
            return Ok(library.display().to_string());
        }
    }
    anyhow::bail!("there is no libfaketime.so.1 in /usr/lib/*/faketime: run make prepare")
}

fn lead_to(cluster: &Cluster, net: &Net, pod: &str, node: &str) -> Result<()> {
    let endpoints = json!([{"addresses": [net.pod(pod)?.address], "nodeName": node}]);
    cluster.patch(&slice_path("web-1"), &json!({"endpoints": endpoints}))?;
    wait_servers(net, &[pod])
}

/// Nothing but the validity of certificates and what is shown depends on it.
#[test]
fn changes_are_followed_over_jumps_of_the_clock() -> Result<()> {
    with_cluster("api_clock", ClusterOptions::default(), |net, cluster| {
        let file = net.lab.state_dir().join("clock");
        let jump = |offset: &str| std::fs::write(&file, offset).context("cannot set the clock");
        jump("+0")?;
        let preload = format!("LD_PRELOAD={}", faketime()?);
        let shift = format!("FAKETIME_TIMESTAMP_FILE={}", file.display());
        // Or it reads the file only every ten seconds.
        let under = ["env", &preload, &shift, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
        let year = |offset: &str| -> Result<i32> {
            jump(offset)?;
            net.node1.exec(&[&under[..], &["date", "+%Y"]].concat())?.trim().parse().context("no year")
        };
        let (early, now, late) = (year("-800d")?, year("+0")?, year("+800d")?);
        ensure!(early < now && now < late, "the clock does not jump: {early}, {now}, {late}");
        jump("+0")?;

        let sources = ["--kubeconfig".to_owned(), cluster.kubeconfig()?.display().to_string()].to_vec();
        let options = RingwayOptions { sources, ..RingwayOptions::default() }.under(&under);
        let ringway = Ringway::start(net, &options, &[])?;
        wait_servers(net, &["a1", "b1"])?;
        jump("+800d")?;
        lead_to(cluster, net, "b2", "node2").context("two years later")?;
        jump("-800d")?;
        lead_to(cluster, net, "a1", "node1").context("two years earlier")?;

        // A new connection needs the right time; what was learnt goes on meanwhile.
        cluster.kill(0);
        cluster.launch(0, &[])?;
        cluster.wait_ready(0)?;
        wait_status(&ringway, "the certificate is named", |status| {
            let text = status["apiserver"].to_string() + &status["problems"].to_string();
            text.contains("certificate") && text.contains("not valid yet")
        })?;
        wait_servers(net, &["a1"])?;
        jump("+0")?;
        lead_to(cluster, net, "b1", "node2").context("the right time again")?;
        wait_for("no problem is left", PATIENCE, || {
            let status = ringway.status()?;
            ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{:#}", status["problems"]);
            Ok(())
        })?;
        ensure!(ringway.is_running(), "ringway ended: {}", ringway.log());
        Ok(())
    })
}
