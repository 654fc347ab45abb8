//! Services of two families, in both orders: two views of one Service that share nothing but its name.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{
    Family, Namespace, Net, PodLink, Ringway, RingwayOptions, SERVER_PORT, Service, Stream, Topology, address, wait_for,
};

use crate::{CLUSTER_IP_80, VIP_80, VIP_URL, ensure_refused, ensure_served, lab};

const NODE_PORT: &str = "10.0.0.11:30080";
const PATIENCE: Duration = Duration::from_secs(3);
const BOTH: [Family; 2] = [Family::V4, Family::V6];
const ORDERS: [[Family; 2]; 2] = [[Family::V4, Family::V6], [Family::V6, Family::V4]];

fn service() -> Service {
    let service = Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP);
    service.tcp_node_port(80, SERVER_PORT, 30080).udp_node_port(80, SERVER_PORT, 30080)
}

fn topology() -> Topology {
    Topology::new().node1_pods(&[PodLink::Routed, PodLink::Bridge])
}

/// These servers answer, all of them and no other.
fn answered_by(client: &Namespace, protocol: &str, target: &str, servers: &[&str]) -> Result<()> {
    wait_for("the endpoints", PATIENCE, || {
        let load = client.requests(protocol, target, 1, 30)?;
        let names: Vec<&str> = load.servers.keys().map(String::as_str).collect();
        let who = format!("{} → {:?} {protocol} {target}", client.role(), client.family());
        ensure!(load.errors == 0 && names == servers, "{who}: {load:?}, not {servers:?}");
        Ok(())
    })
}

/// Everybody by every kind of address of this family.
fn everybody_is_answered_by(net: &Net, family: Family, outside: &[&str], inside: &[&str]) -> Result<()> {
    let client = net.client.speaking(family);
    for protocol in ["tcp", "udp"] {
        for target in [VIP_80, NODE_PORT] {
            answered_by(&client, protocol, target, outside)?;
        }
        for client in [&net.pod("a1")?.namespace, &net.pod("a2")?.namespace, &net.node1] {
            answered_by(&client.speaking(family), protocol, CLUSTER_IP_80, inside)?;
        }
    }
    Ok(())
}

fn run(name: &str, test: impl FnOnce(&Net, &Ringway) -> Result<()>) -> Result<()> {
    lab(name, |lab| {
        let net = topology().build(lab)?;
        lab.capture(&net.router, "node1-eth0")?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[])?;
        test(&net, &ringway)?;
        crate::ensure_no_frame_leaked(&ringway)
    })
}

