/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What became of the first fragment of a datagram (RFC 791 section 3.2, RFC 8200 section 4.5): those that follow have no ports, and go
 * where it went. */
#ifndef RINGWAY_FRAGMENTS_H
#define RINGWAY_FRAGMENTS_H

/* In the place of enum hook in what `uplink` notes: `edge` notes more at the same device. */
#define HOOK_UPLINK_XDP 5

/* In the place of FLOW_*; from the first of them on nobody executes it. */
#define FRAGMENT_OVERLAP 0xfd /* it lies on what has come; or another one did, and with it all that follows is dropped */
#define FRAGMENT_NOT_OURS 0xfe
#define FRAGMENT_DROP 0xff

/* What was noted longer ago is of another datagram: identifications come round. */
#define FATE_TICKS (10 * TICKS_PER_SECOND)

/* A first fragment that comes so much later than one of the same identification begins another datagram. As in the engine. */
#define ANOTHER_TICKS TICKS_PER_SECOND

static __always_inline __u32 tick_now(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

/* Ranges that are known of a datagram. In any order, the largest in pieces of 1 280 bytes: 54, of which every other one may come first.
 * The same in the engine's pieces.rs. */
#define RANGES 28

/* Which parts of a datagram have come. A range is what came without a gap, in units of eight bytes: its first one, and in the upper half
 * the one behind it. One that is 0 is not in use; they are in no order.
 *
 * Fragments may be seen by several CPUs at a time, and a lock would cost more than what it guards. So a range is read and written as one
 * word, and what is written is always made of whole pieces that have come: whatever is lost to another CPU's write, at worst an overlap is
 * not noticed, or the end of the datagram is not; no piece that came once is ever taken for one that lies on others. (But when so many
 * datagrams are under way that the map is full, the kernel may give this memory to another one while it is written.) */
struct pieces {
	__u32 ranges[RANGES];
	__u32 end; /* bytes behind the IP headers, once the last fragment has come */
};

/* What a piece is to those that came before. */
enum place {
	PLACE_FREE,
	PLACE_FREE_LAST,     /* and with it all have come */
	PLACE_TAKEN,         /* wholly on what has come: a duplicate, or as good as one */
	PLACE_CONTRADICTION, /* partly on it, or beyond the end, or it is empty, or there are more gaps than we remember */
};

/* Notes a piece, if there was nothing in its place (net/ipv4/inet_fragment.c has the same rules). `fragment` as in struct packet, `bytes`
 * behind the IP headers. Not static, so that the verifier looks at its loops once. */
__noinline int pieces_add(struct pieces *pieces, __u32 fragment, __u32 bytes)
{
	__u32 first = fragment & IP_FRAGMENT_OFFSET, behind = first + (bytes + 7) / 8, end = first * 8 + bytes;
	_Bool last = !(fragment & IP_MORE_FRAGMENTS);

	if (!pieces || !bytes || (!last && bytes & 7))
		return PLACE_CONTRADICTION;
	if (pieces->end && (end > pieces->end || (last && end != pieces->end)))
		return PLACE_CONTRADICTION;
	for (int i = 0; i < RANGES; i++) {
		__u32 range = READ_ONCE(pieces->ranges[i]), from = range & 0xffff, to = range >> 16;

		if (last && to > behind)
			return PLACE_CONTRADICTION;
		if (first < to && from < behind)
			return from <= first && behind <= to ? PLACE_TAKEN : PLACE_CONTRADICTION;
	}
	for (int i = 0; i < RANGES; i++) {
		__u32 range = READ_ONCE(pieces->ranges[i]);

		if (range && range >> 16 == first) {
			first = range & 0xffff;
			WRITE_ONCE(pieces->ranges[i], 0);
			break;
		}
	}
	for (int i = 0; i < RANGES; i++) {
		__u32 range = READ_ONCE(pieces->ranges[i]);

		if (range && (range & 0xffff) == behind) {
			behind = range >> 16;
			WRITE_ONCE(pieces->ranges[i], 0);
			break;
		}
	}
	if (last)
		pieces->end = end;
	end = pieces->end;
	for (int i = 0; i < RANGES; i++) {
		if (READ_ONCE(pieces->ranges[i]))
			continue;
		WRITE_ONCE(pieces->ranges[i], behind << 16 | first);
		return end && !first && behind == (end + 7) / 8 ? PLACE_FREE_LAST : PLACE_FREE;
	}
	return PLACE_CONTRADICTION;
}

#define FAMILY_CODE "family/fragments.h"
#include "both.h"

#endif
