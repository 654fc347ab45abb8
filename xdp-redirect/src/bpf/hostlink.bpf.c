/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* XDP on rw0, our side of the hostlink: everything is for the worker of this queue. With frags, so that a frame
 * larger than a page of rw0 arrives in parts instead of vanishing. */

SEC("xdp.frags")
int hostlink(struct xdp_md *ctx)
{
	count(COUNT_hostlink_redirect);
	return bpf_redirect_map(&xsks_hostlink, ctx->rx_queue_index, XDP_DROP);
}
