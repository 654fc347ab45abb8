//! NodePorts once more under [`NODE_PORT_ALIAS`] and [`NODE_PORT_ALIAS6`], for the node's own sockets: the BPF programs `node` send them
//! there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ringway_engine::tables::{Frontend, FrontendKey, FrontendKind, NODE_PORT_ALIAS, NODE_PORT_ALIAS6};
use ringway_model::{IpFamily, PerFamily};
use rustc_hash::FxHashMap;

/// One number's frontends.
type OnAddresses = BTreeMap<IpAddr, Arc<Frontend>>;

/// The NodePorts in force, by port and protocol, with the addresses on which they answer. All addresses of one number and family belong to
/// one service: the same one holds each of them.
#[derive(Debug, Default)]
pub struct NodePorts {
    by_number: PerFamily<FxHashMap<(u16, u8), OnAddresses>>,
}

impl NodePorts {
    /// Takes in changed frontends and returns what changes under the alias; `None` removes.
    pub fn apply(&mut self, frontends: &[(FrontendKey, Option<Arc<Frontend>>)]) -> Vec<(FrontendKey, Option<Arc<Frontend>>)> {
        let mut changes = BTreeMap::new();
        for (key, frontend) in frontends {
            let number = (key.port, key.protocol);
            let by_number = &mut self.by_number[IpFamily::of(&key.address)];
            match frontend.as_ref().filter(|frontend| frontend.kind == FrontendKind::NodePort) {
                Some(frontend) => {
                    by_number.entry(number).or_default().insert(key.address, Arc::clone(frontend));
                }
                None => {
                    let Some(addresses) = by_number.get_mut(&number) else { continue };
                    if addresses.remove(&key.address).is_none() {
                        continue;
                    }
                    if addresses.is_empty() {
                        by_number.remove(&number);
                    }
                }
            }
            let first = by_number.get(&number).and_then(|addresses| addresses.values().next());
            changes.insert(alias(key), first.cloned());
        }
        changes.into_iter().collect()
    }

    /// The NodePorts for which the alias stands.
    pub fn frontends(&self, alias: &FrontendKey) -> impl Iterator<Item = FrontendKey> {
        let addresses = self.by_number[IpFamily::of(&alias.address)].get(&(alias.port, alias.protocol));
        addresses.into_iter().flat_map(BTreeMap::keys).map(|address| FrontendKey { address: *address, ..*alias })
    }

    pub fn is_empty(&self, family: IpFamily) -> bool {
        self.by_number[family].is_empty()
    }
}

/// The address that stands for all NodePorts of a family.
pub fn alias_of(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => NODE_PORT_ALIAS.into(),
        IpFamily::V6 => NODE_PORT_ALIAS6.into(),
    }
}

pub fn is_alias(key: &FrontendKey) -> bool {
    key.address == alias_of(IpFamily::of(&key.address))
}

/// The key under which the node's own sockets reach a NodePort.
pub fn alias(key: &FrontendKey) -> FrontendKey {
    FrontendKey { address: alias_of(IpFamily::of(&key.address)), ..*key }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ringway_engine::tables::{ServicePortName, Target};

    fn key(last: u8, port: u16) -> FrontendKey {
        FrontendKey { address: [192, 0, 2, last].into(), port, protocol: 6 }
    }

    fn frontend(kind: FrontendKind) -> Option<Arc<Frontend>> {
        let service = Arc::new(ServicePortName { namespace: "default".into(), name: "web".into(), port: "".into() });
        let (outside, inside) = (Target::NoBackend, Target::NoBackend);
        Some(Arc::new(Frontend { service, kind, outside, inside, source_ranges: None, affinity: None }))
    }

    #[test]
    fn an_alias_lives_as_long_as_one_of_its_addresses() {
        let mut ports = NodePorts::default();
        assert!(ports.apply(&[(key(1, 80), frontend(FrontendKind::ClusterIp))]).is_empty(), "no NodePort");
        let node_port = frontend(FrontendKind::NodePort);
        let made = ports.apply(&[(key(1, 30080), node_port.clone()), (key(2, 30080), node_port)]);
        assert_eq!(made.len(), 1);
        let alias_key = &made[0].0;
        assert_eq!(*alias_key, FrontendKey { address: NODE_PORT_ALIAS.into(), port: 30080, protocol: 6 });
        assert_eq!(ports.frontends(alias_key).collect::<Vec<_>>(), [key(1, 30080), key(2, 30080)]);
        assert!(matches!(&ports.apply(&[(key(1, 30080), None)])[..], [(_, Some(_))]), "answers on another address");
        assert_eq!(ports.apply(&[(key(2, 30080), None)]), [(*alias_key, None)]);
        assert!(ports.is_empty(IpFamily::V4) && ports.apply(&[(key(2, 30080), None)]).is_empty());
    }

    #[test]
    fn each_family_has_its_own() {
        let mut ports = NodePorts::default();
        let node_port = frontend(FrontendKind::NodePort);
        let (four, six) = (key(1, 30080), FrontendKey { address: "fd00::7".parse().unwrap(), ..key(1, 30080) });
        ports.apply(&[(four, node_port.clone())]);
        let made = ports.apply(&[(six, node_port)]);
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].0, FrontendKey { address: NODE_PORT_ALIAS6.into(), ..six });
        assert_eq!(ports.frontends(&made[0].0).collect::<Vec<_>>(), [six]);
        assert!(is_alias(&made[0].0) && is_alias(&alias(&four)) && !is_alias(&six));
        assert_eq!(ports.apply(&[(four, None)]), [(alias(&four), None)]);
        assert_eq!((ports.is_empty(IpFamily::V4), ports.is_empty(IpFamily::V6)), (true, false));
    }

    #[test]
    fn a_number_that_another_kind_takes_over_has_no_alias() {
        let mut ports = NodePorts::default();
        ports.apply(&[(key(1, 30080), frontend(FrontendKind::NodePort))]);
        let gone = ports.apply(&[(key(1, 30080), frontend(FrontendKind::ExternalIp))]);
        assert_eq!(gone, [(alias(&key(1, 30080)), None)]);
        assert!(ports.is_empty(IpFamily::V4));
    }
}
