//! What the follower tells of devices, routes and rules as they change.

use std::net::IpAddr;

use ringway_agent::netlink::{Event, FollowerConfig, Update};
use ringway_engine::tables::{Device, DeviceKind, FibResult};

use crate::namespace::{Known, Namespace, add_address6, add_device, command, ifindex, ip, mac, parse_mac, sysctl};

fn uplinks(names: &[&str]) -> FollowerConfig {
    FollowerConfig { uplinks: names.iter().map(|name| name.to_string()).collect(), ..FollowerConfig::default() }
}

fn device(update: &Update, ifindex: u32) -> Option<&Device> {
    update.devices.as_ref().unwrap().get(ifindex)
}

fn lookup(update: &Update, src: &str, dst: &str, iif: Option<u32>) -> FibResult {
    update.fib.as_ref().unwrap().lookup(src.parse().unwrap(), dst.parse().unwrap(), iif, 0)
}

fn via(ifindex: u32, address: &str) -> FibResult {
    FibResult::Via { ifindex, address: address.parse().unwrap(), route_mtu: None }
}

#[test]
fn a_pod_appears_moves_to_a_bridge_and_vanishes() {
    let pod = Namespace::new();
    Namespace::new().run(async || {
        let mut known = Known::start(uplinks(&[])).await;
        assert_eq!(known.take_events(), [Event::AddressesChanged], "the first update: no pod, no uplink");

        // As CNIs do it in the pod's namespace: the host's side comes with its peer elsewhere from the start.
        ip(&format!("link add pod0 type veth peer name eth0 netns {}", pod.path()));
        let pod0 = ifindex("pod0");
        known.until("pod0 is a pod", |now| device(now, pod0).is_some_and(|device| device.kind == DeviceKind::Pod)).await;
        assert_eq!(known.take_events(), [Event::EdgeAppeared { ifindex: pod0, kind: DeviceKind::Pod }]);
        let expected = Device { name: "pod0".into(), kind: DeviceKind::Pod, mac: mac("pod0"), mtu: 1500, bridge: None };
        assert_eq!(device(&known.now, pod0), Some(&expected));

        ip("link add br0 type bridge");
        ip("link set pod0 master br0");
        let br0 = ifindex("br0");
        known.until("pod0 is a port of br0", |now| device(now, pod0).is_some_and(|device| device.bridge == Some(br0))).await;
        assert_eq!(device(&known.now, br0).unwrap().kind, DeviceKind::Bridge);

        // Learnt, not set: the pod says something.
        ip("link set pod0 up");
        ip("link set br0 up");
        pod.ip("link set eth0 address 02:00:00:00:00:77 up");
        pod.ip("addr add 10.9.0.2/24 dev eth0");
        pod.ip("neigh replace 10.9.0.3 dev eth0 use");
        let port = |now: &Update| now.devices.as_ref().unwrap().bridge_ports.get(&(br0, parse_mac("02:00:00:00:00:77"))).copied();
        known.until("the FDB knows the pod's MAC", |now| port(now) == Some(pod0)).await;
        let own = (br0, mac("pod0"));
        assert!(!known.now.devices.as_ref().unwrap().bridge_ports.contains_key(&own), "the host's own MAC is on no port");

        ip("link set pod0 nomaster");
        known
            .until("pod0 is no port, the FDB has forgotten it", |now| {
                device(now, pod0).is_some_and(|device| device.bridge.is_none()) && port(now).is_none()
            })
            .await;
        known.take_events();
        ip("link del pod0");
        known.until("pod0 is gone", |now| device(now, pod0).is_none()).await;
        assert_eq!(known.take_events(), [Event::EdgeVanished { ifindex: pod0, kind: DeviceKind::Pod }]);
    });
}

#[test]
fn a_veth_becomes_a_pod_when_its_peer_moves_away() {
    let pod = Namespace::new();
    Namespace::new().run(async || {
        let mut known = Known::start(uplinks(&[])).await;
        ip("link add host0 type veth peer name moving");
        let host0 = ifindex("host0");
        known.until("host0 is there", |now| device(now, host0).is_some_and(|device| device.kind == DeviceKind::Other)).await;
        // Both ends stay down: the kernel says nothing about host0.
        ip(&format!("link set moving netns {}", pod.path()));
        known.until("host0 is a pod's", |now| device(now, host0).is_some_and(|device| device.kind == DeviceKind::Pod)).await;
        assert!(known.take_events().contains(&Event::EdgeAppeared { ifindex: host0, kind: DeviceKind::Pod }));
    });
}

