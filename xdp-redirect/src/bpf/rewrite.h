/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Writing addresses, ports and checksums into a packet of tc. */
#ifndef RINGWAY_REWRITE_H
#define RINGWAY_REWRITE_H

/* A copy of what an entry does, for the packet's pointers and the entry must not be held over helper calls. */
struct rewrite {
	struct { /* as in a header without options */
		__u32 saddr, daddr, ports;
	} new;
	__u32 addr_diff, port_diff;
	__u32 ifindex;
	__u8 dmac[6];
	__u8 op; /* FLOW_*, in `fragments4` also FRAGMENT_* */
};

/* Of a later fragment, for the L4 checksum is the first one's; and of SCTP, whose checksum does not cover them. */
static __always_inline long write_addresses(struct __sk_buff *skb, __u32 l3, const struct rewrite *r)
{
	return bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), 0, r->addr_diff, 0) |
	       bpf_skb_store_bytes(skb, l3 + offsetof(struct iphdr, saddr), &r->new, offsetof(typeof(r->new), ports), 0);
}

/* a * b modulo the polynomial of CRC32c, all with the lowest power in the highest bit. Not static, so that the verifier looks at it
 * once, and without branches, so that it sees one path. */
__noinline __u32 crc32c_multiply(__u32 a, __u32 b)
{
	__u32 product = 0;

	for (int i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = b >> 1 ^ (0x82f63b78 & -(b & 1));
	}
	return product;
}

/* x to the power of 8 << index. */
static const __u32 crc32c_powers[16] = {
	0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18, 0x510ac59a, 0xb82be955, 0xb8fdb1e7,
	0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a, 0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

/* What SCTP's checksum (RFC 9260 appendix A) changes by when the first four of `bytes` do: it is linear in the difference, which is
 * followed by zeros. */
__noinline __u32 crc32c_diff(__u32 difference, __u32 bytes)
{
	const __u32 one = 1u << 31;

	for (int i = 0; i < 16; i++)
		difference = crc32c_multiply(one ^ ((crc32c_powers[i] ^ one) & -(bytes >> i & 1)), difference);
	return difference;
}

/* Ports and checksum of SCTP. One of 0 is left to the device, which completes it behind us (CHECKSUM_PARTIAL). */
static __noinline long write_sctp_ports(struct __sk_buff *skb, __u32 l4, const struct packet4 *p, __u32 ports)
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
static __always_inline long write_tuple(struct __sk_buff *skb, __u32 l3, const struct packet4 *p, const struct rewrite *r)
{
	__u32 l4 = l3 + p->l4_offset, addresses = l3 + offsetof(struct iphdr, saddr);
	__u32 sum = l4 + (p->protocol == IPPROTO_TCP ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	/* UDP: a checksum of 0 is none and stays so; one that becomes 0 is written as 0xffff. */
	__u64 flags = p->protocol == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0;
	long error = 0;

	if (p->protocol == IPPROTO_SCTP)
		return write_addresses(skb, l3, r) | (r->new.ports == p->ports ? 0 : write_sctp_ports(skb, l4, p, r->new.ports));
	if (r->new.saddr != p->saddr || r->new.daddr != p->daddr) {
		error |= bpf_l4_csum_replace(skb, sum, 0, r->addr_diff, flags | BPF_F_PSEUDO_HDR);
		error |= bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), 0, r->addr_diff, 0);
	}
	/* Not in one with the addresses: an unfinished checksum covers those, but not yet the ports. */
	if (r->new.ports != p->ports)
		error |= bpf_l4_csum_replace(skb, sum, 0, r->port_diff, flags);
	if (p->l4_offset == sizeof(struct iphdr))
		return error | bpf_skb_store_bytes(skb, addresses, &r->new, sizeof(r->new), 0);
	error |= bpf_skb_store_bytes(skb, addresses, &r->new, offsetof(typeof(r->new), ports), 0);
	return error | bpf_skb_store_bytes(skb, l4, &r->new.ports, sizeof(r->new.ports), 0);
}

/* RFC 1624 equation 3. */
static __always_inline __u16 apply_diff(__u16 check, __u16 diff)
{
	__u32 sum = (__u16)~check + (__u32)diff;

	return ~((sum & 0xffff) + (sum >> 16));
}

