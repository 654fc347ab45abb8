/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What differs from IPv4. */
#ifndef RINGWAY_IPV6_H
#define RINGWAY_IPV6_H

typedef struct ipv6hdr header6;
#define ETHERTYPE6 ETH_P_IPV6
#define ADDRESSES6 offsetof(struct ipv6hdr, saddr)
#define ICMP6 IPPROTO_ICMPV6
#define SMALL_MTU6 1280 /* every link takes that (RFC 8200 section 5) */
/* Word by word: of a whole that is copied clang forgets that it is volatile, and takes it for 0. */
#define NODE_PORT_ALIAS6 ((ip6){{node_port_alias6.word[0], node_port_alias6.word[1]}})
#define VIP_ALIAS6 ((ip6){{vip_alias6.word[0], vip_alias6.word[1]}})
#define HEADERS_BYTES_MAX6 (sizeof(struct ipv6hdr) + sizeof(struct tcphdr))

static __always_inline _Bool same6(ip6 a, ip6 b)
{
	return !((a.word[0] ^ b.word[0]) | (a.word[1] ^ b.word[1]));
}

static __always_inline __u32 fold6(ip6 address)
{
	__u64 word = address.word[0] ^ address.word[1];

	return word ^ word >> 32;
}

/* Extension headers (RFC 8200 section 4) are rare, so what has some is read by copying: it may lie anywhere in the packet, and
 * offsets that are not known beforehand cost the verifier nothing. */
static __always_inline _Bool load(void *ctx, _Bool tc, __u32 offset, void *to, __u32 bytes)
{
	return !(tc ? bpf_skb_load_bytes(ctx, offset, to, bytes) : bpf_xdp_load_bytes(ctx, offset, to, bytes));
}

#define EXTENSIONS_MAX 6
#define FRAGMENT_PLACE 0xfff8u /* of fragment_header.place, host byte order: in bytes */
#define FRAGMENT_MORE 1u

struct extension_header {
	__u8 next, units; /* of eight bytes, without the first */
	__u8 type, segments_left;
	__u32 rest;
};
struct fragment_header {
	__u8 next, zero;
	__be16 place;
	__u32 id;
};

static __always_inline _Bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_FRAGMENT;
}

/* Where the headers of one packet end that begin with one of type `protocol` at `offset`. */
struct walk {
	__u32 offset; /* from the start of the packet */
	__u32 id;
	__u16 fragment; /* as in IPv4's header; 0 of an atomic fragment (RFC 6946), which is a whole packet */
	__u8 protocol;
	_Bool fragmented;
};

/* False if there are more headers than we walk over, some that we do not know, or a part of the way still to go. What begins with more
 * headers behind that of a fragment is none of ours, for the fragments that follow do not tell which protocol it is. */
static __always_inline _Bool walk(void *ctx, _Bool tc, struct walk *w)
{
	for (int i = 0; i < EXTENSIONS_MAX && is_extension(w->protocol) && !w->fragment; i++) {
		struct extension_header header;
		const struct fragment_header *fragment = (const void *)&header;
		__u16 place;

		if (!load(ctx, tc, w->offset, &header, sizeof(header)))
			return 0;
		if (w->protocol == IPPROTO_FRAGMENT) {
			if (w->fragmented)
				return 0;
			place = bpf_ntohs(fragment->place);
			w->fragmented = 1;
			w->fragment = (place & FRAGMENT_PLACE) >> 3 | (place & FRAGMENT_MORE) << 13;
			w->id = fragment->id;
			w->offset += sizeof(*fragment);
		} else {
			if (w->protocol == IPPROTO_ROUTING && header.segments_left)
				return 0;
			w->offset += (header.units + 1) * 8;
		}
		w->protocol = header.next;
	}
	/* Offsets in packets are kept in 16 bits. */
	return !is_extension(w->protocol) && w->offset < 0xff00;
}

