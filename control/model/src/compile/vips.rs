//! The addresses that belong to services and to no device of ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use litemap::LiteMap;

/// An address that belongs to services and to no device of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// A LoadBalancer IP or externalIP: a candidate for announcement.
    pub announced: bool,
    /// A ClusterIP: all its ports are the Service's, and one that is not defined is refused (contract §2).
    pub cluster_ip: bool,
}

/// Counts which addresses services use, and says what changed.
#[derive(Debug, Default)]
pub(super) struct Vips {
    uses: HashMap<IpAddr, Uses>,
    /// Addresses of nodes, ours too: an externalIP may be one, but it is that host that answers for it.
    hosts: BTreeSet<IpAddr>,
    published: BTreeMap<IpAddr, Vip>,
    changed: BTreeSet<IpAddr>,
}

#[derive(Debug, Default)]
struct Uses {
    services: u32,
    announcing: u32,
    cluster: u32,
}

impl Vips {
    /// A service goes from the addresses `before` to those `after`.
    pub fn replace(&mut self, before: &LiteMap<IpAddr, Vip>, after: &LiteMap<IpAddr, Vip>) {
        if before == after {
            return;
        }
        for (address, vip) in after {
            let uses = self.uses.entry(*address).or_default();
            uses.services += 1;
            uses.announcing += u32::from(vip.announced);
            uses.cluster += u32::from(vip.cluster_ip);
            self.changed.insert(*address);
        }
        for (address, vip) in before {
            if let Some(uses) = self.uses.get_mut(address) {
                uses.services -= 1;
                uses.announcing -= u32::from(vip.announced);
                uses.cluster -= u32::from(vip.cluster_ip);
                if uses.services == 0 {
                    self.uses.remove(address);
                }
            }
            self.changed.insert(*address);
        }
    }

    pub fn set_hosts(&mut self, hosts: BTreeSet<IpAddr>) {
        self.changed.extend(self.hosts.symmetric_difference(&hosts));
        self.hosts = hosts;
    }

    /// What changed since the last call.
    pub fn publish(&mut self) -> Vec<(IpAddr, Option<Vip>)> {
        let mut changes = Vec::new();
        for address in std::mem::take(&mut self.changed) {
            let uses = self.uses.get(&address).filter(|_| !self.hosts.contains(&address));
            let vip = uses.map(|uses| Vip { announced: uses.announcing > 0, cluster_ip: uses.cluster > 0 });
            let before = match vip {
                Some(vip) => self.published.insert(address, vip),
                None => self.published.remove(&address),
            };
            if before != vip {
                changes.push((address, vip));
            }
        }
        changes
    }

    pub fn published(&self) -> impl Iterator<Item = (IpAddr, Vip)> {
        self.published.iter().map(|(address, vip)| (*address, *vip))
    }

    pub fn is_empty(&self) -> bool {
        self.uses.is_empty() && self.published.is_empty() && self.changed.is_empty()
    }
}
