/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A packet as the programs know it, and its L4 header. */

/* What the flow table and the rewrite need of a packet. Of an ICMP error, which quotes another packet, it is what would stand in a
 * packet that answers the quoted one: such a packet comes from where the error comes from, and meets the same flow entry. */
struct N(packet) {
	N(ip) saddr, daddr;
	__u32 sequence, acknowledgment; /* of TCP, in network byte order */
	__u32 ports;     /* in network byte order, as the addresses, the source port first */
	__u32 id;        /* the same in all fragments of a datagram */
	__u16 l4_offset; /* this and those below from the start of the IP header */
	__u16 quoted;    /* of an ICMP error: the quoted IP header; 0 of all other packets */
	__u16 quoted_l4, quoted_check; /* its ports, and its L4 checksum or 0 if that is cut off, or SCTP's */
	__u16 fragment; /* IP_MORE_FRAGMENTS and IP_FRAGMENT_OFFSET */
	__u16 payload;  /* of a fragment, or SCTP: bytes behind the IP headers */
	__u8 part;      /* enum part */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 ttl; /* or hop limit */
};

/* What a fragment says of its place. False for later ones of which nothing can be made. */
static __always_inline _Bool N(is_later_of_ours)(struct N(packet) *p)
{
	/* One that overwrites the header of the first would lead past whoever judged that (RFC 1858, RFC 3128). */
	__u32 offset = (p->fragment & IP_FRAGMENT_OFFSET) * 8;

	p->part = PART_LATER;
	p->ports = 0;
	p->tcp_flags = 0;
	if (offset + p->payload > DATAGRAM_BYTES_MAX)
		return 0;
	return p->protocol == IPPROTO_TCP ? offset >= sizeof(struct tcphdr) : p->protocol == IPPROTO_UDP;
}

/* Reads the L4 header, behind which the packet has `bytes`, itself included. False for everything that is no whole, well-formed header
 * of TCP, UDP or SCTP. */
static __always_inline _Bool N(parse_transport)(struct N(packet) *p, const void *l4, const void *end, __u32 bytes)
{
	if (p->protocol == IPPROTO_TCP) {
		const struct tcphdr *tcp = l4;

		if ((const void *)(tcp + 1) > end || bytes < sizeof(*tcp))
			return 0;
		p->ports = *(const __u32 *)tcp;
		p->tcp_flags = ((const __u8 *)tcp)[13];
		p->sequence = tcp->seq;
		p->acknowledgment = tcp->ack_seq;
		return 1;
	}
	if (p->protocol == IPPROTO_UDP) {
		const struct udphdr *udp = l4;

		if ((const void *)(udp + 1) > end || bytes < sizeof(*udp))
			return 0;
		if (FAMILY == 6 && !udp->check) /* not allowed (RFC 8200 section 8.1) */
			return 0;
		p->ports = *(const __u32 *)udp;
		p->tcp_flags = 0;
		return 1;
	}
	/* Not in fragments: its checksum covers the whole packet. */
	if (p->protocol == IPPROTO_SCTP && !p->part) {
		const struct sctp_header *sctp = l4;

		if (l4 + SCTP_HEADER_BYTES > end || bytes < SCTP_HEADER_BYTES)
			return 0;
		p->ports = sctp->ports;
		p->payload = bytes;
		p->tcp_flags = TCP_ACK;
		if ((const void *)(sctp + 1) <= end && bytes > SCTP_HEADER_BYTES)
			p->tcp_flags = sctp_flags(sctp->chunk_type);
		return 1;
	}
	return 0;
}

static __always_inline _Bool N(opens_connection)(const struct N(packet) *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline __u16 N(destination_port)(const struct N(packet) *p) /* network byte order */
{
	return p->ports >> 16;
}
