//! The kernel resolves what it is asked to, and what is in use stays fresh.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringway_agent::netlink::{FollowerConfig, Resolver, Update, next_hops};

use crate::namespace::{Known, Namespace, add_address6, ifindex, ip, parse_mac, sysctl};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));

const PEER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2));
const PEER_LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2));

/// up0 (10.1.0.1, fd01::1) — w0 (10.1.0.2, fd01::2, fe80::2), with short times for probes.
fn wire_up(wire: &Namespace) -> u32 {
    ip(&format!("link add up0 type veth peer name w0 netns {}", wire.path()));
    // Without it the first solicitations have no source yet.
    sysctl("ipv6/conf/up0/accept_dad", "0");
    ip("addr add 10.1.0.1/24 dev up0");
    ip("link set up0 up");
    add_address6("up0", "fd01::1/64".parse().unwrap());
    wire.ip("link set w0 address 02:00:00:00:00:02 up");
    wire.ip("addr add 10.1.0.2/24 dev w0");
    for address in ["fd01::2/64", "fe80::2/64"] {
        wire.ip(&format!("addr add {address} dev w0 nodad"));
    }
    for family in ["ipv4", "ipv6"] {
        for (setting, value) in [("delay_first_probe_time", "1"), ("retrans_time_ms", "100")] {
            sysctl(&format!("{family}/neigh/up0/{setting}"), value);
        }
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
fn ipv6_neighbors_are_asked_for_by_ndp() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        let up0 = wire_up(&wire);
        let mut known = Known::start(FollowerConfig::default()).await;
        let wanted = [PEER6, PEER_LINK_LOCAL].map(|address| (up0, address));
        let mut resolver = Resolver::new().unwrap();
        assert_eq!(wanted.map(|neighbor| known_mac(&known.now, neighbor)), [None; 2]);
        assert_eq!(resolver.resolve(wanted).await.unwrap(), []);
        known.until("resolved", |now| wanted.iter().all(|neighbor| known_mac(now, *neighbor) == Some([2, 0, 0, 0, 0, 2]))).await;
        // The kernel notes the MAC of each group that it has sent to.
        let neighbors = known.now.neighbors.clone().unwrap();
        assert!(neighbors.by_address.keys().all(|(_, address)| !address.is_multicast()), "{neighbors:?}");

        wire.ip("link set w0 address 02:00:00:00:00:03");
        wire.ip("addr add fd01::77/64 dev w0 nodad");
        let later = (up0, "fd01::77".parse().unwrap());
        resolver.resolve([later]).await.unwrap();
        known.until("resolved, too", |now| known_mac(now, later) == Some([2, 0, 0, 0, 0, 3])).await;
        ip("link del up0");
        known.until("forgotten with their device", |now| known_mac(now, later).or(known_mac(now, wanted[0])).is_none()).await;
    });
}

#[test]
fn a_stale_neighbor_in_use_is_probed_and_replaced() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        let up0 = wire_up(&wire);
        for peer in [PEER, PEER6] {
            ip(&format!("neigh replace {peer} lladdr 02:00:00:00:00:99 dev up0 nud stale"));
        }
        let mut known = Known::start(FollowerConfig::default()).await;
        let wanted = [PEER, PEER6].map(|address| (up0, address));
        let old = Some(parse_mac("02:00:00:00:00:99"));
        assert_eq!(wanted.map(|neighbor| known_mac(&known.now, neighbor)), [old; 2], "stale is usable");
        let mut resolver = Resolver::new().unwrap();
        for _ in 0..12 {
            resolver.resolve(wanted).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        known.until("the new MAC", |now| wanted.iter().all(|neighbor| known_mac(now, *neighbor) == Some([2, 0, 0, 0, 0, 2]))).await;
    });
}

#[test]
fn what_somebody_set_for_good_is_known_as_such() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        let up0 = wire_up(&wire);
        let mut known = Known::start(FollowerConfig::default()).await;
        for peer in [PEER, PEER6] {
            let permanent = |now: &Update| now.neighbors.as_ref().unwrap().permanent.contains(&(up0, peer));
            ip(&format!("neigh replace {peer} lladdr 02:00:00:00:00:02 dev up0 nud permanent"));
            known.until("permanent", permanent).await;
            ip(&format!("neigh replace {peer} lladdr 02:00:00:00:00:02 dev up0 nud reachable"));
            known.until("not permanent any more", |now| !permanent(now) && known_mac(now, (up0, peer)).is_some()).await;
        }
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

        ip("route add fd64::/32 nexthop via fe80::2 dev up0 nexthop via fd01::3 dev up0");
        let known = Known::start(FollowerConfig::default()).await;
        let backends = ["fd64::1", "fd64::2", "fd01::9", "fd01::1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let hops = next_hops(known.now.fib.as_ref().unwrap(), "fd01::1".parse().unwrap(), None, backends);
        let mut hops: Vec<_> = hops.into_iter().collect();
        hops.sort_unstable();
        assert_eq!(hops, ["fd01::3", "fd01::9", "fe80::2"].map(|text| (up0, text.parse().unwrap())));
    });
}
