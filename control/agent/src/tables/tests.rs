use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ringway_engine::tables::{
    BackendSet, Devices, FibBuilder, FrontendKind, NODE_PORT_ALIAS, NODE_PORT_ALIAS6, NextHop, NodeAddresses, Route, RouteKind, Rule,
    RuleAction, ServicePortName, SnatAddress, Uplink, VIP_ALIAS, VIP_ALIAS6,
};

use super::node_ports::alias;
use super::*;

const VIP: IpAddr = v4([192, 0, 2, 100]);
const NODE: IpAddr = v4([192, 0, 2, 2]);
const POD: IpAddr = v4([10, 1, 0, 9]);
const VIP6: IpAddr = v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100]);
const NODE6: IpAddr = v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
const POD6: IpAddr = v6([0xfd00, 1, 0, 0, 0, 0, 0, 9]);
const KEY: FrontendKey = FrontendKey { address: VIP, port: 80, protocol: 6 };

const LINK_LOCAL6: IpAddr = v6([0xfe80, 0, 0, 0, 0, 0, 0, 2]);
const TEMPORARY6: IpAddr = v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
const KEY6: FrontendKey = FrontendKey { address: VIP6, ..KEY };

const fn v4([a, b, c, d]: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

/// Of the frontend at `KEY`.
fn vip_sockets(tables: &Tables) -> Sockets {
    Sockets::Vip(tables.vip_ports.port(&KEY).expect("a port of the alias"))
}

fn served(here: bool, sockets: Sockets) -> FrontendUse {
    FrontendUse { here, sockets, draining: false }
}

fn settings() -> TableSettings {
    TableSettings {
        node_name: "n1".into(),
        snat_addresses: Vec::new(),
        snat_ports: PortRange { first: 10_000, last: 29_999 },
        pod_delivery: PodDelivery::Edge,
        service_cidrs: Vec::new(),
        announce: true,
        answer_ping: true,
        rw1_ifindex: 9,
        rw1_mac: [2; 6],
    }
}

fn tables() -> Tables {
    Tables::new(settings(), Filter::default())
}

fn frontend(backend: IpAddr, local: bool) -> Frontend {
    let backends = Box::new([Backend { address: backend, port: 8080, local }]);
    let target = Target::Backends(Arc::new(BackendSet { backends, maglev: None }));
    Frontend {
        service: Arc::new(ServicePortName { namespace: "default".into(), name: "web".into(), port: "".into() }),
        kind: FrontendKind::LoadBalancerIp,
        outside: target.clone(),
        inside: target,
        source_ranges: None,
        affinity: None,
    }
}

fn model(frontend: Option<Frontend>, vip: Option<Vip>) -> ringway_model::Update {
    ringway_model::Update { frontends: vec![(KEY, frontend.map(Arc::new))], vips: vec![(VIP, vip)], ..ringway_model::Update::default() }
}

fn uplink(mac: u8) -> Uplink {
    Uplink { name: "eth0".into(), ifindex: 2, mac: [mac; 6], mtu: 1500, partial_checksums: false }
}

fn device(kind: DeviceKind) -> Device {
    Device { name: "d".into(), kind, mac: [3; 6], mtu: 1500, bridge: None }
}

/// The node's addresses on the uplink; 10.1.0.0/16 and fd00:1::/64 behind a device of this kind with ifindex 5.
fn kernel(kind: DeviceKind) -> netlink::Update {
    let mut devices = Devices::default();
    devices.by_index.insert(2, device(DeviceKind::Uplink(0)));
    devices.by_index.insert(5, device(kind));
    let mut fib = FibBuilder::default();
    for (any, pods) in [("0.0.0.0/0", "10.1.0.0/16"), ("::/0", "fd00:1::/64")] {
        let any = any.parse().unwrap();
        fib.add_rule(Rule {
            priority: 0,
            from: any,
            to: any,
            invert: false,
            iif: None,
            suppress_prefix_len: None,
            action: RuleAction::Lookup(254),
        });
        let ways = Box::new([NextHop { ifindex: 5, gateway: None, weight: 1 }]);
        fib.add_route(254, pods.parse().unwrap(), Route { kind: RouteKind::Unicast(ways), mtu: None, metric: 0 });
    }
    let local = |ifindex, address, secondary| netlink::LocalAddress { ifindex, address, prefix_len: 24, secondary };
    netlink::Update {
        devices: Some(Arc::new(devices)),
        fib: Some(Arc::new(fib.build())),
        addresses: Some(Arc::new(vec![
            local(1, Ipv4Addr::LOCALHOST.into(), false),
            local(1, Ipv6Addr::LOCALHOST.into(), false),
            local(1, v4([10, 255, 0, 1]), false),
            local(2, v4([192, 0, 2, 3]), true),
            local(2, NODE, false),
            local(2, LINK_LOCAL6, false),
            local(2, TEMPORARY6, true),
            local(2, NODE6, false),
            local(5, v4([10, 1, 0, 1]), false),
            local(5, LINK_LOCAL6, false),
            local(5, v6([0xfd00, 1, 0, 0, 0, 0, 0, 1]), false),
            local(5, v6([0xfd00, 1, 0, 0, 0, 0, 0, 2]), false),
        ])),
        ..netlink::Update::default()
    }
}

/// The route of one address.
fn net(address: impl Into<IpAddr>) -> IpNet {
    address.into().into()
}

fn here(tables: &Tables) -> Option<FilterValue> {
    tables.filter.wanted(&FilterKey::Frontend(KEY))
}

#[test]
fn a_service_comes_and_goes() {
    let mut tables = tables();
    let new = tables.apply_model(model(Some(frontend(POD, true)), Some(Vip { announced: true, cluster_ip: false })));
    assert_eq!(new.announced, [VIP]);
    assert!(tables.snapshot().frontends.lookup(&KEY).is_some() && tables.snapshot().announced.contains(&VIP));
    assert_eq!(here(&tables), Some(FilterValue::Frontend(served(true, vip_sockets(&tables)))));
    assert_eq!(
        tables.filter.wanted(&FilterKey::Address(VIP)),
        Some(FilterValue::Address(AddressUse { announced: true, vip: true, ping: true, ..AddressUse::default() }))
    );
    assert!(tables.apply_model(ringway_model::Update::default()).announced.is_empty(), "announced already");
    assert!(tables.snapshot().vips.contains(&VIP) && !tables.snapshot().cluster_ips.contains(&VIP));
    tables.apply_model(model(None, None));
    assert!(tables.snapshot().frontends.is_empty() && tables.snapshot().announced.is_empty() && tables.snapshot().vips.is_empty());
    assert_eq!((here(&tables), tables.filter.wanted(&FilterKey::Address(VIP))), (None, None));
}

#[test]
fn pings_are_answered_unless_told_otherwise() {
    for (answer_ping, cluster_ip) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut tables = Tables::new(TableSettings { answer_ping, ..settings() }, Filter::default());
        tables.set_node(Vec::new(), &[]);
        assert_eq!(tables.node().answer_ping, answer_ping);
        tables.apply_model(model(Some(frontend(POD, true)), Some(Vip { announced: false, cluster_ip })));
        let Some(FilterValue::Address(value)) = tables.filter.wanted(&FilterKey::Address(VIP)) else { panic!("no address") };
        assert_eq!(value, AddressUse { ping: answer_ping, closed: cluster_ip, vip: !cluster_ip, ..AddressUse::default() });
    }
}

