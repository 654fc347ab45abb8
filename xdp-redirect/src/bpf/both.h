/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Includes the file FAMILY_CODE twice: once for IPv4, once for IPv6. No include guard, for there are several such files.
 *
 * In them FAMILY is 4 or 6, and N(name) is the name with that number: N(flow_lookup) is flow_lookup4 or flow_lookup6. What really
 * differs stands in ipv4.h and ipv6.h under names that differ in the number only. */
#ifndef N
#define N_PASTE(name, family) name##family
#define N_EXPAND(name, family) N_PASTE(name, family)
#define N(name) N_EXPAND(name, FAMILY)
#endif

#define FAMILY 4
#include FAMILY_CODE
#undef FAMILY
#define FAMILY 6
#include FAMILY_CODE
#undef FAMILY
#undef FAMILY_CODE
