/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The flow entry and its hash: shared with dataplane/engine/src/flow/{entry,hash}.rs.
 * A test compares both sides, so change them together. */
#ifndef RINGWAY_FLOW_H
#define RINGWAY_FLOW_H

/* Where a packet is looked at. Part of the flow key: one tuple passes several hooks. */
enum hook {
	HOOK_POD_IN = 0,     /* tc ingress of a pod's host-side device; zone = ifindex */
	HOOK_POD_OUT = 1,    /* tc egress of a pod's host-side device; zone = ifindex */
	HOOK_UPLINK_IN = 2,  /* XDP or tc ingress of any uplink; zone = 0 */
	HOOK_UPLINK_OUT = 3, /* tc egress of any uplink; zone = 0 */
	HOOK_NODE_OUT = 4,   /* tc egress of rw1, packets of the node's own sockets; zone = 0 */
};

/* What follows the rewrite. */
enum flow_op {
	FLOW_PASS = 0,     /* go on */
	FLOW_BRIDGE = 1,   /* write dmac as destination, go on: a bridge switches it */
	FLOW_PEER = 2,     /* write dmac, bpf_redirect_peer(ifindex) */
	FLOW_NEIGH = 3,    /* bpf_redirect_neigh(ifindex) */
	FLOW_RECEIVED = 4, /* write dmac, mark, bpf_redirect(ifindex, BPF_F_INGRESS) */
	FLOW_WORKER = 5,   /* a worker executes this entry: redirect to its socket, or upcall */
};

/* Bits of `flags` of an entry beside the op in the low byte. */
#define FLOW_OP_MASK 0xffu
#define FLOW_FORWARD 0x100u /* this entry matches client -> frontend */
#define FLOW_SNAT 0x200u    /* the flow holds a NAT binding: our source address or port */

/* Bits of `seen` of an entry: TCP flags (RFC 9293 section 3.1) of the packets that hit and fit into the connection, a reset in both
 * entries, and: */
#define SEEN_FIN 0x01u
#define SEEN_SYN 0x02u
#define SEEN_RST 0x04u
#define SEEN_ACK 0x10u
#define SEEN_ANY 0x100u /* a packet hit this entry */
#define SEEN_STOPPED 0x200u /* of a forward entry: its backend stopped serving, the next packet is the first of a new flow */
#define SEEN_POSITION 0x400u /* the upper half of `seen` is known: that of the last TCP sequence number of this direction's sender */
#define SEEN_ASKED 0x800u /* of a forward entry: a SYN of the client went to the backend, `asked`, and the connection is not complete */
#define SEEN_CHALLENGED 0x1000u /* of a forward entry: its ends are asked whether the connection lives that is said to be reset */
#define SEEN_TCP (SEEN_FIN | SEEN_SYN | SEEN_RST | SEEN_ACK)
#define SEEN_RESET (SEEN_RST | SEEN_CHALLENGED) /* what is left of a reset that was taken back: nothing */
#define POSITION_SHIFT 16
#define POSITION_MASK 0xffff0000u
/* How far positions of one connection are from each other at most; those of resets without an acknowledgment number. */
#define REACH 256
#define LAG 1024
#define RESET_REACH 16

/* Units of `last` and `created` of an entry: CLOCK_MONOTONIC ns >> TICK_SHIFT, 16.8 ms. */
#define TICK_SHIFT 24
#define TICKS_PER_SECOND 60u

/* Addresses as in the packet. */
typedef __u32 ip4;
typedef struct {
	__u64 word[2];
} ip6;

/* One direction of an IPv4 flow. Addresses and ports are in network byte order as in the packet;
 * ports = source | destination << 16 as loaded by a little-endian u32 read of the L4 header.
 * Key and rewrite never change while meta != 0; meta is stored last (release) and cleared first. */