#[test]
fn nothing_is_announced_unasked() {
    let mut tables = Tables::new(TableSettings { announce: false, ..settings() }, Filter::default());
    assert!(tables.apply_model(model(Some(frontend(POD, true)), Some(Vip { announced: true, cluster_ip: false }))).announced.is_empty());
    assert_eq!(
        tables.filter.wanted(&FilterKey::Address(VIP)),
        Some(FilterValue::Address(AddressUse { vip: true, ping: true, ..AddressUse::default() }))
    );
}

#[test]
fn backends_behind_a_pods_device_are_here_whatever_their_node_name() {
    let mut tables = tables();
    tables.apply_model(model(Some(frontend(POD, false)), None));
    assert_eq!(here(&tables), Some(FilterValue::Frontend(served(false, vip_sockets(&tables)))));
    tables.apply_netlink(&kernel(DeviceKind::Other));
    assert_eq!(here(&tables), Some(FilterValue::Frontend(served(false, vip_sockets(&tables)))), "an overlay leads elsewhere");
    tables.apply_netlink(&kernel(DeviceKind::Bridge));
    assert_eq!(here(&tables), Some(FilterValue::Frontend(served(true, vip_sockets(&tables)))), "the route appeared later");
    tables.apply_model(model(Some(frontend(POD, false)), None));
    assert_eq!(here(&tables), Some(FilterValue::Frontend(served(true, vip_sockets(&tables)))), "the route was there before");
}

