/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* XDP on every uplink: is this packet for a worker? */

struct vlan_tag {
	__be16 tci, protocol;
};

/* The L3 header behind at most two VLAN tags, and its protocol. */
static __always_inline const void *parse_ethernet(const struct ethhdr *eth, const void *end, __be16 *protocol)
{
	const struct vlan_tag *tag = (const void *)(eth + 1);

	*protocol = eth->h_proto;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (*protocol != bpf_htons(ETH_P_8021Q) && *protocol != bpf_htons(ETH_P_8021AD))
			break;
		if ((const void *)(tag + 1) > end)
			break; /* still a VLAN protocol: nobody's L3 */
		*protocol = tag->protocol;
		tag++;
	}
	return tag;
}

/* To the socket of this queue. Without a socket the packet is dropped, not passed: the kernel would answer a
 * service's packets with RST and kill connections that outlive the restart of a dataplane. */
static __always_inline int redirect(struct xdp_md *ctx, const struct uplink *uplink, enum counter outcome)
{
	if (!uplink) {
		count(COUNT_uplink_drop_unknown);
		return XDP_DROP;
	}
	count(outcome);
	return bpf_redirect_map(&xsks_uplinks, uplink->queue_base + ctx->rx_queue_index, XDP_DROP);
}

static __always_inline int pass(enum counter outcome)
{
	count(outcome);
	return XDP_PASS;
}

/* The frame is for another station: a switch that does not know that one yet floods it to all its ports, also to other
 * nodes that serve the same address. */
static __always_inline _Bool is_for_other_host(const struct uplink *uplink, const struct ethhdr *eth)
{
	const __u16 *destination = (const void *)eth->h_dest;

	if (!uplink || !(uplink->mac[0] | uplink->mac[1] | uplink->mac[2]))
		return 0;
	return (destination[0] ^ uplink->mac[0]) | (destination[1] ^ uplink->mac[1]) | (destination[2] ^ uplink->mac[2]);
}

static __always_inline int redirect_ipv4(struct xdp_md *ctx, const struct ethhdr *eth)
{
	const struct uplink *uplink = uplink_lookup(ctx->ingress_ifindex);

	if (is_for_other_host(uplink, eth))
		return pass(COUNT_uplink_pass_other_host);
	return redirect(ctx, uplink, COUNT_uplink_redirect);
}

/* The kernel has no route to a VIP but the way on into the network, which would bring the packet back here. */
static __always_inline int drop_at_vip(struct xdp_md *ctx, const struct ethhdr *eth)
{
	if (is_for_other_host(uplink_lookup(ctx->ingress_ifindex), eth))
		return pass(COUNT_uplink_pass_other_host);
	count(COUNT_uplink_drop_vip);
	return XDP_DROP;
}

/* RFC 826 for Ethernet and IPv4. */
struct arp_ipv4 {
	__be16 hardware, protocol;
	__u8 hardware_len, protocol_len;
	__be16 operation;
	__u8 sender_mac[6], sender[4], target_mac[6], target[4];
};
#define ARP_REQUEST 1

static __always_inline int uplink_arp(struct xdp_md *ctx, const struct arp_ipv4 *arp, const void *end)
{
	const struct address4 *address;
	__u32 target;

	if ((const void *)(arp + 1) > end || arp->operation != bpf_htons(ARP_REQUEST) ||
	    arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_len != 6 || arp->protocol_len != 4)
		return pass(COUNT_uplink_pass);
	__builtin_memcpy(&target, arp->target, sizeof(target));
	address = bpf_map_lookup_elem(&addresses4, &target);
	if (!address || !(address->flags & ADDRESS_ANNOUNCED))
		return pass(COUNT_uplink_pass);
	return redirect(ctx, uplink_lookup(ctx->ingress_ifindex), COUNT_uplink_redirect_arp);
}

static __always_inline int uplink_not_served(struct xdp_md *ctx, const struct ethhdr *eth, const struct address4 *address)
{
	return address->flags & ADDRESS_VIP ? drop_at_vip(ctx, eth) : pass(COUNT_uplink_pass);
}

/* A reply to one of our SNAT addresses: for a worker only if a flow says so. The node's own connections may use
 * the same address. */
static __always_inline int uplink_snat(struct xdp_md *ctx, const struct ethhdr *eth, const struct packet4 *p,
				       const struct address4 *address)
{
	__u16 port = bpf_ntohs(destination_port(p));
	__u32 meta = FLOW_META(0, HOOK_UPLINK_IN, p->protocol);
	const struct flow4 *flow;

	if (port < address->lo || port > address->hi)
		return uplink_not_served(ctx, eth, address);
	flow = flow_lookup(p, meta, flow_hash(seed, p->saddr, p->daddr, p->ports, meta));
	if (!flow)
		return uplink_not_served(ctx, eth, address);
	if ((flow->flags & FLOW_OP_MASK) != FLOW_WORKER)
		return pass(COUNT_uplink_pass_flow);
	return redirect_ipv4(ctx, eth);
}

