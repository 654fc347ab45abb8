/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* tc at pods' devices, uplinks, overlay devices and rw1: executes the flows that the workers decided on, and asks a worker about
 * the first packet of the others. One function, once per hook. */

static __always_inline int edge_next(enum hook hook, enum edge_outcome outcome)
{
	count(COUNT_EDGE(hook, outcome));
	return TC_ACT_UNSPEC;
}

static __always_inline int edge_drop(enum counter why)
{
	count(why);
	return TC_ACT_SHOT;
}

/* To a worker through rw1; the hook and the device stand in the destination MAC. At rw1 itself it is on its way
 * there already, and its destination MAC (the neighbor's) says so. */
static __always_inline int upcall(struct __sk_buff *skb, enum hook hook, __u64 hash)
{
	__u32 ifindex = skb->ifindex;
	struct order_mac mac = {MAC_PREFIX, MAC_UPCALL, hook, {ifindex >> 16, ifindex >> 8, ifindex}};

	/* The worker, exactly: rw1 transmits on queue queue_mapping - 1. */
	skb->queue_mapping = (__u32)hash % workers + 1;
	if (hook == HOOK_NODE_OUT)
		return edge_next(hook, EDGE_UPCALL);
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), &mac, sizeof(mac), 0))
		return edge_drop(COUNT_edge_drop_rewrite);
	count(COUNT_EDGE(hook, EDGE_UPCALL));
	return bpf_redirect(rw1_ifindex, 0);
}

static __always_inline struct view view_of_skb(struct __sk_buff *skb, __u32 l3)
{
	return (struct view){
		.ctx = skb,
		.ip = (void *)(long)skb->data + l3,
		.end = (void *)(long)skb->data_end,
		.l3 = l3,
		.bytes = skb->len - l3,
		.tc = 1,
	};
}

/* `seen` is a flow's; the number's position is near the one that it holds, if any. */
static __always_inline _Bool is_near(__u32 seen, __u16 position, __u16 behind, __u16 ahead)
{
	__u16 distance = position - (seen >> POSITION_SHIFT) + behind;

	return !(seen & SEEN_POSITION) || distance <= behind + ahead;
}

/* What was repeated takes no position back. */
static __always_inline __u16 farthest(__u32 seen, __u16 position)
{
	__u16 known = seen >> POSITION_SHIFT;

	return seen & SEEN_POSITION && (__s16)(position - known) < 0 ? known : position;
}

#define FAMILY_CODE "family/position.h"
#include "both.h"
#define FAMILY_CODE "family/edge.h"
#include "both.h"

/* The protocol of the L3 header and where that is. A VLAN tag stands beside the packet in the skb; of two, the inner one
 * stands in it. */
static __always_inline __be16 find_l3(struct __sk_buff *skb, _Bool ethernet, __u32 *l3)
{
	__be16 inner;

	*l3 = ethernet ? sizeof(struct ethhdr) : 0;
	if (skb->protocol != bpf_htons(ETH_P_8021Q) && skb->protocol != bpf_htons(ETH_P_8021AD))
		return skb->protocol;
	*l3 += 4;
	return bpf_skb_load_bytes(skb, *l3 - 2, &inner, sizeof(inner)) ? 0 : inner;
}

static __always_inline int edge(struct __sk_buff *skb, enum hook hook, __u32 zone, _Bool ethernet)
{
	_Bool from_worker = skb->mark == MARK_FROM_WORKER;
	__be16 protocol;
	__u32 l3;

	if (from_worker)
		skb->mark = 0;
	/* A bridge's port sees frames for the bridge itself as another host's; an uplink only what was flooded. */
	if (hook == HOOK_UPLINK_IN && skb->pkt_type == PACKET_OTHERHOST)
		return edge_next(hook, EDGE_OTHER);
	protocol = find_l3(skb, ethernet, &l3);
	if (protocol == bpf_htons(ETH_P_IP))
		return edge4(skb, hook, zone, l3, ethernet, from_worker);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return edge6(skb, hook, zone, l3, ethernet, from_worker);
	return edge_next(hook, EDGE_OTHER);
}

SEC("tcx/ingress")
int edge_pod_in(struct __sk_buff *skb)
{
	return edge(skb, HOOK_POD_IN, skb->ifindex, 1);
}

SEC("tcx/egress")
int edge_pod_out(struct __sk_buff *skb)
{
	return edge(skb, HOOK_POD_OUT, skb->ifindex, 1);
}

SEC("tcx/ingress")
int edge_uplink_in(struct __sk_buff *skb)
{
	return edge(skb, HOOK_UPLINK_IN, 0, 1);
}

SEC("tcx/egress")
int edge_uplink_out(struct __sk_buff *skb)
{
	return edge(skb, HOOK_UPLINK_OUT, 0, 1);
}

/* Overlay devices: replies to what a worker or rw1 sent into the overlay. Flows do not tell by which of the devices
 * that lead out of the node a reply has to come, so the hook is the uplinks'. */
SEC("tcx/ingress")
int edge_overlay_in(struct __sk_buff *skb)
{
	return edge(skb, HOOK_UPLINK_IN, 0, 1);
}

/* The same where packets have no Ethernet header (ipip, WireGuard). */
SEC("tcx/ingress")
int edge_tunnel_in(struct __sk_buff *skb)
{
	return edge(skb, HOOK_UPLINK_IN, 0, 0);
}

static __always_inline int forwarded(struct __sk_buff *skb)
{
	__u32 l3;
	__be16 protocol = find_l3(skb, 1, &l3);

	if (protocol == bpf_htons(ETH_P_IP))
		return forwarded4(skb, l3);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return forwarded6(skb, l3);
	return edge_drop(COUNT_node_out_drop_forwarded);
}

/* Egress of rw1. Packets of the node's own sockets come by the route via rw1, with the permanent neighbor's MAC.
 * Any frame without it is a stray one. */
SEC("tcx/egress")
int edge_node_out(struct __sk_buff *skb)
{
	struct order_mac mac;

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_dest), &mac, sizeof(mac)) || mac.prefix != MAC_PREFIX ||
	    mac.kind != MAC_UPCALL)
		return edge_drop(COUNT_node_out_drop_foreign);
	if (mac.what != HOOK_NODE_OUT) {
		count(COUNT_node_out_own_upcall);
		return TC_ACT_UNSPEC;
	}
	if (skb->ingress_ifindex)
		return forwarded(skb);
	return edge(skb, HOOK_NODE_OUT, 0, 1);
}
