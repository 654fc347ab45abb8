//! The VIPs' routes become what is wanted, and nothing else is touched.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use ringway_agent::netlink::{Hostlink, HostlinkConfig, Reconciled, Routes, cleanup};
use rustc_hash::FxHashSet;

use crate::namespace::{Namespace, add_device, ip};

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number)
}

fn vips(numbers: std::ops::Range<u32>) -> FxHashSet<Ipv4Net> {
    numbers.map(|number| vip(number).into()).collect()
}

/// d0 with 10.1.0.1, the hostlink, and some routes of others.
async fn node() -> Routes {
    add_device("d0");
    ip("addr add 10.1.0.1/24 dev d0");
    ip("route add 10.200.0.0/16 dev d0 proto 83");
    ip("route add 10.201.0.1 dev d0 proto static");
    ip("route add 10.201.0.1 dev d0 proto bird table 116");
    let hostlink = Hostlink::ensure(HostlinkConfig { queues: 1, mtu: 1500 }).await.unwrap();
    Routes::new(hostlink.rw1_ifindex).unwrap()
}

fn others() -> String {
    ip("-4 route show table all").lines().filter(|line| !line.contains("proto 82")).collect::<Vec<_>>().join("\n")
}

fn ours() -> usize {
    ip("route show table all proto 82").lines().count()
}

#[test]
fn a_thousand_come_stay_move_and_go() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let before = others();

        let began = std::time::Instant::now();
        let result = routes.reconcile(&vips(0..1000), SOURCE, None).await.unwrap();
        println!("1 000 routes added in {:?}", began.elapsed());
        assert_eq!(result, Reconciled { added: 1000, ..Reconciled::default() });
        assert_eq!(ours(), 1000);
        let expected = "10.96.0.7 via 169.254.82.2 dev rw1 proto 82 src 10.1.0.1 onlink";
        assert_eq!(ip("route show 10.96.0.7").trim().replace("  ", " "), expected);
        assert!(ip("route get 10.96.0.7").contains("via 169.254.82.2 dev rw1 src 10.1.0.1"));

        // A new process takes over what it finds.
        let rw1 = crate::namespace::ifindex("rw1");
        let mut routes = Routes::new(rw1).unwrap();
        assert_eq!(routes.reconcile(&vips(0..1000), SOURCE, None).await.unwrap(), Reconciled::default());

        let result = routes.reconcile(&vips(500..1200), SOURCE, None).await.unwrap();
        assert_eq!(result, Reconciled { added: 200, removed: 500, ..Reconciled::default() });

        ip("addr add 10.1.0.5/24 dev d0");
        let other = Ipv4Addr::new(10, 1, 0, 5);
        let result = routes.reconcile(&vips(500..1200), other, None).await.unwrap();
        assert_eq!(result, Reconciled { added: 700, removed: 700, ..Reconciled::default() });
        assert!(ip("route get 10.96.2.0").contains("src 10.1.0.5"));
        ip("addr del 10.1.0.5/24 dev d0");
        assert_eq!(ours(), 0, "the kernel removes routes by a source that is gone");
        let result = routes.reconcile(&vips(500..1200), SOURCE, None).await.unwrap();
        assert_eq!(result.added, 700);

        let narrow = Some(1_400);
        let result = routes.reconcile(&vips(500..1200), SOURCE, narrow).await.unwrap();
        assert_eq!(result, Reconciled { resized: 700, ..Reconciled::default() });
        assert_eq!(ours(), 700, "in place");
        assert!(ip("route show 10.96.2.0").trim().ends_with("mtu 1400"), "{}", ip("route show 10.96.2.0"));
        assert_eq!(routes.reconcile(&vips(500..1200), SOURCE, narrow).await.unwrap(), Reconciled::default());
        assert_eq!(routes.reconcile(&vips(500..1200), SOURCE, None).await.unwrap().resized, 700);
        assert!(!ip("route show 10.96.2.0").contains("mtu"));

        assert_eq!(others(), before);
        assert_eq!(routes.reconcile(&vips(0..0), SOURCE, None).await.unwrap().removed, 700);
        assert_eq!(others(), before);
    });
}

#[test]
fn addresses_of_the_node_and_routes_of_others_are_left_alone() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let before = others();
        let taken = Ipv4Addr::new(10, 201, 0, 1);
        let wanted = [SOURCE, taken, vip(1), vip(2)].into_iter().map(Ipv4Net::from).collect();
        let result = routes.reconcile(&wanted, SOURCE, None).await.unwrap();
        assert_eq!((result.added, result.removed, &result.local[..]), (2, 0, &[SOURCE][..]));
        assert_eq!(result.conflicts.len(), 1);
        assert_eq!(result.conflicts[0].net, taken.into());
        assert!(result.conflicts[0].reason.contains("not Ringway's"), "{}", result.conflicts[0].reason);
        assert_eq!(others(), before);

        // A VIP that becomes an address of the node (kube-vip, keepalived) loses its route.
        ip("addr add 10.96.0.1/32 dev d0");
        let result = routes.reconcile(&wanted, SOURCE, None).await.unwrap();
        assert_eq!((result.removed, &result.local[..]), (1, &[SOURCE, vip(1)][..]));
        ip("addr del 10.96.0.1/32 dev d0");
        assert_eq!(routes.reconcile(&wanted, SOURCE, None).await.unwrap().added, 1);

        // Our protocol, but not as it should be: by hand, or of an older version.
        ip("route add 10.96.9.9 dev d0 proto 82 table 116");
        ip("route replace 10.96.0.2 dev d0 proto 82");
        let result = routes.reconcile(&wanted, SOURCE, None).await.unwrap();
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
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let wanted = [net("10.96.0.0/16"), net("10.200.0.0/16"), net("10.1.0.0/16"), net("0.0.0.0/0"), vip(7).into()].into_iter().collect();
        let result = routes.reconcile(&wanted, SOURCE, None).await.unwrap();
        assert_eq!((result.added, result.removed), (2, 0));
        let mut refused: Vec<Ipv4Net> = result.conflicts.iter().map(|conflict| conflict.net).collect();
        refused.sort_unstable();
        assert_eq!(refused, [net("0.0.0.0/0"), net("10.1.0.0/16"), net("10.200.0.0/16")], "{:?}", result.conflicts);
        assert!(ip("route get 10.96.200.1").contains("dev rw1 src 10.1.0.1"));
        let wanted = [net("10.96.0.0/17")].into_iter().collect();
        let result = routes.reconcile(&wanted, SOURCE, None).await.unwrap();
        assert_eq!((result.added, result.removed), (1, 2));
        assert_eq!(others(), before);
    });
}

#[test]
fn a_source_that_is_no_address_of_the_node_is_told_for_each() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let result = routes.reconcile(&vips(0..3), Ipv4Addr::new(192, 0, 2, 1), None).await.unwrap();
        assert_eq!((result.added, result.conflicts.len()), (0, 3));
        assert!(result.conflicts[0].reason.contains("Invalid prefsrc"), "{}", result.conflicts[0].reason);
    });
}

#[test]
fn cleanup_removes_ours_only() {
    Namespace::new().run(async || {
        let mut routes = node().await;
        let before = others();
        routes.reconcile(&vips(0..10), SOURCE, None).await.unwrap();
        let removed = cleanup().await.unwrap();
        assert_eq!(removed, ["10 routes of protocol 82", "neighbor 169.254.82.2 on rw1", "veth pair rw0/rw1"]);
        assert_eq!(others(), before);
        assert_eq!(ours(), 0);
    });
}
