/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What became of the first fragment of a datagram (RFC 791 section 3.2, RFC 8200 section 4.5): those that follow have no ports, and go
 * where it went. */
#ifndef RINGWAY_FRAGMENTS_H
#define RINGWAY_FRAGMENTS_H

/* In the place of enum hook in what `uplink` notes: `edge` notes more at the same device. */
#define HOOK_UPLINK_XDP 5

#define FRAGMENT_NOT_OURS 0xfe
#define FRAGMENT_DROP 0xff

/* What was noted longer ago is of another datagram: identifications come round. */
#define FATE_TICKS (10 * TICKS_PER_SECOND)

static __always_inline __u32 tick_now(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

#define FAMILY_CODE "family/fragments.h"
#include "both.h"

#endif
