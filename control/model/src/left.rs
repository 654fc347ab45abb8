//! Endpoints that left: what led to them may be gone, or only not selected any more. Which of the two, the objects that are watched here
//! do not say: a pod that is not selected any more lives on, and so do its connections (contract §2, existing flows).

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::model::{Endpoint, EndpointSliceModel, ServiceName};

/// The pod behind an endpoint (`targetRef`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    pub name: Box<str>,
    /// A UUID (RFC 9562): another pod of the same name has another one.
    pub uid: [u8; 16],
}

impl PodRef {
    /// The UUID of this text; `None` if it is none.
    pub fn uid_of(text: &str) -> Option<[u8; 16]> {
        u128::from_str_radix(&text.replace('-', ""), 16).ok().map(u128::to_be_bytes)
    }
}

/// An endpoint that no slice of its Service leads to any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Left {
    pub service: ServiceName,
    pub address: IpAddr,
    /// In the Service's namespace.
    pub pod: PodRef,
    /// The pod was deleted and its node is out of reach: it is as good as gone, though nobody there can say so.
    pub is_lost: bool,
}

/// Candidates of one batch of changes. Endpoints without a pod are nobody's whom we could ask about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving(BTreeMap<(ServiceName, IpAddr), PodRef>);

impl Leaving {
    /// Notes the endpoints of a slice that its next version does not have.
    pub fn compare(&mut self, before: &EndpointSliceModel, after: Option<&EndpointSliceModel>) {
        let stays: HashSet<IpAddr> = after.into_iter().flat_map(|after| &after.endpoints).map(|endpoint| endpoint.address).collect();
        let leaving = before.endpoints.iter().filter(|endpoint| !stays.contains(&endpoint.address));
        for endpoint in leaving {
            if let Some(pod) = &endpoint.pod {
                self.0.insert((before.service.clone(), endpoint.address), pod.clone());
            }
        }
    }

    /// Those that left indeed, and those of `examined` that are on nodes out of reach. Nothing of Services that keep their connections.
    pub fn left<'a>(self, cluster: &Cluster, examined: impl Iterator<Item = &'a ServiceName>) -> Vec<Left> {
        let resets = |service: &ServiceName| cluster.service(service).is_none_or(|service| service.reset_gone);
        let mut left = Vec::new();
        let mut present: BTreeMap<ServiceName, HashSet<IpAddr>> = BTreeMap::new();
        for ((service, address), pod) in self.0 {
            let present =
                present.entry(service.clone()).or_insert_with(|| cluster.endpoints(&service).map(|endpoint| endpoint.address).collect());
            if !present.contains(&address) && resets(&service) {
                left.push(Left { service, address, pod, is_lost: false });
            }
        }
        let is_out_of_reach = |node: &Arc<str>| cluster.node(node).is_some_and(|node| node.unreachable);
        let is_lost =
            |endpoint: &&Endpoint| endpoint.terminating && !endpoint.serving && endpoint.node.as_ref().is_some_and(is_out_of_reach);
        for service in examined.filter(|service| resets(service)) {
            left.extend(cluster.endpoints(service).filter(is_lost).filter_map(|endpoint| {
                let pod = endpoint.pod.clone()?;
                Some(Left { service: service.clone(), address: endpoint.address, pod, is_lost: true })
            }));
        }
        left
    }
}
