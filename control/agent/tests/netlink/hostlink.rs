//! The hostlink is made, taken over, repaired and removed.

use ringway_agent::netlink::{Hostlink, HostlinkAction, HostlinkConfig, cleanup};

use crate::namespace::{Namespace, command, ip, ip_batch};

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
    let neighbor = format!("169.254.82.2 dev rw1 lladdr 02:53:04:{high:02x}:{middle:02x}:{low:02x} PERMANENT");
    assert_eq!(ip("neigh show").trim().replace("  ", " "), neighbor);
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
        assert_eq!(removed, ["neighbor 169.254.82.2 on rw1", "veth pair rw0/rw1"]);
        assert!(!ip("-o link show").contains("rw"));
        assert!(cleanup().await.unwrap().is_empty());
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
