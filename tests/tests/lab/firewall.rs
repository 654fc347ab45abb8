//! The rest of the node is respected: firewall rules, conntrack, masquerade, reverse-path filtering.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{Family, Net, PodLink, RingwayOptions, Service, Topology, address};

use crate::{CLUSTER_IP_80, VIP_80, VIP_URL, ensure_served, serving};

const SHORT: Duration = Duration::from_millis(500);

/// A rule in FORWARD as an administrator or a network policy would have it.
fn deny(net: &Net, source: &str, destination: &str) -> Result<()> {
    let ip = net.family().word();
    net.node1.nft(&format!(
        "table inet denied {{\n chain forward {{ type filter hook forward priority 0;\n \
         {ip} saddr {source} {ip} daddr {destination} counter drop\n }}\n}}\n"
    ))
}

fn allow_again(net: &Net) -> Result<()> {
    net.node1.nft("delete table inet denied")
}

for_both!(rule_against_a_client_holds_through_the_vip, |family| {
    serving("firewall_client", Topology::new().family(family), RingwayOptions::default(), &["a1"], |net, _| {
        deny(net, address::CLIENT, "10.244.1.2")?;
        ensure!(net.client.curl_within(VIP_URL, SHORT).is_err(), "a denied client was served");
        allow_again(net)?;
        ensure_served(&net.client.requests("tcp", VIP_80, 1, 20)?, &["a1"], address::CLIENT)?;
        // Added while a connection runs.
        let mut held = net.client.hold(VIP_80, 2)?;
        ensure!(held.exchange(SHORT)?.errors == 0, "before the rule");
        deny(net, address::CLIENT, "10.244.1.2")?;
        ensure!(held.exchange(SHORT)?.errors == 2, "the rule does not hold for connections that run");
        Ok(())
    })
});

for_both!(rule_between_pods_holds_through_the_vip, |family| {
    serving("firewall_pods", Topology::new().family(family), RingwayOptions::default(), &["a2"], |net, _| {
        let a1 = &net.pod("a1")?.namespace;
        let mut held = a1.hold(CLUSTER_IP_80, 2)?;
        ensure!(held.exchange(SHORT)?.errors == 0, "before the rule");
        deny(net, "10.244.1.2", "10.244.1.3")?;
        ensure!(held.exchange(SHORT)?.errors == 2, "the rule does not hold for connections that run");
        ensure!(a1.curl_within(VIP_URL, SHORT).is_err(), "a denied pod was served");
        Ok(())
    })
});

/// A stateful firewall that drops what conntrack calls invalid and everything that is not explicitly allowed; `IP` is the family's word.
const STATEFUL: &str = "table inet stateful {
    chain invalid { ct state invalid counter drop; }
    chain prerouting { type filter hook prerouting priority 0; ct state invalid counter drop; }
    chain input { type filter hook input priority 0; ct state invalid counter drop; }
    chain output { type filter hook output priority 0; ct state invalid counter drop; }
    chain forward { type filter hook forward priority 0; policy drop;
        ct state invalid counter drop
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        IP daddr 10.244.0.0/16 ct state new accept
        IP saddr 10.244.0.0/16 ct state new accept
    }
}";

fn stateful_firewall_breaks_nothing(name: &str, topology: Topology, options: RingwayOptions) -> Result<()> {
    let servers = ["a2", "b1"];
    serving(name, topology, options, &servers, |net, _| {
        net.node1.nft(&STATEFUL.replace("IP ", &format!("{} ", net.family().word())))?;
        for (who, client) in [("client", &net.client), ("a1", &net.pod("a1")?.namespace), ("node", &net.node1)] {
            for protocol in ["tcp", "udp"] {
                let load = client.requests(protocol, VIP_80, 2, 60)?;
                ensure!(load.errors == 0 && load.servers.len() == 2, "{who} {protocol}: {load:?}");
            }
            let mut held = client.hold(VIP_80, 4)?;
            ensure!(held.exchange(SHORT)?.errors == 0, "{who}: a connection that runs");
        }
        let rules = net.node1.exec(&["nft", "list", "table", "inet", "stateful"])?;
        let dropped: Vec<&str> = rules.lines().filter(|line| line.contains("invalid") && line.contains("packets")).collect();
        ensure!(dropped.iter().all(|line| line.contains("packets 0 ")), "conntrack calls packets invalid: {dropped:?}");
        Ok(())
    })
}

for_both!(stateful_firewall_breaks_nothing_routed, |family| {
    stateful_firewall_breaks_nothing("firewall_stateful", Topology::new().family(family), RingwayOptions::default())
});

for_both!(stateful_firewall_breaks_nothing_bridged, |family| {
    let topology = Topology::new().family(family).node1_pods(&[PodLink::Bridge; 2]);
    stateful_firewall_breaks_nothing("firewall_stateful_bridge", topology, RingwayOptions::default())
});

