/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Looking into the flow table and the frontends. */
#ifndef RINGWAY_LOOKUP_H
#define RINGWAY_LOOKUP_H

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

static __always_inline const struct uplink *uplink_lookup(__u32 ifindex)
{
	for (__u32 i = 0; i < UPLINKS_MAX; i++) {
		__u32 key = i;
		const struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &key);

		if (!uplink || !uplink->ifindex)
			return 0;
		if (uplink->ifindex == ifindex)
			return uplink;
	}
	return 0;
}

/* The frontend takes new flows. */
static __always_inline _Bool is_served(const __u32 *frontend)
{
	return frontend && !(*frontend & FRONTEND_DRAINING);
}

#define FAMILY_CODE "family/lookup.h"
#include "both.h"

#endif