#[test]
fn the_nodes_address() {
    let mut tables = tables();
    tables.apply_netlink(&kernel(DeviceKind::Pod));
    let uplinks = vec![uplink(4)];
    let addresses = tables.device_addresses(&uplinks);
    assert_eq!(addresses[..5], [NODE, NODE6, v4([192, 0, 2, 3]), TEMPORARY6, v4([10, 255, 0, 1])], "the uplink's first, no loopback");
    assert!(!addresses.contains(&LINK_LOCAL6));
    let node = |v4: IpAddr, v6: IpAddr| NodeAddresses { v4: v4.to_string().parse().ok(), v6: v6.to_string().parse().ok() };
    tables.set_node(uplinks.clone(), &[]);
    assert_eq!(tables.node().addresses, node(NODE, NODE6));
    let own = SnatAddress { address: NODE, ports: (10_000, 29_999) };
    assert_eq!(tables.node().snat, [own, SnatAddress { address: NODE6, ..own }]);
    let (elsewhere, here) = (v4([203, 0, 113, 1]), v4([10, 255, 0, 1]));
    tables.set_node(uplinks.clone(), &[TEMPORARY6, elsewhere, here]);
    assert_eq!(tables.node().addresses, node(here, TEMPORARY6), "InternalIPs that the node has");
    for address in [NODE, NODE6] {
        assert_eq!(tables.filter.wanted(&FilterKey::Address(address)), None, "the address before is given back");
    }
    for address in [here, TEMPORARY6] {
        assert_eq!(
            tables.filter.wanted(&FilterKey::Address(address)),
            Some(FilterValue::Address(AddressUse { snat_ports: Some((10_000, 29_999)), ..AddressUse::default() }))
        );
    }
}

/// The first address of each family that is not link-local.
#[test]
fn overlay_devices_have_sources_of_their_own() {
    let mut tables = tables();
    tables.apply_netlink(&kernel(DeviceKind::Overlay { ethernet: true }));
    tables.set_node(vec![uplink(4)], &[]);
    let snat = |address| (5, SnatAddress { address, ports: (10_000, 29_999) });
    assert_eq!(tables.node().overlays, [snat(v4([10, 1, 0, 1])), snat(v6([0xfd00, 1, 0, 0, 0, 0, 0, 1]))]);
}

#[test]
fn dedicated_snat_addresses_of_one_family_leave_the_other_alone() {
    let dedicated = v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50]);
    let mut tables = Tables::new(TableSettings { snat_addresses: vec![dedicated], announce: false, ..settings() }, Filter::default());
    tables.apply_netlink(&kernel(DeviceKind::Pod));
    assert_eq!(tables.apply_model(ringway_model::Update::default()).announced, [dedicated]);
    tables.set_node(vec![uplink(4)], &[]);
    let (own, wide) = ((10_000, 29_999), (1_024, 65_535));
    assert_eq!(tables.node().snat, [SnatAddress { address: NODE, ports: own }, SnatAddress { address: dedicated, ports: wide }]);
}

