//! UMEM, AF_XDP sockets and pinned workers: moves frames, decides nothing.
//!
//! The only crate of the packet half with unsafe code.
