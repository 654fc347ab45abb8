/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Reading headers: the same for XDP and tc. */
#ifndef RINGWAY_PARSE_H
#define RINGWAY_PARSE_H

#define TCP_FIN 0x01u
#define TCP_SYN 0x02u
#define TCP_RST 0x04u
#define TCP_ACK 0x10u

/* What the flow table and the rewrite need of a packet. */
struct packet4 {
	__u32 saddr, daddr, ports; /* as they stand in the packet */
	__u32 l4_offset;           /* from the start of the IP header */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 ttl;
};

/* Reads the IPv4 and L4 headers at `ip`. `bytes` is what the packet has from there on, headers and payload. `big_tcp`:
 * super-packets of more than 64 KiB may occur, whose header says a length of 0.
 * False for everything that is not a whole, well-formed TCP or UDP header in an unfragmented datagram:
 * such a packet is none of ours and goes on as it is. */
static __always_inline _Bool parse_ipv4(const struct iphdr *ip, const void *end, __u32 bytes, _Bool big_tcp,
					struct packet4 *p)
{
	__u32 total, header;
	const void *l4;

	if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return 0;
	if (ip->frag_off & bpf_htons(0x3fff)) /* more fragments, or an offset */
		return 0;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (total == 0 && big_tcp)
		total = bytes;
	if (total > bytes)
		return 0;

	l4 = (const void *)ip + header;
	p->saddr = ip->saddr;
	p->daddr = ip->daddr;
	p->l4_offset = header;
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	if (ip->protocol == IPPROTO_TCP) {
		const struct tcphdr *tcp = l4;

		if ((const void *)(tcp + 1) > end || total < header + sizeof(*tcp))
			return 0;
		p->ports = *(const __u32 *)tcp;
		p->tcp_flags = ((const __u8 *)tcp)[13];
		return 1;
	}
	if (ip->protocol == IPPROTO_UDP) {
		const struct udphdr *udp = l4;

		if ((const void *)(udp + 1) > end || total < header + sizeof(*udp))
			return 0;
		p->ports = *(const __u32 *)udp;
		p->tcp_flags = 0;
		return 1;
	}
	return 0;
}

static __always_inline _Bool opens_connection(const struct packet4 *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline __u16 destination_port(const struct packet4 *p) /* network byte order */
{
	return p->ports >> 16;
}

#endif
