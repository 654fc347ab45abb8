//! The kernel resolves what it is asked to, and what is in use stays fresh.

use std::net::{IpAddr, Ipv4Addr};

use ringway_agent::netlink::{FollowerConfig, Resolver, Update, next_hops};

use crate::namespace::{Known, Namespace, ifindex, ip, parse_mac};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));

/// up0 (10.1.0.1) — w0 (10.1.0.2), with short times for probes.
fn wire_up(wire: &Namespace) -> u32 {
    ip(&format!("link add up0 type veth peer name w0 netns {}", wire.path()));
    ip("addr add 10.1.0.1/24 dev up0");
    ip("link set up0 up");
    wire.ip("link set w0 address 02:00:00:00:00:02 up");
    wire.ip("addr add 10.1.0.2/24 dev w0");
    for (setting, value) in [("delay_first_probe_time", "1"), ("retrans_time_ms", "100")] {
        std::fs::write(format!("/proc/sys/net/ipv4/neigh/up0/{setting}"), value).unwrap();
    }
    ifindex("up0")
}

fn known_mac(now: &Update, neighbor: (u32, IpAddr)) -> Option<[u8; 6]> {
    now.neighbors.as_ref().unwrap().lookup(neighbor.0, neighbor.1)
}

#[test]
fn an_unknown_neighbor_is_asked_for() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        let up0 = wire_up(&wire);
        let mut known = Known::start(FollowerConfig::default()).await;
        let mut resolver = Resolver::new().unwrap();
        assert_eq!(known_mac(&known.now, (up0, PEER)), None);
        assert_eq!(resolver.resolve([(up0, PEER)]).await.unwrap(), []);
        known.until("resolved", |now| known_mac(now, (up0, PEER)) == Some([2, 0, 0, 0, 0, 2])).await;

        // Nobody answers: the request went out all the same, and is told by the other side's counters.
        let received = |wire: &Namespace| -> u64 {
            let text = wire.ip("-s -o link show w0");
            text.split("RX:").nth(1).unwrap().split('\\').nth(1).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let before = received(&wire);
        let absent = IpAddr::from([10, 1, 0, 77]);
        resolver.resolve([(up0, absent)]).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        assert!(received(&wire) >= before + 3, "three ARP requests went out");
        assert_eq!(known_mac(&known.now, (up0, absent)), None);
        // It comes up, and is asked for again although the last attempt failed.
        wire.ip("addr add 10.1.0.77/24 dev w0");
        resolver.resolve([(up0, absent)]).await.unwrap();
        known.until("resolved at last", |now| known_mac(now, (up0, absent)).is_some()).await;
    });
}

#[test]
fn a_stale_neighbor_in_use_is_probed_and_replaced() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        let up0 = wire_up(&wire);
        ip("neigh replace 10.1.0.2 lladdr 02:00:00:00:00:99 dev up0 nud stale");
        let mut known = Known::start(FollowerConfig::default()).await;
        let old = Some(parse_mac("02:00:00:00:00:99"));
        assert_eq!(known_mac(&known.now, (up0, PEER)), old, "stale is usable");
        let mut resolver = Resolver::new().unwrap();
        for _ in 0..12 {
            resolver.resolve([(up0, PEER)]).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        known.until("the new MAC", |now| known_mac(now, (up0, PEER)) == Some([2, 0, 0, 0, 0, 2])).await;
    });
}

#[test]
fn what_somebody_set_for_good_is_known_as_such() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        let up0 = wire_up(&wire);
        let mut known = Known::start(FollowerConfig::default()).await;
        let permanent = |now: &Update| now.neighbors.as_ref().unwrap().permanent.contains(&(up0, PEER));
        ip("neigh replace 10.1.0.2 lladdr 02:00:00:00:00:02 dev up0 nud permanent");
        known.until("permanent", permanent).await;
        ip("neigh replace 10.1.0.2 lladdr 02:00:00:00:00:02 dev up0 nud reachable");
        known.until("not permanent any more", |now| !permanent(now) && known_mac(now, (up0, PEER)).is_some()).await;
    });
}

#[test]
fn a_neighbor_on_a_device_that_is_gone_is_refused_alone() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        let up0 = wire_up(&wire);
        let mut known = Known::start(FollowerConfig::default()).await;
        let refused = Resolver::new().unwrap().resolve([(4711, PEER), (up0, PEER)]).await.unwrap();
        assert_eq!(refused, [(4711, PEER)]);
        known.until("resolved", |now| known_mac(now, (up0, PEER)).is_some()).await;
        ip("link del up0");
        known.until("forgotten with its device", |now| known_mac(now, (up0, PEER)).is_none()).await;
    });
}

#[test]
fn next_hops_of_backends_are_gateways_and_the_connected_themselves() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        let up0 = wire_up(&wire);
        ip("route add 10.64.0.0/16 nexthop via 10.1.0.2 nexthop via 10.1.0.3");
        let known = Known::start(FollowerConfig::default()).await;
        let backends = ["10.64.0.1", "10.64.0.2", "10.1.0.9", "10.1.0.1", "192.0.2.1"].map(|text| text.parse().unwrap());
        let hops = next_hops(known.now.fib.as_ref().unwrap(), "10.1.0.1".parse().unwrap(), None, backends);
        let mut hops: Vec<_> = hops.into_iter().collect();
        hops.sort_unstable();
        assert_eq!(hops, ["10.1.0.2", "10.1.0.3", "10.1.0.9"].map(|text| (up0, text.parse().unwrap())));
    });
}
