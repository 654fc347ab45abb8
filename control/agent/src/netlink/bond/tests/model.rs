//! Random lives of a bond: what happens to it and its members is told in messages that come late, twice, and in any order between devices.
//! After each message, what we made of them is what the bonding driver would do in the state that was heard of.

use std::collections::{BTreeMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;
use xdp_redirect::Receives;

use super::super::super::kernel::Kernel;
use super::wire::{BondMessage, MemberMessage, Message};
use super::{BOND, good, member};

#[derive(Clone, Debug)]
enum Step {
    /// What becomes of the bond.
    Bond {
        up: bool,
        active: Option<u32>,
        all_receive: bool,
        aggregator: Option<u16>,
    },
    /// What becomes of a member, or of one that comes or was released.
    Member(MemberMessage),
    MemberGone(u32),
    /// The active aggregator becomes this one: its ports are enabled, those of all others disabled, and the bond says nothing.
    Selected(u16),
    /// As many messages about this device arrive.
    Arrive(u32, usize),
    /// The last one about this device arrives once more.
    Repeat(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let ifindex = || 11..15u32;
    let mostly = || proptest::bool::weighted(0.8);
    let aggregator = || proptest::option::weighted(0.8, 1..3u16);
    let masters = prop_oneof![8 => Just(Some(BOND)), 1 => Just(None), 1 => Just(Some(99))];
    let state = (masters, mostly(), mostly(), any::<bool>(), prop_oneof![4 => Just(0), 1 => 1..4u8], aggregator());
    let change = (ifindex(), state).prop_map(|(ifindex, (master, up, carrier, backup, mii, aggregator))| {
        Step::Member(MemberMessage { ifindex, master, up, carrier, backup, mii, aggregator })
    });
    let bond = (mostly(), proptest::option::weighted(0.9, ifindex()), proptest::bool::weighted(0.1), aggregator());
    prop_oneof![
        3 => bond.prop_map(|(up, active, all_receive, aggregator)| Step::Bond { up, active, all_receive, aggregator }),
        4 => change,
        1 => ifindex().prop_map(Step::MemberGone),
        1 => (1..3u16).prop_map(Step::Selected),
        6 => (BOND..15, 1..3usize).prop_map(|(ifindex, count)| Step::Arrive(ifindex, count)),
        2 => (BOND..15).prop_map(Step::Repeat),
    ]
}

/// What a message says.
#[derive(Clone, Copy)]
enum Truth {
    Bond(BondMessage),
    Member(MemberMessage),
    Gone,
}

/// What was told and what of it was heard, by device.
#[derive(Default)]
struct World {
    under_way: BTreeMap<u32, VecDeque<(Message, Truth)>>,
    last: BTreeMap<u32, (Message, Truth)>,
    kernel: Kernel,
    bond: Option<BondMessage>,
    members: BTreeMap<u32, MemberMessage>,
}

impl World {
    fn tell(&mut self, message: Message, truth: Truth) {
        self.under_way.entry(message.ifindex).or_default().push_back((message, truth));
    }

    fn arrive(&mut self, ifindex: u32) {
        if let Some(next) = self.under_way.get_mut(&ifindex).and_then(VecDeque::pop_front) {
            self.last.insert(ifindex, next);
            self.hear(ifindex);
        }
    }

    fn hear(&mut self, ifindex: u32) {
        let Some((message, truth)) = self.last.get(&ifindex) else { return };
        self.kernel.hear(&message.parsed());
        match *truth {
            Truth::Bond(bond) => self.bond = Some(bond),
            Truth::Member(member) => drop(self.members.insert(ifindex, member)),
            Truth::Gone => drop(self.members.remove(&ifindex)),
        }
        self.check();
    }

    fn select(&mut self, aggregator: u16) {
        let newest = |ifindex: &u32| self.under_way.get(ifindex).and_then(VecDeque::back).or(self.last.get(ifindex));
        let truths: Vec<Truth> = (11..15).filter_map(|ifindex| newest(&ifindex).map(|(_, truth)| *truth)).collect();
        for truth in truths {
            if let Truth::Member(member) = truth {
                let member = MemberMessage { backup: member.aggregator != Some(aggregator), ..member };
                self.tell(member.tell(), Truth::Member(member));
            }
        }
    }

    fn check(&self) {
        let found = self.kernel.bonds(&["bond0".into()]).remove(0);
        let Some(bond) = self.bond else { return assert_eq!(found, None) };
        let members = self.members.values().filter(|member| member.master == Some(BOND));
        let expected: Vec<_> = members.map(|member| (member.ifindex, may_send(&bond, member), may_take(&bond, member))).collect();
        let found = found.expect("a bond").members;
        let found: Vec<_> = found.iter().map(|member| (member.ifindex, member.transmits, member.receives)).collect();
        assert_eq!(found, expected, "{bond:?}, {:?}", self.members);
        let senders = found.iter().filter(|(_, transmits, _)| *transmits).count();
        assert!(!matches!(bond.mode, 1 | 5 | 6) || senders <= 1, "one at a time");
    }
}

/// `bond_slave_can_tx`, and which of those `bond_update_slave_arr`, or the bond's active one, leaves.
fn may_send(bond: &BondMessage, member: &MemberMessage) -> bool {
    if !bond.up || !member.up || !member.carrier || member.mii != 0 {
        return false;
    }
    let is_active = bond.active == Some(member.ifindex);
    [!member.backup, is_active, !member.backup, false, !member.backup, is_active, is_active][usize::from(bond.mode)]
}

/// `bond_should_deliver_exact_match`.
fn may_take(bond: &BondMessage, member: &MemberMessage) -> Receives {
    if !bond.up {
        return Receives::Nothing;
    }
    let is_active = bond.active == Some(member.ifindex);
    let inactive = if [1, 5, 6].contains(&bond.mode) { !is_active } else { member.backup };
    match inactive && !bond.all_receive {
        true if bond.mode == 6 => Receives::Unicast,
        true => Receives::Nothing,
        false => Receives::Everything,
    }
}

proptest! {
    #[test]
    fn what_was_heard_is_what_the_driver_does(mode in 0..7u8, steps in vec(step(), 1..60)) {
        let mut world = World::default();
        world.tell(good(mode).tell(), Truth::Bond(good(mode)));
        for ifindex in 11..13 {
            world.tell(member(ifindex).tell(), Truth::Member(member(ifindex)));
        }
        for step in steps {
            match step {
                Step::Bond { up, active, all_receive, aggregator } => {
                    let bond = BondMessage { mode, up, active, all_receive, aggregator };
                    world.tell(bond.tell(), Truth::Bond(bond));
                }
                Step::Member(member) => world.tell(member.tell(), Truth::Member(member)),
                Step::Selected(aggregator) => world.select(aggregator),
                Step::MemberGone(ifindex) => world.tell(Message::gone(ifindex), Truth::Gone),
                Step::Arrive(ifindex, count) => (0..count).for_each(|_| world.arrive(ifindex)),
                Step::Repeat(ifindex) => world.hear(ifindex),
            }
        }
        for ifindex in BOND..15 {
            while world.under_way.get(&ifindex).is_some_and(|messages| !messages.is_empty()) {
                world.arrive(ifindex);
            }
        }
    }
}