/* What no frontend takes. */
static __always_inline int uplink_no_frontend(struct xdp_md *ctx, const struct ethhdr *eth, const struct packet4 *p)
{
	const struct address4 *address = address_lookup(p);

	if (!address)
		return pass(COUNT_uplink_pass);
	if (address->flags & ADDRESS_CLOSED && may_begin_flow(p))
		return redirect_ipv4(ctx, eth);
	if (address->flags & ADDRESS_SNAT)
		return uplink_snat(ctx, eth, p, address);
	return uplink_not_served(ctx, eth, address);
}

/* An ICMP error about a flow, or none of ours: another protocol, a fragment of it or of SCTP, or malformed. */
static __always_inline int uplink_other(struct xdp_md *ctx, const struct ethhdr *eth, const struct iphdr *ip, const void *end)
{
	const struct address4 *address;
	struct packet4 p = {};
	__u32 daddr;

	if ((const void *)(ip + 1) > end)
		return pass(COUNT_uplink_pass);
	if (parse_quote(ip, end, end - (const void *)ip, &p)) {
		__u32 meta = FLOW_META(0, HOOK_UPLINK_IN, p.protocol);
		const struct flow4 *flow = flow_lookup(&p, meta, flow_hash(seed, p.saddr, p.daddr, p.ports, meta));

		if (flow)
			return flow_runs_at_edge(flow, &p) ? pass(COUNT_uplink_pass_flow) : redirect_ipv4(ctx, eth);
	}
	daddr = ip->daddr;
	address = bpf_map_lookup_elem(&addresses4, &daddr);
	if (!address)
		return pass(COUNT_uplink_pass);
	if (address->flags & ADDRESS_PING && is_ping(ip, end, end - (const void *)ip))
		return redirect_ipv4(ctx, eth);
	return uplink_not_served(ctx, eth, address);
}

static __always_inline int uplink_flow(struct xdp_md *ctx, const struct ethhdr *eth, const struct packet4 *p)
{
	const __u32 *frontend = frontend_lookup(p);

	if (frontend && *frontend & (FRONTEND_HERE | FRONTEND_DRAINING)) {
		__u32 meta = FLOW_META(0, HOOK_UPLINK_IN, p->protocol);
		const struct flow4 *flow = flow_lookup(p, meta, flow_hash(seed, p->saddr, p->daddr, p->ports, meta));

		if (flow && flow_runs_at_edge(flow, p))
			return pass(COUNT_uplink_pass_flow);
		/* The established flows of a frontend that was removed; a SYN over a closed one finds no frontend. */
		if (flow && !is_served(frontend) && !opens_connection(p))
			return redirect_ipv4(ctx, eth);
	}
	return is_served(frontend) ? redirect_ipv4(ctx, eth) : uplink_no_frontend(ctx, eth, p);
}

/* A later fragment goes where the first one went. One to an address of ours that came before it goes to a worker, which waits. */
static __noinline int uplink_later(struct xdp_md *ctx, const struct ethhdr *eth, const struct packet4 *p)
{
	struct rewrite r;
	_Bool known = fragment_take(p, FLOW_META(0, HOOK_UPLINK_XDP, p->protocol), &r);

	if (known && r.op == FRAGMENT_DROP) {
		count(COUNT_uplink_drop_vip);
		return XDP_DROP;
	}
	if (known ? r.op == FLOW_WORKER : address_lookup(p) != 0)
		return redirect_ipv4(ctx, eth);
	return pass(COUNT_uplink_pass);
}

/* What later fragments have to expect. Where a frontend is served and the first one is dropped, there is no socket just now. */
static __noinline void note_first(const struct packet4 *p, int action)
{
	__u32 meta = FLOW_META(0, HOOK_UPLINK_XDP, p->protocol);

	if (action == XDP_PASS)
		fragment_note_not_ours(p, meta);
	else if (action == XDP_DROP && !is_served(frontend_lookup(p)))
		fragment_note_op(p, meta, FRAGMENT_DROP);
	else
		fragment_note_op(p, meta, FLOW_WORKER);
}

static __always_inline int uplink_ipv4(struct xdp_md *ctx, const struct ethhdr *eth, const struct iphdr *ip, const void *end)
{
	struct packet4 p = {};
	int action;

	if (!parse_ipv4(ip, end, end - (const void *)ip, 0, &p))
		return uplink_other(ctx, eth, ip, end);
	if (p.part == PART_LATER)
		return uplink_later(ctx, eth, &p);
	action = uplink_flow(ctx, eth, &p);
	if (p.part)
		note_first(&p, action);
	return action;
}

static __always_inline _Bool is_returned(const struct ethhdr *eth)
{
	const __u8 returned[ETH_ALEN] = RETURNED_MAC;
	__u8 difference = 0;

#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		difference |= eth->h_source[i] ^ returned[i];
	return !difference;
}

SEC("xdp")
int uplink(struct xdp_md *ctx)
{
	const void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct ethhdr *eth = data;
	const void *l3;
	__be16 protocol;

	if ((const void *)(eth + 1) > end)
		return pass(COUNT_uplink_pass);
	if (generic_uplinks && is_returned(eth))
		return pass(COUNT_uplink_pass_returned);
	l3 = parse_ethernet(eth, end, &protocol);
	if (protocol == bpf_htons(ETH_P_IP))
		return uplink_ipv4(ctx, eth, l3, end);
	if (protocol == bpf_htons(ETH_P_ARP))
		return uplink_arp(ctx, l3, end);
	return pass(COUNT_uplink_pass);
}
