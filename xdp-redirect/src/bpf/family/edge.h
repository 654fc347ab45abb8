/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* `edge` for packets of a family. */

/* Not static, so that the verifier looks at it once. */
__noinline int N(execute)(struct __sk_buff *skb, enum hook hook, __u32 l3, const struct N(packet) *p,
			      const struct N(rewrite) *r)
{
	_Bool routed;
	long error;

	if (!p || !r)
		return edge_drop(COUNT_edge_drop_rewrite);
	/* The kernel does not route this one, we do. At rw1 the kernel did already. */
	routed = r->op == FLOW_NEIGH && hook != HOOK_NODE_OUT;
	if (routed && p->ttl <= 1)
		return edge_drop(COUNT_edge_drop_ttl);
	if (p->quoted)
		error = N(write_quote)(skb, l3, p, r);
	else if (p->part == PART_LATER)
		error = N(write_addresses)(skb, l3, r);
	else
		error = N(write_tuple)(skb, l3, p, r);
	if (routed)
		error |= N(decrement_ttl)(skb, l3, p);
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

/* Of a packet without a flow. At the uplinks nothing: XDP saw to it on the way in, and what leaves is not ours. */
static __always_inline int N(miss)(struct __sk_buff *skb, enum hook hook, const struct N(packet) *p, __u32 meta, __u64 hash,
				_Bool from_worker)
{
	_Bool ours = 0;

	if (hook == HOOK_POD_IN && !p->quoted)
		ours = is_served(N(frontend_lookup)(p)) || (N(may_begin_flow)(p) && N(is_to_closed_port)(p));
	else if (hook == HOOK_NODE_OUT && !p->quoted)
		ours = is_served(N(frontend_lookup)(p)) || N(is_to_closed_port)(p);
	if (p->part && ours)
		N(fragment_note_op)(p, meta, FLOW_WORKER);
	else if (p->part)
		N(fragment_note_not_ours)(p, meta);
	if (ours)
		return from_worker ? edge_next(hook, EDGE_LOOP_GUARD) : upcall(skb, hook, hash);
	if (hook == HOOK_NODE_OUT)
		return edge_drop(COUNT_node_out_drop_miss);
	return edge_next(hook, EDGE_MISS);
}

/* Reads the packet whose IP header is at `l3`. */
static __always_inline _Bool N(parse_skb)(struct __sk_buff *skb, __u32 l3, struct N(packet) *p)
{
	struct view v = view_of_skb(skb, l3);

	/* Headers may lie in fragments of the skb. */
	if (v.ip + sizeof(N(header)) + sizeof(struct tcphdr) > v.end && !pull(&v, N(HEADERS_BYTES_MAX)))
		return 0;
	if (N(parse)(&v, p))
		return 1;
	return p->protocol == N(ICMP) && N(parse_quote)(&v, p);
}

/* What is no packet of a flow and says nothing of one: a pod's ping to a service goes up. So does one of the node, by itself. */
static __always_inline int N(other)(struct __sk_buff *skb, enum hook hook, __u32 l3, _Bool from_worker)
{
	struct view v = view_of_skb(skb, l3);
	const N(header) *ip = v.ip;
	const struct address *address;
	struct N(pair) ends;

	if (hook != HOOK_POD_IN || from_worker || (const void *)(ip + 1) > v.end || !N(is_ping)(&v))
		return edge_next(hook, EDGE_OTHER);
	__builtin_memcpy(&ends, (const void *)ip + N(ADDRESSES), sizeof(ends));
	address = bpf_map_lookup_elem(&N(addresses), &ends.daddr);
	/* An address that nobody here announces may be that of a host which has some ports more than ours. */
	if (!address || !(address->flags & ADDRESS_PING) || !(address->flags & (ADDRESS_CLOSED | ADDRESS_ANNOUNCED)))
		return edge_next(hook, EDGE_OTHER);
	return upcall(skb, hook, N(fold)(ends.saddr) ^ N(fold)(ends.daddr));
}

/* Gives a packet of a tunnel without Ethernet headers one, as the hostlink needs it. */
static __always_inline long N(add_ethernet)(struct __sk_buff *skb, __u32 *l3)
{
	struct ethhdr header = {.h_proto = bpf_htons(N(ETHERTYPE))};

	*l3 = sizeof(header);
	return bpf_skb_change_head(skb, sizeof(header), 0) ?: bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0);
}

/* All fragments go to one worker. */
static __always_inline __u64 N(datagram_hash)(const struct N(packet) *p, __u32 meta)
{
	return N(flow_hash)(seed, p->saddr, p->daddr, p->id, meta);
}

/* A later fragment goes where the first one went. One to an address of ours that came before it goes up and comes back after a while;
 * to others there is nothing that we would wait for. */
