//! Load-balancer and external addresses once more under [`VIP_ALIAS`] and [`VIP_ALIAS6`], for the node's own sockets: the BPF programs
//! `node` send them there, each frontend to a port of its own.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ringway_engine::tables::{Frontend, FrontendKey, FrontendKind, VIP_ALIAS, VIP_ALIAS6};
use ringway_model::{IpFamily, PerFamily};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

/// Which frontend has which port of the alias. A socket of the node keeps the port that it was given for life, so a number is nobody
/// else's as long as others are free, and a frontend that comes back has the one that it had.
#[derive(Debug, Default)]
pub struct VipPorts {
    by_frontend: PerFamily<FxHashMap<FrontendKey, u16>>,
    /// By the key under the alias.
    by_alias: FxHashMap<FrontendKey, FrontendKey>,
    /// What was ever given, by this process or the one before.
    given: FxHashMap<FrontendKey, u16>,
    /// Keys under the alias.
    taken: FxHashSet<FrontendKey>,
}

impl VipPorts {
    /// Keeps the ports that an earlier process gave; `aliases` are the keys under which its sockets may still be connected.
    pub fn over(given: impl IntoIterator<Item = (FrontendKey, u16)>, aliases: impl IntoIterator<Item = FrontendKey>) -> VipPorts {
        let given: FxHashMap<_, _> = given.into_iter().filter(|(_, port)| *port != 0).collect();
        let taken = given.iter().map(|(key, port)| alias(key, *port)).chain(aliases).collect();
        VipPorts { given, taken, ..VipPorts::default() }
    }

    /// Takes in changed frontends and returns what changes under the alias; `None` removes. `drains` tells ports whose last connections
    /// go on: nobody else gets them.
    pub fn apply(
        &mut self,
        frontends: &[(FrontendKey, Option<Arc<Frontend>>)],
        drains: impl Fn(&FrontendKey) -> bool,
    ) -> Vec<(FrontendKey, Option<Arc<Frontend>>)> {
        let mut changes = BTreeMap::new();
        for (key, frontend) in frontends {
            let of_vip = |frontend: &&Arc<Frontend>| matches!(frontend.kind, FrontendKind::LoadBalancerIp | FrontendKind::ExternalIp);
            match frontend.as_ref().filter(of_vip) {
                Some(frontend) => match self.port(key).or_else(|| self.give(key, &drains)) {
                    Some(port) => drop(changes.insert(alias(key, port), Some(Arc::clone(frontend)))),
                    None => {
                        let address = SocketAddr::new(key.address, key.port);
                        tracing::warn!("{address}: no port of the alias is left, the node's own sockets do not reach it")
                    }
                },
                None => {
                    if let Some(port) = self.by_frontend[IpFamily::of(&key.address)].remove(key) {
                        self.by_alias.remove(&alias(key, port));
                        changes.insert(alias(key, port), None);
                    }
                }
            }
        }
        changes.into_iter().collect()
    }

    /// The port of a frontend.
    pub fn port(&self, key: &FrontendKey) -> Option<u16> {
        self.by_frontend[IpFamily::of(&key.address)].get(key).copied()
    }

    /// The frontend that has a port of the alias.
    pub fn frontend(&self, alias: &FrontendKey) -> Option<FrontendKey> {
        self.by_alias.get(alias).copied()
    }

    pub fn is_empty(&self, family: IpFamily) -> bool {
        self.by_frontend[family].is_empty()
    }

    fn give(&mut self, key: &FrontendKey, drains: impl Fn(&FrontendKey) -> bool) -> Option<u16> {
        let had = self.given.get(key).copied().filter(|port| !self.by_alias.contains_key(&alias(key, *port)));
        // Begun where the frontend itself says, so that a process that knows nothing gives mostly the same numbers.
        let start = (FxBuildHasher.hash_one(key) >> 32) as u16;
        let is_free = |port: &u16| *port != 0 && !self.by_alias.contains_key(&alias(key, *port)) && !drains(&alias(key, *port));
        let free = || (0..=u16::MAX).map(|step| start.wrapping_add(step)).filter(is_free);
        let port = had.or_else(|| free().find(|port| !self.taken.contains(&alias(key, *port)))).or_else(|| free().next())?;
        self.by_frontend[IpFamily::of(&key.address)].insert(*key, port);
        self.by_alias.insert(alias(key, port), *key);
        self.given.insert(*key, port);
        self.taken.insert(alias(key, port));
        Some(port)
    }
}

/// The address that stands for all load-balancer and external addresses of a family.
pub fn alias_of(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => VIP_ALIAS.into(),
        IpFamily::V6 => VIP_ALIAS6.into(),
    }
}

pub fn is_alias(key: &FrontendKey) -> bool {
    key.address == alias_of(IpFamily::of(&key.address))
}

