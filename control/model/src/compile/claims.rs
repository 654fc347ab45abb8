//! Which service holds an address, protocol and port that several ask for.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::jiff::Timestamp;
use ringway_engine::tables::FrontendKey;

use crate::model::{ServiceModel, ServiceName};

/// The lowest rank holds: the older service, then the first by name. One without a creation time is the youngest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    without_time: bool,
    created: Option<Timestamp>,
    pub service: ServiceName,
}

impl Rank {
    pub fn of(service: &ServiceModel) -> Rank {
        Rank { without_time: service.created.is_none(), created: service.created, service: service.name.clone() }
    }
}

/// All services that ask for each frontend, the holder first.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Nearly always one rank.
    ranks: HashMap<FrontendKey, Vec<Rank>>,
    /// Keys with more than one.
    contested: BTreeSet<FrontendKey>,
}

impl Claims {
    pub fn add(&mut self, key: FrontendKey, rank: &Rank) {
        let ranks = self.ranks.entry(key).or_insert_with(|| Vec::with_capacity(1));
        if let Err(position) = ranks.binary_search(rank) {
            ranks.insert(position, rank.clone());
        }
        if ranks.len() > 1 {
            self.contested.insert(key);
        }
    }

    pub fn remove(&mut self, key: FrontendKey, service: &ServiceName) {
        let Some(ranks) = self.ranks.get_mut(&key) else { return };
        ranks.retain(|rank| rank.service != *service);
        if ranks.len() < 2 {
            self.contested.remove(&key);
        }
        if ranks.is_empty() {
            self.ranks.remove(&key);
        }
    }

    pub fn holder(&self, key: &FrontendKey) -> Option<&ServiceName> {
        self.ranks.get(key).and_then(|ranks| ranks.first()).map(|rank| &rank.service)
    }

    /// (key, holder, service that asks in vain)
    pub fn clashes(&self) -> impl Iterator<Item = (&FrontendKey, &ServiceName, &ServiceName)> {
        self.contested.iter().filter_map(|key| Some((key, self.ranks.get(key)?))).flat_map(|(key, ranks)| {
            let (first, rest) = ranks.split_at(1);
            rest.iter().map(move |rank| (key, &first[0].service, &rank.service))
        })
    }

    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty() && self.contested.is_empty()
    }
}
