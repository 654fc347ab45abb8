//! What becomes of a Service during its life: types, ports, labels and slices come and go, it is deleted and made again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::lab::{Namespace, Net, Ringway, RingwayOptions, Service, Topology, address, wait_for};

use crate::{CLUSTER_IP_80, VIP_80, ensure_refused, lab, lab_of, serving};

const NODE_PORT: &str = "10.0.0.11:30080";
const PATIENCE: Duration = Duration::from_secs(3);

/// Name of what answers, or that nobody does.
fn server_of(client: &Namespace, target: &str) -> Result<String> {
    let answer = client.line(target, 0)?;
    Ok(answer.split(' ').next().unwrap_or_default().to_owned())
}

/// Every client finds every one of these addresses open, and every one of those closed.
fn reaches(clients: &[&Namespace], open: &[&str], closed: &[&str]) -> Result<()> {
    for client in clients {
        for target in open {
            server_of(client, target).with_context(|| format!("{} → {target}", client.role()))?;
        }
        for target in closed {
            // Not all are refused: nobody has the address, or its type has no such port. Silence counts after so long.
            let answer = client.curl_within(&format!("http://{target}/"), Duration::from_millis(100));
            ensure!(answer.is_err(), "{} → {target} is answered", client.role());
        }
    }
    Ok(())
}

/// Clients of all kinds.
fn clients(net: &Net) -> Result<[&Namespace; 3]> {
    Ok([&net.client, &net.pod("a2")?.namespace, &net.node1])
}

for_both!(types_change, |family| {
    lab_of("services_types", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        net.router.ip("route add 10.96.0.0/16 via 10.0.0.11")?;
        let pods = || -> Result<_> { Ok([net.pod("a1")?, net.pod("b1")?]) };
        let cluster_ip = Service::new("web").cluster_ip(address::CLUSTER_IP).tcp(80, 8080).pods(pods()?);
        let node_port = Service::new("web").cluster_ip(address::CLUSTER_IP).tcp_node_port(80, 8080, 30080).pods(pods()?);
        let load_balancer = node_port.clone().load_balancer_ip(address::VIP);
        let external_name = Service::new("web").external_name("www.example.org").tcp(80, 8080).pods(pods()?);
        let ringway = Ringway::start(&net, &RingwayOptions::default(), std::slice::from_ref(&cluster_ip))?;
        let none: &[&str] = &[];
        let (addresses, all) = ([CLUSTER_IP_80], [CLUSTER_IP_80, NODE_PORT, VIP_80]);
        let steps: [(&str, &Service, &[&str], &[&str]); 9] = [
            ("ClusterIP", &cluster_ip, &addresses, &all[1..]),
            ("NodePort", &node_port, &all[..2], &all[2..]),
            ("ExternalName", &external_name, none, &all),
            ("NodePort again", &node_port, &all[..2], &all[2..]),
            ("ClusterIP again", &cluster_ip, &addresses, &all[1..]),
            ("LoadBalancer", &load_balancer, &all, none),
            ("ExternalName after LoadBalancer", &external_name, none, &all),
            ("LoadBalancer again", &load_balancer, &all, none),
            ("ClusterIP at last", &cluster_ip, &addresses, &all[1..]),
        ];
        for (what, service, open, closed) in steps {
            ringway.publish(std::slice::from_ref(service))?;
            wait_for(what, PATIENCE, || reaches(&clients(&net)?, open, closed))?;
        }
        Ok(())
    })
});

for_both!(tcp_and_udp_share_a_port_number, |family| {
    serving("services_protocols", Topology::new().family(family), RingwayOptions::default(), &["a1"], |net, ringway| {
        let web = || -> Result<_> {
            Ok(Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP).pods([net.pod("a1")?, net.pod("b1")?]))
        };
        net.router.ip("route add 10.96.0.0/16 via 10.0.0.11")?;
        let both = web()?.tcp_node_port(80, 8080, 30080).udp_node_port(80, 8080, 30080);
        let tcp = web()?.tcp_node_port(80, 8080, 30080);
        let udp = web()?.udp_node_port(80, 8080, 30080);
        let asks = |protocol: &str, is_served: bool| {
            for client in clients(net)? {
                for target in [VIP_80, CLUSTER_IP_80, NODE_PORT] {
                    if is_served {
                        let load = client.requests(protocol, target, 1, 4)?;
                        ensure!(load.errors == 0, "{} → {protocol} {target}: {load:?}", client.role());
                    } else {
                        ensure!(client.requests(protocol, target, 1, 1)?.requests == 0, "{} → {protocol} {target}", client.role());
                    }
                }
            }
            Ok(())
        };
        ringway.publish(std::slice::from_ref(&both))?;
        wait_for("both protocols", PATIENCE, || asks("tcp", true).and_then(|()| asks("udp", true)))?;
        let mut held = net.client.hold(VIP_80, 4)?;
        let mut held_inside = net.pod("a2")?.namespace.hold(CLUSTER_IP_80, 4)?;
        let datagrams = net.client.start_load("datagrams", "udp", VIP_80, 2, Duration::from_millis(300))?;
        ensure!(datagrams.finish()?.errors == 0, "datagrams are lost before anything changes");

        ringway.publish(std::slice::from_ref(&tcp))?;
        wait_for("UDP refused", PATIENCE, || ensure_refused(&net.pod("a2")?.namespace, "udp", CLUSTER_IP_80))?;
        asks("tcp", true)?;
        for stream in [&mut held, &mut held_inside] {
            let report = stream.exchange(Duration::from_secs(2))?;
            ensure!(report.errors == 0, "UDP was removed: {report:?}");
        }

        ringway.publish(std::slice::from_ref(&both))?;
        wait_for("UDP again", PATIENCE, || asks("udp", true))?;
        let datagrams = net.client.start_load("datagrams", "udp", VIP_80, 2, Duration::from_secs(1))?;
        ringway.publish(std::slice::from_ref(&udp))?;
        wait_for("TCP refused", PATIENCE, || ensure_refused(&net.pod("a2")?.namespace, "tcp", CLUSTER_IP_80))?;
        let load = datagrams.finish()?;
        ensure!(load.errors == 0 && load.requests > 100, "TCP was removed: {load:?}");
        asks("udp", true)
    })
});

