/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Orders and upcalls in the MAC addresses of the hostlink: shared with dataplane/engine/src/order.rs. */
#ifndef RINGWAY_ORDERS_H
#define RINGWAY_ORDERS_H

/* Destination address: 02:52:order:ifindex(3) or 02:53:hook:ifindex(3), big endian. */
#define MAC_PREFIX 0x02
#define MAC_ORDER 0x52
#define MAC_UPCALL 0x53

enum order {
	ORDER_RECEIVED = 1, /* back as if received on the device */
	ORDER_NEIGH = 2,    /* out of the device, the kernel writes both MACs */
	ORDER_PEER = 3,     /* into the namespace behind the device; the source field holds the pod's MAC */
	ORDER_PROBE = 4,    /* count and drop */
	ORDER_ECHO = 64,    /* count, and back to the worker as an upcall of this number, which is no hook's */
};

/* skb->mark of a packet that comes from a worker. The next program that sees it clears it (others' rules look at
 * marks, too) and does not send it to a worker again: without that, one packet loops 150 000 times a second. */
#define MARK_FROM_WORKER 0x52570001u

/* Source address of what we hand back to an uplink with generic XDP, where the XDP program runs again. */
#define RETURNED_MAC {MAC_PREFIX, MAC_ORDER, 0, 0, 0, 1}

struct order_mac {
	__u8 prefix, kind, what;
	__u8 ifindex[3];
};

static __always_inline __u32 order_ifindex(const struct order_mac *mac)
{
	return (__u32)mac->ifindex[0] << 16 | (__u32)mac->ifindex[1] << 8 | mac->ifindex[2];
}

#endif
