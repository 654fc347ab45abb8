//! The node's tables.

use std::net::IpAddr;
use std::sync::Arc;

use ringway_engine::family::{V4, V6};
use ringway_engine::tables::*;

use super::*;

/// Generation 1, without services. SNAT takes these ports.
pub fn tables(ports: (u16, u16), pod_delivery: PodDelivery) -> Snapshot {
    let sides = [V4::SIDE, V6::SIDE];
    let mut neighbors = Neighbors::default();
    let mut devices = devices();
    let mut fib = FibBuilder::default();
    for side in &sides {
        neighbors.by_address.extend([((UPLINK, side.router), ROUTER_MAC), ((UPLINK, side.node2), NODE2_MAC)]);
        neighbors.by_address.extend(side.pods.map(|(device, pod)| ((device, pod), pod_mac(pod))));
        neighbors.by_address.extend(side.bridged.map(|(_, pod)| ((BRIDGE, pod), pod_mac(pod))));
        devices.bridge_ports.extend(side.bridged.map(|(port, pod)| ((BRIDGE, pod_mac(pod)), port)));
        add_routes(&mut fib, side);
    }
    let addresses = |one: fn(&Addresses) -> IpAddr| Arc::new(sides.iter().map(one).collect());
    let snat = |one: fn(&Addresses) -> IpAddr| sides.iter().map(move |side| SnatAddress { address: one(side), ports });
    let node = NodeTables {
        name: "node1".into(),
        addresses: NodeAddresses { v4: V4::ip_of(V4::SIDE.node), v6: V6::ip_of(V6::SIDE.node) },
        snat: snat(|side| side.node).collect(),
        overlays: snat(|side| side.overlay).map(|snat| (OVERLAY, snat)).collect(),
        uplinks: vec![Uplink { name: "eth0".into(), ifindex: UPLINK, mac: UPLINK_MAC, mtu: 1500, partial_checksums: true }],
        rw1_ifindex: RW1,
        rw1_mac: RW1_MAC,
        pod_delivery,
        answer_ping: true,
        ..NodeTables::default()
    };
    Snapshot {
        generation: 1,
        node: Arc::new(node),
        fib: Arc::new(fib.build()),
        neighbors: Arc::new(neighbors),
        devices: Arc::new(devices),
        announced: addresses(|side| side.vip),
        cluster_ips: addresses(|side| side.cluster_ip),
        vips: addresses(|side| side.vip),
        ..Snapshot::default()
    }
}

fn devices() -> Devices {
    let device = |name: &str, kind, mac, bridge| Device { name: name.into(), kind, mac, mtu: 1500, bridge };
    let mut devices = Devices::default();
    devices.by_index.extend([
        (UPLINK, device("eth0", DeviceKind::Uplink(0), UPLINK_MAC, None)),
        (POD_A, device("veth-a", DeviceKind::Pod, [2, 9, 0, 0, 0, 10], None)),
        (POD_B, device("veth-b", DeviceKind::Pod, [2, 9, 0, 0, 0, 11], None)),
        (BRIDGE, device("br0", DeviceKind::Bridge, [2, 9, 0, 0, 0, 20], None)),
        (PORT_C, device("veth-c", DeviceKind::Pod, [2, 9, 0, 0, 0, 21], Some(BRIDGE))),
        (PORT_D, device("veth-d", DeviceKind::Pod, [2, 9, 0, 0, 0, 22], Some(BRIDGE))),
        (OVERLAY, device("vxlan0", DeviceKind::Overlay { ethernet: true }, [2, 9, 0, 0, 0, 23], None)),
        (RW1, device("rw1", DeviceKind::Hostlink, RW1_MAC, None)),
    ]);
    devices
}

fn add_routes(fib: &mut FibBuilder, side: &Addresses) {
    let net = |text: &str| text.parse().expect("a prefix");
    let any = net(side.everything);
    for (priority, table) in [(0, 255), (32766, 254)] {
        let action = RuleAction::Lookup(table);
        fib.add_rule(Rule { priority, from: any, to: any, invert: false, iif: None, suppress_prefix_len: None, action });
    }
    let via =
        |ifindex, gateway| Route { kind: RouteKind::Unicast(Box::new([NextHop { ifindex, gateway, weight: 1 }])), mtu: None, metric: 0 };
    fib.add_route(255, side.node.into(), Route { kind: RouteKind::Local, mtu: None, metric: 0 });
    fib.add_route(254, net(side.nodes), via(UPLINK, None));
    fib.add_route(254, any, via(UPLINK, Some(side.router)));
    fib.add_route(254, net(side.remote_pods), via(UPLINK, Some(side.node2)));
    fib.add_route(254, net(side.overlay_pods), via(OVERLAY, Some(side.overlay_gateway)));
    for (device, pod) in side.pods {
        fib.add_route(254, pod.into(), via(device, None));
    }
    fib.add_route(254, net(side.bridged_pods), via(BRIDGE, None));
}
