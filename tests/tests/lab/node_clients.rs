//! The node's own sockets as clients of ClusterIPs and VIPs.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{Family, Namespace, Net, Pod, PodLink, Ringway, RingwayOptions, Service, Topology, address, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, ensure_served, lab_of, serving};

fn node_is_served_by(name: &str, topology: Topology, servers: &[&str]) -> Result<()> {
    serving(name, topology, RingwayOptions::default(), servers, |net, _| {
        for target in [CLUSTER_IP_80, VIP_80] {
            ensure_served(&net.node1.requests("tcp", target, 2, 100)?, servers, address::NODE1)?;
            ensure_served(&net.node1.requests("udp", target, 2, 100)?, servers, address::NODE1)?;
        }
        Ok(())
    })
}

for_both!(node_reaches_pods_of_its_own, |family| { node_is_served_by("node_local", Topology::new().family(family), &["a1", "a2"]) });

for_both!(node_reaches_bridged_pods, |family| {
    node_is_served_by("node_bridge", Topology::new().family(family).node1_pods(&[PodLink::Bridge; 2]), &["a1", "a2"])
});

for_both!(node_reaches_other_nodes, |family| { node_is_served_by("node_remote", Topology::new().family(family), &["b1", "b2"]) });

for_both!(node_reaches_another_node_by_the_second_uplink, |family| {
    serving("node_two_uplinks", Topology::new().family(family).two_uplinks(), RingwayOptions::default(), &["b1"], |net, _| {
        let load = net.node1.requests("tcp", CLUSTER_IP_80, 2, 100)?;
        anyhow::ensure!(load.errors == 0, "{load:?}");
        Ok(())
    })
});

/// NodePorts of the node's own sockets: by its address and by localhost.
const OWN_NODE_PORT: &str = "10.0.0.11:30080";
const LOCAL_NODE_PORT: &str = "127.0.0.1:30080";

fn node_port_service(net: &Net, pods: &[&str], more: &[&str]) -> Result<Service> {
    let pods: Vec<&Pod> = pods.iter().map(|name| net.pod(name)).collect::<Result<_>>()?;
    let service = Service::new("np").cluster_ip(address::CLUSTER_IP2).tcp_node_port(80, 8080, 30080).udp_node_port(80, 8080, 30080);
    Ok(more.iter().fold(service.pods(pods), |service, line| service.spec(line)))
}

fn own_node_port_is_served_by(net: &Net, servers: &[&str]) -> Result<()> {
    for target in [OWN_NODE_PORT, LOCAL_NODE_PORT] {
        for protocol in ["tcp", "udp"] {
            ensure_served(&net.node1.requests(protocol, target, 2, 60)?, servers, address::NODE1)?;
        }
    }
    Ok(())
}

for_both!(node_reaches_its_own_node_ports, |family| {
    serving("node_ports_own", Topology::new().family(family), RingwayOptions::default(), &[], |net, ringway| {
        ringway.publish(&[node_port_service(net, &["a1", "b1"], &[])?])?;
        wait_for("the NodePort", Duration::from_secs(2), || net.node1.line(LOCAL_NODE_PORT, 0).map(drop))?;
        own_node_port_is_served_by(net, &["a1", "b1"])?;
        // The short cut: policy Local of the NodePort is for clients outside; that of the ClusterIP is another matter.
        ringway.publish(&[node_port_service(net, &["b1"], &["externalTrafficPolicy: Local", "internalTrafficPolicy: Local"])?])?;
        wait_for("the other backend", Duration::from_secs(2), || {
            ensure!(net.node1.line(LOCAL_NODE_PORT, 0)?.starts_with("b1"), "not yet");
            Ok(())
        })?;
        own_node_port_is_served_by(net, &["b1"])?;
        // Other namespaces' localhost is their own, another port is nobody's, and the alias is not for clients outside.
        ensure!(net.pod("a1")?.namespace.line(LOCAL_NODE_PORT, 0).is_err(), "a pod's localhost is not the node's");
        ensure!(net.node1.line("127.0.0.1:30081", 0).is_err(), "a port without a service");
        let alias = match family {
            Family::V4 => "169.254.82.3:30080",
            Family::V6 => "[fd52:696e:6777:6179::3]:30080",
        };
        for client in [&net.client, &net.pod("a1")?.namespace] {
            ensure!(client.line(alias, 0).is_err(), "the alias is served to the {}", client.role());
        }
        // When the service goes, localhost is the kernel's again.
        ringway.publish(&[])?;
        wait_for("the end of the NodePort", Duration::from_secs(2), || {
            ensure!(net.node1.line(LOCAL_NODE_PORT, 0).is_err(), "still there");
            Ok(())
        })
    })
});

for_both!(connections_of_the_node_to_its_node_ports_survive_a_restart, |family| {
    serving("node_ports_restart", Topology::new().family(family), RingwayOptions::default(), &[], |net, ringway| {
        ringway.publish(&[node_port_service(net, &["a1", "b1"], &[])?])?;
        wait_for("the NodePort", Duration::from_secs(2), || net.node1.line(LOCAL_NODE_PORT, 0).map(drop))?;
        let mut streams = net.node1.hold(LOCAL_NODE_PORT, 10)?;
        streams.run_every(Duration::from_millis(20))?;
        ringway.kill();
        std::thread::sleep(Duration::from_millis(300));
        ringway.start_again()?;
        let report = streams.stop()?;
        ensure!(report.errors == 0 && report.exchanges > 50, "{report:?}");
        own_node_port_is_served_by(net, &["a1", "b1"])
    })
});

