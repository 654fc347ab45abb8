/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The maps and the load-time constants of all programs. User space writes the maps (src/maps.rs), the
 * programs only read them, but for the flow entries' `seen` and `last` and for the counters. */
#ifndef RINGWAY_MAPS_H
#define RINGWAY_MAPS_H

/* Raise it when the layout or the meaning of a pinned map changes: the next start then replaces all
 * pinned maps instead of reading them wrongly. */
#define LAYOUT_VERSION 4

/* Set before load; constants to the verifier, so that branches on them cost nothing. */
const volatile __u64 seed;            /* of the flow tables' hashes */
/* A flow table has 1 << bucket_bits buckets. */
const volatile __u32 bucket_bits4 = 1, bucket_bits6 = 1;
const volatile __u32 rw1_ifindex;     /* the host's side of the hostlink */
const volatile __u32 workers = 1;
const volatile __u8 generic_uplinks;  /* bool: generic XDP: it sees again what we hand back */
const volatile __u64 netns_cookie;    /* of the network namespace of the node */
/* Where `node` sends the node's own sockets, network byte order. */
const volatile __u32 node_port_alias4, vip_alias4;
const volatile ip6 node_port_alias6, vip_alias6;
const volatile __u32 layout_version = LAYOUT_VERSION;

/* Which backend a client has at a service port: the workers' alone, here because a pinned map outlives the process.
 * The layout is that of dataplane/engine/src/affinity.rs. */
struct affinity {
	__u64 key, backend[2];
	__u32 last, timeout;
	__u16 port, zero[3];
	__u64 reserved[3];
};
_Static_assert(sizeof(struct affinity) == 64, "the stride of the mapped array");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 16); /* set before load */
	__type(key, __u32);
	__type(value, struct affinity);
} affinity SEC(".maps");

/* What a frontend is: values of `frontends4` and `frontends6`. */
#define FRONTEND_HERE 1u      /* may have backends on this node: `uplink` must look at the flow table */
#define FRONTEND_NODE_PORT 2u /* a NodePort: `node` sends sockets that use it to the same port of the NodePorts' alias */
#define FRONTEND_DRAINING 4u  /* no frontend any more: only its established flows are ours */
#define FRONTEND_VIP 8u       /* of a VIP: `node` sends sockets that use it to the port of the VIPs' alias in the upper 16 bits */
#define FRONTEND_ALIAS_PORT(flags) bpf_htons((flags) >> 16)

/* What an address is to us beside its frontends. One map, so that a packet that is none of ours asks once. */
struct address {
	__u32 flags;
	__u16 lo, hi; /* ADDRESS_SNAT: its ports that are ours, both ends included, host byte order */
};
#define ADDRESS_ANNOUNCED 1u /* answer ARP or neighbor solicitations for it */
#define ADDRESS_CLOSED 2u    /* every port of it is ours: a worker refuses what no frontend takes */
#define ADDRESS_VIP 4u       /* a service's and no node's: what no frontend takes is dropped, it would go back into the network */
#define ADDRESS_SNAT 8u      /* we give it to clients as source */
#define ADDRESS_PING 16u     /* answer pings to it */

/* The uplinks, and the members of those that are bonds, from the front; the first without an ifindex ends them. An array, for it is asked
 * about every packet of ours and a node has one or two: finding the first costs a tenth of a lookup in a hash. */
struct uplink {
	__u32 ifindex;
	__u32 queue_base; /* index of its queue 0 in xsks_uplinks */
	__u16 mac[3];     /* its own; all 0: not known, every frame counts as sent to it */
	__u16 flags;
};
#define UPLINK_NO_GROUPS 1u /* a member of a bond that receives only what is sent to one station */
#define UPLINK_INACTIVE 2u  /* one that receives nothing but for itself: what it does get of ours is dropped */
#define UPLINKS_MAX 64
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, UPLINKS_MAX);
	__type(key, __u32);
	__type(value, struct uplink);
} uplinks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} xsks_uplinks SEC(".maps");

/* Queue of rw0 -> socket. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} xsks_hostlink SEC(".maps");

/* Own MAC of every device that an order or a flow's op may name. */
struct mac {
	__u8 octets[6];
	__u8 zero[2];
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct mac);
} device_macs SEC(".maps");

/* Keys are compared byte by byte, and a gap may hold anything. */
#define WITHOUT_GAPS __attribute__((packed, aligned(4)))

#define FAMILY_CODE "family/maps.h"
#include "both.h"

/* What the next start has to know about the pinned flow tables. */
struct node_meta {
	__u32 layout_version;
	__u32 bucket_bits4, bucket_bits6;
	__u32 zero;
	__u64 seed;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node_meta);
} node_meta SEC(".maps");

#endif
