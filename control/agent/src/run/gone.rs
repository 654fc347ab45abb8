//! Connections to endpoints that are gone: their clients are told, instead of waiting for minutes until they give up.
//!
//! An endpoint that leaves its Service may live on, and its connections with it (contract §2, existing flows); so the apiserver is asked
//! about its pod. If that is gone, flows to it are marked, and their clients nudged (`ringway_engine::nudge`): TCP's answer with where a
//! reset has to stand, which a worker then sends; UDP's sockets get an error.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ringway_engine::family::{Family, V4, V6};
use ringway_engine::flow::{FlowKey, FlowTable, FlowTables, SEEN_RST, SlotIndex};
use ringway_engine::nudge;
use ringway_engine::tables::FrontendKey;
use ringway_engine::wire::{TCP, UDP};
use ringway_model::{Left, ServiceName};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::clients::Way;
use crate::apiserver::Source;

/// Pauses before each nudge of a connection: one that is lost is repeated. A client without the connection resets the second.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1)];

/// What is needed to find the flows and to reach their clients.
pub struct Place {
    pub flows: FlowTables,
    pub way: Way,
    pub source: Arc<Source>,
    /// Services whose connections are left to time out.
    pub kept: HashSet<ServiceName>,
}

/// Tells clients of those that are gone, in tasks of its own. Whoever looks for flows reads the tables as a whole; so all that leave while
/// one looks are looked for together.
pub struct Teller {
    waiting: UnboundedSender<(Place, Vec<Left>)>,
}

impl Teller {
    pub fn new() -> Teller {
        let (waiting, mut all) = unbounded_channel::<(Place, Vec<Left>)>();
        tokio::spawn(async move {
            while let Some((mut place, mut left)) = all.recv().await {
                while let Ok((newer, more)) = all.try_recv() {
                    place = newer;
                    left.extend(more);
                }
                look_and_tell(place, left).await;
            }
        });
        Teller { waiting }
    }

    pub fn tell(&self, place: Place, left: Vec<Left>) {
        // The task ends with us only.
        let _ = self.waiting.send((place, left));
    }
}

/// Returns when the clients are found; they are told meanwhile.
async fn look_and_tell(place: Place, left: Vec<Left>) {
    let left: FxHashMap<IpAddr, Left> = left.into_iter().map(|left| (left.address, left)).collect();
    let place = Arc::new(place);
    let found = {
        let (place, addresses) = (Arc::clone(&place), left.keys().copied().collect());
        tokio::task::spawn_blocking(move || Clients::find(&place, &addresses)).await
    };
    let Ok(clients) = found else { return };
    let addresses = clients.addresses();
    tokio::spawn(async move {
        let asked = left.into_values().filter(|left| addresses.contains(&left.address)).map(|left| is_gone(&place.source, left));
        let gone: FxHashSet<IpAddr> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        clients.retain(&gone).tell(&place).await;
    });
}

async fn is_gone(source: &Source, left: Left) -> Option<IpAddr> {
    let Left { service, address, pod, is_lost } = left;
    (is_lost || source.is_pod_gone(service.namespace, pod).await).then_some(address)
}

/// A flow to an endpoint that left.
struct Client<F: Family> {
    slot: SlotIndex,
    key: FlowKey<F>,
    backend: IpAddr,
}

/// Those of both families.
struct Clients {
    v4: Vec<Client<V4>>,
    v6: Vec<Client<V6>>,
}

impl Clients {
    fn find(place: &Place, addresses: &FxHashSet<IpAddr>) -> Clients {
        Clients { v4: find(&place.flows.v4, place, addresses), v6: find(&place.flows.v6, place, addresses) }
    }

    fn addresses(&self) -> FxHashSet<IpAddr> {
        self.v4.iter().map(|client| client.backend).chain(self.v6.iter().map(|client| client.backend)).collect()
    }

    fn retain(mut self, gone: &FxHashSet<IpAddr>) -> Clients {
        self.v4.retain(|client| gone.contains(&client.backend));
        self.v6.retain(|client| gone.contains(&client.backend));
        self
    }

    async fn tell(self, place: &Place) {
        let count = self.v4.len() + self.v6.len();
        if count == 0 {
            return;
        }
        tracing::info!("{count} connections to endpoints that are gone: their clients are told");
        for (round, pause) in PAUSES.into_iter().enumerate() {
            tokio::time::sleep(pause).await;
            tell(&self.v4, &place.flows.v4, place, round == 0).await;
            tell(&self.v6, &place.flows.v6, place, round == 0).await;
        }
    }
}

fn find<F: Family>(flows: &FlowTable<F>, place: &Place, addresses: &FxHashSet<IpAddr>) -> Vec<Client<F>> {
    let client = |(slot, key, backend): (SlotIndex, FlowKey<F>, IpAddr)| {
        let is_told = matches!(key.protocol(), TCP | UDP) && addresses.contains(&backend) && !is_kept(place, &key);
        is_told.then_some(Client { slot, key, backend })
    };
    flows.forward_entries().filter_map(|(slot, key, rewrite)| client((slot, key, rewrite.tuple.dst().0.into()))).collect()
}

/// The flow's Service wants its connections left alone.
fn is_kept<F: Family>(place: &Place, key: &FlowKey<F>) -> bool {
    let (address, port) = key.tuple().dst();
    let frontend = place.way.snapshot.frontends.lookup(&FrontendKey { address: address.into(), port, protocol: key.protocol() });
    frontend.is_some_and(|frontend| {
        let service = &frontend.service;
        place.kept.contains(&ServiceName { namespace: Arc::clone(&service.namespace), name: Arc::clone(&service.name) })
    })
}

async fn tell<F: Family>(clients: &[Client<F>], flows: &FlowTable<F>, place: &Place, is_first: bool) {
    for Client { slot, key, .. } in clients {
        let tuple = key.tuple();
        if key.protocol() != TCP {
            // UDP flows end elsewhere, and their clients are told once.
            if is_first {
                place.way.send_to_client(nudge::port_unreachable(&tuple), key).await;
            }
            continue;
        }
        // A slot that another flow has by now has ended the matter itself.
        if flows.key_of(*slot) != *key {
            continue;
        }
        if is_first {
            flows.stop(*slot);
        }
        if flows.slot(*slot).seen.load(Relaxed) & SEEN_RST == 0 {
            place.way.send_to_client(nudge::ack(&tuple, flows.numbers_of_long_ago(*slot)), key).await;
        }
    }
}