#[test]
fn overlay_devices_are_known_by_their_kind() {
    Namespace::new().run(async || {
        let mut known = Known::start(uplinks(&[])).await;
        known.take_events();
        let kinds = [
            ("vxlan0", "link add vxlan0 type vxlan id 1 dstport 4789 local 127.0.0.1", DeviceKind::Overlay { ethernet: true }),
            ("tun0", "tuntap add tun0 mode tun", DeviceKind::Overlay { ethernet: false }),
            ("tap0", "tuntap add tap0 mode tap", DeviceKind::Other),
        ];
        for (name, command, kind) in kinds {
            ip(command);
            let index = ifindex(name);
            known.until(name, |now| device(now, index).is_some_and(|device| device.kind == kind)).await;
            let appeared = known.take_events().contains(&Event::EdgeAppeared { ifindex: index, kind });
            assert_eq!(appeared, kind.has_edge(), "{name}");
        }
        let index = ifindex("vxlan0");
        ip("link del vxlan0");
        known.until("vxlan0 is gone", |now| device(now, index).is_none()).await;
        assert_eq!(known.take_events(), [Event::EdgeVanished { ifindex: index, kind: DeviceKind::Overlay { ethernet: true } }]);
    });
}

#[test]
fn a_static_fdb_entry_comes_and_goes() {
    Namespace::new().run(async || {
        ip("link add br0 type bridge");
        add_device("port0");
        ip("link set port0 master br0");
        let mut known = Known::start(uplinks(&[])).await;
        command("bridge", "fdb add 02:00:00:00:00:01 dev port0 master static");
        let (br0, port0) = (ifindex("br0"), ifindex("port0"));
        let port = |now: &Update| now.devices.as_ref().unwrap().bridge_ports.get(&(br0, [2, 0, 0, 0, 0, 1])).copied();
        known.until("the entry is there", |now| port(now) == Some(port0)).await;
        command("bridge", "fdb del 02:00:00:00:00:01 dev port0 master");
        known.until("the entry is gone", |now| port(now).is_none()).await;
    });
}

#[test]
fn uplinks_go_change_and_come_back() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        let mut known = Known::start(uplinks(&["up0", "up1"])).await;
        assert_eq!(known.take_events(), [Event::UplinkGone { uplink: 0 }, Event::UplinkGone { uplink: 1 }, Event::AddressesChanged]);
        let uplink = |now: &Update, number: usize| now.uplinks.as_ref().unwrap()[number].clone();

        // A veth whose peer is elsewhere, but named as an uplink: no pod.
        ip(&format!("link add up1 type veth peer name w1 netns {}", wire.path()));
        known.until("up1 is there", |now| uplink(now, 1).is_some()).await;
        assert_eq!(known.take_events(), [Event::UplinkBack { uplink: 1 }]);
        let up1 = uplink(&known.now, 1).unwrap();
        assert_eq!((up1.ifindex, up1.mac, up1.mtu, up1.partial_checksums), (ifindex("up1"), mac("up1"), 1500, true));
        assert_eq!(device(&known.now, up1.ifindex).unwrap().kind, DeviceKind::Uplink(1));

        ip("link set up1 mtu 9000 address 02:00:00:00:00:09");
        known.until("up1 changed", |now| uplink(now, 1).is_some_and(|up| up.mtu == 9000 && up.mac == [2, 0, 0, 0, 0, 9])).await;
        let events = known.take_events();
        assert!(!events.is_empty() && events.iter().all(|event| *event == Event::UplinkChanged { uplink: 1 }), "{events:?}");

        // Another device of the same name, between two updates.
        ip("link del up1");
        ip(&format!("link add up1 type veth peer name w1 netns {}", wire.path()));
        let again = ifindex("up1");
        known.until("up1 is another", |now| uplink(now, 1).is_some_and(|up| up.ifindex == again)).await;
        assert_eq!(known.take_events(), [Event::UplinkGone { uplink: 1 }, Event::UplinkBack { uplink: 1 }]);

        ip("link del up1");
        known.until("up1 is gone", |now| uplink(now, 1).is_none()).await;
        assert_eq!(known.take_events(), [Event::UplinkGone { uplink: 1 }]);
    });
}

