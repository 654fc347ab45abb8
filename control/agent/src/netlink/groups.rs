//! The multicast groups by which stations ask for the announced IPv6 addresses. The kernel knows nothing of these addresses, so it has to
//! be asked: then the NIC lets the solicitations in, and the kernel's MLD reports make switches that look for them send them here.

use std::collections::hash_map::Entry;
use std::io;
use std::net::Ipv6Addr;

use rustc_hash::{FxHashMap, FxHashSet};
use socket2::{Domain, Protocol, Socket, Type};

/// A group that the kernel did not join. It is tried again with the next [`Groups::follow`].
#[derive(Debug)]
pub struct GroupRefused {
    pub ifindex: u32,
    pub group: Ipv6Addr,
    pub error: io::Error,
}

/// Memberships of this process. They end with it.
#[derive(Debug, Default)]
pub struct Groups {
    sockets: Vec<Member>,
    /// (ifindex, group) → index of the socket.
    joined: FxHashMap<(u32, Ipv6Addr), usize>,
}

/// A socket that is only there to be a member of groups: it is bound to no port and receives nothing.
#[derive(Debug)]
struct Member {
    socket: Socket,
    /// The kernel takes each membership off `net.core.optmem_max`, which each socket has for itself.
    full: bool,
}

/// The solicited-node multicast group of an address (RFC 4291 section 2.7.1): of its last 24 bits, so some addresses share one.
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high, low)
}

impl Groups {
    /// Joins the solicited-node groups of these addresses on these devices, and leaves those that are not wanted any more. Returns what
    /// the kernel refuses.
    pub fn follow(&mut self, devices: &[u32], addresses: impl Iterator<Item = Ipv6Addr>) -> Vec<GroupRefused> {
        let groups: FxHashSet<Ipv6Addr> = addresses.map(solicited_node).collect();
        let wanted: FxHashSet<(u32, Ipv6Addr)> = devices.iter().flat_map(|ifindex| groups.iter().map(|group| (*ifindex, *group))).collect();
        let sockets = &mut self.sockets;
        self.joined.retain(|key, number| {
            let keep = wanted.contains(key);
            if !keep {
                // It fails only for what the socket is no member of.
                sockets[*number].socket.leave_multicast_v6(&key.1, key.0).ok();
                sockets[*number].full = false;
            }
            keep
        });
        let mut refused = Vec::new();
        for (ifindex, group) in wanted {
            if let Entry::Vacant(place) = self.joined.entry((ifindex, group)) {
                match join(&mut self.sockets, ifindex, group) {
                    Ok(number) => drop(place.insert(number)),
                    Err(error) => refused.push(GroupRefused { ifindex, group, error }),
                }
            }
        }
        refused
    }
}

/// Joins by the first socket that has room, or by a new one; returns its index.
fn join(sockets: &mut Vec<Member>, ifindex: u32, group: Ipv6Addr) -> io::Result<usize> {
    for (number, member) in sockets.iter_mut().enumerate().filter(|(_, member)| !member.full) {
        match member.socket.join_multicast_v6(&group, ifindex) {
            Ok(()) => return Ok(number),
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => member.full = true,
            Err(error) => return Err(error),
        }
    }
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.join_multicast_v6(&group, ifindex)?;
    sockets.push(Member { socket, full: false });
    Ok(sockets.len() - 1)
}
