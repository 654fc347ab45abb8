//! ICMP and VIPs, with real routers and hosts: path MTU discovery on both sides, closed ports, pings.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{
    Family, Lab, Namespace, Net, PodLink, Ringway, RingwayOptions, SERVER_PORT, Service, Topology, address, wait_for,
};

use crate::bulk::upload;
use crate::{CLUSTER_IP_80, CLUSTER_IP_URL, VIP_80, VIP_URL, ensure_no_frame_leaked, ensure_refused, lab_of, web};

const BYTES: usize = 2_000_000;
const PATIENCE: Duration = Duration::from_secs(3);

fn download(client: &Namespace, url: &str) -> Result<()> {
    let size = client.shell(&format!("curl -sS --noproxy '*' --max-time 20 {url}bulk/{BYTES} | wc -c"))?;
    ensure!(size.trim() == BYTES.to_string(), "{size} bytes of {BYTES} came");
    Ok(())
}

/// The host was told of the narrow hop on its way to `destination`.
fn ensure_told(host: &Namespace, destination: &str) -> Result<()> {
    let route = host.exec(&["ip", "route", "get", destination])?;
    ensure!(route.contains("mtu 1300"), "{} was not told: {route}", host.role());
    Ok(())
}

/// The hop on the way to the client that is narrow.
#[derive(Clone, Copy)]
enum Narrow {
    Last,
    Uplink,
}

impl Narrow {
    fn make(self, net: &Net) -> Result<()> {
        let (host, device) = match self {
            Narrow::Last => (&net.router, "clients"),
            Narrow::Uplink => (&net.node1, "eth0"),
        };
        host.ip(&format!("link set {device} mtu 1300")).map(drop)
    }
}

/// Who sends what the client downloads has to learn of the narrow hop, behind the VIP.
fn narrow_towards_the_client(
    family: Family,
    name: &str,
    narrow: Narrow,
    options: RingwayOptions,
    server: &str,
    told_of: &str,
) -> Result<()> {
    lab_of(name, family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        narrow.make(&net)?;
        let ringway = Ringway::start(&net, &options, &[web(&net, &[server])?])?;
        download(&net.client, VIP_URL)?;
        ensure_told(&net.pod(server)?.namespace, told_of)?;
        ensure_no_frame_leaked(&ringway)
    })
}

for_both!(a_backend_elsewhere_learns_the_clients_mtu, |family| {
    narrow_towards_the_client(family, "mtu_client_remote", Narrow::Last, RingwayOptions::default(), "b1", address::NODE1)
});

for_both!(a_pod_here_learns_the_clients_mtu, |family| {
    narrow_towards_the_client(family, "mtu_client_edge", Narrow::Last, RingwayOptions::default(), "a1", address::CLIENT)
});

for_both!(a_pod_here_learns_the_clients_mtu_with_direct_delivery, |family| {
    narrow_towards_the_client(family, "mtu_client_direct", Narrow::Last, RingwayOptions::direct(), "a1", address::CLIENT)
});

for_both!(a_pod_here_learns_the_uplinks_mtu, |family| {
    narrow_towards_the_client(family, "mtu_uplink_edge", Narrow::Uplink, RingwayOptions::default(), "a1", address::CLIENT)
});

for_both!(a_pod_here_learns_the_uplinks_mtu_with_direct_delivery, |family| {
    narrow_towards_the_client(family, "mtu_uplink_direct", Narrow::Uplink, RingwayOptions::direct(), "a1", address::CLIENT)
});

// A hop between this node and the backend is narrow, which a router there says to our SNAT address, a pod's, or the node's.
for_both!(clients_learn_the_mtu_towards_a_backend_elsewhere, |family| {
    lab_of("mtu_backend", family, |lab| {
        let net = Topology::new().family(family).node2_behind_router().build(lab)?;
        net.router.ip("link set lan2 mtu 1300")?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["b1"])?])?;
        let pod = &net.pod("a1")?.namespace;
        for (client, url, told_of) in [
            (&net.client, VIP_URL, address::VIP),
            (pod, CLUSTER_IP_URL, address::CLUSTER_IP),
            (&net.node1, CLUSTER_IP_URL, address::CLUSTER_IP),
        ] {
            upload(&net, client, url, BYTES)?;
            ensure_told(client, told_of)?;
        }
        ensure_no_frame_leaked(&ringway)
    })
});