#[test]
fn dedicated_snat_addresses_are_answered_for_unless_a_device_has_them() {
    let (dedicated, present) = (v4([192, 0, 2, 50]), NODE);
    let settings = TableSettings { snat_addresses: vec![dedicated, present], announce: false, ..settings() };
    let mut tables = Tables::new(settings, Filter::default());
    tables.apply_netlink(&kernel(DeviceKind::Pod));
    assert_eq!(tables.apply_model(ringway_model::Update::default()).announced, [dedicated]);
    tables.set_node(vec![uplink(4)], &[]);
    assert_eq!(tables.node().snat.len(), 3, "two of IPv4, and the node's of IPv6");
    assert_eq!(tables.node().snat[0], SnatAddress { address: dedicated, ports: (1_024, 65_535) });
    let use_of = |address| tables.filter.wanted(&FilterKey::Address(address));
    let snat = AddressUse { snat_ports: Some((1_024, 65_535)), ..AddressUse::default() };
    assert_eq!(use_of(dedicated), Some(FilterValue::Address(AddressUse { announced: true, ..snat })));
    assert_eq!(use_of(present), Some(FilterValue::Address(snat)));
}

#[test]
fn macs_of_devices_follow() {
    let mut tables = tables();
    tables.apply_netlink(&kernel(DeviceKind::Pod));
    assert_eq!(tables.filter.wanted(&FilterKey::DeviceMac(5)), Some(FilterValue::Mac([3; 6])));
    let mut next = kernel(DeviceKind::Pod);
    let mut devices = Devices::default();
    devices.by_index.insert(2, device(DeviceKind::Uplink(0)));
    next.devices = Some(Arc::new(devices));
    tables.apply_netlink(&next);
    assert_eq!(tables.filter.wanted(&FilterKey::DeviceMac(5)), None);
    assert_eq!(tables.filter.wanted(&FilterKey::DeviceMac(2)), Some(FilterValue::Mac([3; 6])));
}

#[test]
fn the_uplinks_mac_reaches_the_snapshot() {
    let mut tables = tables();
    tables.set_node(vec![uplink(4)], &[]);
    let before = tables.snapshot().node;
    tables.set_node(vec![uplink(4)], &[]);
    assert!(Arc::ptr_eq(&before, &tables.snapshot().node), "nothing changed, nothing new");
    tables.set_node(vec![uplink(5)], &[]);
    assert_eq!(tables.node().uplinks[0].mac, [5; 6]);
}

#[test]
fn a_node_port_is_also_the_nodes_own() {
    let mut tables = tables();
    let key = FrontendKey { address: NODE, port: 30080, protocol: 6 };
    let node_port = Frontend { kind: FrontendKind::NodePort, ..frontend(POD, true) };
    let update = |frontend| ringway_model::Update { frontends: vec![(key, frontend)], ..ringway_model::Update::default() };
    tables.apply_model(update(Some(node_port.into())));
    let wanted = |tables: &Tables, key| tables.filter.wanted(&FilterKey::Frontend(key));
    assert_eq!(wanted(&tables, key), Some(FilterValue::Frontend(served(true, Sockets::NodePort))));
    assert_eq!(wanted(&tables, alias(&key)), Some(FilterValue::Frontend(served(false, Sockets::Routed))));
    assert!(tables.snapshot().frontends.lookup(&alias(&key)).is_some() && tables.routed().contains(&net(NODE_PORT_ALIAS)));
    tables.apply_model(update(None));
    assert_eq!((wanted(&tables, key), wanted(&tables, alias(&key))), (None, None));
    assert!(tables.snapshot().frontends.is_empty() && tables.routed().is_empty());
}

