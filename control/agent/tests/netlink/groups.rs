//! The groups by which stations ask for announced IPv6 addresses, and what makes those believe that know an address elsewhere.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::process::Command;

use ringway_agent::netlink::{Groups, solicited_node};
use ringway_engine::ndp;

use crate::namespace::{Namespace, add_device, ip, mac, sysctl};

fn address(number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from("fd00:1::".parse::<Ipv6Addr>().unwrap()) | u128::from(number))
}

/// Groups of single addresses that `ip maddr` shows on a device, those of the device's own addresses excepted.
fn shown(device: &str) -> BTreeSet<Ipv6Addr> {
    let text = ip(&format!("-6 maddr show dev {device}"));
    let groups = text.lines().filter_map(|line| line.trim().strip_prefix("inet6 ")?.split(' ').next()?.parse().ok());
    let solicited = |group: &Ipv6Addr| group.segments()[..6] == [0xff02, 0, 0, 0, 0, 1];
    groups.filter(solicited).collect()
}

fn groups(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<Ipv6Addr> {
    numbers.into_iter().map(|number| solicited_node(address(number))).collect()
}

/// d0 and d1 without addresses of their own.
fn devices() -> [u32; 2] {
    sysctl("ipv6/conf/default/addr_gen_mode", "1");
    ["d0", "d1"].map(add_device)
}

#[test]
fn a_group_holds_the_last_24_bits() {
    let vip: Ipv6Addr = "2001:db8::12:3456:789a".parse().unwrap();
    assert_eq!(solicited_node(vip), "ff02::1:ff56:789a".parse::<Ipv6Addr>().unwrap());
}

#[test]
fn joined_on_each_uplink_and_left() {
    Namespace::new().run(async || {
        let devices = devices();
        let mut joined = Groups::default();
        // Two of one group: it is left with the last.
        let both = [1, 2, 0x0100_0001];
        assert!(joined.follow(&devices, both.map(address).into_iter()).is_empty());
        assert_eq!([shown("d0"), shown("d1")], [groups([1, 2]), groups([1, 2])]);
        assert!(joined.follow(&devices, [address(1)].into_iter()).is_empty());
        assert_eq!([shown("d0"), shown("d1")], [groups([1]), groups([1])]);
        assert!(joined.follow(&devices[..1], [address(0x0100_0001)].into_iter()).is_empty());
        assert_eq!([shown("d0"), shown("d1")], [groups([1]), groups([])]);
        drop(joined);
        assert_eq!(shown("d0"), groups([]), "they end with the process");
    });
}

#[test]
fn more_than_one_socket_can_be_member_of() {
    Namespace::new().run(async || {
        let devices = devices();
        // The kernel's is 131072 bytes, of some 64 for each membership; older ones have 20480.
        let mut joined = Groups::default();
        let refused = joined.follow(&devices, (0..3_000).map(address));
        assert!(refused.is_empty(), "{} refused: {:?}", refused.len(), refused.first());
        assert_eq!([shown("d0"), shown("d1")], [groups(0..3_000), groups(0..3_000)]);
        assert!(joined.follow(&devices, (2_000..5_000).map(address)).is_empty());
        assert_eq!(shown("d1"), groups(2_000..5_000));
    });
}

#[test]
fn a_device_that_is_not_there_is_told_and_tried_again() {
    Namespace::new().run(async || {
        let [d0, _] = devices();
        let mut joined = Groups::default();
        let refused = joined.follow(&[4711, d0], [address(1)].into_iter());
        assert_eq!(
            refused.iter().map(|refused| (refused.ifindex, refused.group)).collect::<Vec<_>>(),
            [(4711, solicited_node(address(1)))]
        );
        assert_eq!(shown("d0"), groups([1]));
        ip("link add later index 4711 type veth peer name later-p");
        assert!(joined.follow(&[4711, d0], [address(1)].into_iter()).is_empty());
        assert_eq!(shown("later"), groups([1]));
        ip("link del later");
        assert!(joined.follow(&[d0], [address(1)].into_iter()).is_empty());
    });
}

#[test]
fn a_station_that_knows_the_address_elsewhere_learns() {
    const SEND: &str = "import socket, sys\n\
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
        s.bind((sys.argv[1], 0))\n\
        s.send(bytes.fromhex(sys.argv[2]))";
    let wire = Namespace::new();
    Namespace::new().run(async || {
        ip(&format!("link add up0 type veth peer name w0 netns {}", wire.path()));
        ip("link set up0 up");
        wire.ip("link set w0 up");
        wire.ip("addr add fd00:1::ffff/64 dev w0 nodad");
        wire.ip("neigh replace fd00:1::a lladdr 02:00:00:00:00:99 dev w0 nud reachable");
        let (up0, vip) = (mac("up0"), address(10));
        let frame: String = ndp::unsolicited(vip, up0).iter().map(|byte| format!("{byte:02x}")).collect();
        let sent = Command::new("python3").args(["-c", SEND, "up0", &frame]).status().unwrap();
        assert!(sent.success());
        let text = wire.ip("neigh show fd00:1::a dev w0");
        let ours: Vec<String> = up0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(text.contains(&format!("lladdr {}", ours.join(":"))), "{text}");
    });
}
