/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Counters: every packet that a program sees counts exactly once in that program, by its outcome.
 * The names travel in rodata, so user space cannot disagree with the enum. */
#ifndef RINGWAY_COUNTERS_H
#define RINGWAY_COUNTERS_H

/* One block per hook, in the order of enum hook. */
#define EDGE_COUNTERS(X, hook)                                                                          \
	X(hook##_other)      /* not TCP, UDP or SCTP over IP, malformed: goes on */                      \
	X(hook##_miss)       /* no flow, no frontend: goes on */                                        \
	X(hook##_hit)        /* rewritten in place */                                                   \
	X(hook##_upcall)     /* to a worker */                                                          \
	X(hook##_loop_guard) /* needs a worker, but came from one just now: goes on */

#define COUNTERS(X)                                                                                     \
	EDGE_COUNTERS(X, pod_in)                                                                        \
	EDGE_COUNTERS(X, pod_out)                                                                       \
	EDGE_COUNTERS(X, uplink_in)                                                                     \
	EDGE_COUNTERS(X, uplink_out)                                                                    \
	EDGE_COUNTERS(X, node_out)                                                                      \
	X(edge_drop_rewrite)       /* the kernel refused to change the packet */                        \
	X(edge_drop_fragment)      /* to a VIP, and its first one did not come: would loop */           \
	X(edge_drop_overlap)       /* it lies on what has come of its datagram, or another one did */   \
	X(edge_drop_ttl)           /* TTL or hop limit expired on a path that we route */               \
	X(node_out_own_upcall)     /* upcalls of the other hooks on their way through rw1: go on */     \
	X(node_out_drop_forwarded) /* not the node's own, though routed to the hostlink */              \
	X(node_out_drop_miss)      /* the node's own, to no frontend of ours: would loop */             \
	X(node_out_drop_foreign)   /* neither an upcall nor from the route via rw1 */                   \
	X(node_socket)             /* a connect or datagram of the node's own socket to a NodePort or VIP: to the alias */ \
	X(uplink_pass)             /* not ours: to the kernel */                                        \
	X(uplink_pass_flow)        /* ours, but executed by `edge` */                                   \
	X(uplink_pass_other_host)  /* ours by its addresses, but sent to another station's MAC */       \
	X(uplink_pass_returned)    /* handed back by us (generic XDP only) */                           \
	X(uplink_redirect)         /* to the socket of this queue (dropped if there is none) */         \
	X(uplink_redirect_arp)     /* ARP request for an announced VIP, likewise */                     \
	X(uplink_redirect_ndp)     /* neighbor solicitation for one, likewise */                        \
	X(uplink_drop_unknown)     /* ours, but the uplink has no sockets configured */                 \
	X(uplink_drop_inactive)    /* ours, but received by a member of a bond that should not */       \
	X(uplink_drop_vip)         /* to a VIP, but to nothing that it serves: would loop */            \
	X(hostlink_redirect)       /* to the socket of this queue (dropped if there is none) */         \
	X(deliver_returned)        /* as if received on rw1: goes on */                                 \
	X(deliver_received)                                                                             \
	X(deliver_neigh)                                                                                \
	X(deliver_peer)                                                                                 \
	X(deliver_probe)                                                                                \
	X(deliver_drop_unknown)    /* no order, or one of another version */                            \
	X(deliver_drop_device)     /* an order for a device whose MAC we do not know */

enum counter {
#define X(name) COUNT_##name,
	COUNTERS(X)
#undef X
	COUNTERS_LEN,
};

/* Outcomes of EDGE_COUNTERS, as an offset from the hook's block. */
enum edge_outcome { EDGE_OTHER, EDGE_MISS, EDGE_HIT, EDGE_UPCALL, EDGE_LOOP_GUARD, EDGE_OUTCOMES };
#define COUNT_EDGE(hook, outcome) ((hook) * EDGE_OUTCOMES + (outcome))

#define COUNTER_NAME_LEN 32
const volatile char counter_names[COUNTERS_LEN][COUNTER_NAME_LEN] = {
#define X(name) #name,
	COUNTERS(X)
#undef X
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS_LEN);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 index)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &index);

	if (value)
		*value += 1;
}

#endif
