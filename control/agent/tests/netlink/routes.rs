//! The VIPs' routes become what is wanted, and nothing else is touched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ringway_agent::netlink::{Hostlink, HostlinkConfig, Reconciled, Routes, cleanup};
use ringway_engine::tables::NodeAddresses;
use rustc_hash::FxHashSet;

use crate::namespace::{Namespace, add_address6, add_device, ip, sysctl};

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const SOURCES: NodeAddresses = NodeAddresses { v4: Some(SOURCE), v6: None };
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1);
const SOURCES6: NodeAddresses = NodeAddresses { v4: Some(SOURCE), v6: Some(SOURCE6) };

fn vip(number: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number).into()
}

fn vip6(number: u16) -> IpAddr {
    Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number).into()
}

fn vips(numbers: std::ops::Range<u32>) -> FxHashSet<IpNet> {
    numbers.map(|number| vip(number).into()).collect()
}

fn vips6(numbers: std::ops::Range<u16>) -> FxHashSet<IpNet> {
    numbers.map(|number| vip6(number).into()).collect()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// d0 with 10.1.0.1, the hostlink, and some routes of others.
async fn node() -> Routes {
    // The kernel's own link-local addresses become routes at some time later.
    sysctl("ipv6/conf/default/addr_gen_mode", "1");
    add_device("d0");
    ip("addr add 10.1.0.1/24 dev d0");
    ip("route add 10.200.0.0/16 dev d0 proto 83");
    ip("route add 10.201.0.1 dev d0 proto static");
    ip("route add 10.201.0.1 dev d0 proto bird table 116");
    add_address6("d0", "fd01::1/64".parse().unwrap());
    ip("route add fd20::/32 dev d0 proto 83");
    ip("route add fd21::1 dev d0 proto static");
    ip("route add fd21::1 dev d0 proto bird table 116");
    let hostlink = Hostlink::ensure(HostlinkConfig { queues: 1, mtu: 1500 }).await.unwrap();
    Routes::new(hostlink.rw1_ifindex).unwrap()
}

/// Without those of multicast groups: each device gets one when the kernel finds it ready.
fn others() -> String {
    let shown = ip("-4 route show table all") + &ip("-6 route show table all");
    shown.lines().filter(|line| !line.contains("proto 82") && !line.starts_with("multicast ")).collect::<Vec<_>>().join("\n")
}

fn ours() -> usize {
    ip("-4 route show table all proto 82").lines().count()
}

fn ours6() -> usize {
    ip("-6 route show table all proto 82").lines().count()
}

#[test]
fn a_thousand_come_stay_move_and_go() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let before = others();

        let began = std::time::Instant::now();
        let result = routes.reconcile(&vips(0..1000), SOURCES, None).await.unwrap();
        println!("1 000 routes added in {:?}", began.elapsed());
        assert_eq!(result, Reconciled { added: 1000, ..Reconciled::default() });
        assert_eq!(ours(), 1000);
        let expected = "10.96.0.7 via 169.254.82.2 dev rw1 proto 82 src 10.1.0.1 onlink";
        assert_eq!(ip("route show 10.96.0.7").trim().replace("  ", " "), expected);
        assert!(ip("route get 10.96.0.7").contains("via 169.254.82.2 dev rw1 src 10.1.0.1"));

        // A new process takes over what it finds.
        let rw1 = crate::namespace::ifindex("rw1");
        let mut routes = Routes::new(rw1).unwrap();
        assert_eq!(routes.reconcile(&vips(0..1000), SOURCES, None).await.unwrap(), Reconciled::default());

        let result = routes.reconcile(&vips(500..1200), SOURCES, None).await.unwrap();
        assert_eq!(result, Reconciled { added: 200, removed: 500, ..Reconciled::default() });

        ip("addr add 10.1.0.5/24 dev d0");
        let other = NodeAddresses { v4: Some(Ipv4Addr::new(10, 1, 0, 5)), v6: None };
        let result = routes.reconcile(&vips(500..1200), other, None).await.unwrap();
        assert_eq!(result, Reconciled { added: 700, removed: 700, ..Reconciled::default() });
        assert!(ip("route get 10.96.2.0").contains("src 10.1.0.5"));
        ip("addr del 10.1.0.5/24 dev d0");
        assert_eq!(ours(), 0, "the kernel removes routes by a source that is gone");
        let result = routes.reconcile(&vips(500..1200), SOURCES, None).await.unwrap();
        assert_eq!(result.added, 700);

        let narrow = Some(1_400);
        let result = routes.reconcile(&vips(500..1200), SOURCES, narrow).await.unwrap();
        assert_eq!(result, Reconciled { resized: 700, ..Reconciled::default() });
        assert_eq!(ours(), 700, "in place");
        assert!(ip("route show 10.96.2.0").trim().ends_with("mtu 1400"), "{}", ip("route show 10.96.2.0"));
        assert_eq!(routes.reconcile(&vips(500..1200), SOURCES, narrow).await.unwrap(), Reconciled::default());
        assert_eq!(routes.reconcile(&vips(500..1200), SOURCES, None).await.unwrap().resized, 700);
        assert!(!ip("route show 10.96.2.0").contains("mtu"));

        assert_eq!(others(), before);
        assert_eq!(routes.reconcile(&vips(0..0), SOURCES, None).await.unwrap().removed, 700);
        assert_eq!(others(), before);
    });
}

