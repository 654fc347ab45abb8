/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The maps that each family has of its own. */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2); /* 1 << bucket_bits, set before load */
	__type(key, __u32);
	__type(value, struct N(bucket));
} N(flows) SEC(".maps");

/* Address and port in network byte order. */
struct N(frontend) {
	N(ip) address;
	__u16 port;
	__u8 protocol;
	__u8 zero;
} WITHOUT_GAPS;
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct N(frontend));
	__type(value, __u32);
} N(frontends) SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, N(ip));
	__type(value, struct address);
} N(addresses) SEC(".maps");

/* What a socket of the node knows its peer by that has an alias; all in network byte order. Forgotten when the map is full, the
 * oldest first: then the socket sees the alias. */
struct N(node_peer) {
	__u64 cookie;
	N(ip) alias;
	__u16 alias_port;
	__u8 protocol;
	__u8 zero;
} WITHOUT_GAPS;
struct N(node_name) {
	N(ip) address;
	__u16 port;
	__u16 zero;
} WITHOUT_GAPS;
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct N(node_peer));
	__type(value, struct N(node_name));
} N(node_peers) SEC(".maps");
