/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* tc at pods' devices, uplinks, overlay devices and rw1: executes the flows that the workers decided on, and asks a worker about
 * the first packet of the others. One function, once per hook. */

static __always_inline int edge_next(enum hook hook, enum edge_outcome outcome)
{
	count(COUNT_EDGE(hook, outcome));
	return TC_ACT_UNSPEC;
}

static __always_inline int edge_drop(enum counter why)
{
	count(why);
	return TC_ACT_SHOT;
}

/* To a worker through rw1; the hook and the device stand in the destination MAC. At rw1 itself it is on its way
 * there already, and its destination MAC (the neighbor's) says so. */
static __always_inline int upcall(struct __sk_buff *skb, enum hook hook, __u64 hash)
{
	__u32 ifindex = skb->ifindex;
	struct order_mac mac = {MAC_PREFIX, MAC_UPCALL, hook, {ifindex >> 16, ifindex >> 8, ifindex}};

	/* The worker, exactly: rw1 transmits on queue queue_mapping - 1. */
	skb->queue_mapping = (__u32)hash % workers + 1;
	if (hook == HOOK_NODE_OUT)
		return edge_next(hook, EDGE_UPCALL);
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), &mac, sizeof(mac), 0))
		return edge_drop(COUNT_edge_drop_rewrite);
	count(COUNT_EDGE(hook, EDGE_UPCALL));
	return bpf_redirect(rw1_ifindex, 0);
}

static __noinline int execute(struct __sk_buff *skb, enum hook hook, __u32 l3, const struct packet4 *p,
			      const struct rewrite *r)
{
	/* The kernel does not route this one, we do. At rw1 the kernel did already. */
	_Bool routed = r->op == FLOW_NEIGH && hook != HOOK_NODE_OUT;
	long error;

	if (routed && p->ttl <= 1)
		return edge_drop(COUNT_edge_drop_ttl);
	if (p->quoted)
		error = write_quote(skb, l3, p, r);
	else if (p->part == PART_LATER)
		error = write_addresses(skb, l3, r);
	else
		error = write_tuple(skb, l3, p, r);
	if (routed)
		error |= decrement_ttl(skb, l3, p);
	if (r->op == FLOW_BRIDGE || r->op == FLOW_PEER || r->op == FLOW_RECEIVED)
		error |= bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), r->dmac, sizeof(r->dmac), 0);
	if (r->op == FLOW_PEER) /* behind a bridge it may have been addressed to the bridge, not to this port */
		error |= bpf_skb_change_type(skb, PACKET_HOST);
	if (error) /* half rewritten: nobody can use it */
		return edge_drop(COUNT_edge_drop_rewrite);

	count(COUNT_EDGE(hook, EDGE_HIT));
	switch (r->op) {
	case FLOW_PEER:
		return bpf_redirect_peer(r->ifindex, 0);
	case FLOW_NEIGH:
		return bpf_redirect_neigh(r->ifindex, 0, 0, 0);
	case FLOW_RECEIVED:
		skb->mark = MARK_FROM_WORKER;
		return bpf_redirect(r->ifindex, BPF_F_INGRESS);
	}
	return TC_ACT_UNSPEC;
}

/* Tells the workers that the flow lives, for they do not see its packets. Written only when it changes: the line
 * is shared by all CPUs. */
static __always_inline void touch(struct flow4 *flow, const struct packet4 *p)
{
	__u32 seen = SEEN_ANY | (p->tcp_flags & (SEEN_FIN | SEEN_SYN | SEEN_RST | SEEN_ACK));
	__u32 now = tick_now();

	if ((__s32)(now - READ_ONCE(flow->last)) >= (__s32)TICKS_PER_SECOND)
		WRITE_ONCE(flow->last, now);
	if ((READ_ONCE(flow->seen) & seen) != seen)
		__sync_fetch_and_or(&flow->seen, seen);
}

/* Of a packet without a flow. At the uplinks nothing: XDP saw to it on the way in, and what leaves is not ours. */
static __always_inline int miss(struct __sk_buff *skb, enum hook hook, const struct packet4 *p, __u32 meta, __u64 hash,
				_Bool from_worker)
{
	_Bool ours = 0;

	if (hook == HOOK_POD_IN && !p->quoted)
		ours = is_served(frontend_lookup(p)) || (may_begin_flow(p) && is_to_closed_port(p));
	else if (hook == HOOK_NODE_OUT && !p->quoted)
		ours = is_served(frontend_lookup(p)) || is_to_closed_port(p);
	if (p->part && ours)
		fragment_note_op(p, meta, FLOW_WORKER);
	else if (p->part)
		fragment_note_not_ours(p, meta);
	if (ours)
		return from_worker ? edge_next(hook, EDGE_LOOP_GUARD) : upcall(skb, hook, hash);
	if (hook == HOOK_NODE_OUT)
		return edge_drop(COUNT_node_out_drop_miss);
	return edge_next(hook, EDGE_MISS);
}