#[test]
fn addresses_of_the_node_and_routes_of_others_are_left_alone() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let before = others();
        let taken = IpAddr::from([10, 201, 0, 1]);
        let wanted = [SOURCE.into(), taken, vip(1), vip(2)].into_iter().map(IpNet::from).collect();
        let result = routes.reconcile(&wanted, SOURCES, None).await.unwrap();
        assert_eq!((result.added, result.removed, &result.local[..]), (2, 0, &[IpAddr::from(SOURCE)][..]));
        assert_eq!(result.conflicts.len(), 1);
        assert_eq!(result.conflicts[0].net, taken.into());
        assert!(result.conflicts[0].reason.contains("not Ringway's"), "{}", result.conflicts[0].reason);
        assert_eq!(others(), before);

        // A VIP that becomes an address of the node (kube-vip, keepalived) loses its route.
        ip("addr add 10.96.0.1/32 dev d0");
        let result = routes.reconcile(&wanted, SOURCES, None).await.unwrap();
        assert_eq!((result.removed, &result.local[..]), (1, &[SOURCE.into(), vip(1)][..]));
        ip("addr del 10.96.0.1/32 dev d0");
        assert_eq!(routes.reconcile(&wanted, SOURCES, None).await.unwrap().added, 1);

        // Our protocol, but not as it should be: by hand, or of an older version.
        ip("route add 10.96.9.9 dev d0 proto 82 table 116");
        ip("route replace 10.96.0.2 dev d0 proto 82");
        let result = routes.reconcile(&wanted, SOURCES, None).await.unwrap();
        assert_eq!((result.added, result.removed), (1, 2));
        assert_eq!(others(), before);
    });
}

/// A range beside single addresses: others' routes for it, and ranges that the node lives in, are conflicts.
#[test]
fn ranges_are_routed_unless_they_are_others() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let before = others();
        let wanted = [net("10.96.0.0/16"), net("10.200.0.0/16"), net("10.1.0.0/16"), net("0.0.0.0/0"), vip(7).into()].into_iter().collect();
        let result = routes.reconcile(&wanted, SOURCES, None).await.unwrap();
        assert_eq!((result.added, result.removed), (2, 0));
        let mut refused: Vec<IpNet> = result.conflicts.iter().map(|conflict| conflict.net).collect();
        refused.sort_unstable();
        assert_eq!(refused, [net("0.0.0.0/0"), net("10.1.0.0/16"), net("10.200.0.0/16")], "{:?}", result.conflicts);
        assert!(ip("route get 10.96.200.1").contains("dev rw1 src 10.1.0.1"));
        let wanted = [net("10.96.0.0/17")].into_iter().collect();
        let result = routes.reconcile(&wanted, SOURCES, None).await.unwrap();
        assert_eq!((result.added, result.removed), (1, 2));
        assert_eq!(others(), before);
    });
}

#[test]
fn a_source_that_is_no_address_of_the_node_is_told_for_each() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let result = routes.reconcile(&vips(0..3), NodeAddresses { v4: Some(Ipv4Addr::new(192, 0, 2, 1)), v6: None }, None).await.unwrap();
        assert_eq!((result.added, result.conflicts.len()), (0, 3));
        assert!(result.conflicts[0].reason.contains("Invalid prefsrc"), "{}", result.conflicts[0].reason);
    });
}

