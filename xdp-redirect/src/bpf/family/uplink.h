/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* `uplink` for packets of a family. */

/* A reply to one of our SNAT addresses: for a worker only if a flow says so. The node's own connections may use
 * the same address. */
static __always_inline enum counter N(uplink_snat)(const struct N(packet) *p, const struct address *address)
{
	__u16 port = bpf_ntohs(N(destination_port)(p));
	__u32 meta = FLOW_META(0, HOOK_UPLINK_IN, p->protocol);
	const struct N(flow) *flow;

	if (port < address->lo || port > address->hi)
		return uplink_not_served(address);
	flow = N(flow_lookup)(p, meta, N(flow_hash)(seed, p->saddr, p->daddr, p->ports, meta));
	if (!flow)
		return uplink_not_served(address);
	if ((flow->flags & FLOW_OP_MASK) != FLOW_WORKER)
		return COUNT_uplink_pass_flow;
	return COUNT_uplink_redirect;
}

/* What no frontend takes. */
static __always_inline enum counter N(uplink_no_frontend)(const struct N(packet) *p)
{
	const struct address *address = N(address_lookup)(p);

	if (!address)
		return COUNT_uplink_pass;
	if (address->flags & ADDRESS_CLOSED && N(may_begin_flow)(p))
		return COUNT_uplink_redirect;
	if (address->flags & ADDRESS_SNAT)
		return N(uplink_snat)(p, address);
	return uplink_not_served(address);
}

/* An ICMP error about a flow, or none of ours: another protocol, a fragment of it or of SCTP, or malformed. */
static __always_inline enum counter N(uplink_other)(struct view *v, struct N(packet) *p)
{
	const N(header) *ip = v->ip;
	const struct address *address;

	if ((const void *)(ip + 1) > v->end)
		return COUNT_uplink_pass;
	if (p->protocol == N(ICMP) && N(parse_quote)(v, p)) {
		__u32 meta = FLOW_META(0, HOOK_UPLINK_IN, p->protocol);
		const struct N(flow) *flow = N(flow_lookup)(p, meta, N(flow_hash)(seed, p->saddr, p->daddr, p->ports, meta));

		if (flow)
			return N(flow_runs_at_edge)(flow, p) ? COUNT_uplink_pass_flow : COUNT_uplink_redirect;
	}
	__builtin_memcpy(&p->daddr, &ip->daddr, sizeof(p->daddr));
	address = N(address_lookup)(p);
	if (!address)
		return COUNT_uplink_pass;
	if (address->flags & ADDRESS_PING && N(is_ping)(v))
		return COUNT_uplink_redirect;
	return uplink_not_served(address);
}

static __always_inline enum counter N(uplink_flow)(const struct N(packet) *p)
{
	const __u32 *frontend = N(frontend_lookup)(p);

	if (frontend && *frontend & (FRONTEND_HERE | FRONTEND_DRAINING)) {
		__u32 meta = FLOW_META(0, HOOK_UPLINK_IN, p->protocol);
		const struct N(flow) *flow = N(flow_lookup)(p, meta, N(flow_hash)(seed, p->saddr, p->daddr, p->ports, meta));

		if (flow && N(flow_runs_at_edge)(flow, p))
			return COUNT_uplink_pass_flow;
		/* The established flows of a frontend that was removed; a SYN over a closed one finds no frontend. */
		if (flow && !is_served(frontend) && !N(opens_connection)(p))
			return COUNT_uplink_redirect;
	}
	return is_served(frontend) ? COUNT_uplink_redirect : N(uplink_no_frontend)(p);
}

/* A later fragment goes where the first one went. One to an address of ours that came before it goes to a worker, which waits. */
static __noinline enum counter N(uplink_later)(const struct N(packet) *p)
{
	struct N(rewrite) r;
	_Bool known = N(fragment_take)(p, FLOW_META(0, HOOK_UPLINK_XDP, p->protocol), &r, 0);

	if (known && r.op == FRAGMENT_DROP)
		return COUNT_uplink_drop_vip;
	if (known ? r.op == FLOW_WORKER : N(address_lookup)(p) != 0)
		return COUNT_uplink_redirect;
	return COUNT_uplink_pass;
}

/* What later fragments have to expect. */
static __noinline void N(note_first)(const struct N(packet) *p, enum counter outcome)
{
	__u32 meta = FLOW_META(0, HOOK_UPLINK_XDP, p->protocol);

	if (outcome == COUNT_uplink_redirect)
		N(fragment_note_op)(p, meta, FLOW_WORKER);
	else if (outcome == COUNT_uplink_drop_vip)
		N(fragment_note_op)(p, meta, FRAGMENT_DROP);
	else
		N(fragment_note_not_ours)(p, meta);
}

static __always_inline enum counter N(uplink_ip)(struct xdp_md *ctx, const struct ethhdr *eth, const void *ip, const void *end)
{
	__u32 l3 = ip - (const void *)eth;
	/* All parts of the packet: `end` is that of the first, which holds the headers. */
	__u32 bytes = bpf_xdp_get_buff_len(ctx) - l3;
	struct view v = {.ctx = ctx, .ip = ip, .end = end, .l3 = l3, .bytes = bytes};
	struct N(packet) p = {};
	enum counter outcome;

	if (!N(parse)(&v, &p))
		return N(uplink_other)(&v, &p);
	if (p.part == PART_LATER)
		return N(uplink_later)(&p);
	outcome = N(uplink_flow)(&p);
	if (p.part)
		N(note_first)(&p, outcome);
	return outcome;
}
