/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The generator and the sink of the measurements. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define HEADERS 42 /* Ethernet, IPv4, UDP */

struct plan {
	__u8 headers[48]; /* 42 bytes of them are the packet's */
	__u32 flows;      /* source ports that take turns */
	__u32 first_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plans SEC(".maps");

/* 0: next flow of the generator, 1: packets that reached the sink */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

/* Run on live frames. It writes the headers anew each time: the kernel gives pages back as the last receiver left them. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	const struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	__u64 *next = bpf_map_lookup_elem(&counts, &zero);
	struct udphdr *udp = (void *)(data + sizeof(struct ethhdr) + sizeof(struct iphdr));

	if (!plan || !next || data + HEADERS > end)
		return XDP_DROP;
	__builtin_memcpy(data, plan->headers, HEADERS);
	udp->source = bpf_htons(plan->first_port + *next);
	*next = *next + 1 < plan->flows ? *next + 1 : 0;
	return XDP_TX;
}

/* On the devices where packets arrive: counts datagrams and drops them; ARP goes on. */
SEC("xdp")
int sink(struct xdp_md *ctx)
{
	const void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct iphdr *ip = data + sizeof(struct ethhdr);
	__u32 one = 1;
	__u64 *received;

	if ((const void *)(ip + 1) > end || ((const struct ethhdr *)data)->h_proto != bpf_htons(ETH_P_IP) ||
	    ip->protocol != IPPROTO_UDP)
		return XDP_PASS;
	received = bpf_map_lookup_elem(&counts, &one);
	if (received)
		*received += 1;
	return XDP_DROP;
}

/* What a driver's XDP costs by itself: on a veth, a copy of every packet. */
SEC("xdp.frags")
int pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