/// The key under which the node's own sockets reach a frontend that has this port of the alias.
pub fn alias(key: &FrontendKey, port: u16) -> FrontendKey {
    FrontendKey { address: alias_of(IpFamily::of(&key.address)), port, protocol: key.protocol }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ringway_engine::tables::{ServicePortName, Target};

    const TCP: u8 = 6;

    fn key(last: u8, port: u16) -> FrontendKey {
        FrontendKey { address: [192, 0, 2, last].into(), port, protocol: TCP }
    }

    fn frontend(kind: FrontendKind) -> Option<Arc<Frontend>> {
        let service = Arc::new(ServicePortName { namespace: "default".into(), name: "web".into(), port: "".into() });
        let (outside, inside) = (Target::NoBackend, Target::NoBackend);
        Some(Arc::new(Frontend { service, kind, outside, inside, source_ranges: None, affinity: None }))
    }

    fn give(ports: &mut VipPorts, key: FrontendKey) -> u16 {
        let made = ports.apply(&[(key, frontend(FrontendKind::ExternalIp))], |_| false);
        assert!(
            matches!(&made[..], [(alias, Some(_))] if is_alias(alias) && alias.address.is_ipv4() == key.address.is_ipv4() && alias.protocol == TCP),
            "{made:?}"
        );
        assert_eq!(ports.frontend(&made[0].0), Some(key));
        made[0].0.port
    }

    #[test]
    fn each_frontend_has_a_port_of_its_own_as_long_as_it_lives() {
        let mut ports = VipPorts::default();
        let (one, other) = (give(&mut ports, key(1, 80)), give(&mut ports, key(2, 80)));
        assert_ne!(one, other);
        assert_eq!(give(&mut ports, key(1, 80)), one, "a change of its backends");
        let others = [FrontendKind::ClusterIp, FrontendKind::NodePort];
        assert!(others.into_iter().all(|kind| ports.apply(&[(key(3, 80), frontend(kind))], |_| false).is_empty()));
        assert_eq!(ports.apply(&[(key(1, 80), None)], |_| false), [(alias(&key(1, 80), one), None)]);
        assert_eq!((ports.port(&key(1, 80)), ports.frontend(&alias(&key(1, 80), one))), (None, None));
        assert_eq!(ports.apply(&[(key(2, 80), frontend(FrontendKind::ClusterIp))], |_| false), [(alias(&key(2, 80), other), None)]);
        assert!(ports.is_empty(IpFamily::V4));
    }

    #[test]
    fn each_family_has_all_ports() {
        let six = |port| FrontendKey { address: "2001:db8::1".parse().unwrap(), ..key(1, port) };
        let mut ports = VipPorts::over([(key(1, 80), 9), (six(80), 9)], []);
        assert_eq!((give(&mut ports, key(1, 80)), give(&mut ports, six(80))), (9, 9));
        assert_eq!(ports.frontend(&alias(&six(80), 9)), Some(six(80)));
        assert_ne!(give(&mut ports, six(81)), 9);
        ports.apply(&[(key(1, 80), None)], |_| false);
        assert_eq!((ports.is_empty(IpFamily::V4), ports.is_empty(IpFamily::V6)), (true, false));
    }

    #[test]
    fn ports_whose_connections_go_on_are_not_given_again() {
        let mut ports = VipPorts::default();
        let port = give(&mut ports, key(1, 80));
        let others = VipPorts::default().apply(&[(key(1, 80), frontend(FrontendKind::LoadBalancerIp))], |alias| alias.port == port);
        assert_ne!(others[0].0.port, port);
    }

    /// A datagram socket of the node stays connected to the port whatever happens to the frontend.
    #[test]
    fn a_frontend_that_comes_back_has_its_port_and_nobody_else_had_it() {
        let mut ports = VipPorts::default();
        let port = give(&mut ports, key(1, 80));
        ports.apply(&[(key(1, 80), None)], |_| false);
        for number in 1..20_000 {
            assert_ne!(give(&mut ports, key(2, number)), port);
        }
        assert_eq!(give(&mut ports, key(1, 80)), port);
        assert_eq!(give(&mut VipPorts::default(), key(1, 80)), port, "also in a process that remembers nothing");
    }

    #[test]
    fn a_frontend_has_the_port_that_it_had_before_the_start() {
        let mut ports = VipPorts::over([(key(1, 80), 2), (key(9, 9), 1), (key(8, 8), 0), (key(7, 7), 2)], [alias(&key(0, 0), 3)]);
        let restored = [key(1, 80), key(9, 9), key(7, 7)].map(|key| give(&mut ports, key));
        assert_eq!(restored[..2], [2, 1]);
        assert!(!restored[..2].contains(&restored[2]), "two of them had one: {restored:?}");
        assert!((4..10_000).all(|number| give(&mut ports, key(6, number)) != 3), "somebody may still be connected to it");
    }

    #[test]
    fn what_nobody_uses_is_given_when_nothing_else_is_left() {
        let mut ports = VipPorts::over([], (1..=u16::MAX).map(|port| alias(&key(0, 0), port)));
        give(&mut ports, key(1, 80));
        assert!(ports.apply(&[(key(2, 80), frontend(FrontendKind::ExternalIp))], |_| true).is_empty(), "all of them drain");
        give(&mut ports, key(2, 80));
    }
}