#[test]
fn services_are_made_again() -> Result<()> {
    lab("services_again", |lab| {
        let net = Topology::new().build(lab)?;
        net.router.ip("route add 10.96.0.0/16 via 10.0.0.11")?;
        let service = |name: &str, address: &str, pod: &str| -> Result<Service> {
            Ok(Service::new(name).cluster_ip(address).tcp_node_port(80, 8080, 30080).pods([net.pod(pod)?]))
        };
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[])?;
        const OTHER_80: &str = "10.96.0.11:80";
        let steps = [
            (service("one", address::CLUSTER_IP, "a1")?, "a1", CLUSTER_IP_80, OTHER_80),
            // Another service with the same address and NodePort.
            (service("two", address::CLUSTER_IP, "b1")?, "b1", CLUSTER_IP_80, OTHER_80),
            // The same name at another address.
            (service("two", address::CLUSTER_IP2, "a1")?, "a1", OTHER_80, CLUSTER_IP_80),
            (service("one", address::CLUSTER_IP, "b1")?, "b1", CLUSTER_IP_80, OTHER_80),
        ];
        for is_deleted_first in [true, false] {
            for (service, server, open, closed) in &steps {
                if is_deleted_first {
                    ringway.publish(&[])?;
                    wait_for("nothing", PATIENCE, || reaches(&clients(&net)?, &[], &[open, closed, NODE_PORT]))?;
                }
                ringway.publish(std::slice::from_ref(service))?;
                wait_for("the next service", PATIENCE, || {
                    for client in clients(&net)? {
                        for target in [open, NODE_PORT] {
                            let answer = server_of(client, target)?;
                            ensure!(answer == *server, "{} → {target}: {answer}, not {server}", client.role());
                        }
                    }
                    reaches(&clients(&net)?, &[], &[closed])
                })?;
            }
        }
        Ok(())
    })
}

#[test]
fn labels_hand_a_service_to_somebody_else_and_back() -> Result<()> {
    serving("services_labels", Topology::new(), RingwayOptions::default(), &["b1"], |net, ringway| {
        let web = crate::web(net, &["b1"])?;
        for label in ["service.kubernetes.io/headless: \"\"", "service.kubernetes.io/service-proxy-name: somebody-else"] {
            ringway.publish(&[web.clone().label(label)])?;
            wait_for(label, PATIENCE, || reaches(&clients(net)?, &[], &[VIP_80]))?;
            ringway.publish(std::slice::from_ref(&web))?;
            wait_for("no label", PATIENCE, || reaches(&clients(net)?, &[VIP_80], &[]))?;
        }
        Ok(())
    })
}

// A named targetPort is another number in each slice.
for_both!(slices_add_up_and_have_ports_of_their_own, |family| {
    serving("services_slices", Topology::new().family(family), RingwayOptions::default(), &["a1"], |net, ringway| {
        let (a2, b2) = (net.pod("a2")?, net.pod("b2")?);
        for (pod, name) in [(a2, "a2-9090"), (b2, "b2-9091")] {
            let port = name[3..].parse()?;
            net.lab.adopt(net.start_server(&pod.namespace, name, port)?);
        }
        let slice = |number: u32, address: &str, port: &str| {
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{number}, namespace: default, \
                 labels: {{kubernetes.io/service-name: web}}}}\naddressType: {}\nports: [{{name: tcp-80, protocol: TCP, port: {port}}}]\n\
                 endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]\n",
                family.kubernetes()
            )
        };
        let answers_come_from = |servers: &[&str]| {
            wait_for("the slices' endpoints", PATIENCE, || {
                for client in clients(net)? {
                    let load = client.requests("tcp", VIP_80, 1, 60)?;
                    let names: Vec<&str> = load.servers.keys().map(String::as_str).collect();
                    ensure!(load.errors == 0 && names == servers, "{}: {load:?}, not {servers:?}", client.role());
                }
                Ok(())
            })
        };
        answers_come_from(&["a1"])?;
        ringway.write_manifest("slice2.yaml", &slice(2, &a2.address, "9090"))?;
        answers_come_from(&["a1", "a2-9090"])?;
        ringway.write_manifest("slice3.yaml", &slice(3, &b2.address, "9091"))?;
        answers_come_from(&["a1", "a2-9090", "b2-9091"])?;
        // The same endpoint in two slices, as while the controller moves it.
        ringway.write_manifest("slice4.yaml", &slice(4, &b2.address, "9091"))?;
        answers_come_from(&["a1", "a2-9090", "b2-9091"])?;
        ringway.remove_manifest("slice3.yaml")?;
        answers_come_from(&["a1", "a2-9090", "b2-9091"])?;
        ringway.remove_manifest("slice4.yaml")?;
        ringway.remove_manifest("slice2.yaml")?;
        answers_come_from(&["a1"])
    })
});
