//! UDP flows to backends that stopped serving end at once: the client's next datagram finds another backend. UDP has no end of its own, so
//! the client would send into a black hole until it falls silent. What the backend still answers reaches the client.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use ringway_engine::flow::{FlowKey, FlowRecord, FlowTable, TICKS_PER_SECOND};
use ringway_engine::tables::FrontendKey;
use ringway_io::Publisher;
use ringway_model::Compiler;
use rustc_hash::FxHashSet;

use super::node::now_ticks;
use crate::tables::Tables;

/// Workers act on a new snapshot within a batch; one that sleeps is woken.
const ACTING_PATIENCE: Duration = Duration::from_secs(1);

/// Whose last packet is older waits for no answer any more, in all likelihood, and need not take up room.
const ANSWERED_TICKS: u32 = 2 * TICKS_PER_SECOND;

/// Ends them on another thread, once no worker decides by the snapshot before `generation` any more: it would make them again.
pub fn end_flows(flows: &Arc<FlowTable>, publisher: Publisher, generation: u64, stopped: Vec<(FrontendKey, SocketAddrV4)>) {
    if stopped.is_empty() {
        return;
    }
    let flows = Arc::clone(flows);
    tokio::task::spawn_blocking(move || {
        if !publisher.wait_acting(generation, ACTING_PATIENCE) {
            tracing::warn!("a worker does not act on generation {generation} yet: flows to backends that stopped may be made once more");
        }
        let stopped: FxHashSet<_> = stopped.into_iter().collect();
        let now = now_ticks();
        let (mut marked, mut removed) = (0, 0);
        for record in flows.records(now).into_iter().filter(|record| stopped.contains(&ends(record))) {
            if record.idle < ANSWERED_TICKS {
                flows.stop(record.slot);
                marked += 1;
            } else {
                // Removals are counted with the first worker's; it does not matter whose.
                removed += usize::from(flows.remove(0, record.slot, now));
            }
        }
        tracing::debug!("{marked} flows ended whose backends stopped serving, and {removed} idle ones removed");
    });
}

/// At a start: flows of the process before whose backends stopped serving meanwhile. No worker runs yet.
pub fn remove_stale(flows: &FlowTable, compiler: &Compiler, tables: &Tables) {
    const UDP: u8 = 17;
    let serves =
        |(key, backend): (FrontendKey, SocketAddrV4)| tables.frontends_under(&key).iter().any(|key| compiler.serves(key, &backend));
    let now = now_ticks();
    let stale = flows.records(now).into_iter().filter(|record| record.forward.0.protocol() == UDP && !serves(ends(record)));
    let removed = stale.filter(|record| flows.remove(0, record.slot, now)).count();
    if removed > 0 {
        tracing::info!("{removed} UDP flows removed whose backends stopped serving before the start");
    }
}

/// The frontends that established flows still use.
pub fn in_use(flows: &FlowTable) -> FxHashSet<FrontendKey> {
    let frontend = |key: FlowKey| {
        let (address, port) = key.tuple().dst();
        FrontendKey { address, port, protocol: key.protocol() }
    };
    flows.forward_keys().map(frontend).collect()
}

/// The frontend that the client addressed, and the backend.
fn ends(record: &FlowRecord) -> (FrontendKey, SocketAddrV4) {
    let (key, rewrite): &(FlowKey, _) = &record.forward;
    let (address, port) = key.tuple().dst();
    let (backend, backend_port) = rewrite.tuple.dst();
    (FrontendKey { address, port, protocol: key.protocol() }, SocketAddrV4::new(backend, backend_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_engine::flow::{FlowOp, Hook, NewFlow, Rewrite, Tuple};
    use std::net::Ipv4Addr;

    #[test]
    fn frontend_and_backend_of_a_flow() {
        let table = FlowTable::in_memory(64, 1, 7);
        let (client, vip, backend) =
            ((Ipv4Addr::new(10, 0, 0, 1), 40_000), (Ipv4Addr::new(192, 0, 2, 1), 53), (Ipv4Addr::new(10, 1, 0, 9), 5353));
        let rewrite = |tuple| Rewrite { tuple, op: FlowOp::Pass, ifindex: 0, dmac: [0; 6] };
        let flow = NewFlow {
            forward: (FlowKey::new(client, vip, 0, Hook::UplinkIn, 17), rewrite(Tuple::new(client, backend))),
            reverse: (FlowKey::new(backend, client, 0, Hook::UplinkOut, 17), rewrite(Tuple::new(vip, client))),
            snat: false,
        };
        table.insert(0, &flow, 1).unwrap();
        let key = FrontendKey { address: vip.0, port: vip.1, protocol: 17 };
        assert_eq!(ends(&table.records(1)[0]), (key, SocketAddrV4::new(backend.0, backend.1)));
    }
}
