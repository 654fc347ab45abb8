/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* cgroup hooks of sockets: NodePorts of the node's own sockets. Packets to an address of the node never leave it, so no
 * route leads them to us. The socket is sent to the alias instead, whose route does; what the program asks its socket
 * afterwards is answered with the address that it knows.
 *
 * cgroup programs see the sockets of every network namespace of the machine. */

#define ALLOW 1 /* go on; 0 would be EPERM */

static __always_inline struct node_peer node_peer(struct bpf_sock_addr *ctx)
{
	struct node_peer key = {.cookie = bpf_get_socket_cookie(ctx), .port = ctx->user_port, .protocol = ctx->protocol};

	return key;
}

static __always_inline _Bool is_of_this_node(struct bpf_sock_addr *ctx)
{
	return bpf_get_netns_cookie(ctx) == netns_cookie;
}

static __always_inline const __u32 *frontend_at(struct bpf_sock_addr *ctx, __u32 address)
{
	struct frontend4 key = {.address = address, .port = ctx->user_port, .protocol = ctx->protocol};

	return bpf_map_lookup_elem(&frontends4, &key);
}

/* A loopback address (0.0.0.0 means one to connect and sendto), or an address where this NodePort answers. */
static __always_inline _Bool is_node_port(struct bpf_sock_addr *ctx, __u32 address)
{
	const __u32 *frontend;

	if (!address || (bpf_ntohl(address) >> 24) == 127)
		return 1;
	frontend = frontend_at(ctx, address);
	return frontend && *frontend & FRONTEND_NODE_PORT;
}

static __always_inline int to_alias(struct bpf_sock_addr *ctx)
{
	__u32 address = ctx->user_ip4;
	struct node_peer key;
	const __u32 *known;

	if (!is_of_this_node(ctx) || !frontend_at(ctx, node_port_alias) || !is_node_port(ctx, address))
		return ALLOW;
	key = node_peer(ctx);
	known = bpf_map_lookup_elem(&node_peers4, &key);
	if ((!known || *known != address) && bpf_map_update_elem(&node_peers4, &key, &address, BPF_ANY))
		return ALLOW; /* an answer from the alias would be a stranger's */
	count(COUNT_node_socket);
	ctx->user_ip4 = node_port_alias;
	return ALLOW;
}

static __always_inline int from_alias(struct bpf_sock_addr *ctx)
{
	struct node_peer key;
	const __u32 *known;

	if (ctx->user_ip4 != node_port_alias || !is_of_this_node(ctx))
		return ALLOW;
	key = node_peer(ctx);
	known = bpf_map_lookup_elem(&node_peers4, &key);
	if (known)
		ctx->user_ip4 = *known;
	return ALLOW;
}

SEC("cgroup/connect4")
int node_connect4(struct bpf_sock_addr *ctx)
{
	return to_alias(ctx);
}

SEC("cgroup/sendmsg4")
int node_sendmsg4(struct bpf_sock_addr *ctx)
{
	return to_alias(ctx);
}

SEC("cgroup/recvmsg4")
int node_recvmsg4(struct bpf_sock_addr *ctx)
{
	return from_alias(ctx);
}

SEC("cgroup/getpeername4")
int node_getpeername4(struct bpf_sock_addr *ctx)
{
	return from_alias(ctx);
}