/* Makes the first bytes of the packet readable, all if it has no more. */
static __always_inline _Bool pull(struct __sk_buff *skb, __u32 bytes, const void **data, const void **end)
{
	if (skb->len < bytes)
		bytes = skb->len;
	if (bytes <= (__u32)(*end - *data)) /* it is: pulling would copy the header of a shared packet */
		return 1;
	if (bpf_skb_pull_data(skb, bytes))
		return 0;
	*data = (void *)(long)skb->data;
	*end = (void *)(long)skb->data_end;
	return 1;
}

/* Finds the L3 header and reads the packet. A VLAN tag stands beside the packet in the skb; of two, the inner one
 * stands in it. */
static __always_inline _Bool parse_skb(struct __sk_buff *skb, __u32 *l3, struct packet4 *p, _Bool ethernet)
{
	const void *data, *end;

	*l3 = ethernet ? sizeof(struct ethhdr) : 0;
	if (skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD)) {
		__be16 inner;

		if (bpf_skb_load_bytes(skb, *l3 + 2, &inner, sizeof(inner)) || inner != bpf_htons(ETH_P_IP))
			return 0;
		*l3 += 4;
	} else if (skb->protocol != bpf_htons(ETH_P_IP)) {
		return 0;
	}
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	/* Headers may lie in fragments of the skb. */
	if (data + *l3 + sizeof(struct iphdr) + sizeof(struct tcphdr) > end &&
	    !pull(skb, *l3 + 60 + sizeof(struct tcphdr), &data, &end))
		return 0;
	if (parse_ipv4(data + *l3, end, skb->len - *l3, 1, p))
		return 1;
	if (data + *l3 + sizeof(struct iphdr) > end || ((struct iphdr *)(data + *l3))->protocol != IPPROTO_ICMP)
		return 0;
	if (data + *l3 + QUOTE_BYTES_MAX > end && !pull(skb, *l3 + QUOTE_BYTES_MAX, &data, &end))
		return 0;
	return parse_quote(data + *l3, end, skb->len - *l3, p);
}

/* What is no packet of a flow and says nothing of one: a pod's ping to a service goes up. So does one of the node, by itself. */
static __always_inline int other(struct __sk_buff *skb, enum hook hook, _Bool from_worker)
{
	const void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct iphdr *ip = data + sizeof(struct ethhdr);
	const struct address4 *address;
	__u32 daddr;

	if (hook != HOOK_POD_IN || from_worker || skb->protocol != bpf_htons(ETH_P_IP) || (const void *)(ip + 1) > end ||
	    !is_ping(ip, end, skb->len - sizeof(struct ethhdr)))
		return edge_next(hook, EDGE_OTHER);
	daddr = ip->daddr;
	address = bpf_map_lookup_elem(&addresses4, &daddr);
	/* An address that nobody here announces may be that of a host which has some ports more than ours. */
	if (!address || !(address->flags & ADDRESS_PING) || !(address->flags & (ADDRESS_CLOSED | ADDRESS_ANNOUNCED)))
		return edge_next(hook, EDGE_OTHER);
	return upcall(skb, hook, ip->saddr ^ daddr);
}

/* Gives a packet of a tunnel without Ethernet headers one, as the hostlink needs it. */
static __always_inline long add_ethernet(struct __sk_buff *skb, __u32 *l3)
{
	struct ethhdr header = {.h_proto = bpf_htons(ETH_P_IP)};

	*l3 = sizeof(header);
	return bpf_skb_change_head(skb, sizeof(header), 0) ?: bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0);
}

/* All fragments go to one worker. */
static __always_inline __u64 datagram_hash(const struct packet4 *p, __u32 meta)
{
	return flow_hash(seed, p->saddr, p->daddr, p->id, meta);
}

/* A later fragment goes where the first one went. One to an address of ours that came before it goes up and comes back after a while;
 * to others there is nothing that we would wait for. */
static __always_inline int later(struct __sk_buff *skb, enum hook hook, __u32 l3, const struct packet4 *p, __u32 meta,
				 _Bool from_worker)
{
	const struct address4 *address;
	struct rewrite r;
	_Bool known = fragment_take(p, meta, &r), waits;

	if (known && r.op == FRAGMENT_NOT_OURS)
		return hook == HOOK_NODE_OUT ? edge_drop(COUNT_node_out_drop_miss) : edge_next(hook, EDGE_MISS);
	if (known && r.op != FLOW_WORKER)
		return execute(skb, hook, l3, p, &r);
	address = address_lookup(p);
	/* Outwards nothing changes its order, for all that was on the way in was put in order there. */
	waits = hook == HOOK_NODE_OUT || (address && hook != HOOK_POD_OUT && hook != HOOK_UPLINK_OUT);
	if (!from_worker && (known || waits))
		return upcall(skb, hook, datagram_hash(p, meta));
	if (hook == HOOK_UPLINK_IN && address && address->flags & ADDRESS_VIP)
		return edge_drop(COUNT_edge_drop_fragment);
	return edge_next(hook, EDGE_MISS);
}

