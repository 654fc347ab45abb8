/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The fates of the datagrams of a family. */

/* What all fragments of a datagram have in common, and where they are met. */
struct N(datagram) {
	N(ip) saddr, daddr;
	__u32 meta, id;
};

struct N(fate) {
	__u64 seen;         /* by fragment_count: duplicates do not count twice */
	__u32 noted;        /* tick */
	__u32 bytes, total; /* behind the IP headers: of those that were seen, and of all if the last one was seen */
	struct N(rewrite) rewrite;
};
/* Full, the oldest are forgotten: the fragments of a datagram leave their sender back to back. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct N(datagram));
	__type(value, struct N(fate));
} N(fragments) SEC(".maps");

/* The last fragment says how much there is; the others are mostly of one size, so its place among them is a fragment's bit. Where two
 * have the same, the datagram counts as incomplete. */
static __always_inline void N(fragment_count)(struct N(fate) *fate, const struct N(packet) *p)
{
	__u32 offset = (p->fragment & IP_FRAGMENT_OFFSET) * 8;

	if (p->fragment & IP_MORE_FRAGMENTS) {
		__u64 bit = p->payload ? 1ULL << (offset / p->payload & 63) : 0;

		if (!(fate->seen & bit))
			fate->bytes += p->payload;
		fate->seen |= bit;
	} else if (!fate->total) {
		fate->total = offset + p->payload;
		fate->bytes += p->payload;
	}
}

static __noinline void N(fragment_note)(const struct N(packet) *p, __u32 meta, const struct N(rewrite) *r)
{
	struct N(datagram) key = {.saddr = p->saddr, .daddr = p->daddr, .meta = meta, .id = p->id};
	struct N(fate) fate = {.noted = tick_now(), .rewrite = *r};

	N(fragment_count)(&fate, p);
	/* Should it fail, the later fragments go the way of those whose first one did not come. */
	bpf_map_update_elem(&N(fragments), &key, &fate, BPF_ANY);
}

static __always_inline void N(fragment_note_op)(const struct N(packet) *p, __u32 meta, __u8 op)
{
	struct N(rewrite) r = {.op = op};

	N(fragment_note)(p, meta, &r);
}

/* A first fragment that goes on. Where its address is none of ours nothing needs to be known: so do those that follow. */
static __noinline void N(fragment_note_not_ours)(const struct N(packet) *p, __u32 meta)
{
	struct N(datagram) key = {.saddr = p->saddr, .daddr = p->daddr, .meta = meta, .id = p->id};

	if (N(address_lookup)(p))
		N(fragment_note_op)(p, meta, FRAGMENT_NOT_OURS);
	else
		bpf_map_delete_elem(&N(fragments), &key);
}

/* What becomes of a later fragment; false if the first one did not come. With the last one that was missing the datagram is
 * forgotten: the next of the same identification may come in another order. */
static __noinline _Bool N(fragment_take)(const struct N(packet) *p, __u32 meta, struct N(rewrite) *r)
{
	struct N(datagram) key = {.saddr = p->saddr, .daddr = p->daddr, .meta = meta, .id = p->id};
	struct N(fate) *fate = bpf_map_lookup_elem(&N(fragments), &key);

	if (!fate || tick_now() - fate->noted >= FATE_TICKS)
		return 0;
	*r = fate->rewrite;
	N(fragment_count)(fate, p);
	if (fate->total && fate->bytes == fate->total)
		bpf_map_delete_elem(&N(fragments), &key);
	return 1;
}