/// A VIP may be the address of a host: what has a route is the alias under which the node's own sockets use it.
#[test]
fn a_vip_is_also_the_nodes_own_and_has_no_route() {
    let mut tables = tables();
    let vip = Some(Vip { announced: true, cluster_ip: false });
    tables.apply_model(model(Some(frontend(POD, true)), vip));
    let alias = tables.alias_of(&KEY).expect("an alias");
    assert_eq!((alias.address, tables.frontends_under(&alias)), (VIP_ALIAS.into(), vec![KEY]));
    assert_eq!(tables.aliased(), [(alias, KEY)].into_iter().collect());
    assert_eq!(tables.filter.wanted(&FilterKey::Frontend(KEY)), Some(FilterValue::Frontend(served(true, Sockets::Vip(alias.port)))));
    assert_eq!(tables.filter.wanted(&FilterKey::Frontend(alias)), Some(FilterValue::Frontend(served(false, Sockets::Routed))));
    let closed = FilterValue::Address(AddressUse { closed: true, ..AddressUse::default() });
    assert_eq!(tables.filter.wanted(&FilterKey::Address(VIP_ALIAS.into())), Some(closed), "ports that nobody has any more are refused");
    assert!(tables.snapshot().frontends.lookup(&alias).is_some() && tables.snapshot().cluster_ips.contains(&IpAddr::from(VIP_ALIAS)));
    assert_eq!(tables.routed(), [net(VIP_ALIAS)].into_iter().collect());
    // A connection of before goes on over TCP, a datagram finds another backend.
    let backend = SocketAddr::new(POD, 8080);
    let stopped = vec![(KEY, backend)];
    let gone = tables.apply_model(ringway_model::Update { stopped, ..model(None, None) });
    assert_eq!(gone.stopped, [(KEY, backend), (alias, backend)]);
    assert!(tables.snapshot().frontends.is_empty() && tables.routed().is_empty() && tables.snapshot().cluster_ips.is_empty());
    assert_eq!(tables.filter.wanted(&FilterKey::Address(VIP_ALIAS.into())), None);
}

#[test]
fn an_alias_keeps_its_route_while_it_drains() {
    let alias = FrontendKey { address: VIP_ALIAS.into(), port: 9, protocol: 6 };
    let held = |key, sockets| (FilterKey::Frontend(key), FilterValue::Frontend(served(false, sockets)));
    let mut tables = Tables::new(settings(), Filter::over([held(KEY, Sockets::Vip(9)), held(alias, Sockets::Routed)]));
    tables.filter.retire_unwanted();
    assert_eq!(tables.routed(), [net(VIP_ALIAS)].into_iter().collect(), "not the VIP");
    tables.apply_model(model(Some(frontend(POD, true)), None));
    assert_eq!(tables.alias_of(&KEY), Some(alias), "the port of the process before");
    assert!(!tables.filter.drains(&alias));
}

/// An address within a ServiceCIDR has no route of its own, unless the CIDR's route was refused.
#[test]
fn service_cidrs_cover_their_addresses() {
    let mut tables = tables();
    let cluster_ip = Frontend { kind: FrontendKind::ClusterIp, ..frontend(POD, true) };
    tables.apply_model(model(Some(cluster_ip), Some(Vip { announced: false, cluster_ip: true })));
    let (inside, outside): (IpNet, IpNet) = ("192.0.2.0/24".parse().unwrap(), "10.96.0.0/16".parse().unwrap());
    let routed = |tables: &Tables| tables.routed().into_iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(routed(&tables), [VIP.into()].into());
    let cidrs = |nets: &[IpNet]| ringway_model::Update { service_cidrs: Some(nets.iter().copied().collect()), ..Default::default() };
    tables.apply_model(cidrs(&[inside, outside]));
    assert_eq!(routed(&tables), [inside, outside].into());
    tables.refuse_cidrs([inside].into());
    assert_eq!(routed(&tables), [inside, outside, VIP.into()].into());
    tables.refuse_cidrs([].into());
    tables.apply_model(cidrs(&[]));
    assert_eq!(routed(&tables), [VIP.into()].into());
}

