/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* tc ingress of rw1, the host's side of the hostlink: carries out the order that a worker wrote into the frame's
 * destination address. */

struct order_frame {
	struct order_mac order;
	__u8 source[6];
};

static __always_inline int deliver_drop(enum counter why)
{
	count(why);
	return TC_ACT_SHOT;
}

/* Both MAC addresses. The device's own becomes the destination, or, if that is given, the source. */
static __always_inline int deliver_received(struct __sk_buff *skb, __u32 ifindex)
{
	const struct mac *own = bpf_map_lookup_elem(&device_macs, &ifindex);

	if (!own)
		return deliver_drop(COUNT_deliver_drop_device);
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), own->octets, ETH_ALEN, 0))
		return deliver_drop(COUNT_deliver_drop_unknown);
	if (generic_uplinks && uplink_lookup(ifindex)) {
		const __u8 returned[6] = RETURNED_MAC;

		if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), returned, ETH_ALEN, 0))
			return deliver_drop(COUNT_deliver_drop_unknown);
	}
	count(COUNT_deliver_received);
	skb->mark = MARK_FROM_WORKER;
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}

static __always_inline int deliver_peer(struct __sk_buff *skb, __u32 ifindex, const __u8 *pod)
{
	const struct mac *own = bpf_map_lookup_elem(&device_macs, &ifindex);
	__u8 macs[2 * ETH_ALEN];

	if (!own)
		return deliver_drop(COUNT_deliver_drop_device);
	__builtin_memcpy(macs, pod, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, own->octets, ETH_ALEN);
	/* The order's MAC was nobody's, so the packet counts as another host's: the pod would ignore it. */
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) || bpf_skb_change_type(skb, PACKET_HOST))
		return deliver_drop(COUNT_deliver_drop_unknown);
	count(COUNT_deliver_peer);
	return bpf_redirect_peer(ifindex, 0);
}

/* Out of rw1 by the queue that the source field names: back to the same worker. */
static __always_inline int deliver_echo(struct __sk_buff *skb, __u32 rw1, const __u8 *source)
{
	const __u8 kind = MAC_UPCALL;

	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest) + offsetof(struct order_mac, kind), &kind, sizeof(kind), 0))
		return deliver_drop(COUNT_deliver_drop_unknown);
	count(COUNT_deliver_probe);
	skb->queue_mapping = source[5] + 1;
	return bpf_redirect(rw1, 0);
}

SEC("tcx/ingress")
int deliver(struct __sk_buff *skb)
{
	struct order_frame frame;
	__u32 ifindex;

	if (skb->mark == MARK_FROM_WORKER) { /* as if received on rw1 itself */
		skb->mark = 0;
		count(COUNT_deliver_returned);
		return TC_ACT_UNSPEC;
	}
	if (bpf_skb_load_bytes(skb, 0, &frame, sizeof(frame)) || frame.order.prefix != MAC_PREFIX ||
	    frame.order.kind != MAC_ORDER)
		return deliver_drop(COUNT_deliver_drop_unknown);
	ifindex = order_ifindex(&frame.order);
	switch (frame.order.what) {
	case ORDER_RECEIVED:
		return deliver_received(skb, ifindex);
	case ORDER_NEIGH:
		count(COUNT_deliver_neigh);
		skb->mark = MARK_FROM_WORKER;
		return bpf_redirect_neigh(ifindex, 0, 0, 0);
	case ORDER_PEER:
		return deliver_peer(skb, ifindex, frame.source);
	case ORDER_PROBE:
		return deliver_drop(COUNT_deliver_probe);
	case ORDER_ECHO:
		return deliver_echo(skb, ifindex, frame.source);
	}
	return deliver_drop(COUNT_deliver_drop_unknown);
}
