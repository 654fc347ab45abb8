//! New flows: from the first packet of a client to both entries of the flow table.
//!
//! One function per place where the client stands; each decides what is matched and rewritten where (design: "translate
//! at the client's edge"). Nothing is written to the packet here.

use std::net::IpAddr;

use crate::admission::{find, find_frontend, reachable, refuse_impossible};
use crate::affinity::{AffinityTable, Contended};
use crate::family::Family;
use crate::flow::{FlowKey, FlowOp, FlowTable, Hook, InsertError, NewFlow, Rewrite, SlotIndex, Tuple, flow_hash};
use crate::random::Random;
use crate::tables::{Backend, DeviceKind, FibResult, Frontend, PodDelivery, Snapshot, SnatAddress};
use crate::verdict::{DropReason, Verdict};
use crate::wire::IpFlow;

/// Ports tried for one flow before the range counts as exhausted: a range that is 97 % full still succeeds in all but 0.04 % of cases.
const PORT_PROBES_MAX: usize = 256;
/// Attempts to find a source port that keeps the two directions of a source-kept flow unique.
const SOURCE_PORT_PROBES_MAX: usize = 16;
/// Every node that announces an address hashes its clients alike.
const MAGLEV_SEED: u64 = 0x5269_6e67_7761_7901;

/// The client's place on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Outside, by an uplink.
    Outside { uplink_ifindex: u32 },
    /// A pod, behind this device; the MAC is the pod's.
    Pod { ifindex: u32, mac: [u8; 6] },
    /// A socket of the node itself.
    Node,
}

/// Everything that a new flow depends on.
pub struct Binder<'a, F: Family> {
    pub snapshot: &'a Snapshot,
    pub flows: &'a FlowTable<F>,
    pub affinity: &'a AffinityTable,
    pub random: &'a mut Random,
    pub worker: usize,
    pub workers: usize,
    /// Ticks.
    pub now: u32,
}

/// What is known of the flow before it is bound.
#[derive(Clone, Copy)]
struct Request<F: Family> {
    /// As the client sent it: client → frontend.
    tuple: Tuple<F>,
    protocol: u8,
    backend: (F::Ip, u16),
}