static __always_inline int edge(struct __sk_buff *skb, enum hook hook, __u32 zone, _Bool ethernet)
{
	_Bool from_worker = skb->mark == MARK_FROM_WORKER;
	struct packet4 p = {};
	struct rewrite r;
	struct flow4 *flow;
	__u32 l3, meta;
	__u64 hash;

	if (from_worker)
		skb->mark = 0;
	/* A bridge's port sees frames for the bridge itself as another host's; an uplink only what was flooded. */
	if (hook == HOOK_UPLINK_IN && skb->pkt_type == PACKET_OTHERHOST)
		return edge_next(hook, EDGE_OTHER);
	if (!parse_skb(skb, &l3, &p, ethernet))
		return other(skb, hook, from_worker);
	meta = FLOW_META(zone, hook, p.protocol);
	if (p.part == PART_LATER)
		return !ethernet && add_ethernet(skb, &l3) ? edge_drop(COUNT_edge_drop_rewrite) :
							     later(skb, hook, l3, &p, meta, from_worker);
	hash = flow_hash(seed, p.saddr, p.daddr, p.ports, meta);
	flow = flow_lookup(&p, meta, hash);
	if (p.part)
		hash = datagram_hash(&p, meta);
	if (!flow)
		return miss(skb, hook, &p, meta, hash, from_worker);
	if (!ethernet && add_ethernet(skb, &l3))
		return edge_drop(COUNT_edge_drop_rewrite);
	if (p.part && !flow_runs_at_edge(flow, &p))
		fragment_note_op(&p, meta, FLOW_WORKER);
	if (!flow_runs_at_edge(flow, &p))
		return from_worker ? edge_next(hook, EDGE_LOOP_GUARD) : upcall(skb, hook, hash);

	if (!p.quoted) /* what is said of a flow does not keep it alive */
		touch(flow, &p);
	r.new.saddr = flow->new_saddr;
	r.new.daddr = flow->new_daddr;
	r.new.ports = flow->new_ports;
	r.addr_diff = flow->addr_diff;
	r.port_diff = flow->port_diff;
	r.ifindex = flow->ifindex;
	r.op = flow->flags & FLOW_OP_MASK;
	__builtin_memcpy(r.dmac, flow->dmac, sizeof(r.dmac));
	if (p.part)
		fragment_note(&p, meta, &r);
	return execute(skb, hook, l3, &p, &r);
}

SEC("tcx/ingress")
int edge_pod_in(struct __sk_buff *skb)
{
	return edge(skb, HOOK_POD_IN, skb->ifindex, 1);
}

SEC("tcx/egress")
int edge_pod_out(struct __sk_buff *skb)
{
	return edge(skb, HOOK_POD_OUT, skb->ifindex, 1);
}

SEC("tcx/ingress")
int edge_uplink_in(struct __sk_buff *skb)
{
	return edge(skb, HOOK_UPLINK_IN, 0, 1);
}

SEC("tcx/egress")
int edge_uplink_out(struct __sk_buff *skb)
{
	return edge(skb, HOOK_UPLINK_OUT, 0, 1);
}

/* Overlay devices: replies to what a worker or rw1 sent into the overlay. Flows do not tell by which of the devices
 * that lead out of the node a reply has to come, so the hook is the uplinks'. */
SEC("tcx/ingress")
int edge_overlay_in(struct __sk_buff *skb)
{
	return edge(skb, HOOK_UPLINK_IN, 0, 1);
}

/* The same where packets have no Ethernet header (ipip, WireGuard). */
SEC("tcx/ingress")
int edge_tunnel_in(struct __sk_buff *skb)
{
	return edge(skb, HOOK_UPLINK_IN, 0, 0);
}

/* A packet that the kernel forwarded to rw1. What we serve was taken before, where it came in; so it is to a port that nobody
 * has, and refused, or to an address that nobody has: to send it on would be a loop. */
static __always_inline int forwarded(struct __sk_buff *skb)
{
	struct packet4 p = {};
	__u32 l3;

	if (skb->mark != MARK_FROM_WORKER && parse_skb(skb, &l3, &p, 1) && !p.quoted && p.part == PART_WHOLE && !is_served(frontend_lookup(&p)) &&
	    is_to_closed_port(&p))
		return upcall(skb, HOOK_NODE_OUT, p.saddr ^ p.ports);
	return edge_drop(COUNT_node_out_drop_forwarded);
}

/* Egress of rw1. Packets of the node's own sockets come by the route via rw1, with the permanent neighbor's MAC.
 * Any frame without it is a stray one. */
SEC("tcx/egress")
int edge_node_out(struct __sk_buff *skb)
{
	struct order_mac mac;

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_dest), &mac, sizeof(mac)) || mac.prefix != MAC_PREFIX ||
	    mac.kind != MAC_UPCALL)
		return edge_drop(COUNT_node_out_drop_foreign);
	if (mac.what != HOOK_NODE_OUT) {
		count(COUNT_node_out_own_upcall);
		return TC_ACT_UNSPEC;
	}
	if (skb->ingress_ifindex)
		return forwarded(skb);
	return edge(skb, HOOK_NODE_OUT, 0, 1);
}