static __always_inline int N(later)(struct __sk_buff *skb, enum hook hook, __u32 l3, const struct N(packet) *p, __u32 meta,
				 _Bool from_worker)
{
	const struct address *address;
	struct N(rewrite) r;
	_Bool known = N(fragment_take)(p, meta, &r, from_worker), waits;

	if (known && r.op == FRAGMENT_NOT_OURS)
		return hook == HOOK_NODE_OUT ? edge_drop(COUNT_node_out_drop_miss) : edge_next(hook, EDGE_MISS);
	if (known && r.op == FRAGMENT_OVERLAP)
		return edge_drop(COUNT_edge_drop_overlap);
	if (known && r.op != FLOW_WORKER)
		return N(execute)(skb, hook, l3, p, &r);
	address = N(address_lookup)(p);
	/* Outwards nothing changes its order, for all that was on the way in was put in order there. */
	waits = hook == HOOK_NODE_OUT || (address && hook != HOOK_POD_OUT && hook != HOOK_UPLINK_OUT);
	if (!from_worker && (known || waits))
		return upcall(skb, hook, N(datagram_hash)(p, meta));
	if (hook == HOOK_UPLINK_IN && address && address->flags & ADDRESS_VIP)
		return edge_drop(COUNT_edge_drop_fragment);
	return edge_next(hook, EDGE_MISS);
}

/* A packet that we route and that cannot go on: its sender has to be told, which a worker does. Of one that is to be segmented it is the
 * segments that have to fit. */
static __always_inline _Bool N(needs_answer)(struct __sk_buff *skb, enum hook hook, __u32 l3, const struct N(packet) *p,
						const struct N(flow) *flow)
{
	__u32 mtu = 0;

	if (hook == HOOK_NODE_OUT || p->quoted || (flow->flags & FLOW_OP_MASK) != FLOW_NEIGH)
		return 0;
	if (p->ttl <= 1)
		return 1;
	return skb->len - l3 > N(SMALL_MTU) && bpf_check_mtu(skb, flow->ifindex, &mtu, 0, BPF_MTU_CHK_SEGS) > 0;
}

static __always_inline int N(edge)(struct __sk_buff *skb, enum hook hook, __u32 zone, __u32 l3, _Bool ethernet, _Bool from_worker)
{
	struct N(packet) p = {};
	struct N(rewrite) r;
	struct N(flow) *flow;
	__u32 meta;
	__u64 hash;

	if (!N(parse_skb)(skb, l3, &p))
		return N(other)(skb, hook, l3, from_worker);
	meta = FLOW_META(zone, hook, p.protocol);
	if (p.part == PART_LATER)
		return !ethernet && N(add_ethernet)(skb, &l3) ? edge_drop(COUNT_edge_drop_rewrite) :
							     N(later)(skb, hook, l3, &p, meta, from_worker);
	hash = N(flow_hash)(seed, p.saddr, p.daddr, p.ports, meta);
	flow = N(flow_lookup)(&p, meta, hash);
	if (p.part)
		hash = N(datagram_hash)(&p, meta);
	if (!flow)
		return N(miss)(skb, hook, &p, meta, hash, from_worker);
	if (!ethernet && N(add_ethernet)(skb, &l3))
		return edge_drop(COUNT_edge_drop_rewrite);
	if (p.part && !N(flow_runs_at_edge)(flow, &p))
		N(fragment_note_op)(&p, meta, FLOW_WORKER);
	if (!N(flow_runs_at_edge)(flow, &p))
		return from_worker ? edge_next(hook, EDGE_LOOP_GUARD) : upcall(skb, hook, hash);
	if (!from_worker && N(needs_answer)(skb, hook, l3, &p, flow))
		return upcall(skb, hook, hash);

	/* What comes from a worker was judged there, and its datagram begins here anew: all that went up comes back. */
	if (p.part && !from_worker && !N(fragment_may_begin)(&p, meta))
		return edge_drop(COUNT_edge_drop_overlap);
	if (!p.quoted) /* what is said of a flow does not keep it alive */
		N(touch)(flow, &p);
	r.new.addresses.saddr = flow->new_saddr;
	r.new.addresses.daddr = flow->new_daddr;
	r.new.ports = flow->new_ports;
	r.addr_diff = flow->addr_diff;
	r.port_diff = flow->port_diff;
	r.ifindex = flow->ifindex;
	r.op = flow->flags & FLOW_OP_MASK;
	__builtin_memcpy(r.dmac, flow->dmac, sizeof(r.dmac));
	if (p.part)
		N(fragment_note)(&p, meta, &r);
	return N(execute)(skb, hook, l3, &p, &r);
}

/* A packet that the kernel forwarded to rw1. What we serve was taken before, where it came in; so it is to a port that nobody
 * has, and refused, or to an address that nobody has: to send it on would be a loop. */
static __always_inline int N(forwarded)(struct __sk_buff *skb, __u32 l3)
{
	struct N(packet) p = {};

	if (skb->mark != MARK_FROM_WORKER && N(parse_skb)(skb, l3, &p) && !p.quoted && p.part == PART_WHOLE &&
	    !is_served(N(frontend_lookup)(&p)) && N(is_to_closed_port)(&p))
		return upcall(skb, HOOK_NODE_OUT, N(fold)(p.saddr) ^ p.ports);
	return edge_drop(COUNT_node_out_drop_forwarded);
}
