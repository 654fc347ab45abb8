/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* cgroup hooks of sockets: NodePorts and VIPs of the node's own sockets. No route can lead their packets to us: those to an address of
 * the node never leave it, and a VIP may be a host whose other ports are its own. The socket is sent to an alias instead, whose
 * route does; what the program asks its socket afterwards is answered with the address that it knows.
 *
 * cgroup programs see the sockets of every network namespace of the machine. */

#define ALLOW 1 /* go on; 0 would be EPERM */

static __always_inline _Bool is_of_this_node(struct bpf_sock_addr *ctx)
{
	return bpf_get_netns_cookie(ctx) == netns_cookie;
}

#define FAMILY_CODE "family/node.h"
#include "both.h"

static __always_inline int socket_to_alias4(struct bpf_sock_addr *ctx)
{
	ip4 address = ctx->user_ip4;

	if (to_alias4(ctx, &address))
		ctx->user_ip4 = address;
	return ALLOW;
}

static __always_inline int socket_from_alias4(struct bpf_sock_addr *ctx)
{
	ip4 address = ctx->user_ip4;

	if (from_alias4(ctx, &address))
		ctx->user_ip4 = address;
	return ALLOW;
}

static __always_inline ip6 user_ip6(struct bpf_sock_addr *ctx)
{
	__u64 a = ctx->user_ip6[0], b = ctx->user_ip6[1], c = ctx->user_ip6[2], d = ctx->user_ip6[3];

	return (ip6){{b << 32 | a, d << 32 | c}};
}

static __always_inline void set_user_ip6(struct bpf_sock_addr *ctx, ip6 address)
{
	ctx->user_ip6[0] = address.word[0];
	ctx->user_ip6[1] = address.word[0] >> 32;
	ctx->user_ip6[2] = address.word[1];
	ctx->user_ip6[3] = address.word[1] >> 32;
}

/* ::ffff:a.b.c.d is an IPv4 address that a socket of IPv6 uses (RFC 4291 section 2.5.5.2). Its connect and what it is told come here,
 * its datagrams to the hooks of IPv4. */
static __always_inline _Bool is_mapped(ip6 address)
{
	return !address.word[0] && (__u32)address.word[1] == bpf_htonl(0xffff);
}

static __always_inline int socket_to_alias6(struct bpf_sock_addr *ctx)
{
	ip6 address = user_ip6(ctx);
	ip4 mapped = address.word[1] >> 32;

	if (!is_mapped(address) && to_alias6(ctx, &address))
		set_user_ip6(ctx, address);
	else if (is_mapped(address) && to_alias4(ctx, &mapped))
		ctx->user_ip6[3] = mapped;
	return ALLOW;
}

static __always_inline int socket_from_alias6(struct bpf_sock_addr *ctx)
{
	ip6 address = user_ip6(ctx);
	ip4 mapped = address.word[1] >> 32;

	if (!is_mapped(address) && from_alias6(ctx, &address))
		set_user_ip6(ctx, address);
	else if (is_mapped(address) && from_alias4(ctx, &mapped))
		ctx->user_ip6[3] = mapped;
	return ALLOW;
}

SEC("cgroup/connect4")
int node_connect4(struct bpf_sock_addr *ctx)
{
	return socket_to_alias4(ctx);
}

SEC("cgroup/connect6")
int node_connect6(struct bpf_sock_addr *ctx)
{
	return socket_to_alias6(ctx);
}

SEC("cgroup/sendmsg4")
int node_sendmsg4(struct bpf_sock_addr *ctx)
{
	return socket_to_alias4(ctx);
}

SEC("cgroup/sendmsg6")
int node_sendmsg6(struct bpf_sock_addr *ctx)
{
	return socket_to_alias6(ctx);
}

SEC("cgroup/recvmsg4")
int node_recvmsg4(struct bpf_sock_addr *ctx)
{
	return socket_from_alias4(ctx);
}

SEC("cgroup/recvmsg6")
int node_recvmsg6(struct bpf_sock_addr *ctx)
{
	return socket_from_alias6(ctx);
}

SEC("cgroup/getpeername4")
int node_getpeername4(struct bpf_sock_addr *ctx)
{
	return socket_from_alias4(ctx);
}

SEC("cgroup/getpeername6")
int node_getpeername6(struct bpf_sock_addr *ctx)
{
	return socket_from_alias6(ctx);
}