#[test]
fn routes_of_all_tables_follow_rules_devices_and_addresses() {
    Namespace::new().run(async || {
        ip("link set lo up");
        for device in ["d0", "d1"] {
            add_device(device);
        }
        ip("addr add 10.1.0.1/24 dev d0");
        let (d0, d1) = (ifindex("d0"), ifindex("d1"));
        let mut known = Known::start(uplinks(&[])).await;
        assert_eq!(lookup(&known.now, "10.1.0.9", "10.1.0.1", None), FibResult::Local);
        assert_eq!(lookup(&known.now, "10.1.0.1", "10.1.0.9", None), via(d0, "10.1.0.9"));

        // Coil's way: pods' routes in a table of their own.
        ip("route add 10.64.0.5 dev d1 table 116");
        ip("rule add pref 2000 lookup 116");
        known.until("the pod's route", |now| lookup(now, "10.1.0.9", "10.64.0.5", None) == via(d1, "10.64.0.5")).await;
        ip("rule del pref 2000");
        known.until("no rule, no route", |now| lookup(now, "10.1.0.9", "10.64.0.5", None) == FibResult::None).await;
        ip("rule add pref 2000 iif d0 lookup 116");
        known.until("by device", |now| lookup(now, "10.1.0.9", "10.64.0.5", Some(d0)) == via(d1, "10.64.0.5")).await;
        assert_eq!(lookup(&known.now, "10.1.0.9", "10.64.0.5", Some(d1)), FibResult::None);

        // The kernel drops the route without a message of its own.
        ip("link set d1 down");
        known.until("the device is down", |now| lookup(now, "10.1.0.9", "10.64.0.5", Some(d0)) == FibResult::None).await;

        known.take_events();
        ip("addr add 10.2.0.1/24 dev d0");
        let second: IpAddr = "10.2.0.1".parse().unwrap();
        known.until("the address is ours", |now| now.addresses.as_ref().unwrap().iter().any(|own| own.address == second)).await;
        assert_eq!(known.take_events(), [Event::AddressesChanged]);
        assert_eq!(lookup(&known.now, "10.1.0.9", "10.2.0.1", None), FibResult::Local);

        // A route by the address's source goes with the address, silently.
        ip("route add 10.77.0.0/16 dev d0 src 10.2.0.1");
        known.until("route by source", |now| lookup(now, "10.1.0.9", "10.77.0.1", None) == via(d0, "10.77.0.1")).await;
        ip("addr del 10.2.0.1/24 dev d0");
        known.until("gone with its source", |now| lookup(now, "10.1.0.9", "10.77.0.1", None) == FibResult::None).await;
    });
}

#[test]
fn ipv6_routes_follow_rules_devices_and_addresses() {
    Namespace::new().run(async || {
        // The link-local addresses that become usable later would cause the tables to be read.
        sysctl("ipv6/conf/default/addr_gen_mode", "1");
        ip("link set lo up");
        for device in ["d0", "d1"] {
            add_device(device);
        }
        add_address6("d0", "fd01::1/64".parse().unwrap());
        let (d0, d1) = (ifindex("d0"), ifindex("d1"));
        let mut known = Known::start(uplinks(&[])).await;
        assert_eq!(lookup(&known.now, "fd01::9", "fd01::1", None), FibResult::Local);
        assert_eq!(lookup(&known.now, "fd01::1", "fd01::9", None), via(d0, "fd01::9"));
        assert_eq!(lookup(&known.now, "fd01::1", "ff02::1", None), FibResult::Local);
        // Routers answer to the address of the subnet (RFC 4291 section 2.6.1).
        assert_eq!(lookup(&known.now, "fd01::9", "fd01::", None), via(d0, "fd01::"));
        sysctl("ipv6/conf/all/forwarding", "1");
        known.until("anycast", |now| lookup(now, "fd01::9", "fd01::", None) == FibResult::Local).await;

        ip("-6 route add fd64::5 dev d1 table 116");
        ip("-6 rule add pref 2000 lookup 116");
        known.until("the pod's route", |now| lookup(now, "fd01::9", "fd64::5", None) == via(d1, "fd64::5")).await;
        ip("-6 rule del pref 2000");
        known.until("no rule, no route", |now| lookup(now, "fd01::9", "fd64::5", None) == FibResult::None).await;
        // A rule of the other family is none of this one.
        ip("-4 rule add pref 2000 lookup 116");
        ip("-6 rule add pref 2100 iif d0 lookup 116");
        known.until("by device", |now| lookup(now, "fd01::9", "fd64::5", Some(d0)) == via(d1, "fd64::5")).await;
        assert_eq!(lookup(&known.now, "fd01::9", "fd64::5", Some(d1)), FibResult::None);
        ip("link set d1 down");
        known.until("the device is down", |now| lookup(now, "fd01::9", "fd64::5", Some(d0)) == FibResult::None).await;

        ip("-6 route add default via fe80::1 dev d0 mtu 1400");
        let gateway = FibResult::Via { ifindex: d0, address: "fe80::1".parse().unwrap(), route_mtu: Some(1400) };
        known.until("the default", |now| lookup(now, "fd01::1", "2001:db8::1", None) == gateway).await;
        for (device, preference) in [("d0", "low"), ("d0-p", "high"), ("lo", "medium")] {
            ip(&format!("-6 route append 2001:db8::/32 dev {device} table 200 pref {preference}"));
        }
        // For some sources only: it is passed over.
        ip("-6 route add 2001:db8::/48 from fd02::/16 dev d0 table 200");
        ip("-6 rule add pref 3000 lookup 200");
        let preferred = via(ifindex("d0-p"), "2001:db8::1");
        known.until("the preferred", |now| lookup(now, "fd01::1", "2001:db8::1", None) == preferred).await;
    });
}

