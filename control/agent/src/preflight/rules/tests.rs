use xdp_redirect::probe::XdpFeatures;

use super::super::facts::XdpFacts;
use super::*;
use crate::config::{Mode, Settings};
use crate::netlink::{Ipv6, NetworkFacts};

fn config(more: &str) -> Config {
    let yaml = format!("uplink: [eth1]\nnode-name: n1\nmanifests: /m\n{more}");
    Settings::from_yaml(&yaml).unwrap().resolve().unwrap()
}

fn eth1() -> DeviceFacts {
    DeviceFacts {
        name: "eth1".into(),
        ifindex: 2,
        up: true,
        carrier: true,
        ethernet: true,
        rx_queues: 2,
        mtu: 1500,
        driver: Some("ixgbe".into()),
        features: Some(XdpFeatures { native: true, zero_copy: true, fragments: true }),
        ..DeviceFacts::default()
    }
}

/// A node on which everything is well.
fn facts() -> Facts {
    Facts {
        capabilities: u64::MAX,
        kernel: (6, 18),
        bpffs: true,
        veth: Some(true),
        tcx: Some(true),
        cpus: 4,
        memory_bytes: 8 << 30,
        network: NetworkFacts {
            ip_forward: true,
            local_port_range: (32_768, 60_999),
            ipv6: Ipv6::On,
            ipv6_forwarding: true,
            ..NetworkFacts::default()
        },
        devices: vec![eth1()],
        ..Facts::default()
    }
}

/// The findings but for notes, as `severity: what`.
fn found(config: &Config, facts: &Facts) -> Vec<String> {
    let findings = judge(config, facts);
    findings.iter().filter(|f| f.severity != Note).map(|f| format!("{}: {}", f.severity, f.what)).collect()
}

/// What a change of the good node leads to.
fn after(change: impl FnOnce(&mut Facts)) -> Vec<String> {
    let mut facts = facts();
    change(&mut facts);
    found(&config(""), &facts)
}

fn with_device(change: impl FnOnce(&mut DeviceFacts)) -> Vec<String> {
    after(|facts| change(&mut facts.devices[0]))
}

fn assert_one(found: &[String], expected: &str) {
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(expected), "{found:?} should start with {expected}");
}

#[test]
fn a_good_node() {
    assert_eq!(found(&config(""), &facts()), Vec::<String>::new());
    let notes = judge(&config(""), &facts());
    assert!(notes[0].what.contains("zero-copy"), "the mode to come is said: {notes:?}");
}

#[test]
fn everything_is_said_at_once_and_each_has_a_remedy() {
    let devices = vec![DeviceFacts { name: "other".into(), ethernet: true, ..DeviceFacts::default() }];
    let facts = Facts { devices, ..Facts::default() };
    let findings = judge(&config(""), &facts);
    let whats: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
    for expected in ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_SYS_ADMIN", "tcx", "bpffs", "eth1 does not exist", "ip_forward"] {
        assert!(whats.iter().any(|what| what.contains(expected)), "{expected} in {whats:?}");
    }
    assert!(findings.iter().all(|finding| !finding.why.is_empty() && !finding.remedy.is_empty()));
    assert!(findings.is_sorted_by_key(|finding| finding.severity));
}

#[test]
fn capabilities_can_be_fine_grained() {
    let bits = |list: &[u32]| list.iter().fold(0u64, |bits, bit| bits | 1 << bit);
    let all = bits(&[CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN, CAP_IPC_LOCK]);
    assert!(after(|facts| facts.capabilities = all).is_empty());
    assert_one(&after(|facts| facts.capabilities = all & !(1 << CAP_NET_RAW)), "error: the capability CAP_NET_RAW");
    let without_admin = bits(&[CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_PERFMON, CAP_IPC_LOCK]);
    assert_one(&after(|facts| facts.capabilities = without_admin), "error: the capability CAP_SYS_ADMIN");
}

