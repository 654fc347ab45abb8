/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Looking into the flow table and the frontends. */
#ifndef RINGWAY_LOOKUP_H
#define RINGWAY_LOOKUP_H

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

static __always_inline struct bucket4 *flow_bucket(__u32 index)
{
	return bpf_map_lookup_elem(&flows4, &index);
}

static __always_inline struct flow4 *flow_in_bucket(struct bucket4 *bucket, const struct packet4 *p, __u32 meta)
{
	if (!bucket)
		return 0;
#pragma unroll
	for (int i = 0; i < BUCKET_ENTRIES; i++) {
		struct flow4 *flow = &bucket->entry[i];
		__u64 order = READ_ONCE(flow->meta);
		__u32 found = order;

		/* An address dependency on meta orders the loads below after it (arm64 reorders them otherwise):
		 * `order` becomes 0, which the compiler does not know. It has to come before the comparison,
		 * after it clang puts in the known value and the dependency is gone. */
		asm volatile("%0 &= 0" : "+r"(order));
		flow = (void *)flow + order;
		if (found == meta && flow->ports == p->ports && flow->saddr == p->saddr && flow->daddr == p->daddr)
			return flow;
	}
	return 0;
}

/* The entry of a packet, or 0. Its key and rewrite do not change while a program may look at it: user space uses
 * a slot again only after a grace period. */
static __always_inline struct flow4 *flow_lookup(const struct packet4 *p, __u32 meta, __u64 hash)
{
	struct bucket4 *first = flow_bucket(FLOW_BUCKET1(hash, bucket_bits));
	struct flow4 *flow = flow_in_bucket(first, p, meta);

	if (!flow)
		flow = flow_in_bucket(flow_bucket(FLOW_BUCKET2(hash, bucket_bits)), p, meta);
	if (flow || !first || !READ_ONCE(first->entry[0].overflowed))
		return flow;
	for (__u32 i = 0; !flow && i < OVERFLOW_BUCKETS; i++)
		flow = flow_in_bucket(flow_bucket(FLOW_OVERFLOW_BUCKET(hash, i, bucket_bits)), p, meta);
	return flow;
}

static __always_inline _Bool flow_closing(const struct flow4 *flow)
{
	__u32 peer = READ_ONCE(flow->peer);
	struct bucket4 *bucket;

	if (READ_ONCE(flow->seen) & (SEEN_FIN | SEEN_RST))
		return 1;
	bucket = flow_bucket(peer / BUCKET_ENTRIES);
	return bucket && READ_ONCE(bucket->entry[peer % BUCKET_ENTRIES].seen) & (SEEN_FIN | SEEN_RST);
}

/* True if `edge` may execute this entry for this packet. Not if a worker does; not for the SYN of a new connection over a closed one,
 * nor for a datagram to a backend that stopped, for which a worker selects anew. */
static __always_inline _Bool flow_runs_at_edge(const struct flow4 *flow, const struct packet4 *p)
{
	return (flow->flags & FLOW_OP_MASK) != FLOW_WORKER && !(READ_ONCE(flow->seen) & SEEN_STOPPED) &&
	       !(opens_connection(p) && flow_closing(flow));
}

static __always_inline const struct uplink *uplink_lookup(__u32 ifindex)
{
	for (__u32 i = 0; i < UPLINKS_MAX; i++) {
		__u32 key = i;
		const struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &key);

		if (!uplink || !uplink->ifindex)
			return 0;
		if (uplink->ifindex == ifindex)
			return uplink;
	}
	return 0;
}

/* Flags of the frontend that the packet is sent to, or 0. It may be draining. */
static __always_inline const __u32 *frontend_lookup(const struct packet4 *p)
{
	struct frontend4 key = {.address = p->daddr, .port = destination_port(p), .protocol = p->protocol};

	return bpf_map_lookup_elem(&frontends4, &key);
}

/* The frontend takes new flows. */
static __always_inline _Bool is_served(const __u32 *frontend)
{
	return frontend && !(*frontend & FRONTEND_DRAINING);
}

static __always_inline const struct address4 *address_lookup(const struct packet4 *p)
{
	return bpf_map_lookup_elem(&addresses4, &p->daddr);
}

/* A packet that no frontend takes, to an address of which every port is ours. */
static __always_inline _Bool is_to_closed_port(const struct packet4 *p)
{
	const struct address4 *address = address_lookup(p);

	return address && address->flags & ADDRESS_CLOSED;
}

/* The others, which are most of what is not ours, are not asked about at closed ports: the kernel routes them to rw1, where all
 * are. */
static __always_inline _Bool may_begin_flow(const struct packet4 *p)
{
	return p->protocol == IPPROTO_UDP || opens_connection(p);
}

#endif
