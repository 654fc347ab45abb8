//! The objects in force to frontends, at a cost that follows the change.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use ringway_engine::tables::{Frontend, FrontendKey};

use crate::cluster::Cluster;
use crate::model::Change;
use crate::problem::Problem;
use crate::view::ServicePortView;

/// On which addresses of the node NodePorts answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The first InternalIP of this node's Node object; without a Node object, the first device address.
    #[default]
    Primary,
    /// Every device address in one of these.
    Within(Vec<Ipv4Net>),
}

/// What does not change while the process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--node-name`: the Node that is us; endpoints with this `nodeName` are local.
    pub node_name: String,
    pub node_port_addresses: NodePortAddresses,
}

/// An address that belongs to services and to no device of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// A LoadBalancer IP or externalIP: a candidate for announcement.
    pub announced: bool,
}

/// What a batch of changes means for the tables. Empty parts: nothing to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// For [`ringway_engine::tables::Frontends::with`]; `None` removes.
    pub frontends: Vec<(FrontendKey, Option<Frontend>)>,
    /// VIPs that appeared, changed, or (`None`) went.
    pub vips: Vec<(Ipv4Addr, Option<Vip>)>,
}

/// Holds the objects in force and what was last made of them.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    cluster: Cluster,
}

impl Compiler {
    pub fn new(settings: Settings) -> Compiler {
        Compiler { settings, cluster: Cluster::default() }
    }

    /// Takes a batch of changes in; compiles each touched service once.
    pub fn apply(&mut self, _changes: impl IntoIterator<Item = Change>) -> Update {
        Update::default()
    }

    /// The IPv4 addresses of the node's devices, the most important first (the first uplink's). Call it whenever they change.
    pub fn set_device_addresses(&mut self, _addresses: Vec<Ipv4Addr>) -> Update {
        Update::default()
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// All VIPs, by address.
    pub fn vips(&self) -> impl Iterator<Item = (Ipv4Addr, Vip)> {
        std::iter::empty()
    }

    /// Number of Services in force.
    pub fn services_len(&self) -> usize {
        self.cluster.services().count()
    }

    /// What is wrong between objects (each alone is right): clashing frontends, no Node object for this node.
    pub fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Every service port with its frontends and endpoints, by namespace, name and port.
    pub fn view(&self) -> Vec<ServicePortView> {
        Vec::new()
    }
}