/* The rest of a packet of extension headers: what `parse6` knows stands in it already. */
static __always_inline _Bool parse_extended(void *ctx, _Bool tc, __u32 l3, __u32 total, struct packet6 *p)
{
	struct walk w = {.offset = l3 + p->l4_offset, .protocol = p->protocol};
	struct tcphdr l4 = {}; /* the largest; of the others, as much as there is */
	__u32 bytes, known;

	if (!walk(ctx, tc, &w) || w.offset > l3 + total)
		return 0;
	bytes = l3 + total - w.offset;
	p->l4_offset = w.offset - l3;
	p->protocol = w.protocol;
	p->id = w.id;
	p->fragment = w.fragment;
	p->payload = bytes;
	if (w.fragment & IP_FRAGMENT_OFFSET)
		return is_later_of_ours6(p);
	p->part = w.fragment >> 13;
	known = bytes < sizeof(l4) ? bytes : sizeof(l4);
	if (known < sizeof(struct udphdr) || !load(ctx, tc, w.offset, &l4, known))
		return 0;
	return parse_transport6(p, &l4, &l4 + 1, bytes);
}

/* Not static, so that the verifier looks at it once per program. */
__noinline int parse_extended_skb(struct __sk_buff *skb, __u32 l3, __u32 total, struct packet6 *p)
{
	return p && parse_extended(skb, 1, l3, total, p);
}

__noinline int parse_extended_frame(struct xdp_md *xdp, __u32 l3, __u32 total, struct packet6 *p)
{
	return p && parse_extended(xdp, 0, l3, total, p);
}

/* Like `parse4`. */
static __always_inline _Bool parse6(struct view *v, struct packet6 *p)
{
	const struct ipv6hdr *ip = v->ip;
	const ip6 *addresses = v->ip + ADDRESSES6; /* read in words, which the type of the header's would forbid */
	__u32 total;

	if ((const void *)(ip + 1) > v->end || ip->version != 6)
		return 0;
	total = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	/* A super-packet has a hop-by-hop header with the length (RFC 2675), or not even that. */
	if (total == sizeof(*ip) && v->tc)
		total = v->bytes;
	if (total > v->bytes)
		return 0;

	p->saddr = addresses[0];
	p->daddr = addresses[1];
	p->l4_offset = sizeof(*ip);
	p->protocol = ip->nexthdr;
	p->ttl = ip->hop_limit;
	if (is_extension(p->protocol))
		return v->tc ? parse_extended_skb(v->ctx, v->l3, total, p) : parse_extended_frame(v->ctx, v->l3, total, p);
	return parse_transport6(p, v->ip + sizeof(*ip), v->end, total - sizeof(*ip));
}

/* RFC 4443. */
#define ICMP6_DESTINATION_UNREACHABLE 1
#define ICMP6_PARAMETER_PROBLEM 4 /* the last one of those that tell of a flow */
#define ICMP6_ECHO 128

/* An echo request without extension headers. */
static __always_inline _Bool is_ping6(const struct view *v)
{
	const struct ipv6hdr *ip = v->ip;
	const struct icmp_header *icmp = (const void *)(ip + 1);
	__u32 payload;

	if ((const void *)(icmp + 1) > v->end || ip->version != 6 || ip->nexthdr != IPPROTO_ICMPV6)
		return 0;
	payload = bpf_ntohs(ip->payload_len);
	return payload >= sizeof(*icmp) && sizeof(*ip) + payload <= v->bytes && icmp->type == ICMP6_ECHO && icmp->code == 0;
}

/* RFC 4861. */
#define NDP_ROUTER_SOLICITATION 133
#define NDP_NEIGHBOR_SOLICITATION 135
#define NDP_REDIRECT 137
struct solicitation {
	struct ipv6hdr ip;
	struct icmp_header icmp;
	ip6 target;
};

/* A message of neighbor discovery: all but solicitations are the kernel's, whatever their address. */
static __always_inline _Bool is_ndp(const struct ipv6hdr *ip, const void *end)
{
	const struct icmp_header *icmp = (const void *)(ip + 1);

	return (const void *)(icmp + 1) <= end && ip->nexthdr == IPPROTO_ICMPV6 && icmp->type >= NDP_ROUTER_SOLICITATION &&
	       icmp->type <= NDP_REDIRECT;
}

/* Section 7.1.1: one from farther than this link has another hop limit. */
static __always_inline _Bool is_solicitation(const struct solicitation *message, const void *end)
{
	return (const void *)(message + 1) <= end && message->icmp.type == NDP_NEIGHBOR_SOLICITATION && !message->icmp.code &&
	       message->ip.hop_limit == 255;
}

