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

static __always_inline const __u32 *frontend_at(struct bpf_sock_addr *ctx, __u32 address)
{
	struct frontend4 key = {.address = address, .port = ctx->user_port, .protocol = ctx->protocol};

	return bpf_map_lookup_elem(&frontends4, &key);
}

struct alias {
	__u32 address; /* 0: none */
	__u16 port;
};

/* The alias of what the socket wants. A loopback address (0.0.0.0 means one to connect and sendto) stands for every NodePort. */
static __always_inline struct alias alias_of(struct bpf_sock_addr *ctx)
{
	struct alias none = {}, of_node_port = {.address = node_port_alias, .port = ctx->user_port};
	__u32 address = ctx->user_ip4;
	const __u32 *frontend;

	if (!address || (bpf_ntohl(address) >> 24) == 127)
		return is_served(frontend_at(ctx, node_port_alias)) ? of_node_port : none;
	frontend = frontend_at(ctx, address);
	if (!is_served(frontend))
		return none;
	if (*frontend & FRONTEND_NODE_PORT)
		return of_node_port;
	if (*frontend & FRONTEND_VIP) {
		struct alias of_vip = {.address = vip_alias, .port = FRONTEND_ALIAS_PORT(*frontend)};

		return of_vip.port ? of_vip : none; /* the alias was full */
	}
	return none;
}

static __always_inline int to_alias(struct bpf_sock_addr *ctx)
{
	struct node_name name = {.address = ctx->user_ip4, .port = ctx->user_port};
	const struct node_name *known;
	struct node_peer key = {};
	struct alias alias;

	if (!is_of_this_node(ctx))
		return ALLOW;
	alias = alias_of(ctx);
	if (!alias.address)
		return ALLOW;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.alias = alias.address;
	key.alias_port = alias.port;
	key.protocol = ctx->protocol;
	known = bpf_map_lookup_elem(&node_peers4, &key);
	if ((!known || known->address != name.address || known->port != name.port) &&
	    bpf_map_update_elem(&node_peers4, &key, &name, BPF_ANY))
		return ALLOW; /* an answer from the alias would be a stranger's */
	count(COUNT_node_socket);
	ctx->user_ip4 = alias.address;
	ctx->user_port = alias.port;
	return ALLOW;
}

static __always_inline int from_alias(struct bpf_sock_addr *ctx)
{
	struct node_peer key = {.alias = ctx->user_ip4, .alias_port = ctx->user_port, .protocol = ctx->protocol};
	const struct node_name *known;

	if ((key.alias != node_port_alias && key.alias != vip_alias) || !is_of_this_node(ctx))
		return ALLOW;
	key.cookie = bpf_get_socket_cookie(ctx);
	known = bpf_map_lookup_elem(&node_peers4, &key);
	if (!known)
		return ALLOW;
	ctx->user_ip4 = known->address;
	ctx->user_port = known->port;
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
