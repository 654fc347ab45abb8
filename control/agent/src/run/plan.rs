//! Which worker serves which queue. Pure.

use ringway_io::{BindWanted, Port, PortConfig, WorkerConfig, XskmapSlot};
use xdp_redirect::XdpMode;

/// What a device is among the uplinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Nic,
    /// Addresses and routes are its own, and `edge`; queues, XDP and sockets are its members'.
    Bond,
    /// Of the bond of this index among the uplinks.
    Member(u8),
}

/// An uplink, or a member of one, as the workers see it. Its index among all plans is the number of its port: first come all uplinks, then all
/// members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkPlan {
    pub role: Role,
    pub name: String,
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// Queues that receive; none of a bond, or of a member that was down or is refused.
    pub queues: u32,
    /// Why a member that is up has no queues.
    pub refused: Option<String>,
    /// Where its queues begin in the map of sockets.
    pub base: u32,
    pub xdp: XdpMode,
    pub bind: BindWanted,
    /// Its packets may span frames.
    pub multi_buffer: bool,
}

impl UplinkPlan {
    /// The bond goes on with its other members.
    pub fn refuse(&mut self, why: String) {
        (self.queues, self.refused) = (0, Some(why));
    }
}

/// `rw0` as the workers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostlinkPlan {
    pub rw0_ifindex: u32,
    /// Its packets may span frames.
    pub multi_buffer: bool,
}

/// Maps of sockets.
#[derive(Clone, Debug)]
pub struct SocketMaps {
    pub uplinks: std::sync::Arc<std::os::fd::OwnedFd>,
    pub hostlink: std::sync::Arc<std::os::fd::OwnedFd>,
}

/// How many workers there should be: one per queue of the widest uplink, but no more than CPUs.
pub fn workers_default(queues: impl IntoIterator<Item = u32>, cpus: usize) -> usize {
    let widest = queues.into_iter().max().unwrap_or(1) as usize;
    widest.min(cpus).max(1)
}

/// Queue q of every uplink belongs to worker q modulo workers: so a worker has a queue to transmit on wherever the uplink has enough, and
/// what comes in on one uplink leaves on another without changing threads. Queue i of the hostlink is worker i's.
///
/// `has_zero_copy` tells it of the driver of an ifindex. Where it has none, a socket that may choose ends in copy mode; said beforehand, it
/// takes two thirds of the frames.
pub fn workers(
    uplinks: &[UplinkPlan],
    hostlink: HostlinkPlan,
    count: usize,
    cores: &[usize],
    maps: &SocketMaps,
    has_zero_copy: impl Fn(u32) -> bool,
) -> Vec<WorkerConfig> {
    let mut workers: Vec<WorkerConfig> = (0..count)
        .map(|worker| WorkerConfig {
            core: if cores.is_empty() { None } else { Some(cores[worker % cores.len()]) },
            ports: vec![PortConfig {
                port: Port::Host,
                ifname: crate::netlink::RW0.into(),
                ifindex: hostlink.rw0_ifindex,
                queue: worker as u32,
                mode: BindWanted::Copy,
                multi_buffer: hostlink.multi_buffer,
                xskmap: Some(XskmapSlot { map: maps.hostlink.clone(), key: worker as u32 }),
            }],
        })
        .collect();
    for (number, uplink) in uplinks.iter().enumerate() {
        let mode = if uplink.bind == BindWanted::Auto && !has_zero_copy(uplink.ifindex) { BindWanted::Copy } else { uplink.bind };
        for queue in 0..uplink.queues {
            workers[queue as usize % count].ports.push(PortConfig {
                port: Port::Uplink(number as u8),
                ifname: uplink.name.clone(),
                ifindex: uplink.ifindex,
                queue,
                mode,
                multi_buffer: uplink.multi_buffer,
                xskmap: Some(XskmapSlot { map: maps.uplinks.clone(), key: uplink.base + queue }),
            });
        }
    }
    workers
}

/// By port: whether the worker can transmit there itself.
pub fn transmits_on(worker: &WorkerConfig, ports: usize) -> Vec<bool> {
    (0..ports).map(|number| worker.ports.iter().any(|port| port.port == Port::Uplink(number as u8))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(queues: u32, base: u32) -> UplinkPlan {
        let (role, xdp, bind) = (Role::Nic, XdpMode::Native, BindWanted::Auto);
        UplinkPlan { role, name: "u".into(), ifindex: 7, mac: [2; 6], queues, refused: None, base, xdp, bind, multi_buffer: false }
    }

    fn maps() -> SocketMaps {
        let fd = || std::sync::Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        SocketMaps { uplinks: fd(), hostlink: fd() }
    }

    #[test]
    fn every_queue_has_one_worker() {
        let hostlink = HostlinkPlan { rw0_ifindex: 3, multi_buffer: true };
        let plan = workers(&[uplink(4, 0), uplink(1, 4)], hostlink, 2, &[0, 1], &maps(), |_| true);
        let queues =
            |worker: usize, port: Port| -> Vec<u32> { plan[worker].ports.iter().filter(|p| p.port == port).map(|p| p.queue).collect() };
        assert_eq!((queues(0, Port::Uplink(0)), queues(1, Port::Uplink(0))), (vec![0, 2], vec![1, 3]));
        assert_eq!((queues(0, Port::Uplink(1)), queues(1, Port::Uplink(1))), (vec![0], vec![]));
        assert_eq!((queues(0, Port::Host), queues(1, Port::Host)), (vec![0], vec![1]));
        assert_eq!(transmits_on(&plan[1], 2), [true, false]);
        let keys: Vec<u32> =
            plan.iter().flat_map(|w| &w.ports).filter(|p| p.port != Port::Host).filter_map(|p| Some(p.xskmap.as_ref()?.key)).collect();
        assert_eq!(keys, [0, 2, 4, 1, 3]);
        assert!(plan.iter().flat_map(|w| &w.ports).all(|p| p.multi_buffer == (p.port == Port::Host)));
    }

    #[test]
    fn what_cannot_be_zero_copy_is_copy() {
        let hostlink = HostlinkPlan { rw0_ifindex: 3, multi_buffer: false };
        let plans = [BindWanted::Auto, BindWanted::ZeroCopy, BindWanted::Copy].map(|bind| UplinkPlan { bind, ..uplink(1, 0) });
        let modes = |has_zero_copy: bool| {
            let workers = workers(&plans, hostlink, 1, &[], &maps(), |ifindex| ifindex == 7 && has_zero_copy);
            workers[0].ports[1..].iter().map(|port| port.mode).collect::<Vec<_>>()
        };
        assert_eq!(modes(true), [BindWanted::Auto, BindWanted::ZeroCopy, BindWanted::Copy]);
        assert_eq!(modes(false), [BindWanted::Copy, BindWanted::ZeroCopy, BindWanted::Copy], "who insists is refused");
    }

    #[test]
    fn as_many_workers_as_queues_and_cpus() {
        assert_eq!(workers_default([1, 8], 4), 4);
        assert_eq!(workers_default([2], 4), 2);
        assert_eq!(workers_default([], 4), 1);
    }
}
