/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What differs from IPv6. */
#ifndef RINGWAY_IPV4_H
#define RINGWAY_IPV4_H

typedef struct iphdr header4;
#define ETHERTYPE4 ETH_P_IP
#define ADDRESSES4 offsetof(struct iphdr, saddr)
#define ICMP4 IPPROTO_ICMP
#define SMALL_MTU4 576 /* every host takes that (RFC 791 section 3.1) */
#define NODE_PORT_ALIAS4 node_port_alias4
#define VIP_ALIAS4 vip_alias4
/* From the start of the IP header: all that `parse4` may read. */
#define HEADERS_BYTES_MAX4 (60 + sizeof(struct tcphdr))

static __always_inline _Bool same4(ip4 a, ip4 b)
{
	return a == b;
}

static __always_inline __u32 fold4(ip4 address)
{
	return address;
}

/* Reads the IP and L4 headers. False for everything that is neither a whole, well-formed TCP, UDP or SCTP header nor a fragment
 * behind one: such a packet is none of ours and goes on as it is. */
static __always_inline _Bool parse4(struct view *v, struct packet4 *p)
{
	const struct iphdr *ip = v->ip;
	__u32 total, header, fragment;

	if ((const void *)(ip + 1) > v->end || ip->version != 4 || ip->ihl < 5)
		return 0;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (total == 0 && v->tc)
		total = v->bytes;
	if (total > v->bytes || total < header)
		return 0;

	p->saddr = ip->saddr;
	p->daddr = ip->daddr;
	p->l4_offset = header;
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	p->id = ip->id;
	fragment = bpf_ntohs(ip->frag_off) & (IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET);
	p->fragment = fragment;
	p->payload = total - header;
	if (fragment & IP_FRAGMENT_OFFSET)
		return is_later_of_ours4(p);
	p->part = fragment >> 13; /* no branch, which would be two paths to the verifier */
	return parse_transport4(p, v->ip + header, v->end, total - header);
}

#define ICMP_ECHO 8
#define ICMP_DESTINATION_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12

/* An echo request, whole and without IP options. */
static __always_inline _Bool is_ping4(const struct view *v)
{
	const struct iphdr *ip = v->ip;
	const struct icmp_header *icmp = (const void *)(ip + 1);
	__u32 total;

	if ((const void *)(icmp + 1) > v->end || ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_ICMP)
		return 0;
	total = bpf_ntohs(ip->tot_len);
	return total >= sizeof(*ip) + sizeof(*icmp) && total <= v->bytes && !(ip->frag_off & bpf_htons(0x3fff)) &&
	       icmp->type == ICMP_ECHO && icmp->code == 0;
}

/* From the start of the IP header: all that `parse_quote4` may read. */
#define QUOTE_BYTES_MAX (60 + sizeof(struct icmp_header) + 60 + sizeof(struct tcphdr))

/* Reads an ICMP error (RFC 792) about a TCP segment, UDP datagram or SCTP packet; as much of that as is quoted. Redirects are none: they are for the
 * router of the quoted packet's sender. False for everything else. */
static __always_inline _Bool parse_quote4(struct view *v, struct packet4 *p)
{
	const struct icmp_header *icmp;
	const struct iphdr *ip, *quoted;
	const __u32 *ports;
	__u32 total, header, quoted_header, room, check;

	if (v->tc && v->ip + QUOTE_BYTES_MAX > v->end && !pull(v, QUOTE_BYTES_MAX))
		return 0;
	ip = v->ip;
	if ((const void *)(ip + 1) > v->end || ip->version != 4 || ip->ihl < 5 || ip->protocol != IPPROTO_ICMP ||
	    ip->frag_off & bpf_htons(0x3fff))
		return 0;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (total > v->bytes || total < header + sizeof(*icmp) + sizeof(*quoted))
		return 0;
	icmp = (const void *)ip + header;
	quoted = (const void *)(icmp + 1);
	if ((const void *)(quoted + 1) > v->end)
		return 0;
	if (icmp->type != ICMP_DESTINATION_UNREACHABLE && icmp->type != ICMP_TIME_EXCEEDED &&
	    icmp->type != ICMP_PARAMETER_PROBLEM)
		return 0;
	/* It is for the sender of what it quotes, or somebody made it up. */
	if (quoted->version != 4 || quoted->ihl < 5 || quoted->frag_off & bpf_htons(0x1fff) || quoted->saddr != ip->daddr)
		return 0;
	if (quoted->protocol != IPPROTO_TCP && quoted->protocol != IPPROTO_UDP && quoted->protocol != IPPROTO_SCTP)
		return 0;
	quoted_header = quoted->ihl * 4;
	ports = (const void *)quoted + quoted_header;
	room = total - header - sizeof(*icmp);
	if ((const void *)(ports + 1) > v->end || room < quoted_header + sizeof(*ports))
		return 0;
	check = quoted_header + (quoted->protocol == IPPROTO_TCP ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	p->saddr = quoted->daddr;
	p->daddr = quoted->saddr;
	p->ports = *ports >> 16 | *ports << 16;
	p->l4_offset = header;
	p->quoted = header + sizeof(*icmp);
	p->quoted_l4 = p->quoted + quoted_header;
	p->quoted_check = room >= check + sizeof(__u16) && quoted->protocol != IPPROTO_SCTP ? p->quoted + check : 0;
	p->protocol = quoted->protocol;
	p->part = PART_WHOLE;
	p->tcp_flags = 0;
	p->ttl = ip->ttl;
	return 1;
}

/* The header's checksum when its addresses change by `diff`. */
static __always_inline long sum_header4(struct __sk_buff *skb, __u32 l3, __u32 diff)
{
	return bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), 0, diff, 0);
}

/* The checksum at `sum`, which covers the addresses too, and the header's when the addresses change by `diff`. */
static __always_inline long sum_addresses4(struct __sk_buff *skb, __u32 l3, __u32 sum, __u32 diff, __u64 flags)
{
	return bpf_l4_csum_replace(skb, sum, 0, diff, flags | BPF_F_PSEUDO_HDR) | sum_header4(skb, l3, diff);
}

/* Likewise, where that at `sum` is ICMP's, which does not cover them. */
static __always_inline long sum_icmp4(struct __sk_buff *skb, __u32 l3, __u32 sum, __u32 diff)
{
	(void)sum;
	return sum_header4(skb, l3, diff);
}

static __always_inline long decrement_ttl4(struct __sk_buff *skb, __u32 l3, const struct packet4 *p)
{
	__u8 ttl = p->ttl - 1;

	/* In the header's 16-bit word TTL and protocol: minus one in the TTL's byte. */
	return bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), bpf_htons((__u16)p->ttl << 8 | p->protocol),
				   bpf_htons((__u16)ttl << 8 | p->protocol), 2) |
	       bpf_skb_store_bytes(skb, l3 + offsetof(struct iphdr, ttl), &ttl, sizeof(ttl), 0);
}

/* To connect and sendto, 0.0.0.0 means a loopback address. */
static __always_inline _Bool is_loopback4(ip4 address)
{
	return !address || (bpf_ntohl(address) >> 24) == 127;
}

#endif
