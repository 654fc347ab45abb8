/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* XDP on every uplink: is this packet for a worker? */

struct vlan_tag {
	__be16 tci, protocol;
};

/* The L3 header behind at most two VLAN tags, and its protocol. */
static __always_inline const void *parse_ethernet(const struct ethhdr *eth, const void *end, __be16 *protocol)
{
	const struct vlan_tag *tag = (const void *)(eth + 1);

	*protocol = eth->h_proto;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (*protocol != bpf_htons(ETH_P_8021Q) && *protocol != bpf_htons(ETH_P_8021AD))
			break;
		if ((const void *)(tag + 1) > end)
			break; /* still a VLAN protocol: nobody's L3 */
		*protocol = tag->protocol;
		tag++;
	}
	return tag;
}

/* What becomes of a packet is told by what counts it. */
static __always_inline enum counter uplink_not_served(const struct address *address)
{
	return address->flags & ADDRESS_VIP ? COUNT_uplink_drop_vip : COUNT_uplink_pass;
}

#define FAMILY_CODE "family/uplink.h"
#include "both.h"

/* RFC 826 for Ethernet and IPv4. */
struct arp_ipv4 {
	__be16 hardware, protocol;
	__u8 hardware_len, protocol_len;
	__be16 operation;
	__u8 sender_mac[6], sender[4], target_mac[6], target[4];
};
#define ARP_REQUEST 1

static __always_inline enum counter uplink_arp(const struct arp_ipv4 *arp, const void *end)
{
	const struct address *address;
	__u32 target;

	if ((const void *)(arp + 1) > end || arp->operation != bpf_htons(ARP_REQUEST) ||
	    arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_len != 6 || arp->protocol_len != 4)
		return COUNT_uplink_pass;
	__builtin_memcpy(&target, arp->target, sizeof(target));
	address = bpf_map_lookup_elem(&addresses4, &target);
	if (!address || !(address->flags & ADDRESS_ANNOUNCED))
		return COUNT_uplink_pass;
	return COUNT_uplink_redirect_arp;
}

/* RFC 4861. */
static __always_inline enum counter uplink_ndp(const struct solicitation *message, const void *end)
{
	const struct address *address;
	ip6 target;

	if (!is_solicitation(message, end))
		return COUNT_uplink_pass;
	__builtin_memcpy(&target, &message->target, sizeof(target));
	address = bpf_map_lookup_elem(&addresses6, &target);
	if (!address || !(address->flags & ADDRESS_ANNOUNCED))
		return COUNT_uplink_pass;
	return COUNT_uplink_redirect_ndp;
}

static __always_inline _Bool is_returned(const struct ethhdr *eth)
{
	const __u8 returned[ETH_ALEN] = RETURNED_MAC;
	__u8 difference = 0;

#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		difference |= eth->h_source[i] ^ returned[i];
	return !difference;
}

/* What this packet is to us. */
static __always_inline enum counter uplink_outcome(struct xdp_md *ctx, const struct ethhdr *eth, const void *end)
{
	const void *l3;
	__be16 protocol;

	if (generic_uplinks && is_returned(eth))
		return COUNT_uplink_pass_returned;
	l3 = parse_ethernet(eth, end, &protocol);
	if (protocol == bpf_htons(ETH_P_IP))
		return uplink_ip4(ctx, eth, l3, end);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return is_ndp(l3, end) ? uplink_ndp(l3, end) : uplink_ip6(ctx, eth, l3, end);
	return protocol == bpf_htons(ETH_P_ARP) ? uplink_arp(l3, end) : COUNT_uplink_pass;
}

/* The frame is for another station: a switch that does not know that one yet floods it to all its ports, also to other
 * nodes that serve the same address. */
static __always_inline _Bool is_for_other_host(const struct uplink *uplink, const struct ethhdr *eth)
{
	const __u16 *destination = (const void *)eth->h_dest;

	if (!uplink || !(uplink->mac[0] | uplink->mac[1] | uplink->mac[2]))
		return 0;
	return (destination[0] ^ uplink->mac[0]) | (destination[1] ^ uplink->mac[1]) | (destination[2] ^ uplink->mac[2]);
}

/* As the bonding driver has it (bond_should_deliver_exact_match): otherwise two members would answer, or a packet come twice. Dropped, not
 * left for the kernel to drop: it makes a member active before we hear of it, and would answer a service's packets with RST. */
static __always_inline _Bool is_inactive(const struct uplink *uplink, const struct ethhdr *eth)
{
	return uplink && (uplink->flags & UPLINK_INACTIVE || (uplink->flags & UPLINK_NO_GROUPS && eth->h_dest[0] & 1));
}

/* What is ours goes to the socket of this queue. Without a socket it is dropped, not passed: the kernel would answer a
 * service's packets with RST and kill connections that outlive the restart of a dataplane. What is sent to a VIP, but to nothing that it
 * serves, is dropped: the kernel has no route to a VIP but the way on into the network, which would bring the packet back here.
 *
 * One place for all of them, for the verifier follows the search for the uplink to each of its ends. */
static __always_inline int uplink_carry_out(struct xdp_md *ctx, const struct ethhdr *eth, enum counter outcome)
{
	_Bool for_one_host = outcome == COUNT_uplink_redirect || outcome == COUNT_uplink_drop_vip;
	const struct uplink *uplink;

	if (!for_one_host && outcome != COUNT_uplink_redirect_arp && outcome != COUNT_uplink_redirect_ndp) {
		count(outcome);
		return XDP_PASS;
	}
	uplink = uplink_lookup(ctx->ingress_ifindex);
	if (is_inactive(uplink, eth)) {
		count(COUNT_uplink_drop_inactive);
		return XDP_DROP;
	}
	if (for_one_host && is_for_other_host(uplink, eth)) {
		count(COUNT_uplink_pass_other_host);
		return XDP_PASS;
	}
	if (outcome != COUNT_uplink_drop_vip && !uplink)
		outcome = COUNT_uplink_drop_unknown;
	count(outcome);
	if (!uplink || outcome == COUNT_uplink_drop_vip)
		return XDP_DROP;
	return bpf_redirect_map(&xsks_uplinks, uplink->queue_base + ctx->rx_queue_index, XDP_DROP);
}

/* With BPF_F_XDP_HAS_FRAGS unless an uplink is generic, see Programs::load. */
SEC("xdp")
int uplink(struct xdp_md *ctx)
{
	const void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct ethhdr *eth = data;

	if ((const void *)(eth + 1) > end) {
		count(COUNT_uplink_pass);
		return XDP_PASS;
	}
	return uplink_carry_out(ctx, eth, uplink_outcome(ctx, eth, end));
}