// The next hop of the worker itself is narrow.
for_both!(the_way_to_the_backend_is_narrow, |family| {
    lab_of("mtu_next_hop", family, |lab| {
        let net = Topology::new().family(family).two_uplinks().build(lab)?;
        net.node1.ip("link set eth1 mtu 1300")?;
        let _ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["b1"])?])?;
        upload(&net, &net.client, VIP_URL, BYTES)?;
        ensure_told(&net.client, address::VIP)
    })
});

// Senders of datagrams are told, too: by routers beyond this node, and by the worker where its own next hop is narrow. From then on they
// send fragments.
for_both!(senders_of_datagrams_learn_the_mtu, |family| {
    for (name, topology) in [("mtu_udp_router", Topology::new().node2_behind_router()), ("mtu_udp_next_hop", Topology::new().two_uplinks())]
    {
        lab_of(name, family, |lab| {
            let net = topology.family(family).build(lab)?;
            let narrow = if name == "mtu_udp_router" { (&net.router, "lan2") } else { (&net.node1, "eth1") };
            narrow.0.ip(&format!("link set {} mtu 1300", narrow.1))?;
            let _ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["b1"])?])?;
            for (bytes, arrives) in [(1_200, true), (1_273, false), (1_240, true), (1_273, true), (4_000, true)] {
                let answer = net.client.udp_of_bytes(VIP_80, 5_555, bytes);
                ensure!(answer.is_ok() == arrives, "{bytes} bytes: {answer:?}");
            }
            ensure_told(&net.client, address::VIP)
        })?;
    }
    Ok(())
});

/// Backends answer with datagrams that the narrow hop does not take whole: they are told, and divide.
fn backends_learn_from_their_answers(family: Family, name: &str, narrow: Narrow, options: RingwayOptions, server: &str) -> Result<()> {
    lab_of(name, family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        narrow.make(&net)?;
        net.client.ip("link set eth0 mtu 1300")?;
        let ringway = Ringway::start(&net, &options, &[web(&net, &[server])?])?;
        wait_for("the backend", PATIENCE, || net.client.udp(VIP_80, 0))?;
        ensure!(net.client.udp_of_bytes(VIP_80, 5_555, 1_400).is_err(), "the first answer tells");
        net.client.udp_of_bytes(VIP_80, 5_555, 1_400)?;
        ensure_told(&net.pod(server)?.namespace, if server == "b1" { address::NODE1 } else { address::CLIENT })?;
        ensure_no_frame_leaked(&ringway)
    })
}

for_both!(backends_elsewhere_learn_from_their_answers, |family| {
    backends_learn_from_their_answers(family, "mtu_answer_remote", Narrow::Last, RingwayOptions::default(), "b1")
});

for_both!(backends_here_learn_from_their_answers, |family| {
    backends_learn_from_their_answers(family, "mtu_answer_edge", Narrow::Last, RingwayOptions::default(), "a1")
});

for_both!(backends_here_learn_from_their_answers_with_direct_delivery, |family| {
    backends_learn_from_their_answers(family, "mtu_answer_direct", Narrow::Last, RingwayOptions::direct(), "a1")
});

for_both!(backends_here_learn_of_the_uplink_from_their_answers, |family| {
    backends_learn_from_their_answers(family, "mtu_answer_uplink", Narrow::Uplink, RingwayOptions::default(), "a1")
});

for_both!(backends_here_learn_of_the_uplink_from_their_answers_with_direct_delivery, |family| {
    backends_learn_from_their_answers(family, "mtu_answer_uplink_direct", Narrow::Uplink, RingwayOptions::direct(), "a1")
});

