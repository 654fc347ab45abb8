//! A bond as its messages tell it: in the bytes of the kernel's format, and by random sequences against the kernel's rules.

mod model;
mod wire;

use ringway_engine::tables::DeviceKind;
use xdp_redirect::Receives;

use self::wire::{BondMessage, MemberMessage, Message};
use super::super::kernel::Kernel;
use super::Bond;

const BOND: u32 = 10;

fn bond_of(messages: &[Message]) -> Option<Bond> {
    let mut kernel = Kernel::default();
    messages.iter().for_each(|message| kernel.hear(&message.parsed()));
    kernel.bonds(&["bond0".into()]).remove(0)
}

/// By member: whether it transmits, and what it receives.
fn roles(messages: &[Message]) -> Vec<(u32, bool, Receives)> {
    let bond = bond_of(messages).expect("a bond");
    bond.members.iter().map(|member| (member.ifindex, member.transmits, member.receives)).collect()
}

fn good(mode: u8) -> BondMessage {
    BondMessage { mode, up: true, active: Some(11), all_receive: false, aggregator: Some(1) }
}

fn member(ifindex: u32) -> MemberMessage {
    MemberMessage { ifindex, master: Some(BOND), up: true, carrier: true, backup: false, mii: 0, aggregator: Some(1) }
}

#[test]
fn the_active_one_of_a_backup_pair_transmits_and_receives() {
    let told = [good(1).tell(), member(11).tell(), MemberMessage { backup: true, ..member(12) }.tell()];
    assert_eq!(roles(&told), [(11, true, Receives::Everything), (12, false, Receives::Nothing)]);
    let names: Vec<_> = bond_of(&told).unwrap().members.iter().map(|member| (member.name.clone(), member.mac)).collect();
    assert_eq!(names, [("eth11".to_owned(), [2, 0, 0, 0, 0, 11]), ("eth12".to_owned(), [2, 0, 0, 0, 0, 12])]);
}

#[test]
fn one_message_moves_transmission() {
    let told = vec![good(1).tell(), member(11).tell(), MemberMessage { backup: true, ..member(12) }.tell()];
    // The bond itself names another one.
    let moved = [told.clone(), vec![BondMessage { active: Some(12), ..good(1) }.tell()]].concat();
    assert_eq!(roles(&moved), [(11, false, Receives::Nothing), (12, true, Receives::Everything)]);
    // The cable is drawn, and the bond has not noticed yet.
    let without = [told.clone(), vec![MemberMessage { carrier: false, ..member(11) }.tell()]].concat();
    assert_eq!(roles(&without), [(11, false, Receives::Everything), (12, false, Receives::Nothing)]);
    // The bond's own monitor (ARP) found that nothing comes back, while the carrier is there.
    let mute = [told, vec![MemberMessage { mii: 2, ..member(11) }.tell()]].concat();
    assert!(roles(&mute).iter().all(|(_, transmits, _)| !transmits));
}

#[test]
fn each_mode_as_the_kernel_has_it() {
    use Receives::{Everything, Nothing, Unicast};
    let backup = MemberMessage { backup: true, ..member(12) };
    for (mode, second, expected) in [
        (0, member(12), [(11, true, Everything), (12, true, Everything)]),
        (1, backup, [(11, true, Everything), (12, false, Nothing)]),
        (2, member(12), [(11, true, Everything), (12, true, Everything)]),
        (3, member(12), [(11, false, Everything), (12, false, Everything)]),
        (4, member(12), [(11, true, Everything), (12, true, Everything)]),
        (4, backup, [(11, true, Everything), (12, false, Nothing)]),
        (5, member(12), [(11, true, Everything), (12, false, Nothing)]),
        (6, member(12), [(11, true, Everything), (12, false, Unicast)]),
        (7, member(12), [(11, false, Everything), (12, false, Everything)]),
    ] {
        assert_eq!(roles(&[good(mode).tell(), member(11).tell(), second.tell()]), expected, "mode {mode}, {second:?}");
    }
    let all = BondMessage { all_receive: true, ..good(1) };
    assert_eq!(roles(&[all.tell(), member(11).tell(), backup.tell()])[1], (12, false, Everything), "all_slaves_active");
}

#[test]
fn another_aggregator_takes_over_without_a_word_of_the_bond() {
    use Receives::{Everything, Nothing};
    let (first, second) = (member(11), MemberMessage { aggregator: Some(2), ..member(12) });
    let before = vec![good(4).tell(), first.tell(), MemberMessage { backup: true, ..second }.tell()];
    assert_eq!(roles(&before), [(11, true, Everything), (12, false, Nothing)]);
    let after = [before, vec![MemberMessage { backup: true, ..first }.tell(), second.tell()]].concat();
    assert_eq!(roles(&after), [(11, false, Nothing), (12, true, Everything)]);
}

#[test]
fn only_bonds_and_their_members_change_bonds() {
    let changes = |first: &Message, second: &Message| {
        let mut kernel = Kernel::default();
        kernel.hear(&first.parsed());
        kernel.changed = Default::default();
        kernel.hear(&second.parsed());
        kernel.changed.bonds
    };
    let (bridged, free) = (Message::bridge_port(11, 5), MemberMessage { master: None, ..member(11) }.tell());
    assert!(!changes(&free, &bridged) && !changes(&bridged, &free) && !changes(&bridged, &Message::gone(11)));
    assert!(changes(&free, &member(11).tell()) && changes(&member(11).tell(), &free), "a member that comes, and that was released");
    assert!(changes(&member(11).tell(), &bridged) && changes(&member(11).tell(), &Message::gone(11)));
    assert!(changes(&free, &good(1).tell()) && changes(&good(1).tell(), &Message::gone(BOND)));
}

#[test]
fn a_veth_is_a_members_or_a_pods() {
    let mut kernel = Kernel::default();
    let uplinks = ["bond0".to_owned()];
    [good(1).tell(), member(11).tell()].iter().for_each(|message| kernel.hear(&message.parsed()));
    let kind = |kernel: &Kernel| kernel.devices(&uplinks).get(11).unwrap().kind;
    assert_eq!(kind(&kernel), DeviceKind::Other);
    let partial = |kernel: &Kernel| kernel.uplinks(&uplinks)[0].as_ref().unwrap().partial_checksums;
    assert!(partial(&kernel), "as its members");
    kernel.hear(&MemberMessage { master: None, ..member(11) }.tell().parsed());
    assert_eq!((kind(&kernel), partial(&kernel)), (DeviceKind::Pod, false));
}

#[test]
fn what_is_no_bond_and_no_member() {
    assert_eq!(bond_of(&[member(11).tell()]), None);
    assert_eq!(bond_of(&[good(1).tell()]), Some(Bond { members: Vec::new() }), "a bond without members");
    let elsewhere = MemberMessage { master: Some(99), ..member(12) };
    assert_eq!(roles(&[good(1).tell(), elsewhere.tell()]), [], "a member of another bond");
    assert_eq!(bond_of(&[good(1).tell(), member(11).tell(), Message::gone(BOND)]), None);
    let released = MemberMessage { master: None, ..member(11) };
    assert_eq!(roles(&[good(1).tell(), member(11).tell(), released.tell()]), []);
}