for_both!(node_reaches_a_server_of_its_own_by_its_node_port, |family| {
    serving("node_ports_host", Topology::new().family(family), RingwayOptions::default(), &[], |net, ringway| {
        let _server = net.start_server(&net.node1, "host1", 8080)?;
        ringway.publish(&[node_port_service(net, &[], &[])?.endpoint(address::NODE1, "node1")])?;
        wait_for("the NodePort", Duration::from_secs(2), || net.node1.line(LOCAL_NODE_PORT, 0).map(drop))?;
        for target in [OWN_NODE_PORT, LOCAL_NODE_PORT] {
            let load = net.node1.requests("tcp", target, 2, 60)?;
            ensure!(load.errors == 0 && load.servers.contains_key("host1"), "{load:?}");
        }
        Ok(())
    })
});

/// As somebody writes it who hands out addresses of hosts: port 80 is the service's, port 9000 still the host's.
fn host_shares_its_address(family: Family, name: &str, claimed: &str, host: fn(&Net) -> &Namespace) -> Result<()> {
    serving(name, Topology::new().family(family), RingwayOptions::default(), &[], |net, ringway| {
        net.lab.adopt(net.start_server(host(net), "host", 9000)?);
        ringway.publish(&[Service::web(claimed, address::CLUSTER_IP, [net.pod("a1")?])])?;
        wait_for("the service", Duration::from_secs(2), || net.node1.line(CLUSTER_IP_80, 0).map(drop))?;
        for (who, client) in [("node", &net.node1), ("pod", &net.pod("a2")?.namespace)] {
            let answer = client.line(&format!("{claimed}:9000"), 0)?;
            ensure!(answer.starts_with("host"), "the {who} got {answer}");
            let load = client.requests("tcp", &format!("{claimed}:80"), 2, 60)?;
            ensure!(load.errors == 0 && load.servers.contains_key("a1"), "the service's own port for the {who}: {load:?}");
            let load = client.requests("udp", &format!("{claimed}:80"), 2, 60)?;
            ensure!(load.errors == 0 && load.servers.contains_key("a1"), "the same over UDP: {load:?}");
        }
        net.node1.exec(&["ping", "-c", "1", "-W", "2", claimed])?;
        Ok(())
    })
}

for_both!(another_node_shares_its_address, |family| { host_shares_its_address(family, "shared_node2", "10.0.0.12", |net| &net.node2) });

for_both!(this_node_shares_its_address, |family| { host_shares_its_address(family, "shared_node1", address::NODE1, |net| &net.node1) });

// `--announce` is not for such addresses: to answer ARP for a host is to take it off the network.
for_both!(a_host_that_is_no_node_shares_its_address, |family| {
    let options = RingwayOptions { announce: false, ..RingwayOptions::default() };
    lab_of("shared_client", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        net.lab.adopt(net.start_server(&net.client, "host", 9000)?);
        let ringway = Ringway::start(&net, &options, &[Service::web(address::CLIENT, address::CLUSTER_IP, [net.pod("a1")?])])?;
        for (who, client) in [("node", &net.node1), ("pod", &net.pod("a2")?.namespace)] {
            let answer = client.line(&format!("{}:9000", address::CLIENT), 0)?;
            ensure!(answer.starts_with("host"), "the {who} got {answer}");
            let answer = client.line(&format!("{}:80", address::CLIENT), 0)?;
            ensure!(answer.starts_with("a1"), "the service's own port for the {who}: {answer}");
        }
        net.node1.exec(&["ping", "-c", "1", "-W", "2", address::CLIENT])?;
        ringway.terminate()?;
        let error = net.node1.line(&format!("{}:80", address::CLIENT), 0).err();
        ensure!(error.is_some(), "served without Ringway");
        Ok(())
    })
});

// As kube-vip does on its leader.
for_both!(a_vip_that_a_device_of_the_node_has_is_served_to_the_node, |family| {
    serving("vip_on_device", Topology::new().family(family), RingwayOptions::default(), &["a1", "b1"], |net, _| {
        net.node1.ip(&format!("address add {}/32 dev eth0", address::VIP))?;
        ensure_served(&net.node1.requests("tcp", VIP_80, 2, 60)?, &["a1", "b1"], address::NODE1)?;
        let load = net.client.requests("tcp", VIP_80, 2, 60)?;
        ensure!(load.errors == 0, "{load:?}");
        net.node1.ip(&format!("address delete {}/32 dev eth0", address::VIP))?;
        ensure_served(&net.node1.requests("tcp", VIP_80, 2, 60)?, &["a1", "b1"], address::NODE1)
    })
});

// The router has a route for the VIP to this node, and this node's way out is the router.
for_both!(what_a_vip_does_not_serve_goes_round_no_circle, |family| {
    serving("vip_no_loop", Topology::new().family(family), RingwayOptions::default(), &["a1"], |net, ringway| {
        let vip = "198.18.0.7";
        ringway.publish(&[Service::web(vip, address::CLUSTER_IP, [net.pod("a1")?])])?;
        net.router.ip(&format!("route add {vip}/32 via {}", address::NODE1))?;
        net.client.until("answer", &format!("{vip}:80"), Duration::from_secs(2), || Ok(()))?;
        let count = match family {
            Family::V4 => "awk '/^Ip: [0-9]/ {print $7}' /proc/net/snmp",
            Family::V6 => "awk '/^Ip6OutForwDatagrams/ {print $2}' /proc/net/snmp6",
        };
        let forwarded = || -> Result<u64> { Ok(net.router.shell(count)?.trim().parse()?) };
        let before = forwarded()?;
        ensure!(net.client.line(&format!("{vip}:81"), 0).is_err(), "somebody answers");
        net.client.shell(&format!("ping -c 3 -i 0.2 -W 1 {vip} || true"))?;
        let packets = forwarded()? - before;
        ensure!(packets < 20, "the router forwarded {packets} packets");
        Ok(())
    })
});
