//! Uplinks that are bonds: their members among the ports of the workers, and what follows when one of them goes down or another takes over.

use ringway_engine::tables::{Bonds, Uplink};
use ringway_io::FrameSize;
use xdp_redirect::UplinkUse;

use super::control::Control;
use super::packets::modes;
use super::plan::{Role, UplinkPlan};
use crate::config::Mode;
use crate::netlink::{Bond, Member};
use crate::programs;

/// The plans of all ports: the uplinks, then the members of those that are bonds. `queues` of a device that receive; a member that is down
/// has none, for no socket could be bound there, nor has one that does not tell them.
///
/// # Errors
/// Of `queues` of an uplink that is no bond, or there are more than the programs can tell apart.
pub fn plan_uplinks(
    uplinks: &[Uplink],
    bonds: &[Option<Bond>],
    queues: impl Fn(&str) -> anyhow::Result<u32>,
    mode: Mode,
) -> anyhow::Result<Vec<UplinkPlan>> {
    let (xdp, bind) = modes(mode);
    let bonds = || bonds.iter().map(Option::as_ref).chain(std::iter::repeat(None));
    let plan = |role, uplink: &Uplink, (name, ifindex, mac, serves): (&str, u32, [u8; 6], bool)| {
        let multi_buffer = FrameSize::is_spanned_by(uplink.mtu);
        let mut plan = UplinkPlan { role, name: name.into(), ifindex, mac, queues: 0, refused: None, base: 0, xdp, bind, multi_buffer };
        match if serves { queues(name) } else { Ok(0) } {
            Ok(queues) => plan.queues = queues,
            Err(error) if matches!(role, Role::Member(_)) => plan.refuse(format!("{error:#}")),
            Err(error) => return Err(error),
        }
        Ok(plan)
    };
    let masters = uplinks.iter().zip(bonds()).map(|(uplink, bond)| {
        let role = if bond.is_some() { Role::Bond } else { Role::Nic };
        plan(role, uplink, (&uplink.name, uplink.ifindex, uplink.mac, role == Role::Nic))
    });
    let members = uplinks.iter().zip(bonds()).enumerate().flat_map(|(number, (uplink, bond))| {
        let members = bond.map_or(&[][..], |bond| &bond.members).iter();
        members.map(move |member| (Role::Member(number as u8), uplink, member))
    });
    let members = members.map(|(role, uplink, member)| plan(role, uplink, (&member.name, member.ifindex, member.mac, member.up)));
    let mut plans = masters.chain(members).collect::<anyhow::Result<Vec<_>>>()?;
    let queues: Vec<u32> = plans.iter().map(|plan| plan.queues).collect();
    for (plan, base) in plans.iter_mut().zip(programs::queue_bases(&queues)?) {
        plan.base = base;
    }
    Ok(plans)
}

/// The member that a plan was made for, if it still is one.
fn member<'a>(plan: &UplinkPlan, bonds: &'a [Option<Bond>]) -> Option<&'a Member> {
    let Role::Member(uplink) = plan.role else { return None };
    bonds.get(usize::from(uplink))?.as_ref()?.members.iter().find(|member| member.ifindex == plan.ifindex)
}

/// What the workers have to know: their ports stay those of the plans, whatever the members have become since.
pub fn ports(plans: &[UplinkPlan], bonds: &[Option<Bond>]) -> Bonds {
    let members = plans.iter().filter_map(|plan| if let Role::Member(uplink) = plan.role { Some(uplink) } else { None });
    let carriers = |number: usize| {
        let transmits =
            |plan: &UplinkPlan| plan.role == Role::Member(number as u8) && member(plan, bonds).is_some_and(|member| member.transmits);
        (0u8..).zip(plans).filter(|(_, plan)| plan.queues > 0 && transmits(plan)).map(|(port, _)| port).collect()
    };
    let last = plans.iter().rposition(|plan| plan.role == Role::Bond).map_or(0, |last| last + 1);
    let by_uplink = plans[..last].iter().enumerate().map(|(number, plan)| (plan.role == Role::Bond).then(|| carriers(number)));
    Bonds { members: members.collect(), carriers: by_uplink.collect() }
}

