//! Rules of others that hold through a Service, and a removal that leaves nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bed::{Bed, PORT, run, wait_for};

/// As network policies are enforced: by the node of the pod, in the FORWARD chain.
#[test]
fn a_policy_in_the_forward_chain_holds_through_a_service() -> Result<()> {
    let bed = Bed::open()?;
    let web = bed.web("story-policy", 4)?;
    let ask = || {
        let target = web.cluster_ip.to_string();
        let mut client = web.in_pod("node2", &["load", "tcp", &target, "4", "--for-ms", "2500"])?;
        let report: serde_json::Value = serde_json::from_str(&client.line()?)?;
        Ok::<_, anyhow::Error>(report)
    };
    let client = web.kubectl("get pod client-node2 -o jsonpath={.status.podIP}")?;
    let rules = format!(
        "table inet others {{\nchain forward {{\ntype filter hook forward priority 0\nip saddr {client} tcp dport {PORT} drop\n}}\n}}"
    );
    let before = ask()?;
    ensure!(before["errors"] == 0 && before["requests"].as_u64() > Some(0), "{before}");
    for node in bed.nodes() {
        run(&mut bed.node(&node, &["sh", "-c", &format!("echo '{rules}' | nft -f -")]))?;
    }
    let during = ask();
    for node in bed.nodes() {
        run(&mut bed.node(&node, &["nft", "delete table inet others"]))?;
    }
    let during = during?;
    ensure!(during["requests"] == 0, "the policy does not hold: {during}");
    let after = ask()?;
    ensure!(after["errors"] == 0, "{after}");
    Ok(())
}

/// Devices, rules, routes, programs and pins of a node that do not belong to its pods.
fn traces(bed: &Bed, node: &str) -> Result<String> {
    let script = "ip -o link | grep -E 'rw0|rw1|xdp'; ip rule | grep -vE '^(0|32766|32767):'; ip route show table all | grep -E 'rw1'; \
        for device in $(ip -o link | sed 's/^[0-9]*: //; s/[@:].*//'); do tc filter show dev $device ingress; tc filter show dev $device egress; done; \
        find /run/ringway -mindepth 1 ! -name objects.json 2>/dev/null; true";
    run(&mut bed.node(node, &["sh", "-c", script]))
}

#[test]
fn an_uninstall_leaves_nothing() -> Result<()> {
    let bed = Bed::open()?;
    if !bed.helm(&["list", "-n", "kube-system", "-q"])?.contains("ringway") {
        println!("story of helm uninstall: the cluster has no release of the chart");
        return Ok(());
    }
    ensure!(traces(&bed, "node1")?.contains("rw0"), "this test sees nothing");
    let values = bed.helm(&["get", "values", "ringway", "-n", "kube-system", "-o", "json"])?;
    bed.helm(&["uninstall", "ringway", "-n", "kube-system"])?;
    let removed = wait_for("nothing is left", Duration::from_secs(60), || {
        for node in bed.nodes() {
            let left = traces(&bed, &node)?;
            ensure!(left.trim().is_empty(), "on {node}: {left}");
        }
        Ok(())
    });
    let file = std::env::temp_dir().join("ringway-story-values.json");
    std::fs::write(&file, values)?;
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart");
    bed.helm(&["install", "ringway", chart, "-n", "kube-system", "-f", file.to_str().context("a path that is no text")?])?;
    bed.kubectl("-n kube-system rollout status daemonset/ringway --timeout=120s")?;
    removed
}
