//! Frames of our own to the ends of flows: where clients are the keys of flows say, where backends are the routes.

use std::sync::Arc;
use std::time::Duration;

use ringway_engine::family::Family;
use ringway_engine::flow::{FlowKey, Hook, Tuple};
use ringway_engine::nudge::Frame;
use ringway_engine::order::{Order, order_mac};
use ringway_engine::tables::{FibResult, Snapshot};
use ringway_io::{Dataplane, InjectError, Port};

/// When the workers' queue of our own frames is full: as long as they need to send a batch.
const RETRY: Duration = Duration::from_millis(2);

/// The way to clients and backends, as it is now.
pub struct Way {
    dataplane: Arc<Dataplane>,
    pub snapshot: Arc<Snapshot>,
}

impl Way {
    pub fn by(dataplane: Arc<Dataplane>) -> Way {
        let snapshot = dataplane.publisher().current();
        Way { dataplane, snapshot }
    }

    /// To the client of a flow with this forward key, unless nobody knows where that is now.
    pub async fn send_to_client<F: Family>(&self, frame: Frame, key: &FlowKey<F>) {
        if let Some(macs) = to_client(key, &self.snapshot) {
            self.send(frame, macs).await;
        }
    }

    /// To the backend of a flow, likewise. `tuple` is what the backend sees of its client.
    pub async fn send_to_backend<F: Family>(&self, frame: Frame, tuple: &Tuple<F>) {
        if let Some(macs) = by_route(tuple, &self.snapshot) {
            self.send(frame, macs).await;
        }
    }

    async fn send(&self, mut frame: Frame, (destination, source): Macs) {
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&source);
        while let Err(InjectError::Full(_)) = self.dataplane.inject(Port::Host, &frame) {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// The MAC addresses of a frame, which are an order: destination and source.
type Macs = ([u8; 6], [u8; 6]);

/// `None` if nobody knows where the client is.
fn to_client<F: Family>(key: &FlowKey<F>, snapshot: &Snapshot) -> Option<Macs> {
    let answer = key.tuple().reversed();
    match key.hook()? {
        Hook::PodIn => {
            let device = snapshot.devices.get(key.zone())?;
            let mac = snapshot.neighbors.lookup(device.bridge.unwrap_or(key.zone()), answer.dst().0.into())?;
            Some((order_mac(Order::Peer, key.zone()), mac))
        }
        Hook::NodeOut => Some((order_mac(Order::Received, snapshot.node.rw1_ifindex), snapshot.node.rw1_mac)),
        Hook::UplinkIn | Hook::UplinkOut | Hook::PodOut => by_route(&answer, snapshot),
    }
}

/// `None` if the destination is the node itself, or no route leads there.
fn by_route<F: Family>(tuple: &Tuple<F>, snapshot: &Snapshot) -> Option<Macs> {
    match snapshot.fib.lookup(tuple.src().0.into(), tuple.dst().0.into(), None, 0) {
        FibResult::Via { ifindex, .. } => Some((order_mac(Order::Neigh, ifindex), snapshot.node.rw1_mac)),
        FibResult::Local | FibResult::None => None,
    }
}
