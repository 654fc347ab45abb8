//! The netlink modules against the real kernel, in network namespaces of their own. Needs root, `unshare`, `ip` and `bridge`.
#![forbid(unsafe_code)]

mod fib;
mod follower;
mod hostlink;
mod loss;
mod namespace;
mod resolver;
mod routes;
