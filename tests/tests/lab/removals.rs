//! What becomes of flows when their service, port or endpoint goes (contract §2, existing flows): TCP goes on, UDP moves at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Family, Namespace, Net, PodLink, Ringway, RingwayOptions, Service, Stream, Topology, address, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, lab_of};

const NODE_PORT: &str = "10.0.0.11:30080";
const PATIENCE: Duration = Duration::from_secs(3);

fn web(net: &Net, pods: &[&str]) -> Result<Service> {
    let pods = pods.iter().map(|name| net.pod(name)).collect::<Result<Vec<_>>>()?;
    let service = Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP);
    Ok(service.tcp_node_port(80, 8080, 30080).udp_node_port(80, 8080, 30080).pods(pods))
}

fn build(family: Family, lab: &std::rc::Rc<ringway_tests::lab::Lab>) -> Result<Net> {
    let net = Topology::new().family(family).node1_pods(&[PodLink::Routed, PodLink::Bridge]).build(lab)?;
    net.router.ip("route add 10.96.0.0/16 via 10.0.0.11")?;
    Ok(net)
}

/// Connections of everybody by every kind of address.
fn hold_all(net: &Net) -> Result<Vec<(String, Stream)>> {
    let mut held = Vec::new();
    for client in [&net.client, &net.pod("a1")?.namespace, &net.pod("a2")?.namespace, &net.node1] {
        for target in [VIP_80, CLUSTER_IP_80, NODE_PORT] {
            held.push((format!("{} → {target}", client.role()), client.hold(target, 4)?));
        }
    }
    Ok(held)
}

fn ensure_all_live(held: &mut [(String, Stream)], when: &str) -> Result<()> {
    for (who, stream) in held {
        let report = stream.exchange(Duration::from_secs(2))?;
        ensure!(report.errors == 0, "{who}, {when}: {report:?}");
    }
    Ok(())
}

fn connections_outlive_their_service(family: Family, name: &str, options: RingwayOptions, pods: &[&str]) -> Result<()> {
    lab_of(name, family, |lab| {
        let net = build(family, lab)?;
        let short = options.clone().with(&["--timeout-tcp-closed", "1"]);
        let ringway = Ringway::start(&net, &short, &[web(&net, pods)?])?;
        let mut held = hold_all(&net)?;
        ringway.publish(&[])?;
        for (client, target) in [(&net.client, VIP_80), (&net.pod("a1")?.namespace, CLUSTER_IP_80), (&net.node1, CLUSTER_IP_80)] {
            client.until("refuse", target, PATIENCE, || Ok(()))?;
        }
        ensure_all_live(&mut held, "the service is gone")?;
        ringway.kill();
        ringway.start_again()?;
        ensure_all_live(&mut held, "after a restart without the service")?;
        ringway.publish(&[web(&net, pods)?])?;
        net.client.until("answer", VIP_80, PATIENCE, || Ok(()))?;
        ensure_all_live(&mut held, "the service is back")?;
        ringway.publish(&[])?;
        ensure_all_live(&mut held, "gone again")?;
        drop(held);
        if options.pod_delivery == "direct" {
            return Ok(());
        }
        // Nothing is kept for connections that are over: looked after every ten seconds.
        wait_for("no route left", Duration::from_secs(25), || {
            let routes = net.node1.ip("route show proto 82")?;
            ensure!(routes.trim().is_empty(), "{routes}");
            Ok(())
        })
    })
}

for_both!(connections_to_pods_elsewhere_outlive_their_service, |family| {
    connections_outlive_their_service(family, "removals_remote", RingwayOptions::default(), &["b1"])
});

for_both!(connections_to_pods_here_outlive_their_service_with_direct_delivery, |family| {
    connections_outlive_their_service(family, "removals_direct", RingwayOptions::direct(), &["a1"])
});

/// One datagram from a fixed port, until the wanted server answers it.
fn moves_to(client: &Namespace, target: &str, server: &str) -> Result<()> {
    wait_for("the next endpoint", PATIENCE, || {
        let answer = client.udp(target, 5555)?;
        ensure!(answer.starts_with(&format!("{server} ")), "{} → {target}: {answer}, not {server}", client.role());
        Ok(())
    })
}

fn datagrams_move(family: Family, name: &str, options: RingwayOptions) -> Result<()> {
    lab_of(name, family, |lab| {
        let net = build(family, lab)?;
        let ringway = Ringway::start(&net, &options, &[web(&net, &["b1"])?])?;
        lab.adopt(net.start_server(&net.pod("b1")?.namespace, "b1-9090", 9090)?);
        let outside: Vec<(&Namespace, &str)> = [VIP_80, CLUSTER_IP_80, NODE_PORT].into_iter().map(|target| (&net.client, target)).collect();
        let inside = [&net.pod("a2")?.namespace, &net.node1].into_iter().flat_map(|client| [(client, VIP_80), (client, CLUSTER_IP_80)]);
        let clients: Vec<(&Namespace, &str)> = outside.into_iter().chain(inside).collect();
        let all_move_to = |server: &str| clients.iter().try_for_each(|(client, target)| moves_to(client, target, server));
        all_move_to("b1")?;
        // To a pod here, which `edge` executes; to another one elsewhere; back.
        for server in ["a1", "b2", "a1", "b1"] {
            ringway.publish(&[web(&net, &[server])?])?;
            all_move_to(server).with_context(|| format!("moved to {server}"))?;
        }
        // Another targetPort.
        let other_port = Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP);
        ringway.publish(&[other_port.tcp_node_port(80, 9090, 30080).udp_node_port(80, 9090, 30080).pods([net.pod("b1")?])])?;
        all_move_to("b1-9090")?;
        // Down to zero and up again.
        ringway.publish(&[web(&net, &[])?])?;
        wait_for("refusals", PATIENCE, || {
            let error = net.client.udp(VIP_80, 5555).err().context("somebody answers")?;
            ensure!(format!("{error:#}").contains("refused"), "{error:#}");
            Ok(())
        })?;
        ringway.publish(&[web(&net, &["a1"])?])?;
        all_move_to("a1")?;
        // The endpoint changes while nobody watches.
        ringway.kill();
        ringway.publish(&[web(&net, &["b2"])?])?;
        ringway.start_again()?;
        all_move_to("b2")
    })
}

for_both!(datagrams_from_a_fixed_port_follow_their_service, |family| { datagrams_move(family, "removals_udp", RingwayOptions::default()) });

for_both!(datagrams_from_a_fixed_port_follow_their_service_with_direct_delivery, |family| {
    datagrams_move(family, "removals_udp_direct", RingwayOptions::direct())
});