/// What the programs have to know of each device that has sockets. A member that left receives nothing for us.
pub fn uses(plans: &[UplinkPlan], uplinks: &[Uplink], bonds: &[Option<Bond>]) -> Vec<UplinkUse> {
    // A NIC's MAC may have changed since its plan was made.
    let mac = |plan: &UplinkPlan| uplinks.iter().find(|uplink| uplink.ifindex == plan.ifindex).map_or(plan.mac, |uplink| uplink.mac);
    let own = plans.iter().filter(|plan| plan.role != Role::Bond);
    let of = |plan: &UplinkPlan| {
        let (mac, receives) = match (plan.role, member(plan, bonds)) {
            (Role::Member(_), Some(member)) => (member.mac, member.receives),
            (Role::Member(_), None) => (plan.mac, xdp_redirect::Receives::Nothing),
            _ => (mac(plan), xdp_redirect::Receives::Everything),
        };
        UplinkUse { ifindex: plan.ifindex, queue_base: plan.base, mac, receives }
    };
    own.map(of).collect()
}

impl Control {
    /// Bonds have changed: the programs know at once what each member receives, and the next snapshot which of them transmit.
    ///
    /// Returns whether another member has begun to transmit: stations and switches have to learn that.
    pub fn follow_bonds(&mut self, before: &Bonds) -> bool {
        let plans = &self.packets.shape.uplinks;
        if let Err(error) = self.programs.uplinks.set(&uses(plans, &self.node.uplinks, &self.node.bonds)) {
            tracing::error!("cannot tell the programs which members of a bond receive: {error}");
        }
        let now = ports(plans, &self.node.bonds);
        for (plan, carriers) in plans.iter().zip(&now.carriers).filter(|(plan, _)| plan.role == Role::Bond) {
            let names: Vec<&str> = carriers.iter().flatten().map(|port| plans[usize::from(*port)].name.as_str()).collect();
            tracing::info!("uplink {} transmits by {}", plan.name, if names.is_empty() { "no member".into() } else { names.join(", ") });
        }
        let known: Vec<u8> = before.carriers.iter().flatten().flatten().copied().collect();
        now.carriers.iter().flatten().flatten().any(|port| !known.contains(port))
    }

