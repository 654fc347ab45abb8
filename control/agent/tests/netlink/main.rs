//! The netlink modules against the real kernel, in network namespaces of their own. Needs root, `unshare`, `ip`, `bridge` and Python.
#![forbid(unsafe_code)]

mod fib;
mod follower;
mod groups;
mod hostlink;
mod loss;
mod namespace;
mod resolver;
mod routes;