#[test]
fn old_kernels() {
    let old = |facts: &mut Facts| (facts.kernel, facts.tcx) = ((6, 1), Some(false));
    assert_one(&after(old), "error: the kernel (6.1) has no tcx");
    assert!(after(|facts| (facts.kernel, facts.tcx) = ((6, 12), None)).is_empty(), "may not ask, but new enough");
    assert_one(&after(|facts| facts.af_xdp_error = Some("EAFNOSUPPORT".into())), "error: an AF_XDP socket");
    assert_one(&after(|facts| facts.veth = Some(false)), "error: the kernel has no veth");
    assert!(after(|facts| facts.veth = None).is_empty(), "unknown is no problem");
}

#[test]
fn memory() {
    let small = Facts { memory_bytes: 100 << 20, ..facts() };
    assert_one(&found(&config("flows-max: 262144\nflows6-max: 131072\n"), &small), "error: the flow tables take 128 MiB");
    let unprivileged = !(1 << CAP_IPC_LOCK);
    let low = |facts: &mut Facts| (facts.capabilities, facts.memlock_bytes) = (unprivileged, Some(8 << 20));
    assert_one(&after(low), "error: the limit of locked memory is 8 MiB");
    assert!(after(|facts| facts.memlock_bytes = Some(8 << 20)).is_empty(), "CAP_IPC_LOCK lifts the limit");
}

#[test]
fn devices_that_cannot_be_uplinks() {
    assert_one(&with_device(|d| d.name = "eth9".into()), "error: uplink eth1 does not exist");
    assert_one(&with_device(|d| d.up = false), "error: uplink eth1 is down");
    assert_one(&with_device(|d| d.carrier = false), "warning: uplink eth1 has no carrier");
    assert_one(&with_device(|d| d.ethernet = false), "error: uplink eth1 is no Ethernet");
    assert_one(&with_device(|d| d.kind = Some("macvlan".into())), "error: uplink eth1 is a macvlan");
    let in_bridge = after(|facts| {
        facts.devices[0].controller = Some(9);
        facts.devices.push(DeviceFacts { name: "br0".into(), ifindex: 9, kind: Some("bridge".into()), ..DeviceFacts::default() });
    });
    assert_one(&in_bridge, "error: uplink eth1 is a port of the bridge br0");
}

/// The good uplink is a member of bond0, which is the uplink now.
fn with_bond(change: impl FnOnce(&mut Facts)) -> Vec<String> {
    let mut config = config("");
    config.uplinks = vec!["bond0".into()];
    let mut facts = facts();
    let member = DeviceFacts { controller: Some(9), ..eth1() };
    let kind = Some("bond".into());
    let bond = DeviceFacts { name: "bond0".into(), ifindex: 9, kind, rx_queues: 0, driver: None, features: None, ..eth1() };
    facts.devices = vec![bond, member.clone(), DeviceFacts { name: "eth2".into(), ifindex: 3, ..member }];
    change(&mut facts);
    found(&config, &facts)
}

#[test]
fn bonds() {
    assert_eq!(with_bond(|_| {}), Vec::<String>::new());
    assert_one(&with_bond(|facts| facts.devices.truncate(1)), "error: the bond bond0 has no members");
    let elsewhere = |facts: &mut Facts| facts.devices.iter_mut().skip(1).for_each(|device| device.controller = Some(7));
    assert_one(&with_bond(elsewhere), "error: the bond bond0 has no members");
    assert_one(&with_bond(|facts| facts.devices[0].up = false), "error: uplink bond0 is down");
    let mode = |facts: &mut Facts| facts.devices[0].bond_mode = Some(netlink_packet_route::link::BondMode::Broadcast);
    assert_one(&with_bond(mode), "error: the bond bond0 sends everything by all of its members");
    assert_one(&with_bond(|facts| facts.devices[2].up = false), "warning: the member eth2 of the bond bond0 is down");
    let few = "warning: the member eth2 of the bond bond0 has 1 receive queues for 2 workers";
    assert_one(&with_bond(|facts| facts.devices[2].rx_queues = 1), few);
    let xdp = Some(XdpFacts { program_id: 42, program_name: "firewall".into(), ours: false });
    let firewall = "carries the XDP program 42 `firewall`";
    assert_one(&with_bond(|facts| facts.devices[0].xdp = xdp.clone()), &format!("error: uplink bond0 {firewall}"));
    assert_one(&with_bond(|facts| facts.devices[1].xdp = xdp), &format!("error: the member eth1 of the bond bond0 {firewall}"));
}

