use std::net::{Ipv4Addr, Ipv6Addr};

use ringway_engine::flow::{NewFlow, TICKS_PER_SECOND, Tuple};
use ringway_engine::tables::{Device, DeviceKind, Neighbors};
use ringway_engine::verdict::Verdict;
use ringway_io::{BindMode, SocketCounters};
use ringway_model::manifest::ManifestFile;
use ringway_model::{Change, Compiler, Folder, Settings};

use super::*;

const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 7), 40_000);
const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 80);
const BACKEND: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 1, 0, 9), 8080);
const SNAT: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 9), 10_007);

fn devices() -> Devices {
    let mut devices = Devices::default();
    let device = Device { name: "veth7".into(), kind: DeviceKind::Pod, mac: [2; 6], mtu: 1500, bridge: None };
    devices.by_index.insert(7, device);
    devices
}

#[test]
fn a_flow_with_a_nat_binding() {
    let tables = FlowTables::in_memory(64, 1, 1);
    let rewrite = |tuple, op| Rewrite { tuple, op, ifindex: 0, dmac: [0; 6] };
    let flow = NewFlow {
        forward: (FlowKey::new(CLIENT, VIP, 7, Hook::PodIn, 6), rewrite(Tuple::new(SNAT, BACKEND), FlowOp::Pass)),
        reverse: (FlowKey::new(BACKEND, SNAT, 0, Hook::UplinkIn, 6), rewrite(Tuple::new(VIP, CLIENT), FlowOp::Worker)),
        snat: true,
    };
    tables.v4.insert(0, &flow, 100).unwrap();
    let document = flows(&tables, &devices(), &FxHashMap::default(), 100 + 2 * TICKS_PER_SECOND);
    let flow = &document.flows[0];
    assert_eq!((flow.protocol.as_str(), flow.state.as_str()), ("TCP", "embryonic"));
    assert_eq!((flow.client.as_str(), flow.frontend.as_str()), ("198.51.100.7:40000", "192.0.2.1:80"));
    assert_eq!((flow.backend.as_str(), flow.nat_binding.as_deref()), ("10.1.0.9:8080", Some("192.0.2.9:10007")));
    assert!((1.9..2.1).contains(&flow.age_s), "{}", flow.age_s);
    let (forward, reverse) = (&flow.forward, &flow.reverse);
    assert_eq!((forward.hook.as_str(), forward.device.as_deref(), forward.executor.as_str()), ("pod-in", Some("veth7"), "edge"));
    assert_eq!((reverse.hook.as_str(), reverse.device.as_deref(), reverse.executor.as_str()), ("uplink-in", None, "worker"));
    assert_eq!(reverse.to.destination, "198.51.100.7:40000");
}

/// It is the second of two tables, and addresses of IPv6 need brackets beside a port.
#[test]
fn a_flow_of_ipv6_behind_an_alias() {
    let tables = FlowTables::in_memory(64, 1, 1);
    let address = |last: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
    let (client, alias, backend) = ((address(7), 40_000), (address(0xa), 9), (address(9), 8080));
    let rewrite = |tuple| Rewrite { tuple, op: FlowOp::Pass, ifindex: 0, dmac: [0; 6] };
    let flow = NewFlow {
        forward: (FlowKey::new(client, alias, 0, Hook::NodeOut, 17), rewrite(Tuple::new(client, backend))),
        reverse: (FlowKey::new(backend, client, 0, Hook::UplinkIn, 17), rewrite(Tuple::new(alias, client))),
        snat: false,
    };
    tables.v6.insert(0, &flow, 100).unwrap();
    let key = |(address, port): (Ipv6Addr, u16)| FrontendKey { address: address.into(), port, protocol: 17 };
    let aliased = FxHashMap::from_iter([(key(alias), key((address(1), 53)))]);
    let document = flows(&tables, &devices(), &aliased, 100);
    let flow = &document.flows[0];
    assert_eq!((document.flows.len(), flow.client.as_str(), flow.frontend.as_str()), (1, "[2001:db8::7]:40000", "[2001:db8::1]:53"));
    assert_eq!((flow.backend.as_str(), flow.forward.to.destination.as_str()), ("[2001:db8::9]:8080", "[2001:db8::9]:8080"));
}

