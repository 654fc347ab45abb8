//! Connections to endpoints that are gone: their clients are told, instead of waiting for minutes until they give up.
//!
//! An endpoint that leaves its Service may live on, and its connections with it (contract §2, existing flows); so the apiserver is asked
//! about its pod. If that is gone, flows to it are marked, and their clients nudged (`ringway_engine::nudge`): TCP's answer with where a
//! reset has to stand, which a worker then sends; UDP's sockets get an error.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway_engine::family::{Family, V4, V6};
use ringway_engine::flow::{FlowKey, FlowTable, FlowTables, Hook, SEEN_RST, SlotIndex};
use ringway_engine::nudge::{self, Frame};
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::{FibResult, FrontendKey, Snapshot};
use ringway_engine::wire::{TCP, UDP};
use ringway_io::{Dataplane, InjectError, Port};
use ringway_model::{Left, ServiceName};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::apiserver::Source;

/// Pauses before each nudge of a connection: one that is lost is repeated. A client without the connection resets the second.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1)];
/// When the workers' queue of our own frames is full: as long as they need to send a batch.
const RETRY: Duration = Duration::from_millis(2);

/// What is needed to find the flows and to reach their clients.
pub struct Place {
    pub flows: FlowTables,
    pub dataplane: Arc<Dataplane>,
    pub source: Arc<Source>,
    pub snapshot: Arc<Snapshot>,
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
    let frontend = place.snapshot.frontends.lookup(&FrontendKey { address: address.into(), port, protocol: key.protocol() });
    frontend.is_some_and(|frontend| {
        let service = &frontend.service;
        place.kept.contains(&ServiceName { namespace: service.namespace.as_str().into(), name: service.name.as_str().into() })
    })
}

async fn tell<F: Family>(clients: &[Client<F>], flows: &FlowTable<F>, place: &Place, is_first: bool) {
    for client in clients {
        let is_tcp = client.key.protocol() == TCP;
        // A slot that another flow has by now has ended the matter itself. UDP flows end elsewhere, and their clients are told once.
        let is_live = flows.key_of(client.slot) == client.key;
        let has_reset = || flows.slot(client.slot).seen.load(std::sync::atomic::Ordering::Relaxed) & SEEN_RST != 0;
        if is_tcp && (!is_live || has_reset()) || !is_tcp && !is_first {
            continue;
        }
        if is_tcp && is_first {
            flows.stop(client.slot);
        }
        let tuple = client.key.tuple();
        let mut frame = if is_tcp { nudge::syn(&tuple) } else { nudge::port_unreachable(&tuple) };
        if address_to_client(&mut frame, &client.key, &place.snapshot).is_none() {
            continue;
        }
        while let Err(InjectError::Full(_)) = place.dataplane.inject(Port::Host, &frame) {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Writes the order that brings the frame to the client of a flow. `None` if nobody knows where that is now.
fn address_to_client<F: Family>(frame: &mut Frame, key: &FlowKey<F>, snapshot: &Snapshot) -> Option<()> {
    let (client, frontend) = (key.tuple().src().0.into(), key.tuple().dst().0.into());
    let rw1_mac = snapshot.node.rw1_mac;
    let (order, ifindex, source) = match key.hook()? {
        Hook::PodIn => {
            let device = snapshot.devices.get(key.zone())?;
            let mac = snapshot.neighbors.lookup(device.bridge.unwrap_or(key.zone()), client)?;
            (Order::Peer, key.zone(), mac)
        }
        Hook::NodeOut => (Order::Received, snapshot.node.rw1_ifindex, rw1_mac),
        Hook::UplinkIn | Hook::UplinkOut | Hook::PodOut => match snapshot.fib.lookup(frontend, client, None, 0) {
            FibResult::Via { ifindex, .. } => (Order::Neigh, ifindex, rw1_mac),
            FibResult::Local | FibResult::None => return None,
        },
    };
    frame[..6].copy_from_slice(&order_mac(order, ifindex));
    frame[6..12].copy_from_slice(&source);
    Some(())
}
