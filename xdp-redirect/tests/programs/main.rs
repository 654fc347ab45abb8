//! The BPF programs in the kernel: layout, decisions, rewrites, pins, attach. Needs root.

mod attach;
mod bpffs;
mod deliver;
mod edge;
mod extension;
mod fragments;
mod hostlink;
mod icmp;
mod ipv6;
mod layout;
mod namespace;
mod node;
mod overlaps;
mod packet;
mod pins;
mod position;

mod scratch;
mod sctp;
mod tunnel;
mod uplink;