/* RFC 768: 0 says that there is no checksum, and a sum of 0 is sent as 0xffff. */
static __always_inline __u16 apply_diff_udp(__u16 check, __u16 diff)
{
	return check ? apply_diff(check, diff) ?: 0xffff : 0;
}

/* Of an ICMP error. The entry is that of packets that answer the quoted one, so the quoted packet becomes one that its new receiver
 * has sent; the error goes where such an answer goes, and if that gets another source, the error gets it too: its receiver knows nobody
 * else. */
static __noinline long write_quote(struct __sk_buff *skb, __u32 l3, const struct packet4 *p, const struct rewrite *r)
{
	struct {
		__u32 saddr, daddr;
	} sent, resent;
	struct {
		__u16 ip_check, l4_check;
		__u32 saddr, daddr, ports;
	} old = {.saddr = p->daddr, .daddr = p->saddr, .ports = p->ports >> 16 | p->ports << 16}, new;
	__u32 quoted = l3 + p->quoted, addresses = l3 + offsetof(struct iphdr, saddr);
	long error;

	error = bpf_skb_load_bytes(skb, addresses, &sent, sizeof(sent));
	error |= bpf_skb_load_bytes(skb, quoted + offsetof(struct iphdr, check), &old.ip_check, sizeof(old.ip_check));
	if (p->quoted_check)
		error |= bpf_skb_load_bytes(skb, l3 + p->quoted_check, &old.l4_check, sizeof(old.l4_check));
	if (error)
		return error;

	new = old;
	new.saddr = r->new.daddr;
	new.daddr = r->new.saddr;
	new.ports = r->new.ports >> 16 | r->new.ports << 16;
	new.ip_check = apply_diff(old.ip_check, r->addr_diff);
	if (p->quoted_check && p->protocol == IPPROTO_UDP)
		new.l4_check = apply_diff_udp(apply_diff_udp(old.l4_check, r->addr_diff), r->port_diff);
	else if (p->quoted_check)
		new.l4_check = apply_diff(apply_diff(old.l4_check, r->addr_diff), r->port_diff);
	error |= bpf_l4_csum_replace(skb, l3 + p->l4_offset + offsetof(struct icmp_header, checksum), 0,
				     bpf_csum_diff((__be32 *)&old, sizeof(old), (__be32 *)&new, sizeof(new), 0), 0);
	error |= bpf_skb_store_bytes(skb, quoted + offsetof(struct iphdr, check), &new.ip_check, sizeof(new.ip_check), 0);
	error |= bpf_skb_store_bytes(skb, quoted + offsetof(struct iphdr, saddr), &new.saddr, 2 * sizeof(__u32), 0);
	error |= bpf_skb_store_bytes(skb, l3 + p->quoted_l4, &new.ports, sizeof(new.ports), 0);
	if (p->quoted_check)
		error |= bpf_skb_store_bytes(skb, l3 + p->quoted_check, &new.l4_check, sizeof(new.l4_check), 0);

	resent.saddr = r->new.saddr == p->saddr ? sent.saddr : r->new.saddr;
	resent.daddr = r->new.daddr;
	error |= bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), 0,
				     bpf_csum_diff((__be32 *)&sent, sizeof(sent), (__be32 *)&resent, sizeof(resent), 0), 0);
	return error | bpf_skb_store_bytes(skb, addresses, &resent, sizeof(resent), 0);
}

static __always_inline long decrement_ttl(struct __sk_buff *skb, __u32 l3, const struct packet4 *p)
{
	__u8 ttl = p->ttl - 1;

	/* In the header's 16-bit word TTL and protocol: minus one in the TTL's byte. */
	return bpf_l3_csum_replace(skb, l3 + offsetof(struct iphdr, check), bpf_htons((__u16)p->ttl << 8 | p->protocol),
				   bpf_htons((__u16)ttl << 8 | p->protocol), 2) |
	       bpf_skb_store_bytes(skb, l3 + offsetof(struct iphdr, ttl), &ttl, sizeof(ttl), 0);
}

#endif
