//! Bonds: which members there are, which of them may transmit, and what each may receive. Pure.
//!
//! The rules are those by which the kernel's bonding driver sends and receives itself (drivers/net/bonding/bond_main.c): `bond_slave_can_tx`
//! and `bond_should_deliver_exact_match`. All that they ask for stands in the messages about the bond and its members, each of which holds
//! the whole state of one device: whatever their order, the last ones of all are right. Of 802.3ad only what the members say is asked for:
//! the driver says nothing of the bond when another aggregator becomes the active one while the bond's carrier stays
//! (`ad_agg_selection_logic`), but enables the ports of the active aggregator only, and tells that of each.

#[cfg(test)]
mod tests;

use netlink_packet_route::link::{
    BondAllPortActive, BondMode, BondPortState, InfoBond, InfoBondPort, InfoData, InfoKind, InfoPortData, LinkFlags, LinkInfo, MiiStatus,
};
use xdp_redirect::Receives;

use super::convert::Link;

/// An uplink that is a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bond {
    /// Sorted by ifindex.
    pub members: Vec<Member>,
}

/// A member of a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub ifindex: u32,
    /// Its own: of most modes all members have the bond's.
    pub mac: [u8; 6],
    /// Administratively.
    pub up: bool,
    /// It is up, has a carrier, and the bond sends by it.
    pub transmits: bool,
    pub receives: Receives,
}

/// What a bond says of itself: `IFLA_INFO_DATA`, from linux/if_link.h on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BondState {
    mode: BondMode,
    /// Of the modes with one active member.
    active: Option<u32>,
    /// Inactive members receive, too.
    all_receive: bool,
}

/// What a member says of itself: `IFLA_INFO_SLAVE_DATA`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemberState {
    /// Not a backup: in 802.3ad it distributes.
    active: bool,
    /// Its link is up by the bond's own monitor.
    link_up: bool,
}

impl BondState {
    /// `None` of what is no bond.
    pub(super) fn read(infos: &[LinkInfo]) -> Option<BondState> {
        let settings = infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Bond(settings)) => Some(settings),
            _ => None,
        })?;
        let mut state = BondState { mode: BondMode::default(), active: None, all_receive: false };
        for setting in settings {
            match setting {
                InfoBond::Mode(mode) => state.mode = *mode,
                InfoBond::ActivePort(ifindex) => state.active = Some(*ifindex),
                InfoBond::AllPortsActive(all) => state.all_receive = *all == BondAllPortActive::Delivered,
                _ => {}
            }
        }
        Some(state)
    }

    /// Of a member in this state, on a device that is up and has a carrier: whether the bond sends by it. Of modes with one active member
    /// only that one, also where the kernel would spread (balance-tlb, balance-alb): the others send with MACs of their own.
    fn transmits_by(&self, ifindex: u32, member: MemberState) -> bool {
        use BondMode::{ActiveBackup, BalanceAlb, BalanceRr, BalanceTlb, BalanceXor, Ieee8023Ad};
        let may = match self.mode {
            ActiveBackup | BalanceTlb | BalanceAlb => self.active == Some(ifindex),
            BalanceRr | BalanceXor | Ieee8023Ad => member.active,
            // By all members at once (broadcast), or unknown to us: the kernel sends.
            _ => false,
        };
        may && member.link_up
    }

    /// What a member in this state receives.
    fn receives_by(&self, ifindex: u32, member: MemberState) -> Receives {
        use BondMode::{ActiveBackup, BalanceAlb, BalanceTlb};
        let inactive = match self.mode {
            ActiveBackup | BalanceTlb | BalanceAlb => self.active != Some(ifindex),
            _ => !member.active,
        };
        match (inactive && !self.all_receive, self.mode) {
            (false, _) => Receives::Everything,
            (true, BalanceAlb) => Receives::Unicast,
            (true, _) => Receives::Nothing,
        }
    }
}

/// The mode of a bond; `None` of what is none.
pub fn bond_mode(infos: &[LinkInfo]) -> Option<BondMode> {
    BondState::read(infos).map(|state| state.mode)
}

impl MemberState {
    /// `None` of what is no member of a bond.
    pub(super) fn read(infos: &[LinkInfo]) -> Option<MemberState> {
        let settings = infos.iter().find_map(|info| match info {
            LinkInfo::PortData(InfoPortData::BondPort(settings)) => Some(settings),
            _ => None,
        })?;
        let mut state = MemberState::default();
        for setting in settings {
            match setting {
                InfoBondPort::BondPortState(bond_state) => state.active = *bond_state == BondPortState::Active,
                InfoBondPort::MiiStatus(status) => state.link_up = *status == MiiStatus::Up,
                _ => {}
            }
        }
        Some(state)
    }
}

/// Whether a device is a bond or a member of one.
pub(super) fn is_part(link: &Link) -> bool {
    link.bond.is_some() || link.bond_member.is_some()
}

/// The bond that a device is, with its members among all devices; `None` if it is none.
pub(super) fn bond<'a>(master: &Link, links: impl Iterator<Item = &'a Link>) -> Option<Bond> {
    if master.kind != Some(InfoKind::Bond) {
        return None;
    }
    let is_up = master.flags.contains(LinkFlags::Up);
    let member = |link: &Link| {
        let state = link.bond_member?;
        let works = is_up && link.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        Some(Member {
            name: link.name.clone(),
            ifindex: link.ifindex,
            mac: link.mac,
            up: link.flags.contains(LinkFlags::Up),
            transmits: works && master.bond.is_some_and(|bond| bond.transmits_by(link.ifindex, state)),
            receives: match master.bond {
                Some(bond) if is_up => bond.receives_by(link.ifindex, state),
                _ => Receives::Nothing,
            },
        })
    };
    let mut members: Vec<Member> = links.filter(|link| link.controller == Some(master.ifindex)).filter_map(member).collect();
    members.sort_by_key(|member| member.ifindex);
    Some(Bond { members })
}