    /// Bonds by which nothing can be sent now.
    pub fn mute_bonds(&self) -> impl Iterator<Item = &str> {
        let bonds = self.node.uplinks.iter().zip(&self.node.bonds);
        let mute = |bond: &Bond| !bond.members.iter().any(|member| member.transmits);
        bonds.filter(move |(_, bond)| bond.as_ref().is_some_and(mute)).map(|(uplink, _)| uplink.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use xdp_redirect::Receives;

    use super::*;

    fn uplink(name: &str, ifindex: u32) -> Uplink {
        Uplink { name: name.into(), ifindex, mac: [2, 0, 0, 0, 0, ifindex as u8], mtu: 1500, partial_checksums: false }
    }

    fn member(ifindex: u32, transmits: bool) -> Member {
        let receives = if transmits { Receives::Everything } else { Receives::Nothing };
        Member { name: format!("eth{ifindex}"), ifindex, mac: [2, 0, 0, 0, 1, ifindex as u8], up: true, transmits, receives }
    }

    /// A NIC, a bond of two, another NIC, a bond of one.
    fn plans(bonds: &[Option<Bond>]) -> Vec<UplinkPlan> {
        let uplinks = [uplink("eth2", 2), uplink("bond0", 3), uplink("eth4", 4), uplink("bond1", 5)];
        plan_uplinks(&uplinks, bonds, |name| Ok(if name == "eth11" { 4 } else { 2 }), Mode::Auto).unwrap()
    }

    fn bonds(first: Vec<Member>, second: Vec<Member>) -> Vec<Option<Bond>> {
        vec![None, Some(Bond { members: first }), None, Some(Bond { members: second })]
    }

    #[test]
    fn members_come_after_all_uplinks_and_have_the_queues() {
        let down = Member { up: false, ..member(13, false) };
        let plans = plans(&bonds(vec![member(11, true), member(12, false)], vec![down]));
        let shown: Vec<_> = plans.iter().map(|plan| (plan.role, plan.name.as_str(), plan.queues, plan.base)).collect();
        let expected = [
            (Role::Nic, "eth2", 2, 0),
            (Role::Bond, "bond0", 0, 2),
            (Role::Nic, "eth4", 2, 2),
            (Role::Bond, "bond1", 0, 4),
            (Role::Member(1), "eth11", 4, 4),
            (Role::Member(1), "eth12", 2, 8),
            (Role::Member(3), "eth13", 0, 10),
        ];
        assert_eq!(shown, expected);
        let told = |name: &str| if name == "eth11" { anyhow::bail!("{name} is gone") } else { Ok(2) };
        let both = bonds(vec![member(11, true), member(12, true)], vec![]);
        let plans = plan_uplinks(&[uplink("eth2", 2), uplink("bond0", 3)], &both, told, Mode::Auto).unwrap();
        let shown: Vec<_> = plans.iter().map(|plan| (plan.queues, plan.refused.as_deref())).collect();
        assert_eq!(shown, [(2, None), (0, None), (0, Some("eth11 is gone")), (2, None)]);
        assert_eq!(ports(&plans, &both).carriers, [None, Some(vec![3])], "the other one carries all");
        assert!(plan_uplinks(&[uplink("eth2", 2)], &[], |name| anyhow::bail!("{name} is gone"), Mode::Auto).is_err());
    }

    #[test]
    fn ports_stay_while_members_come_and_go() {
        let both = bonds(vec![member(11, true), member(12, true)], vec![member(13, true)]);
        let plans = plans(&both);
        let carriers = |seen: &[Option<Bond>]| {
            let ports = ports(&plans, seen);
            assert_eq!(ports.members, [1, 1, 3]);
            ports.carriers
        };
        assert_eq!(carriers(&both), [None, Some(vec![4, 5]), None, Some(vec![6])]);
        assert_eq!(carriers(&bonds(vec![member(12, true)], vec![])), [None, Some(vec![5]), None, Some(vec![])], "one left");
        let moved = bonds(vec![member(9, true), member(11, false), member(12, true)], vec![member(11, true)]);
        assert_eq!(carriers(&moved), [None, Some(vec![5]), None, Some(vec![])], "no plan knows those that came");
        assert_eq!(carriers(&[]), [None, Some(vec![]), None, Some(vec![])], "the bonds are gone");
        assert_eq!(ports(&super::tests::plans(&[]), &[]), Bonds::default());
    }

    #[test]
    fn the_programs_know_members_and_no_bonds() {
        let plans = plans(&bonds(vec![member(11, true), member(12, true)], vec![]));
        let seen = bonds(vec![member(11, false)], vec![]);
        let uplinks = [Uplink { mac: [2, 0, 0, 0, 9, 2], ..uplink("eth2", 2) }, uplink("bond0", 3), uplink("eth4", 40)];
        let uses = uses(&plans, &uplinks, &seen);
        let shown: Vec<_> = uses.iter().map(|used| (used.ifindex, used.queue_base, used.receives)).collect();
        use Receives::{Everything, Nothing};
        assert_eq!(shown, [(2, 0, Everything), (4, 2, Everything), (11, 4, Nothing), (12, 8, Nothing)], "eth12 has left");
        let macs: Vec<_> = uses.iter().map(|used| used.mac).collect();
        let left = [2, 0, 0, 0, 1, 12];
        assert_eq!(macs, [[2, 0, 0, 0, 9, 2], [2, 0, 0, 0, 0, 4], [2, 0, 0, 0, 1, 11], left], "that of now, of those that are there");
    }
}