/// Both families of one service side by side: routes, aliases, filter entries and flows to end of one never touch the other.
#[test]
fn families_come_and_go_by_themselves() {
    let mut tables = tables();
    tables.apply_netlink(&kernel(DeviceKind::Bridge));
    let vip = Some(Vip { announced: true, cluster_ip: false });
    let both = |four: Option<Frontend>, six: Option<Frontend>| ringway_model::Update {
        vips: vec![(VIP, four.is_some().then_some(vip).flatten()), (VIP6, six.is_some().then_some(vip).flatten())],
        frontends: vec![(KEY, four.map(Arc::new)), (KEY6, six.map(Arc::new))],
        ..ringway_model::Update::default()
    };
    let mut announced = tables.apply_model(both(Some(frontend(POD, false)), Some(frontend(POD6, false)))).announced;
    announced.sort_unstable();
    assert_eq!(announced, [VIP, VIP6]);
    let [alias4, alias6] = [KEY, KEY6].map(|key| tables.alias_of(&key).expect("an alias"));
    assert_eq!((alias4.address, alias6.address), (VIP_ALIAS.into(), VIP_ALIAS6.into()));
    assert_eq!(tables.routed(), [net(VIP_ALIAS), net(VIP_ALIAS6)].into_iter().collect());
    let wanted = tables.filter.wanted(&FilterKey::Frontend(KEY6));
    assert_eq!(wanted, Some(FilterValue::Frontend(served(true, Sockets::Vip(alias6.port)))), "a pod behind the bridge");
    let backend = SocketAddr::new(POD6, 8080);
    let gone = tables.apply_model(ringway_model::Update { stopped: vec![(KEY6, backend)], ..both(Some(frontend(POD, false)), None) });
    assert_eq!(gone.stopped, [(KEY6, backend), (alias6, backend)]);
    assert_eq!(tables.routed(), [net(VIP_ALIAS)].into_iter().collect());
    assert!(tables.snapshot().frontends.lookup(&alias4).is_some() && tables.snapshot().frontends.lookup(&alias6).is_none());
    assert_eq!(tables.filter.wanted(&FilterKey::Address(VIP_ALIAS6.into())), None);
    assert!(tables.filter.wanted(&FilterKey::Address(VIP_ALIAS.into())).is_some());
}

#[test]
fn node_ports_of_ipv6_have_their_alias() {
    let mut tables = tables();
    let key = FrontendKey { address: NODE6, port: 30080, protocol: 17 };
    let node_port = Frontend { kind: FrontendKind::NodePort, ..frontend(POD6, true) };
    tables.apply_model(ringway_model::Update { frontends: vec![(key, Some(node_port.into()))], ..ringway_model::Update::default() });
    let alias = alias(&key);
    assert_eq!(alias, FrontendKey { address: NODE_PORT_ALIAS6.into(), ..key });
    assert_eq!((tables.frontends_under(&alias), tables.alias_of(&key)), (vec![key], Some(alias)));
    assert_eq!(tables.routed(), [net(NODE_PORT_ALIAS6)].into_iter().collect());
}

#[test]
fn a_service_cidr_of_ipv6_covers_its_addresses() {
    let mut tables = tables();
    let cluster_ip = Some(Vip { announced: false, cluster_ip: true });
    let vips = vec![(VIP, cluster_ip), (VIP6, cluster_ip)];
    tables.apply_model(ringway_model::Update { vips, ..ringway_model::Update::default() });
    let cidr: IpNet = "2001:db8::/108".parse().unwrap();
    tables.apply_model(ringway_model::Update { service_cidrs: Some([cidr].into()), ..ringway_model::Update::default() });
    assert_eq!(tables.routed(), [cidr, net(VIP)].into_iter().collect());
    tables.refuse_cidrs([cidr].into());
    assert_eq!(tables.routed(), [cidr, net(VIP), net(VIP6)].into_iter().collect());
}