/// What the kernel has not yet, or never, found to be free on the link is none of the node's.
#[test]
fn ipv6_addresses_are_known_when_they_may_be_used() {
    let wire = Namespace::new();
    Namespace::new().run(async || {
        ip(&format!("link add up0 type veth peer name w0 netns {}", wire.path()));
        // Longer than anything here takes.
        sysctl("ipv6/conf/up0/dad_transmits", "200");
        ip("link set up0 up");
        wire.ip("link set w0 up");
        wire.ip("addr add fd01::2/64 dev w0 nodad");
        ip("addr add fe80::1/64 dev up0 nodad");
        let mut known = Known::start(uplinks(&[])).await;
        assert!(known.now.addresses.as_ref().unwrap().iter().all(|local| local.address.is_loopback()), "link-local ones are no addresses");
        for (number, options) in [(1, "nodad"), (2, ""), (3, ""), (4, "nodad preferred_lft 0"), (5, "nodad preferred_lft 2")] {
            ip(&format!("addr add fd01::{number}/64 dev up0 {options}"));
        }
        let shown = |now: &Update| -> Vec<(String, bool)> {
            let local = now.addresses.as_ref().unwrap().iter().filter(|local| !local.address.is_loopback());
            local.map(|local| (local.address.to_string(), local.secondary)).collect()
        };
        let expected = |last: bool| [("fd01::1".into(), false), ("fd01::4".into(), true), ("fd01::5".into(), last)];
        known.until("without the tentative ones", |now| shown(now) == expected(false)).await;
        known.until("deprecated by its time", |now| shown(now) == expected(true)).await;
        let shown = ip("-6 addr show dev up0 to fd01::/64");
        assert!(shown.contains("dadfailed") && shown.matches("tentative").count() == 2, "{shown}");
        let ours: IpAddr = "fd01::3".parse().unwrap();
        assert_ne!(lookup(&known.now, "fd01::2", "fd01::3", None), FibResult::Local);
        ip("addr del fd01::3/64 dev up0");
        add_address6("up0", "fd01::3/64".parse().unwrap());
        known.until("usable at last", |now| now.addresses.as_ref().unwrap().iter().any(|local| local.address == ours)).await;
        known.until("and local", |now| lookup(now, "fd01::2", "fd01::3", None) == FibResult::Local).await;
    });
}

#[test]
fn a_nexthop_object_that_changes_changes_its_routes() {
    Namespace::new().run(async || {
        for device in ["d0", "d1"] {
            add_device(device);
        }
        let (d0, d1) = (ifindex("d0"), ifindex("d1"));
        let mut known = Known::start(uplinks(&[])).await;
        ip("nexthop add id 1 dev d0");
        ip("route add 10.5.0.0/16 nhid 1");
        known.until("by d0", |now| lookup(now, "10.1.0.9", "10.5.0.1", None) == via(d0, "10.5.0.1")).await;
        ip("nexthop replace id 1 dev d1");
        known.until("by d1", |now| lookup(now, "10.1.0.9", "10.5.0.1", None) == via(d1, "10.5.0.1")).await;
        ip("nexthop del id 1");
        known.until("gone", |now| lookup(now, "10.1.0.9", "10.5.0.1", None) == FibResult::None).await;
    });
}

#[test]
fn what_did_not_change_is_not_told() {
    Namespace::new().run(async || {
        add_device("d0");
        let mut known = Known::start(uplinks(&[])).await;
        known.settle().await;
        // The carrier goes: routes are read anew, and are the same.
        ip("link set d0-p down");
        let none = tokio::time::timeout(std::time::Duration::from_millis(300), known.follower.changed()).await;
        assert!(none.is_err(), "an update without a change: {none:?}");
        ip("link set d0-p up");
        ip("neigh add 10.1.0.7 dev d0 lladdr 02:00:00:00:00:07 nud reachable");
        let update = known.follower.changed().await.unwrap();
        assert!(update.neighbors.is_some());
        assert!(update.devices.is_none() && update.fib.is_none() && update.uplinks.is_none() && update.addresses.is_none());
        // Reachable to stale: the same MAC, as usable as before.
        ip("neigh replace 10.1.0.7 dev d0 lladdr 02:00:00:00:00:07 nud stale");
        ip("rule add pref 100 fwmark 1 lookup 116");
        let again = tokio::time::timeout(std::time::Duration::from_millis(300), known.follower.changed()).await;
        assert!(again.is_err(), "an update without a change: {again:?}");
    });
}
