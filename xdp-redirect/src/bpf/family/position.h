/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a segment may say of a TCP connection: the same as in dataplane/engine/src/flow/position.rs, where it is explained. */

static __always_inline void N(add)(struct N(flow) *flow, __u32 bits)
{
	if ((READ_ONCE(flow->seen) & bits) != bits)
		__sync_fetch_and_or(&flow->seen, bits);
}

static __always_inline void N(note)(struct N(flow) *flow, __u32 cleared, __u32 bits, __u16 position)
{
	__u32 seen = READ_ONCE(flow->seen);

	if (seen & cleared & ~bits)
		__sync_fetch_and_and(&flow->seen, ~cleared);
	if (seen >> POSITION_SHIFT != position)
		WRITE_ONCE(((__u16 *)&flow->seen)[1], position);
	N(add)(flow, bits | SEEN_POSITION);
}

/* Of one of the two entries. */
static __always_inline void N(note_reset)(struct N(flow) *flow, _Bool use, __u32 now)
{
	if (use)
		WRITE_ONCE(flow->last, now);
	if (READ_ONCE(flow->seen) & SEEN_ASKED)
		__sync_fetch_and_and(&flow->seen, ~SEEN_ASKED);
	N(add)(flow, SEEN_RST);
}

static __always_inline _Bool N(judge_syn)(struct N(flow) *flow, struct N(flow) *peer, __u32 bits, __u16 position, __u16 acknowledged,
				       _Bool answers)
{
	__u32 seen = READ_ONCE(flow->seen), asks = 0;

	bits &= ~SEEN_FIN;
	if (answers && (seen & SEEN_RST || !(seen & SEEN_POSITION && seen >> POSITION_SHIFT == position))) {
		N(note)(peer, SEEN_RESET | SEEN_FIN, SEEN_SYN, peer->asked);
		N(note)(flow, SEEN_RESET | SEEN_FIN, bits, position);
		return 1;
	}
	if (flow->flags & FLOW_FORWARD && !(bits & SEEN_ACK)) {
		WRITE_ONCE(flow->asked, position);
		asks = SEEN_ASKED;
	}
	if (is_near(seen, position, 0, 0) && (!(bits & SEEN_ACK) || is_near(READ_ONCE(peer->seen), acknowledged, LAG, REACH))) {
		N(note)(flow, 0, bits | asks, position);
		return 1;
	}
	N(add)(flow, SEEN_ANY | asks);
	return bits & SEEN_ACK;
}

/* Notes of a segment that says something new what it proves. False if it does not even prove that the connection lives. Not static, so
 * that the verifier looks at it once. */
__noinline int N(judge)(struct N(flow) *flow, const struct N(packet) *p, __u32 now)
{
	struct N(bucket) *bucket;
	struct N(flow) *peer;
	__u16 position, acknowledged;
	__u32 bits, acknowledgment, seen, other, cleared = SEEN_ASKED, reach = REACH;
	_Bool fits, answers, challenged;

	if (!flow || !p)
		return 0;
	bits = SEEN_ANY | (p->tcp_flags & SEEN_TCP);
	bucket = N(flow_bucket)(flow->peer / BUCKET_ENTRIES);
	if (p->protocol != IPPROTO_TCP || !bucket) {
		N(add)(flow, bits);
		return 1;
	}
	peer = &bucket->entry[flow->peer % BUCKET_ENTRIES];
	position = bpf_ntohl(p->sequence) >> POSITION_SHIFT;
	acknowledgment = bpf_ntohl(p->acknowledgment);
	acknowledged = acknowledgment >> POSITION_SHIFT;
	other = READ_ONCE(peer->seen);
	answers = bits & SEEN_ACK && peer->flags & FLOW_FORWARD && other & SEEN_ASKED &&
		  (__u16)(((acknowledgment - 1) >> POSITION_SHIFT) - READ_ONCE(peer->asked)) <= 1;
	if (bits & SEEN_SYN && !(bits & SEEN_RST))
		return N(judge_syn)(flow, peer, bits, position, acknowledged, answers);
	if (!(bits & SEEN_ACK))
		reach = RESET_REACH;
	seen = READ_ONCE(flow->seen);
	fits = is_near(seen, position, reach, reach) && (!(bits & SEEN_ACK) || is_near(other, acknowledged, LAG, REACH));
	challenged = (seen | other) & SEEN_CHALLENGED;
	if (bits & SEEN_RST) {
		/* Not that of who is asked and does not know the connection, nor of a backend that refuses each new SYN. */
		_Bool use = !(challenged || (answers && (seen | other) & SEEN_RST));

		N(add)(flow, SEEN_ANY);
		if (answers || fits) {
			N(note_reset)(peer, use, now);
			N(note_reset)(flow, use, now);
		}
		return use;
	}
	if (!(bits & SEEN_ACK) || !(fits || challenged)) {
		N(add)(flow, SEEN_ANY);
		return 1;
	}
	if (fits) {
		position = farthest(seen, position);
		acknowledged = farthest(other, acknowledged);
	} else {
		bits &= ~SEEN_FIN;
	}
	if (seen & SEEN_RST && (challenged || (__s32)(now - READ_ONCE(flow->last)) >= (__s32)TICKS_PER_SECOND)) {
		cleared |= SEEN_RESET;
		N(note)(peer, SEEN_RESET, 0, acknowledged);
	}
	N(note)(flow, cleared, bits, position);
	return 1;
}

/* Tells the workers that the flow lives, for they do not see its packets, and what the packet proves of its connection. Written only
 * when it changes: the line is shared by all CPUs. */
static __always_inline void N(touch)(struct N(flow) *flow, const struct N(packet) *p)
{
	__u32 bits = SEEN_ANY | (p->tcp_flags & SEEN_TCP), mask = bits, now = tick_now();

	if (p->protocol == IPPROTO_TCP) {
		__u32 asks = (p->tcp_flags & (SEEN_SYN | SEEN_ACK)) == SEEN_SYN ? SEEN_ASKED : 0;

		bits |= SEEN_POSITION | asks | (bpf_ntohl(p->sequence) & POSITION_MASK);
		mask |= SEEN_POSITION | SEEN_RST | SEEN_ASKED | POSITION_MASK;
	}
	if (((READ_ONCE(flow->seen) & mask) != bits || bits & SEEN_RST) && !N(judge)(flow, p, now))
		return;
	if ((__s32)(now - READ_ONCE(flow->last)) >= (__s32)TICKS_PER_SECOND)
		WRITE_ONCE(flow->last, now);
}
