/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Rewriting a packet of a family. */

struct N(pair) { /* as in a header */
	N(ip) saddr, daddr;
};

/* A copy of what an entry does, for the packet's pointers and the entry must not be held over helper calls. */
struct N(rewrite) {
	struct { /* as in a header without options */
		struct N(pair) addresses;
		__u32 ports;
	} new;
	__u32 addr_diff, port_diff;
	__u32 ifindex;
	__u8 dmac[6];
	__u8 op; /* FLOW_*, in the fates of datagrams also FRAGMENT_* */
};

/* Of a later fragment, for the L4 checksum is the first one's; and of SCTP, whose checksum does not cover them. */
static __always_inline long N(write_addresses)(struct __sk_buff *skb, __u32 l3, const struct N(rewrite) *r)
{
	return N(sum_header)(skb, l3, r->addr_diff) |
	       bpf_skb_store_bytes(skb, l3 + N(ADDRESSES), &r->new.addresses, sizeof(r->new.addresses), 0);
}

/* Ports and checksum of SCTP. One of 0 is left to the device, which completes it behind us (CHECKSUM_PARTIAL). */
static __noinline long N(write_sctp_ports)(struct __sk_buff *skb, __u32 l4, const struct N(packet) *p, __u32 ports)
{
	__u32 checksum, at = l4 + offsetof(struct sctp_header, checksum);
	long error = bpf_skb_load_bytes(skb, at, &checksum, sizeof(checksum));

	if (!error && checksum) {
		checksum ^= crc32c_diff(p->ports ^ ports, p->payload);
		error = bpf_skb_store_bytes(skb, at, &checksum, sizeof(checksum), 0);
	}
	return error | bpf_skb_store_bytes(skb, l4, &ports, sizeof(ports), 0);
}

/* Addresses, ports and checksums. The helpers know about unfinished checksums, packets still to be segmented and
 * shared headers; writing directly would copy the header of every packet that is only looked at. */
static __always_inline long N(write_tuple)(struct __sk_buff *skb, __u32 l3, const struct N(packet) *p, const struct N(rewrite) *r)
{
	__u32 l4 = l3 + p->l4_offset, addresses = l3 + N(ADDRESSES);
	__u32 sum = l4 + (p->protocol == IPPROTO_TCP ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	/* UDP: a checksum of 0 is none and stays so; one that becomes 0 is written as 0xffff. */
	__u64 flags = p->protocol == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0;
	long error = 0;

	if (p->protocol == IPPROTO_SCTP)
		return N(write_addresses)(skb, l3, r) |
		       (r->new.ports == p->ports ? 0 : N(write_sctp_ports)(skb, l4, p, r->new.ports));
	if (!N(same)(r->new.addresses.saddr, p->saddr) || !N(same)(r->new.addresses.daddr, p->daddr))
		error |= N(sum_addresses)(skb, l3, sum, r->addr_diff, flags);
	/* Not in one with the addresses: an unfinished checksum covers those, but not yet the ports. */
	if (r->new.ports != p->ports)
		error |= bpf_l4_csum_replace(skb, sum, 0, r->port_diff, flags);
	if (p->l4_offset == sizeof(N(header)))
		return error | bpf_skb_store_bytes(skb, addresses, &r->new, sizeof(r->new.addresses) + sizeof(r->new.ports), 0);
	error |= bpf_skb_store_bytes(skb, addresses, &r->new.addresses, sizeof(r->new.addresses), 0);
	return error | bpf_skb_store_bytes(skb, l4, &r->new.ports, sizeof(r->new.ports), 0);
}

/* Of an ICMP error. The entry is that of packets that answer the quoted one, so the quoted packet becomes one that its new receiver
 * has sent; the error goes where such an answer goes, and if that gets another source, the error gets it too: its receiver knows nobody
 * else. */
static __noinline long N(write_quote)(struct __sk_buff *skb, __u32 l3, const struct N(packet) *p, const struct N(rewrite) *r)
{
	__u32 quoted = l3 + p->quoted, addresses = l3 + N(ADDRESSES), sum = l3 + p->l4_offset + offsetof(struct icmp_header, checksum);
	struct N(pair) sent, resent = {.saddr = r->new.addresses.daddr, .daddr = r->new.addresses.saddr};
	__u32 ports = r->new.ports >> 16 | r->new.ports << 16;
	__u16 check = 0, new_check = 0;
	long error = 0;

	if (p->quoted_check) {
		error = bpf_skb_load_bytes(skb, l3 + p->quoted_check, &check, sizeof(check));
		new_check = p->protocol == IPPROTO_UDP ? apply_diff_udp(apply_diff_udp(check, r->addr_diff), r->port_diff)
						       : apply_diff(apply_diff(check, r->addr_diff), r->port_diff);
		error |= bpf_skb_store_bytes(skb, l3 + p->quoted_check, &new_check, sizeof(new_check), 0);
	}
	/* `resent` is the quoted packet's for now. */
	error |= N(sum_header)(skb, quoted, r->addr_diff);
	error |= bpf_skb_store_bytes(skb, quoted + N(ADDRESSES), &resent, sizeof(resent), 0);
	error |= bpf_skb_store_bytes(skb, l3 + p->quoted_l4, &ports, sizeof(ports), 0);
	/* In IPv4 the quoted header's checksum makes up for its addresses. */
	error |= bpf_l4_csum_replace(skb, sum, 0,
				     (FAMILY == 6 ? r->addr_diff : 0) + r->port_diff + new_check + (__u16)~check, 0);

	error |= bpf_skb_load_bytes(skb, addresses, &sent, sizeof(sent));
	if (error)
		return error;
	resent.saddr = N(same)(r->new.addresses.saddr, p->saddr) ? sent.saddr : r->new.addresses.saddr;
	resent.daddr = r->new.addresses.daddr;
	error = N(sum_icmp)(skb, l3, sum, bpf_csum_diff((__be32 *)&sent, sizeof(sent), (__be32 *)&resent, sizeof(resent), 0));
	return error | bpf_skb_store_bytes(skb, addresses, &resent, sizeof(resent), 0);
}