impl<F: Family> Binder<'_, F> {
    /// Selects a backend and inserts both entries. Returns the forward slot, or the verdict on the packet.
    /// `Ok(None)`: the destination is no frontend.
    pub fn bind(&mut self, client: Client, flow: &IpFlow<F>) -> Result<Option<SlotIndex>, Verdict> {
        let Some(frontend) = find_frontend(self.snapshot, client, flow) else { return Ok(None) };
        refuse_impossible(flow)?;
        let backend = self.select(frontend, client, flow)?;
        // A frontend's backends are of its family.
        let address = F::ip_of(backend.address).ok_or(Verdict::Drop(DropReason::NoBackend))?;
        let request = Request { tuple: flow.tuple, protocol: flow.protocol, backend: (address, backend.port) };
        let bound = match client {
            Client::Outside { uplink_ifindex } => self.bind_outside(&request, uplink_ifindex),
            Client::Pod { ifindex, mac } => self.bind_pod(&request, ifindex, mac),
            Client::Node => self.bind_node(&request),
        };
        bound.map(Some)
    }

    /// Whether the packet's client may go on with this backend by the frontend that it addresses.
    pub fn permits(&self, client: Client, flow: &IpFlow<F>, backend: (IpAddr, u16)) -> bool {
        let Some(frontend) = find_frontend(self.snapshot, client, flow) else { return false };
        if let Some(affinity) = frontend.affinity
            && self.affinity.renew(affinity, F::to_ip(flow.tuple.saddr).into(), self.now) != Some(backend)
        {
            return false;
        }
        reachable(frontend, client, flow).is_ok_and(|set| find(set, backend).is_some())
    }

    fn select(&mut self, frontend: &Frontend, client: Client, flow: &IpFlow<F>) -> Result<Backend, Verdict> {
        let set = reachable(frontend, client, flow)?;
        let random = &mut *self.random;
        let mut choose = || {
            let index = match &set.maglev {
                Some(maglev) => maglev.select(flow_hash(MAGLEV_SEED, &flow.tuple.at(0, Hook::UplinkIn, flow.protocol))),
                None => random.below(set.backends.len()),
            };
            set.backends.get(index)
        };
        let backend = match frontend.affinity {
            None => choose().copied(),
            Some(affinity) => {
                let choose = || choose().map(|backend| (backend.address, backend.port));
                let may_reach = |backend| find(set, backend).is_some();
                let settled = self.affinity.settle(affinity, F::to_ip(flow.tuple.saddr).into(), self.now, may_reach, choose);
                settled.map_err(|Contended| Verdict::Again)?.and_then(|backend| find(set, backend))
            }
        };
        backend.ok_or(Verdict::Drop(DropReason::NoBackend))
    }

    /// From outside: a backend here keeps the client's address, one elsewhere gets ours so that the reply returns.
    fn bind_outside(&mut self, request: &Request<F>, uplink_ifindex: u32) -> Result<SlotIndex, Verdict> {
        match self.route(request.client(), request.backend.0, Some(uplink_ifindex), request.tuple.ports) {
            FibResult::None => Err(Verdict::Drop(DropReason::NoRoute)),
            FibResult::Local => self.bind_edge(request),
            FibResult::Via { ifindex, address, .. } => match self.snapshot.devices.get(ifindex).map(|device| device.kind) {
                Some(DeviceKind::Uplink(_) | DeviceKind::Overlay { .. }) => {
                    let snapshot = self.snapshot;
                    self.bind_remote(request, snapshot.node.snat_towards(ifindex, F::IS_V6))
                }
                Some(DeviceKind::Pod | DeviceKind::Bridge) => match self.snapshot.node.pod_delivery {
                    PodDelivery::Edge => self.bind_edge(request),
                    PodDelivery::Direct => self.bind_direct(request, ifindex, address, uplink_ifindex),
                },
                // The reply would come back at a device where nothing of ours looks.
                _ => Err(Verdict::Drop(DropReason::NoRoute)),
            },
        }
    }

    /// Where the node sends a packet of this flow. The ports spread flows over the ways of a multipath route.
    fn route(&self, src: F::Ip, dst: F::Ip, iif: Option<u32>, ports: u32) -> FibResult {
        self.snapshot.fib.lookup(src.into(), dst.into(), iif, u64::from(ports))
    }

    /// Backend here, executed by `edge` at the uplinks.
    fn bind_edge(&mut self, request: &Request<F>) -> Result<SlotIndex, Verdict> {
        self.insert_source_kept(request, |tuple| NewFlow {
            forward: (request.key(0, Hook::UplinkIn), Rewrite::new(tuple, FlowOp::Pass)),
            reverse: (tuple.reversed().at(0, Hook::UplinkOut, request.protocol), Rewrite::new(request.tuple.reversed(), FlowOp::Pass)),
            snat: tuple.ports_differ_from(request),
        })
    }

    /// Backend here, by the worker straight into the pod; replies by `edge` at the pod's device out of the uplink.
    fn bind_direct(&mut self, request: &Request<F>, ifindex: u32, neighbor: IpAddr, uplink_ifindex: u32) -> Result<SlotIndex, Verdict> {
        let (pod_ifindex, mac) = self.pod_at(ifindex, neighbor)?;
        let out = match self.route(request.backend.0, request.client(), Some(ifindex), 0) {
            FibResult::Via { ifindex, .. } => ifindex,
            _ => uplink_ifindex,
        };
        self.insert_source_kept(request, |tuple| NewFlow {
            forward: (request.key(0, Hook::UplinkIn), Rewrite { ifindex: pod_ifindex, dmac: mac, ..Rewrite::new(tuple, FlowOp::Worker) }),
            reverse: (
                tuple.reversed().at(pod_ifindex, Hook::PodIn, request.protocol),
                Rewrite { ifindex: out, ..Rewrite::new(request.tuple.reversed(), FlowOp::Neigh) },
            ),
            snat: tuple.ports_differ_from(request),
        })
    }

    /// Backend on another node: DNAT and SNAT, both directions by workers.
    fn bind_remote<'a>(&mut self, request: &Request<F>, snat: impl Iterator<Item = &'a SnatAddress>) -> Result<SlotIndex, Verdict> {
        self.insert_snat(request, snat, |source| {
            let tuple = Tuple::new(source, request.backend);
            NewFlow {
                forward: (request.key(0, Hook::UplinkIn), Rewrite::new(tuple, FlowOp::Worker)),
                reverse: (tuple.reversed().at(0, Hook::UplinkIn, request.protocol), Rewrite::new(request.tuple.reversed(), FlowOp::Worker)),
                snat: true,
            }
        })
    }

    /// A pod of this node: `edge` at its device in both directions, wherever the backend is.
    fn bind_pod(&mut self, request: &Request<F>, ifindex: u32, mac: [u8; 6]) -> Result<SlotIndex, Verdict> {
        if request.backend.0 == request.client() {
            return self.bind_hairpin(request, ifindex, mac);
        }
        let bridge = self.snapshot.devices.get(ifindex).and_then(|device| device.bridge);
        let iif = Some(bridge.unwrap_or(ifindex));
        let (op, dmac) = match self.route(request.client(), request.backend.0, iif, request.tuple.ports) {
            FibResult::None => return Err(Verdict::Drop(DropReason::NoRoute)),
            // Both pods on one bridge: the reply is switched, so the request must be too, or conntrack sees half of it.
            FibResult::Via { ifindex: via, address, .. } if bridge == Some(via) => (FlowOp::Bridge, self.neighbor(via, address)?),
            _ => (FlowOp::Pass, [0; 6]),
        };
        self.insert_source_kept(request, |tuple| NewFlow {
            forward: (request.key(ifindex, Hook::PodIn), Rewrite { dmac, ..Rewrite::new(tuple, op) }),
            reverse: (tuple.reversed().at(ifindex, Hook::PodOut, request.protocol), Rewrite::new(request.tuple.reversed(), FlowOp::Pass)),
            snat: tuple.ports_differ_from(request),
        })
    }

    /// A pod that reaches itself: the source becomes the VIP, or the pod would answer itself inside.
    fn bind_hairpin(&mut self, request: &Request<F>, ifindex: u32, mac: [u8; 6]) -> Result<SlotIndex, Verdict> {
        let (vip, _) = request.tuple.dst();
        let into_pod = |tuple| Rewrite { ifindex, dmac: mac, ..Rewrite::new(tuple, FlowOp::Peer) };
        self.insert_source_kept(request, |tuple| {
            let (_, port) = tuple.src();
            let tuple = Tuple::new((vip, port), tuple.dst());
            NewFlow {
                forward: (request.key(ifindex, Hook::PodIn), into_pod(tuple)),
                reverse: (tuple.reversed().at(ifindex, Hook::PodIn, request.protocol), into_pod(request.tuple.reversed())),
                snat: true,
            }
        })
    }

    /// A socket of the node: `edge` at the egress of `rw1`, replies as if received there.
    fn bind_node(&mut self, request: &Request<F>) -> Result<SlotIndex, Verdict> {
        let (node, backend) = (&self.snapshot.node, request.backend);
        let (client, client_port) = request.tuple.src();
        let received = |tuple| Rewrite { ifindex: node.rw1_ifindex, dmac: node.rw1_mac, ..Rewrite::new(tuple, FlowOp::Received) };
        let forward_key = request.key(0, Hook::NodeOut);
        let (ifindex, zone, hook) = match self.route(client, backend.0, None, request.tuple.ports) {
            FibResult::None => return Err(Verdict::Drop(DropReason::NoRoute)),
            FibResult::Local => {
                // The backend is the node as well: the source becomes the VIP, whose route leads back to `rw1`.
                let (vip, _) = request.tuple.dst();
                return self.insert_source_kept(request, |tuple| {
                    let tuple = Tuple::new((vip, tuple.src().1), backend);
                    NewFlow {
                        forward: (forward_key, received(tuple)),
                        reverse: (tuple.reversed().at(0, Hook::NodeOut, request.protocol), received(request.tuple.reversed())),
                        snat: true,
                    }
                });
            }
            FibResult::Via { ifindex, address, .. } => match self.snapshot.devices.get(ifindex).map(|device| device.kind) {
                Some(DeviceKind::Pod | DeviceKind::Bridge) => (ifindex, self.pod_at(ifindex, address)?.0, Hook::PodIn),
                Some(DeviceKind::Uplink(_) | DeviceKind::Overlay { .. }) => (ifindex, 0, Hook::UplinkIn),
                _ => return Err(Verdict::Drop(DropReason::NoRoute)),
            },
        };
        let make = |source| {
            let tuple = Tuple::new(source, backend);
            NewFlow {
                forward: (forward_key, Rewrite { ifindex, ..Rewrite::new(tuple, FlowOp::Neigh) }),
                reverse: (tuple.reversed().at(zone, hook, request.protocol), received(request.tuple.reversed())),
                snat: true,
            }
        };
        if let Some(snat) = node.overlay_snat(ifindex, F::IS_V6) {
            return self.insert_snat_from(request.protocol, snat, backend, make);
        }
        // A port of our own range cannot be that of a connection which the node makes to the backend directly.
        match node.snat.iter().find(|snat| snat.address == client.into()) {
            Some(snat) => self.insert_snat_from(request.protocol, snat, backend, make),
            None => self.insert(&make((client, client_port))),
        }
    }

    /// The pod's device and MAC behind a route's device, which may be a bridge.
    fn pod_at(&self, ifindex: u32, neighbor: IpAddr) -> Result<(u32, [u8; 6]), Verdict> {
        let mac = self.neighbor(ifindex, neighbor)?;
        let devices = &self.snapshot.devices;
        match devices.get(ifindex).map(|device| device.kind) {
            Some(DeviceKind::Bridge) => match devices.bridge_ports.get(&(ifindex, mac)) {
                Some(port) => Ok((*port, mac)),
                // The bridge learns the port with the first answer.
                None => Err(Verdict::Hold { ifindex, address: neighbor }),
            },
            _ => Ok((ifindex, mac)),
        }
    }

    fn neighbor(&self, ifindex: u32, address: IpAddr) -> Result<[u8; 6], Verdict> {
        self.snapshot.neighbors.lookup(ifindex, address).ok_or(Verdict::Hold { ifindex, address })
    }

    /// Inserts a flow that keeps the client's address, and its port unless another flow of that client to the same backend has it.
    fn insert_source_kept(&mut self, request: &Request<F>, make: impl Fn(Tuple<F>) -> NewFlow<F>) -> Result<SlotIndex, Verdict> {
        let (client, mut port) = request.tuple.src();
        for _ in 0..SOURCE_PORT_PROBES_MAX {
            let tuple = Tuple::new((client, port), request.backend);
            match self.try_insert(&make(tuple))? {
                Some(slot) => return Ok(slot),
                // As the kernel's NAT does: another port of the unprivileged ones (net/netfilter/nf_nat_core.c).
                None => port = 1024 + self.random.below(65536 - 1024) as u16,
            }
        }
        Err(Verdict::Drop(DropReason::SnatPortsExhausted))
    }

    /// Inserts a flow behind one of these addresses; the first of them that has a free port towards the backend.
    fn insert_snat<'a>(
        &mut self,
        request: &Request<F>,
        addresses: impl Iterator<Item = &'a SnatAddress>,
        make: impl Fn((F::Ip, u16)) -> NewFlow<F>,
    ) -> Result<SlotIndex, Verdict> {
        let backend = request.backend;
        let mut outcome = Verdict::Drop(DropReason::NoSnatAddress);
        for snat in addresses {
            match self.insert_snat_from(request.protocol, snat, backend, &make) {
                Err(verdict @ Verdict::Drop(DropReason::SnatPortsExhausted)) => outcome = verdict,
                other => return other,
            }
        }
        Err(outcome)
    }

    /// Ports of the address from this worker's slice, from a random one on, until one is free towards the backend.
    fn insert_snat_from(
        &mut self,
        protocol: u8,
        snat: &SnatAddress,
        backend: (F::Ip, u16),
        make: impl Fn((F::Ip, u16)) -> NewFlow<F>,
    ) -> Result<SlotIndex, Verdict> {
        let exhausted = Verdict::Drop(DropReason::SnatPortsExhausted);
        let Some(address) = F::ip_of(snat.address) else { return Err(Verdict::Drop(DropReason::NoSnatAddress)) };
        let (low, high) = (usize::from(snat.ports.0), usize::from(snat.ports.1));
        // Worker w owns low + w, low + w + workers, …
        let owned = (high + 1).saturating_sub(low + self.worker).div_ceil(self.workers);
        if owned == 0 {
            return Err(exhausted);
        }
        let first = self.random.below(owned);
        for probe in 0..owned.min(PORT_PROBES_MAX) {
            let port = (low + self.worker + (first + probe) % owned * self.workers) as u16;
            let flow = make((address, port));
            let taken = self.flows.lookup(&flow.reverse.0, self.flows.hash(&flow.reverse.0)).is_some();
            debug_assert_eq!(flow.reverse.0.protocol(), protocol);
            debug_assert_eq!(flow.reverse.0.tuple().src(), backend);
            if !taken && let Some(slot) = self.try_insert(&flow)? {
                return Ok(slot);
            }
        }
        Err(exhausted)
    }

    fn insert(&self, flow: &NewFlow<F>) -> Result<SlotIndex, Verdict> {
        self.try_insert(flow)?.ok_or(Verdict::Drop(DropReason::SnatPortsExhausted))
    }

    /// `Ok(None)`: the reverse key is taken, another source port may do.
    fn try_insert(&self, flow: &NewFlow<F>) -> Result<Option<SlotIndex>, Verdict> {
        match self.flows.insert(self.worker, flow, self.now) {
            Ok(slot) | Err(InsertError::Exists(slot)) => Ok(Some(slot)),
            Err(InsertError::ReverseTaken) => Ok(None),
            Err(InsertError::Full | InsertError::Limit) => Err(Verdict::Drop(DropReason::FlowTableFull)),
            Err(InsertError::Contended) => Err(Verdict::Again),
        }
    }
}

impl<F: Family> Request<F> {
    fn key(&self, zone: u32, hook: Hook) -> FlowKey<F> {
        self.tuple.at(zone, hook, self.protocol)
    }

    fn client(&self) -> F::Ip {
        F::to_ip(self.tuple.saddr)
    }
}

impl<F: Family> Tuple<F> {
    /// The client's port was replaced.
    fn ports_differ_from(&self, request: &Request<F>) -> bool {
        self.src().1 != request.tuple.src().1
    }
}

impl<F: Family> Rewrite<F> {
    fn new(tuple: Tuple<F>, op: FlowOp) -> Rewrite<F> {
        Rewrite { tuple, op, ifindex: 0, dmac: [0; 6] }
    }
}