#[test]
fn ipv6_routes_come_stay_move_and_go() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let before = others();
        let result = routes.reconcile(&vips6(0..300), SOURCES, None).await.unwrap();
        assert_eq!(result, Reconciled::default(), "without an address of its own the node is no client");

        let both: FxHashSet<IpNet> = vips6(0..300).union(&vips(0..10)).copied().collect();
        let result = routes.reconcile(&both, SOURCES6, None).await.unwrap();
        assert_eq!(result, Reconciled { added: 310, ..Reconciled::default() });
        assert_eq!((ours(), ours6()), (10, 300));
        let expected = "fd96::7 via fe80::5252:1 dev rw1 proto 82 src fd01::1 metric 1024 onlink pref medium";
        assert_eq!(ip("-6 route show fd96::7").trim().replace("  ", " "), expected);
        assert!(ip("route get fd96::7").contains("via fe80::5252:1 dev rw1 proto 82 src fd01::1"), "{}", ip("route get fd96::7"));

        // A new process takes over what it finds.
        let mut routes = Routes::new(crate::namespace::ifindex("rw1")).unwrap();
        assert_eq!(routes.reconcile(&both, SOURCES6, None).await.unwrap(), Reconciled::default());
        let result = routes.reconcile(&vips6(200..350), SOURCES6, None).await.unwrap();
        assert_eq!(result, Reconciled { added: 50, removed: 210, ..Reconciled::default() });

        ip("addr add fd01::5/64 dev d0 nodad");
        let other = NodeAddresses { v6: Some("fd01::5".parse().unwrap()), ..SOURCES };
        let result = routes.reconcile(&vips6(200..350), other, None).await.unwrap();
        assert_eq!(result, Reconciled { added: 150, removed: 150, ..Reconciled::default() });
        assert!(ip("route get fd96::c8").contains("src fd01::5"));
        ip("addr del fd01::5/64 dev d0");
        // The kernel keeps them, without the source that is gone.
        assert_eq!(ours6(), 150);
        let result = routes.reconcile(&vips6(200..350), SOURCES6, None).await.unwrap();
        assert_eq!((result.added, result.removed), (150, 150));

        let narrow = Some(1_400);
        let result = routes.reconcile(&vips6(200..350), SOURCES6, narrow).await.unwrap();
        assert_eq!(result, Reconciled { resized: 150, ..Reconciled::default() });
        assert_eq!(ours6(), 150, "in place");
        assert!(ip("-6 route show fd96::c8").contains(" mtu 1400 "), "{}", ip("-6 route show fd96::c8"));
        assert_eq!(routes.reconcile(&vips6(200..350), SOURCES6, narrow).await.unwrap(), Reconciled::default());
        assert_eq!(routes.reconcile(&vips6(200..350), SOURCES6, None).await.unwrap().resized, 150);

        assert_eq!(others(), before);
        assert_eq!(routes.reconcile(&vips6(200..350), SOURCES, None).await.unwrap().removed, 150, "the node has lost its address");
        assert_eq!(others(), before);
    });
}

#[test]
fn ipv6_routes_of_others_are_left_alone() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let before = others();
        let nets = ["fd21::1/128", "fd20::/32", "fd01::/32", "::/0", "fd96::/112", "fd01::1/128"];
        let wanted: FxHashSet<IpNet> = nets.into_iter().map(net).collect();
        let result = routes.reconcile(&wanted, SOURCES6, None).await.unwrap();
        assert_eq!((result.added, result.removed, &result.local[..]), (1, 0, &[IpAddr::from(SOURCE6)][..]));
        let mut refused: Vec<IpNet> = result.conflicts.iter().map(|conflict| conflict.net).collect();
        refused.sort_unstable();
        assert_eq!(refused, ["::/0", "fd01::/32", "fd20::/32", "fd21::1/128"].map(net), "{:?}", result.conflicts);
        assert_eq!(others(), before);

        // The kernel makes one route of ours and of theirs; theirs stays, ours comes back beside it or is a conflict.
        ip("-6 route append fd96::/112 via fe80::77 dev d0");
        assert!(ip("-6 route show fd96::/112").contains("nexthop via fe80::5252:1"), "one route");
        let result = routes.reconcile(&[net("fd96::/112")].into_iter().collect(), SOURCES6, None).await.unwrap();
        assert_eq!((result.added, result.removed, result.conflicts.len()), (0, 1, 1));
        assert!(ip("-6 route show fd96::/112").contains("via fe80::77 dev d0"));
        ip("-6 route del fd96::/112 via fe80::77 dev d0");
        assert_eq!(others(), before);
    });
}

#[test]
fn cleanup_removes_ours_only() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let before = others();
        let both = vips6(0..5).union(&vips(0..10)).copied().collect();
        routes.reconcile(&both, SOURCES6, None).await.unwrap();
        let removed = cleanup().await.unwrap();
        let neighbors = ["169.254.82.2", "fe80::5252:1"].map(|gateway| format!("neighbor {gateway} on rw1"));
        assert_eq!(removed, ["15 routes of protocol 82", &neighbors[0], &neighbors[1], "veth pair rw0/rw1"]);
        assert_eq!(others(), before);
        assert_eq!((ours(), ours6()), (0, 0));
    });
}
