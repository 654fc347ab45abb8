/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Reading headers: the same for XDP and tc. */
#ifndef RINGWAY_PARSE_H
#define RINGWAY_PARSE_H

#define TCP_FIN 0x01u
#define TCP_SYN 0x02u
#define TCP_RST 0x04u
#define TCP_ACK 0x10u

/* What the flow table and the rewrite need of a packet. Of an ICMP error, which quotes another packet, it is what would stand in a
 * packet that answers the quoted one: such a packet comes from where the error comes from, and meets the same flow entry. */
struct packet4 {
	__u32 saddr, daddr, ports; /* in network byte order, the source port first */
	__u32 l4_offset;           /* this and those below from the start of the IP header */
	__u16 quoted;              /* of an ICMP error: the quoted IP header; 0 of all other packets */
	__u16 quoted_l4, quoted_check; /* its ports, and its L4 checksum or 0 if that is cut off, or SCTP's */
	__u16 id;       /* the same in all fragments of a datagram */
	__u16 fragment; /* IP_MORE_FRAGMENTS and IP_FRAGMENT_OFFSET, host byte order */
	__u16 payload;  /* of a fragment, or SCTP: bytes behind the IP header */
	__u8 part;      /* enum part */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 ttl;
};

/* Which part of its datagram a packet is: a later fragment has neither ports nor flags. */
enum part { PART_WHOLE = 0, PART_FIRST = 1, PART_LATER = 2 };
/* RFC 9260. */
struct sctp_header {
	__u32 ports, tag, checksum;
	__u8 chunk_type; /* of the first chunk, if there is one */
};
#define SCTP_HEADER_BYTES 12
enum { SCTP_INIT = 1, SCTP_INIT_ACK = 2, SCTP_ABORT = 6, SCTP_SHUTDOWN = 7, SCTP_SHUTDOWN_ACK = 8 };

/* What the type of the first chunk says of the association, as TCP's flags would. */
static __always_inline __u8 sctp_flags(__u8 chunk_type)
{
	switch (chunk_type) {
	case SCTP_INIT:
		return TCP_SYN;
	case SCTP_INIT_ACK:
		return TCP_SYN | TCP_ACK;
	case SCTP_ABORT:
		return TCP_RST;
	case SCTP_SHUTDOWN:
	case SCTP_SHUTDOWN_ACK:
		return TCP_FIN | TCP_ACK;
	}
	return TCP_ACK;
}

#define IP_MORE_FRAGMENTS 0x2000u
#define IP_FRAGMENT_OFFSET 0x1fffu /* in units of eight bytes */

/* Reads the IPv4 and L4 headers at `ip`. `bytes` is what the packet has from there on, headers and payload. `big_tcp`:
 * super-packets of more than 64 KiB may occur, whose header says a length of 0.
 * False for everything that is neither a whole, well-formed TCP, UDP or SCTP header nor a fragment behind one: such a packet is none of
 * ours and goes on as it is. */
static __always_inline _Bool parse_ipv4(const struct iphdr *ip, const void *end, __u32 bytes, _Bool big_tcp,
					struct packet4 *p)
{
	__u32 total, header, fragment;
	const void *l4;

	if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return 0;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (total == 0 && big_tcp)
		total = bytes;
	if (total > bytes || total < header)
		return 0;

	l4 = (const void *)ip + header;
	p->saddr = ip->saddr;
	p->daddr = ip->daddr;
	p->l4_offset = header;
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	p->id = ip->id;
	fragment = bpf_ntohs(ip->frag_off) & (IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET);
	p->fragment = fragment;
	p->payload = total - header;
	if (fragment & IP_FRAGMENT_OFFSET) {
		/* One that overwrites the header of the first would lead past whoever judged that (RFC 1858, RFC 3128). */
		__u32 offset = (fragment & IP_FRAGMENT_OFFSET) * 8;

		p->part = PART_LATER;
		p->ports = 0;
		p->tcp_flags = 0;
		return ip->protocol == IPPROTO_TCP ? offset >= sizeof(struct tcphdr) : ip->protocol == IPPROTO_UDP;
	}
	p->part = fragment >> 13; /* no branch, which would be two paths to the verifier */
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
	/* Not in fragments: its checksum covers the whole packet. */
	if (ip->protocol == IPPROTO_SCTP && !p->part) {
		const struct sctp_header *sctp = l4;

		if (l4 + SCTP_HEADER_BYTES > end || total < header + SCTP_HEADER_BYTES)
			return 0;
		p->ports = sctp->ports;
		p->payload = total - header;
		p->tcp_flags = TCP_ACK;
		if ((const void *)(sctp + 1) <= end && total > header + SCTP_HEADER_BYTES)
			p->tcp_flags = sctp_flags(sctp->chunk_type);
		return 1;
	}
	return 0;
}

/* RFC 792. <linux/icmp.h> would bring the headers of a libc. */
struct icmp_header {
	__u8 type, code;
	__u16 checksum;
	__u32 rest;
};
#define ICMP_ECHO 8
#define ICMP_DESTINATION_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12

/* An echo request, whole and without IP options. */
static __always_inline _Bool is_ping(const struct iphdr *ip, const void *end, __u32 bytes)
{
	const struct icmp_header *icmp = (const void *)(ip + 1);
	__u32 total;

	if ((const void *)(icmp + 1) > end || ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_ICMP)
		return 0;
	total = bpf_ntohs(ip->tot_len);
	return total >= sizeof(*ip) + sizeof(*icmp) && total <= bytes && !(ip->frag_off & bpf_htons(0x3fff)) &&
	       icmp->type == ICMP_ECHO && icmp->code == 0;
}

/* From the start of the IP header: all that `parse_quote` may read. */
#define QUOTE_BYTES_MAX (60 + sizeof(struct icmp_header) + 60 + sizeof(struct tcphdr))

/* Reads an ICMP error (RFC 792) about a TCP segment, UDP datagram or SCTP packet; as much of that as is quoted. Redirects are none: they are for the
 * router of the quoted packet's sender. False for everything else. */
static __always_inline _Bool parse_quote(const struct iphdr *ip, const void *end, __u32 bytes, struct packet4 *p)
{
	const struct icmp_header *icmp;
	const struct iphdr *quoted;
	const __u32 *ports;
	__u32 total, header, quoted_header, room, check;

	if ((const void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5 || ip->protocol != IPPROTO_ICMP ||
	    ip->frag_off & bpf_htons(0x3fff))
		return 0;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (total > bytes || total < header + sizeof(*icmp) + sizeof(*quoted))
		return 0;
	icmp = (const void *)ip + header;
	quoted = (const void *)(icmp + 1);
	if ((const void *)(quoted + 1) > end)
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
	if ((const void *)(ports + 1) > end || room < quoted_header + sizeof(*ports))
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

static __always_inline _Bool opens_connection(const struct packet4 *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline __u16 destination_port(const struct packet4 *p) /* network byte order */
{
	return p->ports >> 16;
}

#endif