struct flow4 {
	ip4 saddr, daddr;
	__u32 ports, meta;             /* meta = ifindex << 11 | hook << 8 | protocol; 0 = empty */
	ip4 new_saddr, new_daddr;
	__u32 new_ports;
	__u16 flags;
	__u16 asked; /* of a forward entry: upper half of the sequence number of the client's last SYN; not of the rewrite */
	__u16 addr_diff, port_diff; /* folded ones-complement difference new - old, for checksums */
	__u32 ifindex;              /* of the op */
	__u8 dmac[6];               /* of the op */
	__u16 overflowed; /* of the first entry of a bucket: overflowed ones of which this is bucket one */
	__u32 seen;    /* SEEN_*, by atomic or; in the upper half the position */
	__u32 last;    /* tick of the last packet, at 1 s resolution */
	__u32 created; /* tick */
	__u32 peer;    /* slot of the other direction */
};

/* One direction of an IPv6 flow, likewise. */
struct flow6 {
	ip6 saddr, daddr;
	__u32 ports, meta;
	ip6 new_saddr, new_daddr;
	__u32 new_ports;
	__u16 flags, asked;
	__u16 addr_diff, port_diff;
	__u32 ifindex;
	__u8 dmac[6];
	__u16 overflowed;
	__u32 seen, last, created, peer;
	__u32 reserved[4]; /* so that an entry is two cache lines */
};

#define BUCKET_ENTRIES 4
struct bucket4 {
	struct flow4 entry[BUCKET_ENTRIES];
};
struct bucket6 {
	struct flow6 entry[BUCKET_ENTRIES];
};

#define FLOW_META(zone, hook, proto) ((__u32)(zone) << 11 | (__u32)(hook) << 8 | (__u32)(proto))

static inline __attribute__((always_inline)) __u64 flow_hash_end(__u64 h, __u32 ports, __u32 meta)
{
	h ^= (__u64)ports << 32 | meta;
	h *= 0xc4ceb9fe1a85ec53ULL;
	h ^= h >> 29;
	h *= 0x9e3779b97f4a7c15ULL;
	h ^= h >> 32;
	return h;
}

static inline __attribute__((always_inline)) __u64 flow_hash_word(__u64 h, __u64 word)
{
	h ^= word;
	h *= 0xff51afd7ed558ccdULL;
	h ^= h >> 32;
	return h;
}

static inline __attribute__((always_inline)) __u64
flow_hash4(__u64 seed, ip4 saddr, ip4 daddr, __u32 ports, __u32 meta)
{
	return flow_hash_end(flow_hash_word(seed, (__u64)saddr << 32 | daddr), ports, meta);
}

static inline __attribute__((always_inline)) __u64
flow_hash6(__u64 seed, ip6 saddr, ip6 daddr, __u32 ports, __u32 meta)
{
	__u64 h = flow_hash_word(flow_hash_word(seed, saddr.word[0]), saddr.word[1]);

	return flow_hash_end(flow_hash_word(flow_hash_word(h, daddr.word[0]), daddr.word[1]), ports, meta);
}

/* Bucket one from the low bits of the hash; bucket two is another one nearby, chosen by the top bits. */
#define FLOW_BUCKET1(h, bits) ((__u32)(h) & ((1u << (bits)) - 1))
#define FLOW_BUCKETS_NEARBY 128u
#define FLOW_OTHERS_NEARBY(bits) (((bits) < 7 ? 1u << (bits) : FLOW_BUCKETS_NEARBY) - 1)
#define FLOW_BUCKET2(h, bits) (FLOW_BUCKET1(h, bits) ^ (1 + ((__u32)((h) >> 56) * FLOW_OTHERS_NEARBY(bits) >> 8)))
/* Where an entry is that found no room in the two: one of so many buckets in a row. */
#define OVERFLOW_BUCKETS 4
#define FLOW_OVERFLOW_BUCKET(h, number, bits) ((__u32)((h) >> 32) + (number) & ((1u << (bits)) - 1))

#endif
