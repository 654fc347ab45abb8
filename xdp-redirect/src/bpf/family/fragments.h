/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The fates of the datagrams of a family. */

/* What all fragments of a datagram have in common, and where they are met. */
struct N(datagram) {
	N(ip) saddr, daddr;
	__u32 meta, id;
};

struct N(fate) {
	__u32 noted; /* tick */
	struct pieces pieces;
	struct N(rewrite) rewrite;
};
/* Full, the oldest are forgotten: the fragments of a datagram leave their sender back to back. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct N(datagram));
	__type(value, struct N(fate));
} N(fragments) SEC(".maps");

/* What a note is made in: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct N(fate));
} N(new_fate) SEC(".maps");

/* Who executes a datagram judges its fragments: `edge` here, workers theirs, and the kernel what is not ours. */
static __always_inline _Bool N(is_executed)(const struct N(rewrite) *r)
{
	return r->op != FLOW_WORKER && r->op < FRAGMENT_NOT_OURS;
}

/* Of a first fragment. */
static __noinline void N(fragment_note)(const struct N(packet) *p, __u32 meta, const struct N(rewrite) *r)
{
	struct N(datagram) key = {.saddr = p->saddr, .daddr = p->daddr, .meta = meta, .id = p->id};
	__u32 zero = 0;
	struct N(fate) *fate = bpf_map_lookup_elem(&N(new_fate), &zero);

	if (!fate)
		return;
	__builtin_memset(&fate->pieces, 0, sizeof(fate->pieces));
	fate->noted = tick_now();
	fate->rewrite = *r;
	pieces_add(&fate->pieces, p->fragment, p->payload);
	/* Should it fail, the later fragments go the way of those whose first one did not come. */
	bpf_map_update_elem(&N(fragments), &key, fate, BPF_ANY);
}

/* Whether a first fragment is of whole units, and lies on nothing that `edge` executed of its datagram. */
static __noinline _Bool N(fragment_may_begin)(const struct N(packet) *p, __u32 meta)
{
	struct N(datagram) key = {.saddr = p->saddr, .daddr = p->daddr, .meta = meta, .id = p->id};
	struct N(fate) *fate = bpf_map_lookup_elem(&N(fragments), &key);
	int place;

	if (!fate || !N(is_executed)(&fate->rewrite) || tick_now() - fate->noted >= ANOTHER_TICKS)
		return !(p->payload & 7);
	if (fate->rewrite.op == FRAGMENT_OVERLAP)
		return 0;
	place = pieces_add(&fate->pieces, p->fragment, p->payload);
	if (place == PLACE_CONTRADICTION)
		fate->rewrite.op = FRAGMENT_OVERLAP;
	return place < PLACE_TAKEN;
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
 * forgotten: the next of the same identification may come in another order. One that a worker gives back was seen on its way there. */
static __noinline _Bool N(fragment_take)(const struct N(packet) *p, __u32 meta, struct N(rewrite) *r, _Bool from_worker)
{
	struct N(datagram) key = {.saddr = p->saddr, .daddr = p->daddr, .meta = meta, .id = p->id};
	struct N(fate) *fate = bpf_map_lookup_elem(&N(fragments), &key);
	int place;

	if (!fate || tick_now() - fate->noted >= FATE_TICKS)
		return 0;
	*r = fate->rewrite;
	if (r->op == FRAGMENT_OVERLAP)
		return 1;
	place = pieces_add(&fate->pieces, p->fragment, p->payload);
	if (N(is_executed)(r) && place == PLACE_CONTRADICTION)
		fate->rewrite.op = r->op = FRAGMENT_OVERLAP;
	else if (N(is_executed)(r) && place == PLACE_TAKEN && !from_worker)
		r->op = FRAGMENT_OVERLAP;
	if (place == PLACE_FREE_LAST)
		bpf_map_delete_elem(&N(fragments), &key);
	return 1;
}
