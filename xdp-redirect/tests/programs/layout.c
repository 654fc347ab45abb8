/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Prints what flow.h says, one "name value" a line, for the test that compares it with the engine. */
#include <linux/types.h>
#include <stddef.h>
#include <stdio.h>

#include "flow.h"

#define SHOW(name, value) printf("%s %llu\n", name, (unsigned long long)(value))
#define OFFSET(field) SHOW("offset." #field, offsetof(struct flow4, field))
#define CONSTANT(name) SHOW(#name, name)

int main(void)
{
	__u64 state = 1;

	SHOW("sizeof", sizeof(struct flow4));
	OFFSET(saddr); OFFSET(daddr); OFFSET(ports); OFFSET(meta);
	OFFSET(new_saddr); OFFSET(new_daddr); OFFSET(new_ports); OFFSET(flags);
	OFFSET(addr_diff); OFFSET(port_diff); OFFSET(ifindex); OFFSET(dmac); OFFSET(overflowed);
	OFFSET(seen); OFFSET(last); OFFSET(created); OFFSET(peer);
	CONSTANT(HOOK_POD_IN); CONSTANT(HOOK_POD_OUT); CONSTANT(HOOK_UPLINK_IN); CONSTANT(HOOK_UPLINK_OUT); CONSTANT(HOOK_NODE_OUT);
	CONSTANT(FLOW_PASS); CONSTANT(FLOW_BRIDGE); CONSTANT(FLOW_PEER); CONSTANT(FLOW_NEIGH); CONSTANT(FLOW_RECEIVED); CONSTANT(FLOW_WORKER);
	CONSTANT(FLOW_FORWARD); CONSTANT(FLOW_SNAT);
	CONSTANT(SEEN_FIN); CONSTANT(SEEN_SYN); CONSTANT(SEEN_RST); CONSTANT(SEEN_ACK); CONSTANT(SEEN_ANY);
	CONSTANT(TICK_SHIFT); CONSTANT(TICKS_PER_SECOND); CONSTANT(BUCKET_ENTRIES); CONSTANT(OVERFLOW_BUCKETS);
	SHOW("meta", FLOW_META(0x12345, HOOK_UPLINK_OUT, 17));
	for (int i = 0; i < 64; i++) {
		__u64 hash;

		state = state * 6364136223846793005ULL + 1442695040888963407ULL;
		hash = flow_hash(state, state >> 7, state >> 13, state >> 19, state >> 23);
		SHOW("hash", hash);
		SHOW("bucket1", FLOW_BUCKET1(hash, 1 + i % 24));
		SHOW("bucket2", FLOW_BUCKET2(hash, 1 + i % 24));
		SHOW("overflow", FLOW_OVERFLOW_BUCKET(hash, i % 4, 1 + i % 24));
	}
	return 0;
}