/// IPv4 has it as a sysctl that every node of the lab has on; for IPv6 it is a rule, as firewalld writes it.
#[test]
fn strict_reverse_path_filter_of_ipv6_breaks_nothing() -> Result<()> {
    const STRICT: &str = "table inet strict {
    chain prerouting { type filter hook prerouting priority -290;
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing counter drop
    }
}";
    let topology = Topology::new().node1_pods(&[PodLink::Routed, PodLink::Routed, PodLink::Bridge]).family(Family::V6);
    serving("firewall_reverse_path", topology, RingwayOptions::default(), &["a2", "b1"], |net, _| {
        net.node1.nft(STRICT)?;
        for client in [&net.client, &net.pod("a1")?.namespace, &net.pod("a3")?.namespace, &net.node1] {
            for (protocol, target) in [("tcp", VIP_80), ("udp", VIP_80), ("tcp", CLUSTER_IP_80)] {
                if client.role() == "client" && target == CLUSTER_IP_80 {
                    continue;
                }
                let load = client.requests(protocol, target, 2, 60)?;
                ensure!(load.errors == 0 && load.servers.len() == 2, "{} {protocol} {target}: {load:?}", client.role());
            }
        }
        let rules = net.node1.exec(&["nft", "list", "table", "inet", "strict"])?;
        ensure!(rules.contains("packets 0 "), "packets were dropped: {rules}");
        Ok(())
    })
}

for_both!(masquerade_of_pods_stays_for_the_outside_only, |family| {
    serving("firewall_masquerade", Topology::new().family(family), RingwayOptions::default(), &["a2", "b1"], |net, _| {
        net.node1.nft(
            &"table ip cni {
                chain postrouting { type nat hook postrouting priority srcnat;
                    ip saddr 10.244.1.0/24 ip daddr != 10.244.0.0/16 masquerade
                }
            }"
            .replace("ip ", &format!("{} ", family.word())),
        )?;
        net.lab.adopt(net.start_server(&net.client, "outside", 8080)?);
        let a1 = &net.pod("a1")?.namespace;
        ensure_served(&a1.requests("tcp", "192.0.2.10:8080", 2, 40)?, &["outside"], address::NODE1)?;
        ensure_served(&a1.requests("udp", "192.0.2.10:8080", 2, 40)?, &["outside"], address::NODE1)?;
        ensure_served(&a1.requests("tcp", CLUSTER_IP_80, 2, 40)?, &["a2", "b1"], "10.244.1.2")?;
        let load = net.client.requests("tcp", VIP_80, 2, 40)?;
        ensure!(load.errors == 0, "{load:?}");
        Ok(())
    })
});

#[test]
fn sysctls_of_the_node_stay_as_they_are() -> Result<()> {
    let settings = "sysctl -n net.ipv4.conf.all.rp_filter net.ipv4.conf.eth0.rp_filter net.ipv4.conf.veth-a1.rp_filter \
        net.ipv4.conf.all.accept_local net.ipv4.conf.all.route_localnet net.ipv4.ip_forward net.ipv4.ip_local_port_range \
        net.ipv4.conf.all.forwarding net.ipv4.conf.default.rp_filter net.ipv4.conf.all.arp_ignore \
        net.ipv6.conf.all.forwarding net.ipv6.conf.eth0.forwarding net.ipv6.conf.eth0.accept_ra net.ipv6.conf.eth0.accept_dad \
        net.ipv6.conf.eth0.proxy_ndp net.ipv6.conf.eth0.keep_addr_on_down net.ipv6.conf.veth-a1.forwarding net.ipv6.conf.default.forwarding \
        net.ipv6.conf.all.seg6_enabled net.ipv6.conf.all.disable_ipv6 net.ipv6.bindv6only net.ipv6.ip_nonlocal_bind";
    crate::lab("firewall_sysctls", |lab| {
        let net = Topology::new().build(lab)?;
        let before = net.node1.shell(settings)?;
        ensure!(before.starts_with("1\n1\n1\n0\n0\n"), "reverse-path filtering is to be strict here: {before}");
        let _ringway = ringway_tests::lab::Ringway::start(&net, &RingwayOptions::default(), &[crate::web(&net, &["a1", "b1"])?])?;
        net.client.curl(VIP_URL)?;
        let after = net.node1.shell(settings)?;
        ensure!(before == after, "sysctls changed from {before} to {after}");
        Ok(())
    })
}

/// What the portmap plugin writes for a pod with `hostPort: 8081`.
const HOST_PORT: &str = "table ip hostport {
    chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 8081 dnat to 10.244.1.2:8080; }
    chain output { type nat hook output priority -100; fib daddr type local tcp dport 8081 dnat to 10.244.1.2:8080; }
}";

for_both!(host_ports_are_not_shadowed, |family| {
    serving("host_ports", Topology::new().family(family), RingwayOptions::default(), &[], |net, ringway| {
        net.node1.nft(&HOST_PORT.replace("table ip ", &format!("table {} ", family.word())))?;
        // The same number on a VIP, and a NodePort on the same address.
        let service = Service::new("web").cluster_ip(address::CLUSTER_IP).load_balancer_ip(address::VIP);
        ringway.publish(&[service.tcp_node_port(8081, 8080, 30081).pods([net.pod("b1")?])])?;
        net.client.until("answer", "10.0.0.11:30081", Duration::from_secs(2), || Ok(()))?;
        for (who, client) in [("client", &net.client), ("pod", &net.pod("a2")?.namespace), ("node", &net.node1)] {
            for (target, server) in [("10.0.0.11:8081", "a1"), ("10.0.0.11:30081", "b1"), ("10.0.0.100:8081", "b1")] {
                let answer = client.line(target, 0)?;
                ensure!(answer.starts_with(server), "{who} got {answer} from {target}");
            }
        }
        Ok(())
    })
});
