/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Prints what flow.h says, one "name value" a line, for the test that compares it with the engine. */
#include <linux/types.h>
#include <stddef.h>
#include <stdio.h>

#include "flow.h"

#define SHOW(name, value) printf("%s %llu\n", name, (unsigned long long)(value))
#define OFFSET(flow, field) SHOW("offset." #field, offsetof(struct flow, field))
#define CONSTANT(name) SHOW(#name, name)

#define ENTRY(flow)                                                                                      \
	SHOW("sizeof", sizeof(struct flow));                                                             \
	OFFSET(flow, saddr); OFFSET(flow, daddr); OFFSET(flow, ports); OFFSET(flow, meta);               \
	OFFSET(flow, new_saddr); OFFSET(flow, new_daddr); OFFSET(flow, new_ports); OFFSET(flow, flags);  \
	OFFSET(flow, asked);                                                                             \
	OFFSET(flow, addr_diff); OFFSET(flow, port_diff); OFFSET(flow, ifindex); OFFSET(flow, dmac);     \
	OFFSET(flow, overflowed);                                                                        \
	OFFSET(flow, seen); OFFSET(flow, last); OFFSET(flow, created); OFFSET(flow, peer)

static void show_hash(__u64 hash, int i)
{
	SHOW("hash", hash);
	SHOW("bucket1", FLOW_BUCKET1(hash, 1 + i % 24));
	SHOW("bucket2", FLOW_BUCKET2(hash, 1 + i % 24));
	SHOW("overflow", FLOW_OVERFLOW_BUCKET(hash, i % 4, 1 + i % 24));
}

int main(void)
{
	__u64 state = 1;

	ENTRY(flow4);
	ENTRY(flow6);
	CONSTANT(HOOK_POD_IN); CONSTANT(HOOK_POD_OUT); CONSTANT(HOOK_UPLINK_IN); CONSTANT(HOOK_UPLINK_OUT); CONSTANT(HOOK_NODE_OUT);
	CONSTANT(FLOW_PASS); CONSTANT(FLOW_BRIDGE); CONSTANT(FLOW_PEER); CONSTANT(FLOW_NEIGH); CONSTANT(FLOW_RECEIVED); CONSTANT(FLOW_WORKER);
	CONSTANT(FLOW_FORWARD); CONSTANT(FLOW_SNAT);
	CONSTANT(SEEN_FIN); CONSTANT(SEEN_SYN); CONSTANT(SEEN_RST); CONSTANT(SEEN_ACK); CONSTANT(SEEN_ANY);
	CONSTANT(SEEN_STOPPED); CONSTANT(SEEN_POSITION); CONSTANT(SEEN_ASKED); CONSTANT(SEEN_CHALLENGED); CONSTANT(POSITION_SHIFT); CONSTANT(POSITION_MASK);
	CONSTANT(REACH); CONSTANT(LAG); CONSTANT(RESET_REACH);
	CONSTANT(TICK_SHIFT); CONSTANT(TICKS_PER_SECOND); CONSTANT(BUCKET_ENTRIES); CONSTANT(OVERFLOW_BUCKETS);
	SHOW("meta", FLOW_META(0x12345, HOOK_UPLINK_OUT, 17));
	for (int i = 0; i < 64; i++) {
		state = state * 6364136223846793005ULL + 1442695040888963407ULL;
		show_hash(flow_hash4(state, state >> 7, state >> 13, state >> 19, state >> 23), i);
		show_hash(flow_hash6(state, (ip6){{state * 3, state * 5}}, (ip6){{state * 7, state * 9}}, state >> 19, state >> 23), i);
	}
	return 0;
}
