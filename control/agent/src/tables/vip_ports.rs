//! Load-balancer and external addresses once more under [`VIP_ALIAS`], for the node's own sockets: the BPF program `node` sends them
//! there, each frontend to a port of its own.

use std::collections::BTreeMap;

use ringway_engine::tables::{Frontend, FrontendKey, FrontendKind, VIP_ALIAS};
use rustc_hash::FxHashMap;

/// Which frontend has which port of the alias.
#[derive(Debug, Default)]
pub struct VipPorts {
    by_frontend: FxHashMap<FrontendKey, u16>,
    by_port: FxHashMap<(u16, u8), FrontendKey>,
    /// Those of the process before, for frontends that were not heard of yet: sockets of the node still use them.
    earlier: FxHashMap<FrontendKey, u16>,
    /// The port that was given last.
    last: u16,
}

impl VipPorts {
    /// Keeps the ports that an earlier process gave.
    pub fn over(earlier: impl IntoIterator<Item = (FrontendKey, u16)>) -> VipPorts {
        VipPorts { earlier: earlier.into_iter().filter(|(_, port)| *port != 0).collect(), ..VipPorts::default() }
    }

    /// Takes in changed frontends and returns what changes under the alias; `None` removes. `drains` tells ports whose last connections
    /// go on: nobody else gets them.
    pub fn apply(
        &mut self,
        frontends: &[(FrontendKey, Option<Frontend>)],
        drains: impl Fn(&FrontendKey) -> bool,
    ) -> Vec<(FrontendKey, Option<Frontend>)> {
        let mut changes = BTreeMap::new();
        for (key, frontend) in frontends {
            let of_vip = |frontend: &&Frontend| matches!(frontend.kind, FrontendKind::LoadBalancerIp | FrontendKind::ExternalIp);
            match frontend.as_ref().filter(of_vip) {
                Some(frontend) => match self.port(key).or_else(|| self.give(key, &drains)) {
                    Some(port) => drop(changes.insert(alias(key, port), Some(frontend.clone()))),
                    None => {
                        tracing::warn!("{}:{}: no port of the alias is left, the node's own sockets do not reach it", key.address, key.port)
                    }
                },
                None => {
                    if let Some(port) = self.by_frontend.remove(key) {
                        self.by_port.remove(&(port, key.protocol));
                        changes.insert(alias(key, port), None);
                    }
                }
            }
        }
        changes.into_iter().collect()
    }

    /// The port of a frontend.
    pub fn port(&self, key: &FrontendKey) -> Option<u16> {
        self.by_frontend.get(key).copied()
    }

    /// The frontend that has a port of the alias.
    pub fn frontend(&self, alias: &FrontendKey) -> Option<FrontendKey> {
        self.by_port.get(&(alias.port, alias.protocol)).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.by_frontend.is_empty()
    }

    fn give(&mut self, key: &FrontendKey, drains: impl Fn(&FrontendKey) -> bool) -> Option<u16> {
        let port = self.earlier.remove(key).or_else(|| {
            let is_free = |port: &u16| {
                let reserved = self.earlier.iter().any(|(other, number)| number == port && other.protocol == key.protocol);
                *port != 0 && !reserved && !self.by_port.contains_key(&(*port, key.protocol)) && !drains(&alias(key, *port))
            };
            (1..=u16::MAX).map(|step| self.last.wrapping_add(step)).find(is_free)
        })?;
        self.last = port;
        self.by_frontend.insert(*key, port);
        self.by_port.insert((port, key.protocol), *key);
        Some(port)
    }
}

/// The key under which the node's own sockets reach a frontend that has this port of the alias.
pub fn alias(key: &FrontendKey, port: u16) -> FrontendKey {
    FrontendKey { address: VIP_ALIAS, port, protocol: key.protocol }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use ringway_engine::tables::{ServicePortName, Target};

    const TCP: u8 = 6;

    fn key(last: u8, port: u16) -> FrontendKey {
        FrontendKey { address: Ipv4Addr::new(192, 0, 2, last), port, protocol: TCP }
    }

    fn frontend(kind: FrontendKind) -> Option<Frontend> {
        let service = Arc::new(ServicePortName { namespace: "default".into(), name: "web".into(), port: String::new() });
        Some(Frontend { service, kind, outside: Target::NoBackend, inside: Target::NoBackend, source_ranges: None, affinity: None })
    }

    fn give(ports: &mut VipPorts, key: FrontendKey) -> u16 {
        let made = ports.apply(&[(key, frontend(FrontendKind::ExternalIp))], |_| false);
        assert!(matches!(&made[..], [(alias, Some(_))] if alias.address == VIP_ALIAS && alias.protocol == TCP), "{made:?}");
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
        assert!(ports.is_empty());
    }

    #[test]
    fn ports_whose_connections_go_on_are_not_given_again() {
        let mut ports = VipPorts { last: u16::MAX - 1, ..VipPorts::default() };
        assert_eq!(give(&mut ports, key(1, 80)), u16::MAX);
        let made = ports.apply(&[(key(2, 80), frontend(FrontendKind::LoadBalancerIp))], |alias| alias.port < 3);
        assert_eq!(made[0].0.port, 3, "0 is none, 1 and 2 drain");
    }

    #[test]
    fn a_frontend_has_the_port_that_it_had_before_the_start() {
        let mut ports = VipPorts::over([(key(1, 80), 2), (key(9, 9), 1), (key(8, 8), 0)]);
        assert_eq!(give(&mut ports, key(2, 80)), 3, "the others' are kept for them");
        assert_eq!(give(&mut ports, key(1, 80)), 2);
        assert_eq!(give(&mut ports, key(9, 9)), 1);
    }

    #[test]
    fn a_full_alias_is_no_disaster() {
        let mut ports = VipPorts::default();
        assert!(ports.apply(&[(key(1, 80), frontend(FrontendKind::ExternalIp))], |_| true).is_empty());
        assert_eq!(give(&mut ports, key(1, 80)), 1);
    }
}
