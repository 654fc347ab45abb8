/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What became of the first fragment of a datagram (RFC 791 section 3.2): those that follow have no ports, and go where it went. */
#ifndef RINGWAY_FRAGMENTS_H
#define RINGWAY_FRAGMENTS_H

/* What all fragments of a datagram have in common, and where they are met. */
struct datagram4 {
	__u32 saddr, daddr, meta;
	__u16 id, zero;
};
/* In the place of enum hook in what `uplink` notes: `edge` notes more at the same device. */
#define HOOK_UPLINK_XDP 5

#define FRAGMENT_NOT_OURS 0xfe
#define FRAGMENT_DROP 0xff

struct fate4 {
	__u64 seen;         /* by fragment_count: duplicates do not count twice */
	__u32 noted;        /* tick */
	__u32 bytes, total; /* behind the IP headers: of those that were seen, and of all if the last one was seen */
	struct rewrite rewrite;
};
/* What was noted longer ago is of another datagram: identifications come round. */
#define FATE_TICKS (10 * TICKS_PER_SECOND)

/* Full, the oldest are forgotten: the fragments of a datagram leave their sender back to back. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct datagram4);
	__type(value, struct fate4);
} fragments4 SEC(".maps");

static __always_inline __u32 tick_now(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

/* The last fragment says how much there is; the others are mostly of one size, so its place among them is a fragment's bit. Where two
 * have the same, the datagram counts as incomplete. */
static __always_inline void fragment_count(struct fate4 *fate, const struct packet4 *p)
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

static __noinline void fragment_note(const struct packet4 *p, __u32 meta, const struct rewrite *r)
{
	struct datagram4 key = {.saddr = p->saddr, .daddr = p->daddr, .meta = meta, .id = p->id};
	struct fate4 fate = {.noted = tick_now(), .rewrite = *r};

	fragment_count(&fate, p);
	/* Should it fail, the later fragments go the way of those whose first one did not come. */
	bpf_map_update_elem(&fragments4, &key, &fate, BPF_ANY);
}

static __always_inline void fragment_note_op(const struct packet4 *p, __u32 meta, __u8 op)
{
	struct rewrite r = {.op = op};

	fragment_note(p, meta, &r);
}

/* A first fragment that goes on. Where its address is none of ours nothing needs to be known: so do those that follow. */
static __noinline void fragment_note_not_ours(const struct packet4 *p, __u32 meta)
{
	struct datagram4 key = {.saddr = p->saddr, .daddr = p->daddr, .meta = meta, .id = p->id};

	if (address_lookup(p))
		fragment_note_op(p, meta, FRAGMENT_NOT_OURS);
	else
		bpf_map_delete_elem(&fragments4, &key);
}

/* What becomes of a later fragment; false if the first one did not come. With the last one that was missing the datagram is
 * forgotten: the next of the same identification may come in another order. */
static __noinline _Bool fragment_take(const struct packet4 *p, __u32 meta, struct rewrite *r)
{
	struct datagram4 key = {.saddr = p->saddr, .daddr = p->daddr, .meta = meta, .id = p->id};
	struct fate4 *fate = bpf_map_lookup_elem(&fragments4, &key);

	if (!fate || tick_now() - fate->noted >= FATE_TICKS)
		return 0;
	*r = fate->rewrite;
	fragment_count(fate, p);
	if (fate->total && fate->bytes == fate->total)
		bpf_map_delete_elem(&fragments4, &key);
	return 1;
}

#endif