#[test]
fn a_member_of_a_bond_is_no_uplink() {
    let in_bond = after(|facts| {
        facts.devices[0].controller = Some(9);
        facts.devices.push(DeviceFacts { name: "bond0".into(), ifindex: 9, kind: Some("bond".into()), ..DeviceFacts::default() });
    });
    assert_one(&in_bond, "error: uplink eth1 is a member of the bond bond0");
}

#[test]
fn other_xdp_programs_are_named() {
    let xdp = |ours| XdpFacts { program_id: 42, program_name: "firewall".into(), ours };
    assert_one(&with_device(|d| d.xdp = Some(xdp(false))), "error: uplink eth1 carries the XDP program 42 `firewall`");
    assert!(with_device(|d| d.xdp = Some(xdp(true))).is_empty());
}

#[test]
fn duplicate_uplinks() {
    let mut config = config("");
    config.uplinks.push("eth1".into());
    assert_one(&found(&config, &facts()), "error: uplink eth1 is given twice");
}

#[test]
fn modes_that_the_driver_does_not_have() {
    let mut facts = facts();
    facts.devices[0].features = Some(XdpFeatures { native: false, zero_copy: false, fragments: false });
    assert_one(&found(&config("mode: zero-copy\n"), &facts), "error: uplink eth1 (ixgbe) has no zero-copy");
    assert_one(&found(&config(""), &facts), "warning: uplink eth1 (ixgbe) has no native XDP");
    assert!(found(&config("mode: generic\n"), &facts).is_empty());
    facts.devices[0].mtu = 9_000;
    facts.devices[0].features = Some(XdpFeatures { native: true, zero_copy: true, fragments: true });
    assert!(found(&config(""), &facts).is_empty());
    facts.devices[0].features = Some(XdpFeatures { native: true, zero_copy: true, fragments: false });
    assert_one(&found(&config(""), &facts), "warning: uplink eth1 (ixgbe) has an MTU of 9000");
    assert!(found(&config("mode: generic\n"), &facts).is_empty());
    assert_eq!(config("mode: generic\n").mode, Mode::Generic);
}

#[test]
fn workers_against_queues_and_cpus() {
    assert_one(&found(&config("workers: 8\n"), &facts()), "warning: 8 workers on 4 CPUs");
    let notes = judge(&config("workers: 4\n"), &facts());
    assert!(notes.iter().any(|note| note.what.contains("2 receive queues for 4 workers")), "{notes:?}");
}

#[test]
fn snat_ports_of_the_node() {
    let overlapping = "snat-ports: 20000-40000\n";
    let all = found(&config(overlapping), &facts());
    assert!(all[0].contains("ephemeral ports 32768-60999") && all[1].contains("NodePorts 30000-32767"), "{all:?}");
    let mut reserved = facts();
    reserved.network.reserved_ports = vec![(33_000, 34_000)];
    assert!(found(&config("snat-ports: 33000-34000\n"), &reserved).is_empty(), "reserved by ip_local_reserved_ports");
    assert!(
        found(&config("snat-ports: 20000-40000\nsnat-address: [192.0.2.7]\n"), &facts()).is_empty(),
        "a dedicated address has no other user"
    );
    let mut both = facts();
    both.network.ipv6_devices = vec!["eth1".into()];
    assert_eq!(found(&config("snat-ports: 20000-40000\nsnat-address: [192.0.2.7]\n"), &both).len(), 2, "the node's IPv6 address has");
    assert!(found(&config("snat-ports: 20000-40000\nsnat-address: [192.0.2.7, 2001:db8::7]\n"), &both).is_empty());
}