/* Reads what an ICMPv6 error quotes, like `parse_quote4`. `parse6` has found the error. */
static __always_inline _Bool parse_quoted(void *ctx, _Bool tc, __u32 l3, struct packet6 *p)
{
	struct icmp_header icmp;
	struct ipv6hdr ip;
	struct walk w = {};
	__u32 total, check, ports;

	if (p->protocol != IPPROTO_ICMPV6 || p->part || !load(ctx, tc, l3, &ip, sizeof(ip)))
		return 0;
	total = l3 + sizeof(ip) + bpf_ntohs(ip.payload_len);
	w.offset = l3 + p->l4_offset;
	if (!load(ctx, tc, w.offset, &icmp, sizeof(icmp)) || icmp.type < ICMP6_DESTINATION_UNREACHABLE ||
	    icmp.type > ICMP6_PARAMETER_PROBLEM)
		return 0;
	w.offset += sizeof(icmp);
	p->quoted = w.offset - l3;
	if (!load(ctx, tc, w.offset, &ip, sizeof(ip)))
		return 0;
	w.offset += sizeof(ip);
	w.protocol = ip.nexthdr;
	p->saddr = *(const ip6 *)&ip.daddr;
	/* It is for the sender of what it quotes, or somebody made it up. */
	if (ip.version != 6 || !same6(p->daddr, *(const ip6 *)&ip.saddr) || !walk(ctx, tc, &w) ||
	    w.fragment & IP_FRAGMENT_OFFSET)
		return 0;
	if (w.protocol != IPPROTO_TCP && w.protocol != IPPROTO_UDP && w.protocol != IPPROTO_SCTP)
		return 0;
	if (w.offset + sizeof(ports) > total || !load(ctx, tc, w.offset, &ports, sizeof(ports)))
		return 0;
	check = w.offset + (w.protocol == IPPROTO_TCP ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	p->ports = ports >> 16 | ports << 16;
	p->quoted_l4 = w.offset - l3;
	p->quoted_check = check + sizeof(__u16) <= total && w.protocol != IPPROTO_SCTP ? check - l3 : 0;
	p->protocol = w.protocol;
	p->tcp_flags = 0;
	return 1;
}

__noinline int parse_quoted_skb(struct __sk_buff *skb, __u32 l3, struct packet6 *p)
{
	return p && parse_quoted(skb, 1, l3, p);
}

__noinline int parse_quoted_frame(struct xdp_md *xdp, __u32 l3, struct packet6 *p)
{
	return p && parse_quoted(xdp, 0, l3, p);
}

static __always_inline _Bool parse_quote6(struct view *v, struct packet6 *p)
{
	return v->tc ? parse_quoted_skb(v->ctx, v->l3, p) : parse_quoted_frame(v->ctx, v->l3, p);
}

/* There is none. */
#define sum_header6(skb, l3, diff) 0L

/* Like `sum_addresses4`. Where the device has summed up the packet (CHECKSUM_COMPLETE), the helper takes for granted that a header's
 * checksum makes up for the addresses. Here none does, so what it took away is given back. BPF_F_IPV6 would say so, but only
 * kernels of 2025 know it. */
static __always_inline long sum_addresses6(struct __sk_buff *skb, __u32 l3, __u32 sum, __u32 diff, __u64 flags)
{
	long error = bpf_l4_csum_replace(skb, sum, 0, diff, flags | BPF_F_PSEUDO_HDR);

	(void)l3;
	bpf_csum_update(skb, diff); /* fails where there is no such sum */
	return error;
}

/* ICMPv6's covers them. */
static __always_inline long sum_icmp6(struct __sk_buff *skb, __u32 l3, __u32 sum, __u32 diff)
{
	return sum_addresses6(skb, l3, sum, diff, 0);
}

/* No header's checksum makes up for it in a sum of the device. */
static __always_inline long decrement_ttl6(struct __sk_buff *skb, __u32 l3, const struct packet6 *p)
{
	__u8 hop_limit = p->ttl - 1;

	return bpf_skb_store_bytes(skb, l3 + offsetof(struct ipv6hdr, hop_limit), &hop_limit, sizeof(hop_limit), BPF_F_RECOMPUTE_CSUM);
}

/* Like `is_loopback4`: :: means ::1. */
static __always_inline _Bool is_loopback6(ip6 address)
{
	return !address.word[0] && (!address.word[1] || address.word[1] == bpf_cpu_to_be64(1));
}

#endif
