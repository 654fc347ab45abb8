//! NodePorts once more under [`NODE_PORT_ALIAS`], for the node's own sockets: the BPF program `node` sends them there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ringway_engine::tables::{Frontend, FrontendKey, FrontendKind, NODE_PORT_ALIAS};
use rustc_hash::FxHashMap;

/// The NodePorts in force, by port and protocol, with the addresses on which they answer. All addresses of one number belong to one
/// service: the same one holds each of them.
#[derive(Debug, Default)]
pub struct NodePorts {
    by_number: FxHashMap<(u16, u8), BTreeMap<Ipv4Addr, Frontend>>,
}

impl NodePorts {
    /// Takes in changed frontends and returns what changes under the alias; `None` removes.
    pub fn apply(&mut self, frontends: &[(FrontendKey, Option<Frontend>)]) -> Vec<(FrontendKey, Option<Frontend>)> {
        let mut changes = BTreeMap::new();
        for (key, frontend) in frontends {
            let number = (key.port, key.protocol);
            match frontend.as_ref().filter(|frontend| frontend.kind == FrontendKind::NodePort) {
                Some(frontend) => {
                    self.by_number.entry(number).or_default().insert(key.address, frontend.clone());
                }
                None => {
                    let Some(addresses) = self.by_number.get_mut(&number) else { continue };
                    if addresses.remove(&key.address).is_none() {
                        continue;
                    }
                    if addresses.is_empty() {
                        self.by_number.remove(&number);
                    }
                }
            }
            let first = self.by_number.get(&number).and_then(|addresses| addresses.values().next());
            changes.insert(alias(key), first.cloned());
        }
        changes.into_iter().collect()
    }

    /// The NodePorts for which the alias stands.
    pub fn frontends(&self, alias: &FrontendKey) -> impl Iterator<Item = FrontendKey> {
        let addresses = self.by_number.get(&(alias.port, alias.protocol));
        addresses.into_iter().flat_map(BTreeMap::keys).map(|address| FrontendKey { address: *address, ..*alias })
    }

    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}

/// The key under which the node's own sockets reach a NodePort.
pub fn alias(key: &FrontendKey) -> FrontendKey {
    FrontendKey { address: NODE_PORT_ALIAS, ..*key }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use ringway_engine::tables::{ServicePortName, Target};

    fn key(last: u8, port: u16) -> FrontendKey {
        FrontendKey { address: Ipv4Addr::new(192, 0, 2, last), port, protocol: 6 }
    }

    fn frontend(kind: FrontendKind) -> Option<Frontend> {
        let service = Arc::new(ServicePortName { namespace: "default".into(), name: "web".into(), port: String::new() });
        Some(Frontend { service, kind, outside: Target::NoBackend, inside: Target::NoBackend, source_ranges: None, affinity: None })
    }

    #[test]
    fn an_alias_lives_as_long_as_one_of_its_addresses() {
        let mut ports = NodePorts::default();
        assert!(ports.apply(&[(key(1, 80), frontend(FrontendKind::ClusterIp))]).is_empty(), "no NodePort");
        let node_port = frontend(FrontendKind::NodePort);
        let made = ports.apply(&[(key(1, 30080), node_port.clone()), (key(2, 30080), node_port)]);
        assert_eq!(made.len(), 1);
        let alias_key = &made[0].0;
        assert_eq!(*alias_key, FrontendKey { address: NODE_PORT_ALIAS, port: 30080, protocol: 6 });
        assert_eq!(ports.frontends(alias_key).collect::<Vec<_>>(), [key(1, 30080), key(2, 30080)]);
        assert!(matches!(&ports.apply(&[(key(1, 30080), None)])[..], [(_, Some(_))]), "answers on another address");
        assert_eq!(ports.apply(&[(key(2, 30080), None)]), [(*alias_key, None)]);
        assert!(ports.is_empty() && ports.apply(&[(key(2, 30080), None)]).is_empty());
    }

    #[test]
    fn a_number_that_another_kind_takes_over_has_no_alias() {
        let mut ports = NodePorts::default();
        ports.apply(&[(key(1, 30080), frontend(FrontendKind::NodePort))]);
        let gone = ports.apply(&[(key(1, 30080), frontend(FrontendKind::ExternalIp))]);
        assert_eq!(gone, [(alias(&key(1, 30080)), None)]);
        assert!(ports.is_empty());
    }
}