#[test]
fn ipv6_is_off_or_forwards() {
    for (ipv6, expected) in [(Ipv6::Absent, "ipv6.disable=1"), (Ipv6::Disabled, "net.ipv6.conf.all.disable_ipv6 is 1")] {
        let mut off = facts();
        (off.network.ipv6, off.network.ipv6_forwarding) = (ipv6, false);
        assert_eq!(found(&config(""), &off), Vec::<String>::new());
        let notes = judge(&config(""), &off);
        assert!(notes.iter().any(|note| note.what.contains(expected) && note.why.contains("only IPv4")), "{notes:?}");
    }
    assert!(after(|facts| facts.network.ipv6_forwarding = false).is_empty(), "link-local addresses are in nobody's use");
    let in_use = |facts: &mut Facts| facts.network.ipv6_devices = vec!["eth1".into(), "eth2".into()];
    assert!(after(in_use).is_empty());
    assert_one(
        &after(|facts| (in_use(facts), facts.network.ipv6_forwarding = false).1),
        "warning: net.ipv6.conf.all.forwarding is 0, and there are IPv6 addresses on eth1, eth2",
    );
    assert_one(
        &after(|facts| (in_use(facts), facts.network.ipv6_expiring = vec!["eth2".into()]).1),
        "warning: eth2 has an IPv6 address from a router, but listens to routers no more",
    );
}

#[test]
fn settings_of_the_node() {
    assert_one(&after(|facts| facts.network.ip_forward = false), "warning: net.ipv4.ip_forward is 0");
    assert_one(
        &after(|facts| facts.credentials_error = Some("no file".into())),
        "error: the credentials for the apiserver cannot be used: no file",
    );
    assert_one(&after(|facts| facts.manifests_error = Some("not found".into())), "warning: the folder /m cannot be read");
    let mut strict = facts();
    strict.network.rp_filter = vec![("eth1".into(), 1), ("eth2".into(), 1)];
    let notes = judge(&config(""), &strict);
    assert!(notes.iter().any(|note| note.what == "strict reverse-path filtering on eth1"), "{notes:?}");
}

#[test]
fn other_processes_and_leftovers() {
    assert_one(&after(|facts| (facts.running_pid, facts.namespace_held) = (Some(7), true)), "error: a ringway with process id 7");
    assert_one(&after(|facts| facts.namespace_held = true), "error: a ringway runs in this network namespace with another");
    let mut crashed = facts();
    crashed.leftovers = vec!["device rw0".into()];
    assert!(judge(&config(""), &crashed).iter().any(|note| note.what.contains("device rw0") && note.severity == Note));
}

#[test]
fn without_a_root_cgroup_the_node_loses_its_node_ports_only() {
    let found = after(|facts| facts.cgroup_error = Some("no cgroup2 file system is mounted".into()));
    assert_eq!(found, ["warning: the root cgroup cannot be opened: no cgroup2 file system is mounted"]);
}

#[test]
fn kube_proxy_still_runs() {
    let taken = ("--healthz-bind-address", "0.0.0.0:10256".parse().unwrap(), "Address already in use (os error 98)".to_owned());
    let found = after(|facts| facts.not_listening = vec![taken]);
    assert_one(&found, "error: --healthz-bind-address: cannot listen at 0.0.0.0:10256: Address already in use");
}

#[test]
fn an_apiserver_without_tls_is_named_unless_it_is_on_this_node() {
    let of = |url: &str| found(&config(&format!("apiserver: ['{url}']\n")), &facts());
    assert_one(&of("http://192.0.2.77:8080"), "warning: the apiserver http://192.0.2.77:8080 is not asked over TLS");
    assert!(of("http://127.0.0.1:8080").is_empty() && of("https://192.0.2.77:6443").is_empty());
}
