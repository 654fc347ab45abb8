/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* All programs in one object: they share the maps and the constants that are set at load. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "maps.h"
#include "counters.h"
#include "orders.h"
#include "parse.h"
#include "lookup.h"
#include "rewrite.h"
#include "fragments.h"

#include "uplink.bpf.c"
#include "hostlink.bpf.c"
#include "edge.bpf.c"
#include "deliver.bpf.c"
#include "node.bpf.c"

/* The kernel offers some helpers to GPL programs only. */
char _license[] SEC("license") = "GPL";