/// A pod whose server is gone says so, and whoever asked by the service's address understands it.
fn closed_ports(family: Family, name: &str, options: RingwayOptions, servers: &[&str]) -> Result<()> {
    const CLOSED: u16 = 9_999;
    lab_of(name, family, |lab: &Rc<Lab>| {
        let net: Net = Topology::new().family(family).node1_pods(&[PodLink::Routed, PodLink::Bridge, PodLink::Bridge]).build(lab)?;
        let ringway = Ringway::start(&net, &options, &[])?;
        for server in servers {
            // A host tells one sender no more than six times in a row, and many here look to it like one.
            net.pod(server)?.namespace.shell("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")?;
            let service = Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP);
            let closed = service.clone().udp(80, CLOSED).pods([net.pod(server)?]);
            let open = service.udp(80, SERVER_PORT).pods([net.pod(server)?]);
            ringway.publish(&[open])?;
            wait_for("the service", PATIENCE, || {
                let answer = net.client.udp(VIP_80, 0)?;
                ensure!(answer.starts_with(server), "{answer}");
                Ok(())
            })?;
            ringway.publish(&[closed])?;
            wait_for("the closed port", PATIENCE, || ensure_refused(&net.client, "udp", VIP_80))?;
            for client in ["a1", "a2", "a3"] {
                ensure_refused(&net.pod(client)?.namespace, "udp", CLUSTER_IP_80)?;
            }
            ensure_refused(&net.node1, "udp", CLUSTER_IP_80)?;
        }
        ensure_no_frame_leaked(&ringway)
    })
}

for_both!(closed_ports_of_pods_are_told, |family| { closed_ports(family, "icmp_closed", RingwayOptions::default(), &["a1", "a2", "b1"]) });

for_both!(closed_ports_of_pods_are_told_with_direct_delivery, |family| {
    closed_ports(family, "icmp_closed_direct", RingwayOptions::direct(), &["a1", "a2"])
});

/// Pings that are answered, of three.
fn pongs(client: &Namespace, target: &str, payload_bytes: u32) -> Result<usize> {
    let text = client.shell(&format!("ping -c 3 -i 0.05 -W 0.3 -s {payload_bytes} {target} || true"))?;
    Ok(text.lines().filter(|line| line.contains("bytes from") && line.contains(target)).count())
}

for_both!(services_addresses_answer_pings, |family| {
    lab_of("icmp_ping", family, |lab| {
        let net = Topology::new().family(family).node1_pods(&[PodLink::Routed, PodLink::Bridge]).build(lab)?;
        net.router.ip("route add 10.96.0.0/16 via 10.0.0.11")?;
        let ringway = Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["b1"])?])?;
        let (routed, bridged) = (&net.pod("a1")?.namespace, &net.pod("a2")?.namespace);
        let pairs = [
            (&net.client, address::VIP),
            (&net.client, address::CLUSTER_IP),
            (routed, address::VIP),
            (routed, address::CLUSTER_IP),
            (bridged, address::VIP),
            (bridged, address::CLUSTER_IP),
            (&net.node1, address::CLUSTER_IP),
        ];
        let all = |wanted: usize| -> Result<()> {
            for (client, target) in pairs {
                for payload_bytes in [0, 56, 1400] {
                    let count = pongs(client, target, payload_bytes)?;
                    ensure!(count == wanted, "{} → {target}, {payload_bytes} bytes: {count} answers", client.role());
                }
            }
            Ok(())
        };
        all(3)?;
        for (client, target) in [(&net.client, address::VIP2), (routed, address::CLUSTER_IP2), (&net.node1, address::CLUSTER_IP2)] {
            ensure!(pongs(client, target, 56)? == 0, "{} → {target}: nobody's address answers", client.role());
        }
        ensure!(ringway.ask("stats")?["verdicts"]["pings"].as_u64() >= Some(63), "{}", ringway.ask("stats")?["verdicts"]);
        ringway.publish(&[])?;
        wait_for("no service", PATIENCE, || {
            for (client, target) in pairs {
                ensure!(pongs(client, target, 56)? == 0, "{} → {target}: the service is gone", client.role());
            }
            Ok(())
        })?;
        ensure_no_frame_leaked(&ringway)
    })
});

for_both!(pings_go_unanswered_if_told_so, |family| {
    lab_of("icmp_no_ping", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        let options = RingwayOptions::default().with(&["--answer-ping", "false"]);
        let _ringway = Ringway::start(&net, &options, &[web(&net, &["b1"])?])?;
        for (client, target) in
            [(&net.client, address::VIP), (&net.pod("a1")?.namespace, address::CLUSTER_IP), (&net.node1, address::CLUSTER_IP)]
        {
            ensure!(pongs(client, target, 56)? == 0, "{} → {target} is answered", client.role());
        }
        Ok(())
    })
});
