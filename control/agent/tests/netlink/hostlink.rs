//! The hostlink is made, taken over, repaired and removed.

use ringway_agent::netlink::{FollowerConfig, Hostlink, HostlinkAction, HostlinkConfig, Ipv6, cleanup};

use crate::namespace::{Known, Namespace, command, ip, ip_batch, sysctl};

const CONFIG: HostlinkConfig = HostlinkConfig { queues: 2, mtu: 1500 };

fn check(hostlink: &Hostlink, config: HostlinkConfig) {
    for device in ["rw0", "rw1"] {
        let text = ip(&format!("-d -o link show {device}"));
        let queues = config.queues;
        for wanted in [
            format!("mtu {} ", config.mtu),
            format!("numtxqueues {queues} numrxqueues {queues} "),
            "addrgenmode none".to_string(),
            "state UP".to_string(),
        ] {
            assert!(text.contains(&wanted), "{wanted} in {text}");
        }
        assert_eq!(ip(&format!("-o addr show dev {device}")), "", "no address");
    }
    assert!(command("ethtool", "-k rw1").contains("tx-checksumming: off"));
    let [_, high, middle, low] = hostlink.rw1_ifindex.to_be_bytes();
    let gateways: &[&str] = if hostlink.ipv6 { &["169.254.82.2", "fe80::5252:1"] } else { &["169.254.82.2"] };
    let neighbor = |gateway: &&str| format!("{gateway} dev rw1 lladdr 02:53:04:{high:02x}:{middle:02x}:{low:02x} PERMANENT");
    let shown = ip("neigh show").replace("  ", " ");
    assert_eq!(shown.lines().map(str::trim_end).collect::<Vec<_>>(), gateways.iter().map(neighbor).collect::<Vec<_>>());
}

#[test]
fn made_kept_repaired_made_anew_and_removed() {
    Namespace::new().run(async || {
        let first = Hostlink::ensure(CONFIG).await.unwrap();
        assert_eq!(first.action, HostlinkAction::Created);
        check(&first, CONFIG);

        let again = Hostlink::ensure(CONFIG).await.unwrap();
        assert_eq!(again, Hostlink { action: HostlinkAction::Kept, ..first });
        check(&again, CONFIG);

        ip("link set rw1 down");
        ip("neigh flush dev rw1 nud all");
        command("ethtool", "-K rw1 tx on");
        let jumbo = HostlinkConfig { mtu: 3400, ..CONFIG };
        let repaired = Hostlink::ensure(jumbo).await.unwrap();
        assert_eq!(repaired, Hostlink { action: HostlinkAction::Kept, mtu: 3400, ..first });
        check(&repaired, jumbo);

        let more = HostlinkConfig { queues: 3, ..CONFIG };
        let recreated = Hostlink::ensure(more).await.unwrap();
        assert_eq!(recreated.action, HostlinkAction::Recreated);
        check(&recreated, more);

        let removed = cleanup().await.unwrap();
        assert_eq!(removed, ["neighbor 169.254.82.2 on rw1", "neighbor fe80::5252:1 on rw1", "veth pair rw0/rw1"]);
        assert!(!ip("-o link show").contains("rw"));
        assert!(cleanup().await.unwrap().is_empty());
    });
}

/// The neighbors of this moment.
async fn is_intact(hostlink: &Hostlink) -> bool {
    let known = Known::start(FollowerConfig::default()).await;
    hostlink.is_intact(known.now.neighbors.as_ref().unwrap())
}

#[test]
fn ipv6_goes_and_comes_with_the_nodes() {
    Namespace::new().run(async || {
        assert_eq!(Ipv6::read(), Ipv6::On);
        let hostlink = Hostlink::ensure(CONFIG).await.unwrap();
        assert!(hostlink.ipv6 && is_intact(&hostlink).await);

        sysctl("ipv6/conf/all/disable_ipv6", "1");
        assert_eq!(Ipv6::read(), Ipv6::Disabled);
        assert!(!is_intact(&hostlink).await);
        let without = Hostlink::ensure(CONFIG).await.unwrap();
        assert!(!without.ipv6 && is_intact(&without).await);
        check(&without, CONFIG);
        assert_eq!(cleanup().await.unwrap(), ["neighbor 169.254.82.2 on rw1", "veth pair rw0/rw1"]);
        let without = Hostlink::ensure(CONFIG).await.unwrap();
        assert!(!without.ipv6 && is_intact(&without).await, "made without");
        sysctl("ipv6/conf/all/disable_ipv6", "0");
        assert!(!is_intact(&without).await, "it could have a neighbor more");
        cleanup().await.unwrap();

        // For new devices, but ours may be switched on.
        sysctl("ipv6/conf/default/disable_ipv6", "1");
        let hostlink = Hostlink::ensure(CONFIG).await.unwrap();
        assert!(hostlink.ipv6 && is_intact(&hostlink).await);
        check(&hostlink, CONFIG);
        ip("-6 neigh del fe80::5252:1 dev rw1");
        assert!(!is_intact(&hostlink).await, "a neighbor is missing");
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6").unwrap(), "1\n");
    });
}

#[test]
fn nobody_looks_for_duplicates_or_routers_on_the_hostlink() {
    Namespace::new().run(async || {
        Hostlink::ensure(CONFIG).await.unwrap();
        // Both begin within two seconds (RFC 4861 section 6.3.7, RFC 4862 section 5.4.2).
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        for device in ["rw0", "rw1"] {
            let counters = std::fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{device}")).unwrap();
            for counter in ["Icmp6OutNeighborSolicits", "Icmp6OutRouterSolicits"] {
                let line = counters.lines().find(|line| line.starts_with(counter)).unwrap();
                assert_eq!(line.split_whitespace().nth(1), Some("0"), "{device}: {line}");
            }
        }
    });
}

#[test]
fn a_device_of_others_with_our_name_is_an_error_and_stays() {
    let cases = [
        "link add rw1 type bridge",
        "link add other type veth peer name rw1",
        "link add rw0 type veth peer name rw2",
        "link add rw0 type bridge\nlink add rw1 type bridge",
        "link add rw0 type veth peer name a\nlink add rw1 type veth peer name b",
    ];
    for case in cases {
        Namespace::new().run(async || {
            assert_eq!(ip_batch(case), "");
            let before = ip("-o link show");
            let error = Hostlink::ensure(CONFIG).await.unwrap_err().to_string();
            assert!(error.contains("rename or remove it"), "{error}");
            assert!(cleanup().await.is_err());
            assert_eq!(ip("-o link show"), before);
        });
    }
}

#[test]
fn the_kernels_reason_is_told() {
    Namespace::new().run(async || {
        let error = Hostlink::ensure(HostlinkConfig { queues: 0, mtu: 1500 }).await.unwrap_err().to_string();
        assert!(error.starts_with("create the veth pair rw0/rw1 with 0 queues and MTU 1500: Invalid argument"), "{error}");
    });
}
