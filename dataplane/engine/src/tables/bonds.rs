//! Ports of the workers: the uplinks, and the members of those that are bonds.

use super::{NodeTables, Uplink};

/// A frame is received and transmitted on a port. Ports are numbered: first the uplinks, each by its index in `NodeTables::uplinks`, then the
/// members of all bonds. An uplink that is a bond is no port of its own: it has no queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bonds {
    /// By port, from the first behind the uplinks on: the uplink of which it is a member.
    pub members: Vec<u8>,
    /// By uplink, as far as the last bond: the ports of the members that may transmit now. `None`: no bond.
    pub carriers: Vec<Option<Vec<u8>>>,
}

impl NodeTables {
    /// The uplink to which a port belongs.
    #[inline]
    pub fn uplink_of(&self, port: u8) -> Option<&Uplink> {
        self.uplinks.get(self.uplink_number(port))
    }

    fn uplink_number(&self, port: u8) -> usize {
        let port = usize::from(port);
        // Past the last member there is none: nobody has that many uplinks.
        port.checked_sub(self.uplinks.len())
            .map_or(port, |member| self.bonds.members.get(member).map_or(usize::MAX, |uplink| (*uplink).into()))
    }

    /// The port for packets to an uplink. Those of one `spread` stay in order on one member of a bond while its members stay as they are. `None`
    /// if no member may transmit.
    #[inline]
    pub fn port_to(&self, uplink: u8, spread: u64) -> Option<u8> {
        match self.bonds.carriers.get(usize::from(uplink)) {
            None | Some(None) => Some(uplink),
            Some(Some(carriers)) => {
                let mixed = spread.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                carriers.get(((mixed * carriers.len() as u64) >> 32) as usize).copied()
            }
        }
    }

    /// The port for the answer to a packet that was received on this one: the same, if it may transmit.
    pub fn port_back(&self, port: u8) -> Option<u8> {
        match self.bonds.carriers.get(self.uplink_number(port)) {
            None | Some(None) => Some(port),
            Some(Some(carriers)) => carriers.iter().find(|carrier| **carrier == port).or(carriers.first()).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uplinks 0 and 1, of which 1 is a bond with the ports 2, 3 and 4.
    fn node(carriers: &[u8]) -> NodeTables {
        let uplink = |ifindex| Uplink { name: String::new(), ifindex, mac: [0; 6], mtu: 1500, partial_checksums: false };
        let bonds = Bonds { members: vec![1, 1, 1], carriers: vec![None, Some(carriers.to_vec())] };
        NodeTables { uplinks: vec![uplink(7), uplink(8)], bonds, ..NodeTables::default() }
    }

    #[test]
    fn ports_belong_to_uplinks() {
        let node = node(&[]);
        let owners: Vec<_> = (0..6).map(|port| node.uplink_of(port).map(|uplink| uplink.ifindex)).collect();
        assert_eq!(owners, [Some(7), Some(8), Some(8), Some(8), Some(8), None]);
        assert_eq!((node.uplink_of(255), NodeTables::default().uplink_of(0)), (None, None));
    }

    #[test]
    fn packets_leave_by_members_that_transmit() {
        for carriers in [&[2][..], &[3, 4], &[2, 3, 4]] {
            let node = node(carriers);
            let mut packets = [0usize; 5];
            // Slots of a table: most flows have the first one of their bucket.
            for spread in (0..4_000).step_by(4) {
                packets[usize::from(node.port_to(1, spread).unwrap())] += 1;
                assert_eq!(node.port_to(1, spread), node.port_to(1, spread));
                assert_eq!(node.port_to(0, spread), Some(0));
            }
            let fair = 1_000 / carriers.len();
            let is_even = |port: u8| packets[usize::from(port)].abs_diff(fair) <= fair / 5;
            assert!(carriers.iter().all(|port| is_even(*port)) && packets.iter().sum::<usize>() == 1_000, "{packets:?}");
        }
        assert_eq!(node(&[]).port_to(1, 3), None);
    }

    #[test]
    fn answers_go_back_the_way_they_came_if_they_may() {
        let node = node(&[3, 4]);
        assert_eq!([0, 3, 4, 2].map(|port| node.port_back(port)), [Some(0), Some(3), Some(4), Some(3)]);
        assert_eq!(self::node(&[]).port_back(2), None);
    }
}
