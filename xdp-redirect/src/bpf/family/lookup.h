/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The entries of a packet in the tables of its family. */

static __always_inline struct N(bucket) *N(flow_bucket)(__u32 index)
{
	return bpf_map_lookup_elem(&N(flows), &index);
}

/* Its `slot` is the entry's place in the table. */
static __always_inline struct N(flow) *N(flow_in_bucket)(struct N(bucket) *bucket, __u32 index, const struct N(packet) *p, __u32 meta,
							 __u32 *slot)
{
	if (!bucket)
		return 0;
#pragma unroll
	for (int i = 0; i < BUCKET_ENTRIES; i++) {
		struct N(flow) *flow = &bucket->entry[i];
		__u64 order = READ_ONCE(flow->meta);
		__u32 found = order;

		/* An address dependency on meta orders the loads below after it (arm64 reorders them otherwise):
		 * `order` becomes 0, which the compiler does not know. It has to come before the comparison,
		 * after it clang puts in the known value and the dependency is gone. */
		asm volatile("%0 &= 0" : "+r"(order));
		flow = (void *)flow + order;
		if (found == meta && flow->ports == p->ports && N(same)(flow->saddr, p->saddr) &&
		    N(same)(flow->daddr, p->daddr)) {
			*slot = index * BUCKET_ENTRIES + i + order;
			return flow;
		}
	}
	return 0;
}

/* The entry of a packet, or 0. Its key and rewrite do not change while a program may look at it: user space uses
 * a slot again only after a grace period. */
static __always_inline struct N(flow) *N(flow_search)(const struct N(packet) *p, __u32 meta, __u64 hash, __u32 *slot)
{
	__u32 index = FLOW_BUCKET1(hash, N(bucket_bits));
	struct N(bucket) *first = N(flow_bucket)(index);
	struct N(flow) *flow = N(flow_in_bucket)(first, index, p, meta, slot);

	if (!flow) {
		index = FLOW_BUCKET2(hash, N(bucket_bits));
		flow = N(flow_in_bucket)(N(flow_bucket)(index), index, p, meta, slot);
	}
	if (flow || !first || !READ_ONCE(first->entry[0].overflowed))
		return flow;
	for (__u32 i = 0; !flow && i < OVERFLOW_BUCKETS; i++) {
		index = FLOW_OVERFLOW_BUCKET(hash, i, N(bucket_bits));
		flow = N(flow_in_bucket)(N(flow_bucket)(index), index, p, meta, slot);
	}
	return flow;
}

#if FAMILY == 4
static __always_inline struct flow4 *flow_lookup4(const struct packet4 *p, __u32 meta, __u64 hash)
{
	__u32 slot;

	return flow_search4(p, meta, hash, &slot);
}
#else
/* Where the entry is, plus 1; 0 if there is none. Not static: the verifier looks at it once, and not behind it for every entry where
 * the search may end. It costs a packet little beside what comparing IPv6 addresses costs, so IPv4 does without. */
__noinline int flow_slot6(const struct packet6 *p, __u32 meta, __u64 hash)
{
	__u32 slot = 0;

	return p && flow_search6(p, meta, hash, &slot) ? slot + 1 : 0;
}

static __always_inline struct flow6 *flow_lookup6(const struct packet6 *p, __u32 meta, __u64 hash)
{
	__u32 slot = flow_slot6(p, meta, hash);
	struct bucket6 *bucket;

	if (!slot--)
		return 0;
	bucket = flow_bucket6(slot / BUCKET_ENTRIES);
	return bucket ? &bucket->entry[slot % BUCKET_ENTRIES] : 0;
}
#endif

/* Of a forward entry: both sides have closed the connection, or one has reset it and no SYN went to the backend since. */
static __always_inline _Bool N(flow_has_ended)(const struct N(flow) *flow)
{
	__u32 peer = READ_ONCE(flow->peer), own = READ_ONCE(flow->seen), other;
	struct N(bucket) *bucket = N(flow_bucket)(peer / BUCKET_ENTRIES);

	other = bucket ? READ_ONCE(bucket->entry[peer % BUCKET_ENTRIES].seen) : 0;
	return own & other & SEEN_FIN || ((own | other) & SEEN_RST && !(own & SEEN_ASKED));
}

/* True if `edge` may execute this entry for this packet. Not if a worker does; not for the SYN of a new connection over one that ended,
 * nor for a datagram to a backend that stopped, for which a worker selects anew. */
static __always_inline _Bool N(flow_runs_at_edge)(const struct N(flow) *flow, const struct N(packet) *p)
{
	return (flow->flags & FLOW_OP_MASK) != FLOW_WORKER && !(READ_ONCE(flow->seen) & SEEN_STOPPED) &&
	       !(N(opens_connection)(p) && flow->flags & FLOW_FORWARD && N(flow_has_ended)(flow));
}

/* Flags of the frontend that the packet is sent to, or 0. It may be draining. */
static __always_inline const __u32 *N(frontend_lookup)(const struct N(packet) *p)
{
	struct N(frontend) key = {.address = p->daddr, .port = N(destination_port)(p), .protocol = p->protocol};

	return bpf_map_lookup_elem(&N(frontends), &key);
}

static __always_inline const struct address *N(address_lookup)(const struct N(packet) *p)
{
	return bpf_map_lookup_elem(&N(addresses), &p->daddr);
}

/* A packet that no frontend takes, to an address of which every port is ours. */
static __always_inline _Bool N(is_to_closed_port)(const struct N(packet) *p)
{
	const struct address *address = N(address_lookup)(p);

	return address && address->flags & ADDRESS_CLOSED;
}

/* The others, which are most of what is not ours, are not asked about at closed ports: the kernel routes them to rw1, where all
 * are. */
static __always_inline _Bool N(may_begin_flow)(const struct N(packet) *p)
{
	return p->protocol == IPPROTO_UDP || N(opens_connection)(p);
}
