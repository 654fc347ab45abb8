/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* `node` for addresses of a family. */

static __always_inline const __u32 *N(frontend_at)(struct bpf_sock_addr *ctx, N(ip) address)
{
	struct N(frontend) key = {.address = address, .port = ctx->user_port, .protocol = ctx->protocol};

	return bpf_map_lookup_elem(&N(frontends), &key);
}

/* The alias of what the socket wants, and its port there; 0 if it has none. A loopback address stands for every NodePort. */
static __always_inline __u16 N(alias_of)(struct bpf_sock_addr *ctx, N(ip) address, N(ip) *alias)
{
	const __u32 *frontend;

	*alias = N(NODE_PORT_ALIAS);
	if (N(is_loopback)(address))
		return is_served(N(frontend_at)(ctx, *alias)) ? ctx->user_port : 0;
	frontend = N(frontend_at)(ctx, address);
	if (!is_served(frontend))
		return 0;
	if (*frontend & FRONTEND_NODE_PORT)
		return ctx->user_port;
	*alias = N(VIP_ALIAS);
	/* 0 also if the alias was full. */
	return *frontend & FRONTEND_VIP ? FRONTEND_ALIAS_PORT(*frontend) : 0;
}

/* Puts the alias in the place of the address that a socket wants, if it has one; the address stays to be written to the socket. */
static __always_inline _Bool N(to_alias)(struct bpf_sock_addr *ctx, N(ip) *address)
{
	struct N(node_name) name = {.address = *address, .port = ctx->user_port};
	const struct N(node_name) *known;
	struct N(node_peer) key = {};
	N(ip) alias;

	if (!is_of_this_node(ctx))
		return 0;
	key.alias_port = N(alias_of)(ctx, *address, &alias);
	if (!key.alias_port)
		return 0;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.alias = alias;
	key.protocol = ctx->protocol;
	known = bpf_map_lookup_elem(&N(node_peers), &key);
	if ((!known || !N(same)(known->address, name.address) || known->port != name.port) &&
	    bpf_map_update_elem(&N(node_peers), &key, &name, BPF_ANY))
		return 0; /* an answer from the alias would be a stranger's */
	count(COUNT_node_socket);
	ctx->user_port = key.alias_port;
	*address = alias;
	return 1;
}

/* The other way: what the socket calls its peer. */
static __always_inline _Bool N(from_alias)(struct bpf_sock_addr *ctx, N(ip) *address)
{
	struct N(node_peer) key = {.alias = *address, .alias_port = ctx->user_port, .protocol = ctx->protocol};
	const struct N(node_name) *known;

	if ((!N(same)(*address, N(NODE_PORT_ALIAS)) && !N(same)(*address, N(VIP_ALIAS))) || !is_of_this_node(ctx))
		return 0;
	key.cookie = bpf_get_socket_cookie(ctx);
	known = bpf_map_lookup_elem(&N(node_peers), &key);
	if (!known)
		return 0;
	ctx->user_port = known->port;
	*address = known->address;
	return 1;
}