#[test]
fn one_backend_of_two_services() {
    let service = |name: &str, ip: u8| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  clusterIP: 10.96.0.{ip}\n  ports: [{{port: 80}}]\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             ports: [{{name: \"\", port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: [10.1.0.9], nodeName: n1}}]\n---\n"
        )
    };
    let mut folder = Folder::default();
    let text = service("a", 1) + &service("b", 2);
    let changes: Vec<Change> = folder.update(ManifestFile { file: "x.yaml".into(), text });
    assert!(folder.problems().is_empty(), "{:?}", folder.problems());
    let mut compiler = Compiler::new(Settings { node_name: "n1".into(), ..Settings::default() });
    compiler.apply(changes);
    let document = backends(&compiler.view());
    assert_eq!(document.backends.len(), 1, "{document:?}");
    assert_eq!(document.backends[0].services, ["default/a", "default/b"]);
    assert_eq!((document.backends[0].state.as_str(), document.backends[0].local), ("ready", true));
    let json = serde_json::to_string(&ServicesDocument { services: compiler.view() }).unwrap();
    assert!(
        super::super::render::render(super::super::Topic::Services, &json).unwrap().contains("default/b  TCP   ClusterIP  10.96.0.2:80")
    );
}

#[test]
fn neighbors_in_use_come_first_and_unresolved_ones_are_shown() {
    let mut known = Neighbors::default();
    let [one, two, six] = ["10.0.0.1", "10.0.0.2", "fe80::3"].map(|address| address.parse::<IpAddr>().unwrap());
    known.by_address.insert((7, one), [2; 6]);
    known.by_address.insert((7, two), [3; 6]);
    let snapshot = Snapshot { neighbors: Arc::new(known), devices: Arc::new(devices()), ..Snapshot::default() };
    let in_use = FxHashSet::from_iter([(7, two), (8, six)]);
    let document = neighbors(&snapshot, &in_use);
    let lines: Vec<_> = document.neighbors.iter().map(|n| (n.device.as_str(), n.address, n.mac.is_some(), n.in_use)).collect();
    assert_eq!(lines, [("device 8", six, false, true), ("veth7", two, true, true), ("veth7", one, true, false)]);
}

fn worker(number: usize, mode: BindMode) -> (WorkerStatus, WorkerStats) {
    let socket = SocketStatus {
        port: Port::Uplink(0),
        ifname: "eth0".into(),
        queue: number as u32,
        mode,
        failed: None,
        counters: SocketCounters { rx_packets: 3, ..SocketCounters::default() },
    };
    let status = WorkerStatus { worker: number, core: Some(number), state: WorkerState::Running, generation: 4, sockets: vec![socket] };
    let mut stats = WorkerStats { packets: 3, ..WorkerStats::default() };
    stats.verdicts.count(Verdict::Drop(DropReason::NoRoute));
    stats.verdicts.count(Verdict::Host);
    stats.frames.total = 10;
    (status, stats)
}

#[test]
fn all_workers_are_summed() {
    let (status, counts): (Vec<_>, Vec<_>) = [worker(0, BindMode::Copy), worker(1, BindMode::ZeroCopy)].into_iter().unzip();
    let document = stats(&status, &counts, Vec::new());
    assert_eq!((document.verdicts.host, document.verdicts.drop, document.frames.total), (2, 2, 20));
    let no_route = document.drops.iter().find(|drop| drop.reason == "no_route").unwrap();
    assert_eq!((no_route.packets, no_route.sentence.as_str()), (2, DropReason::NoRoute.sentence()));
    let (queues, mode) = queues(0, &status);
    assert_eq!((queues.len(), mode.as_str()), (2, "copy+zero-copy"));
    assert_eq!(workers(&status, &counts)[1].core, Some(1));
}

#[test]
fn macs_in_words() {
    assert_eq!(mac_text([2, 0x52, 0, 0, 0, 0xff]), "02:52:00:00:00:ff");
}