#[test]
fn both_orders_serve_under_all_policies() -> Result<()> {
    run("dual_orders", |net, ringway| {
        for order in ORDERS {
            for (external, internal) in [("Cluster", "Cluster"), ("Local", "Cluster"), ("Cluster", "Local"), ("Local", "Local")] {
                let policies = [format!("externalTrafficPolicy: {external}"), format!("internalTrafficPolicy: {internal}")];
                let web = policies.iter().fold(service().families(&order), |service, line| service.spec(line));
                ringway.publish(&[web.pods([net.pod("a1")?, net.pod("b1")?])])?;
                let servers = |policy: &str| -> &[&str] { if policy == "Local" { &["a1"] } else { &["a1", "b1"] } };
                for family in BOTH {
                    everybody_is_answered_by(net, family, servers(external), servers(internal))
                        .with_context(|| format!("{order:?}, {policies:?}"))?;
                }
                if external == "Local" {
                    for family in BOTH {
                        let load = net.client.speaking(family).requests("tcp", VIP_80, 1, 10)?;
                        ensure_served(&load, &["a1"], address::CLIENT)?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// Endpoints, refusals and changes of one family are no matter of the other.
#[test]
fn families_have_endpoints_of_their_own() -> Result<()> {
    run("dual_endpoints", |net, ringway| {
        for order in ORDERS {
            let web = |v4: &[&str], v6: &[&str]| -> Result<Service> {
                let pods = |names: &[&str]| names.iter().map(|name| net.pod(name)).collect::<Result<Vec<_>>>();
                Ok(service().families(&order).pods_of(Family::V4, pods(v4)?).pods_of(Family::V6, pods(v6)?))
            };
            for (v4, v6) in [(["a1"], ["b1"]), (["b2"], ["a1"]), (["a2"], ["a1"])] {
                ringway.publish(&[web(&v4, &v6)?])?;
                everybody_is_answered_by(net, Family::V4, &v4, &v4)?;
                everybody_is_answered_by(net, Family::V6, &v6, &v6)?;
            }
            for empty in BOTH {
                let (v4, v6): (&[&str], &[&str]) = if empty == Family::V4 { (&[], &["b1"]) } else { (&["b1"], &[]) };
                let full = if empty == Family::V4 { Family::V6 } else { Family::V4 };
                ringway.publish(&[web(&["b1"], &["b1"])?])?;
                everybody_is_answered_by(net, full, &["b1"], &["b1"])?;
                let mut held = hold(net, full)?;
                ringway.publish(&[web(v4, v6)?])?;
                for client in [&net.client, &net.pod("a1")?.namespace, &net.node1] {
                    let client = client.speaking(empty);
                    wait_for("the refusal", PATIENCE, || ensure_refused(&client, "tcp", VIP_80))?;
                    ensure_refused(&client, "udp", VIP_80)?;
                }
                everybody_is_answered_by(net, full, &["b1"], &["b1"])?;
                ensure_live(&mut held)?;
            }
        }
        Ok(())
    })
}

fn hold(net: &Net, family: Family) -> Result<Vec<(String, Stream)>> {
    let clients =
        [(&net.client, VIP_80), (&net.client, NODE_PORT), (&net.pod("a1")?.namespace, CLUSTER_IP_80), (&net.node1, CLUSTER_IP_80)];
    let hold = |(client, target): (&Namespace, &str)| {
        Ok((format!("{} → {family:?} {target}", client.role()), client.speaking(family).hold(target, 2)?))
    };
    clients.into_iter().map(hold).collect()
}

fn ensure_live(held: &mut [(String, Stream)]) -> Result<()> {
    for (who, stream) in held {
        let report = stream.exchange(Duration::from_secs(3))?;
        ensure!(report.errors == 0, "{who}: {report:?}");
    }
    Ok(())
}

/// The second family of a Service comes and goes (`ipFamilyPolicy` may be edited); the first one does not notice.
#[test]
fn the_second_family_comes_and_goes() -> Result<()> {
    run("dual_second", |net, ringway| {
        for [first, second] in ORDERS {
            let web = |families: &[Family]| -> Result<Service> { Ok(service().families(families).pods([net.pod("a1")?, net.pod("b1")?])) };
            ringway.publish(&[web(&[first])?])?;
            everybody_is_answered_by(net, first, &["a1", "b1"], &["a1", "b1"])?;
            let mut held = hold(net, first)?;
            for _ in 0..2 {
                ringway.publish(&[web(&[first, second])?])?;
                everybody_is_answered_by(net, second, &["a1", "b1"], &["a1", "b1"])?;
                ensure_live(&mut held)?;
                ringway.publish(&[web(&[first])?])?;
                let outside = net.client.speaking(second);
                for target in [VIP_80, NODE_PORT] {
                    outside.until("refuse", target, PATIENCE, || Ok(()))?;
                }
                ensure!(net.node1.speaking(second).line(CLUSTER_IP_80, 0).is_err(), "the ClusterIP of {second:?} is served");
                ensure_live(&mut held)?;
                everybody_is_answered_by(net, first, &["a1", "b1"], &["a1", "b1"])?;
            }
            ringway.publish(&[])?;
        }
        Ok(())
    })
}

/// Addresses of the other family that stand in a Service of one family are not its addresses, nor are endpoints of a slice that it does
/// not have.
#[test]
fn a_view_serves_its_own_family_alone() -> Result<()> {
    run("dual_views", |net, ringway| {
        for [own, other] in ORDERS {
            let web = service().families(&[own]).pods([net.pod("a1")?]);
            let foreign = format!("externalIPs: [{}]", other.of(address::VIP2));
            let stray = Service::new("stray").cluster_ip(address::CLUSTER_IP2).tcp(81, SERVER_PORT).families(&[own]).spec(&foreign);
            let of_both = web.clone().families(&[own, other]).yaml();
            let foreign_slice = of_both.split("---\n").nth(2).context("a slice of the other family")?;
            ringway.publish(&[web, stray.pods([net.pod("b1")?])])?;
            ringway.write_manifest("foreign.yaml", foreign_slice)?;
            everybody_is_answered_by(net, own, &["a1"], &["a1"])?;
            answered_by(&net.pod("a1")?.namespace.speaking(own), "tcp", "10.96.0.11:81", &["b1"])?;
            let (client, pod) = (net.client.speaking(other), net.pod("a2")?.namespace.speaking(other));
            // What the router learned when this was the other way round.
            net.router.speaking(other).ip("neigh flush dev lan0")?;
            for target in [VIP_80, "10.0.0.101:81", NODE_PORT] {
                ensure!(client.line(target, 0).is_err(), "{other:?} {target} is served by a Service of {own:?}");
            }
            for target in [CLUSTER_IP_80, "10.96.0.11:81", "10.0.0.101:81"] {
                ensure!(pod.line(target, 0).is_err(), "{other:?} {target} is served to a pod by a Service of {own:?}");
            }
            for vip in [address::VIP, address::VIP2] {
                let neighbor = net.router.speaking(other).ip(&format!("neigh show {vip}"))?;
                ensure!(!neighbor.contains("lladdr"), "{other:?} {vip} is announced: {neighbor}");
            }
            ringway.remove_manifest("foreign.yaml")?;
        }
        Ok(())
    })
}

#[test]
fn connections_of_both_families_survive_a_restart() -> Result<()> {
    run("dual_restart", |net, ringway| {
        ringway.publish(&[service().families(&BOTH).pods([net.pod("a1")?, net.pod("b1")?])])?;
        let mut held = Vec::new();
        for family in BOTH {
            everybody_is_answered_by(net, family, &["a1", "b1"], &["a1", "b1"])?;
            held.extend(hold(net, family)?);
        }
        for _ in 0..2 {
            ringway.kill();
            std::thread::sleep(Duration::from_millis(300));
            ringway.start_again()?;
            ensure_live(&mut held)?;
        }
        for family in BOTH {
            everybody_is_answered_by(net, family, &["a1", "b1"], &["a1", "b1"])?;
        }
        Ok(())
    })
}

/// One key a family (contract §2): a client of two families may have two pods, and keeps both.
#[test]
fn affinity_holds_in_each_family() -> Result<()> {
    run("dual_affinity", |net, ringway| {
        ringway.publish(&[service().families(&BOTH).pods(&net.pods).spec("sessionAffinity: ClientIP")])?;
        let mut kept = Vec::new();
        for family in BOTH {
            for client in [&net.client, &net.pod("a1")?.namespace, &net.node1] {
                let client = client.speaking(family);
                wait_for("the service", PATIENCE, || client.line(VIP_80, 0))?;
                let load = client.requests("tcp", VIP_80, 2, 15)?;
                ensure!(load.errors == 0 && load.servers.len() == 1, "{} {family:?}: {load:?}", client.role());
                kept.push((client, load.servers.into_keys().next().context("no server")?));
            }
        }
        ringway.kill();
        ringway.start_again()?;
        for (client, server) in kept {
            answered_by(&client, "tcp", VIP_80, &[&server])?;
        }
        Ok(())
    })
}

/// As programs do it that know a name only: both addresses, and one of them at will.
#[test]
fn names_with_two_addresses_are_reached_by_either() -> Result<()> {
    run("dual_names", |net, ringway| {
        ringway.publish(&[service().families(&BOTH).pods([net.pod("b1")?])])?;
        net.client.until("answer", VIP_80, PATIENCE, || Ok(()))?;
        let addresses = format!("web.test:80:{},[{}]", address::VIP, Family::V6.of(address::VIP));
        for (words, seen) in
            [(&["-4"][..], address::NODE1.to_owned()), (&["-6"], format!("[{}]", Family::V6.of(address::NODE1))), (&[], String::new())]
        {
            let curl = ["curl", "-sS", "--noproxy", "*", "--max-time", "5", "--resolve", &addresses, "http://web.test/"];
            let answer = net.client.exec(&[&curl, words].concat())?;
            ensure!(answer.starts_with(&format!("b1 {seen}")), "{words:?}: {answer}");
        }
        ensure!(net.client.speaking(Family::V6).curl(VIP_URL)?.starts_with("b1 10.0.0.11:"), "curl by address");
        Ok(())
    })
}

/// Sockets of IPv6 that speak IPv4 by mapped addresses (RFC 4291 section 2.5.5.2), as Java's do: on the wire, and for the node program, it
/// is IPv4.
#[test]
fn sockets_of_ipv6_reach_services_of_ipv4() -> Result<()> {
    run("dual_mapped", |net, ringway| {
        ringway.publish(&[service().pods([net.pod("a1")?, net.pod("b1")?])])?;
        net.client.until("answer", VIP_80, PATIENCE, || Ok(()))?;
        let (pod, node) = (&net.pod("a2")?.namespace, &net.node1);
        for (client, name) in [
            (&net.client, address::VIP),
            (pod, address::CLUSTER_IP),
            (pod, address::VIP),
            (node, address::CLUSTER_IP),
            (node, address::VIP),
        ] {
            let load = client.requests("tcp", &format!("[::ffff:{name}]:80"), 2, 20)?;
            ensure!(load.errors == 0 && load.servers.len() == 2, "{} → {name}: {load:?}", client.role());
        }
        for name in ["127.0.0.1", address::NODE1] {
            for protocol in ["tcp", "udp"] {
                let load = node.requests(protocol, &format!("[::ffff:{name}]:30080"), 2, 20)?;
                ensure!(load.errors == 0 && load.servers.len() == 2, "node → {protocol} {name}: {load:?}");
            }
        }
        Ok(())
    })
}
