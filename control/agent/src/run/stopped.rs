//! UDP flows to backends that stopped serving end at once: the client's next datagram finds another backend. UDP has no end of its own, so
//! the client would send into a black hole until it falls silent. What the backend still answers reaches the client.

use std::net::SocketAddr;
use std::time::Duration;

use ringway_engine::family::Family;
use ringway_engine::flow::{FlowKey, FlowRecord, FlowTable, FlowTables, TICKS_PER_SECOND};
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
pub fn end_flows(flows: &FlowTables, publisher: Publisher, generation: u64, stopped: Vec<(FrontendKey, SocketAddr)>) {
    if stopped.is_empty() {
        return;
    }
    let flows = flows.clone();
    tokio::task::spawn_blocking(move || {
        if !publisher.wait_acting(generation, ACTING_PATIENCE) {
            tracing::warn!("a worker does not act on generation {generation} yet: flows to backends that stopped may be made once more");
        }
        let stopped: FxHashSet<_> = stopped.into_iter().collect();
        let now = now_ticks();
        let (marked, removed) = end_those(&flows.v4, &stopped, now);
        let (marked6, removed6) = end_those(&flows.v6, &stopped, now);
        tracing::debug!("{} flows ended whose backends stopped serving, and {} idle ones removed", marked + marked6, removed + removed6);
    });
}

/// Returns how many were marked, and how many removed.
fn end_those<F: Family>(flows: &FlowTable<F>, stopped: &FxHashSet<(FrontendKey, SocketAddr)>, now: u32) -> (usize, usize) {
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
    (marked, removed)
}

/// At a start: flows of the process before whose backends stopped serving meanwhile. No worker runs yet.
pub fn remove_stale(flows: &FlowTables, compiler: &Compiler, tables: &Tables) {
    let serves = |(key, backend): (FrontendKey, SocketAddr)| tables.frontends_under(&key).iter().any(|key| compiler.serves(key, &backend));
    let removed = remove_unserved(&flows.v4, serves) + remove_unserved(&flows.v6, serves);
    if removed > 0 {
        tracing::info!("{removed} UDP flows removed whose backends stopped serving before the start");
    }
}

/// Returns how many.
fn remove_unserved<F: Family>(flows: &FlowTable<F>, serves: impl Fn((FrontendKey, SocketAddr)) -> bool) -> usize {
    const UDP: u8 = 17;
    let now = now_ticks();
    let stale = flows.records(now).into_iter().filter(|record| record.forward.0.protocol() == UDP && !serves(ends(record)));
    stale.filter(|record| flows.remove(0, record.slot, now)).count()
}

/// The frontends that established flows still use.
pub fn in_use(flows: &FlowTables) -> FxHashSet<FrontendKey> {
    flows.v4.forward_keys().map(|key| addressed(&key)).chain(flows.v6.forward_keys().map(|key| addressed(&key))).collect()
}

/// What the client addressed.
fn addressed<F: Family>(key: &FlowKey<F>) -> FrontendKey {
    let (address, port) = key.tuple().dst();
    FrontendKey { address: address.into(), port, protocol: key.protocol() }
}

/// The frontend that the client addressed, and the backend.
fn ends<F: Family>(record: &FlowRecord<F>) -> (FrontendKey, SocketAddr) {
    let (key, rewrite) = &record.forward;
    let (backend, port) = rewrite.tuple.dst();
    (addressed(key), SocketAddr::new(backend.into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_engine::flow::{FlowOp, Hook, NewFlow, Rewrite, Tuple};
    use std::net::{Ipv4Addr, Ipv6Addr};

    const UDP: u8 = 17;

    /// A flow from port 40 000 of an address over its port 53 to port 5353 of another.
    fn insert<F: Family>(table: &FlowTable<F>, [client, vip, backend]: [F::Ip; 3], now: u32) -> (FrontendKey, SocketAddr) {
        let (client, vip, backend) = ((client, 40_000), (vip, 53), (backend, 5353));
        let rewrite = |tuple| Rewrite { tuple, op: FlowOp::Pass, ifindex: 0, dmac: [0; 6] };
        let flow = NewFlow {
            forward: (FlowKey::new(client, vip, 0, Hook::UplinkIn, UDP), rewrite(Tuple::new(client, backend))),
            reverse: (FlowKey::new(backend, client, 0, Hook::UplinkOut, UDP), rewrite(Tuple::new(vip, client))),
            snat: false,
        };
        table.insert(0, &flow, now).unwrap();
        (FrontendKey { address: vip.0.into(), port: vip.1, protocol: UDP }, SocketAddr::new(backend.0.into(), backend.1))
    }

    fn four(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn six(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
    }

    #[test]
    fn frontend_and_backend_of_a_flow() {
        let tables = FlowTables::in_memory(64, 1, 7);
        let expected = insert(&tables.v4, [1, 2, 3].map(four), 1);
        let expected6 = insert(&tables.v6, [1, 2, 3].map(six), 1);
        assert_eq!((ends(&tables.v4.records(1)[0]), ends(&tables.v6.records(1)[0])), (expected, expected6));
        assert_eq!(in_use(&tables), [expected.0, expected6.0].into_iter().collect());
    }

    #[test]
    fn flows_end_in_the_family_whose_backend_stopped() {
        let tables = FlowTables::in_memory(64, 1, 7);
        insert(&tables.v4, [1, 2, 3].map(four), 1);
        let stopped = insert(&tables.v6, [1, 2, 3].map(six), 1);
        insert(&tables.v6, [5, 2, 4].map(six), 1);
        let stopped = FxHashSet::from_iter([stopped]);
        assert_eq!((end_those(&tables.v4, &stopped, 1), end_those(&tables.v6, &stopped, 1)), ((0, 0), (1, 0)));
        let later = 1 + ANSWERED_TICKS;
        assert_eq!((end_those(&tables.v4, &stopped, later), end_those(&tables.v6, &stopped, later)), ((0, 0), (0, 1)));
        assert_eq!((tables.v4.len(), tables.v6.len()), (1, 1));
    }

    #[test]
    fn a_start_removes_what_nobody_serves() {
        let tables = FlowTables::in_memory(64, 1, 7);
        insert(&tables.v4, [1, 2, 3].map(four), now_ticks());
        insert(&tables.v6, [1, 2, 3].map(six), now_ticks());
        assert_eq!(remove_unserved(&tables.v6, |(key, _)| key.address == six(2)), 0);
        assert_eq!((remove_unserved(&tables.v6, |_| false), tables.v6.len(), tables.v4.len()), (1, 0, 1));
    }
}
