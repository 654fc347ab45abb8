/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Writing addresses, ports and checksums into a packet of tc. */
#ifndef RINGWAY_REWRITE_H
#define RINGWAY_REWRITE_H

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

#define FAMILY_CODE "family/rewrite.h"
#include "both.h"

#endif
