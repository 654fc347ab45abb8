/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Reading headers: the same for XDP and tc. */
#ifndef RINGWAY_PARSE_H
#define RINGWAY_PARSE_H

#define TCP_FIN 0x01u
#define TCP_SYN 0x02u
#define TCP_RST 0x04u
#define TCP_ACK 0x10u

/* Where the headers of a packet are. Pulling moves them. */
struct view {
	void *ctx;            /* of the program */
	const void *ip, *end; /* the IP header, and behind what can be read */
	__u32 l3;             /* the IP header from the start of the packet */
	__u32 bytes;          /* what the packet has from there on, headers and payload */
	_Bool tc;             /* ctx is that of tc: there are super-packets of more than 64 KiB, whose header says a length of 0 */
};

/* Makes the first bytes from the IP header on readable, all if there are no more. */
static __always_inline _Bool pull(struct view *v, __u32 bytes)
{
	struct __sk_buff *skb = v->ctx;

	if (v->bytes < bytes)
		bytes = v->bytes;
	if (bytes <= (__u32)(v->end - v->ip)) /* it is: pulling would copy the header of a shared packet */
		return 1;
	if (bpf_skb_pull_data(skb, v->l3 + bytes))
		return 0;
	v->ip = (void *)(long)skb->data + v->l3;
	v->end = (void *)(long)skb->data_end;
	return 1;
}

/* Which part of its datagram a packet is: a later fragment has neither ports nor flags. */
enum part { PART_WHOLE = 0, PART_FIRST = 1, PART_LATER = 2 };
/* As in IPv4's header, in host byte order. */
#define IP_MORE_FRAGMENTS 0x2000u
#define IP_FRAGMENT_OFFSET 0x1fffu /* in units of eight bytes */
/* A fragment that would make its datagram larger is none ("ping of death"; RFC 8200 section 4.5). */
#define DATAGRAM_BYTES_MAX 65535u

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

/* RFC 792, RFC 4443. <linux/icmp.h> would bring the headers of a libc. */
struct icmp_header {
	__u8 type, code;
	__u16 checksum;
	__u32 rest;
};

#define FAMILY_CODE "family/packet.h"
#include "both.h"
#include "ipv4.h"
#include "ipv6.h"

#endif
