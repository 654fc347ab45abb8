//! What the kernel and a device can do and what is attached there, asked without changing anything.

use std::io;
use std::os::fd::AsFd;

use libbpf_sys as sys;

use crate::{Error, XdpMode, syscall};

/// The loopback device has ifindex 1 in every network namespace.
const LOOPBACK: u32 = 1;

/// The XDP program on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpAttached {
    pub prog_id: u32,
    pub prog_name: String,
    /// `None`: in hardware, or several at once.
    pub mode: Option<XdpMode>,
}

/// A direction of the tc hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcDirection {
    Ingress,
    Egress,
}

/// True if the kernel has tcx links (Linux 6.6).
pub fn has_tcx() -> Result<bool, Error> {
    match syscall::tcx_query(LOOPBACK, sys::BPF_TCX_INGRESS) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(false),
        Err(source) => Err(Error::Query { what: "tcx programs", ifindex: LOOPBACK, source }),
    }
}

/// The XDP program on a device, whoever's, or `None`.
pub fn xdp_attached(ifindex: u32) -> Result<Option<XdpAttached>, Error> {
    let found = syscall::xdp_query(ifindex).map_err(|source| Error::Query { what: "the XDP program", ifindex, source })?;
    let (prog_id, mode) = match u32::from(found.attach_mode) {
        sys::XDP_ATTACHED_NONE => return Ok(None),
        sys::XDP_ATTACHED_DRV => (found.drv_prog_id.max(found.prog_id), Some(XdpMode::Native)),
        sys::XDP_ATTACHED_SKB => (found.skb_prog_id.max(found.prog_id), Some(XdpMode::Generic)),
        _ => (found.prog_id.max(found.hw_prog_id).max(found.drv_prog_id), None),
    };
    Ok(Some(XdpAttached { prog_id, prog_name: program_name(prog_id).unwrap_or_default(), mode }))
}

/// Id and name of the tcx programs on a device in the order in which they run, whoever's.
pub fn tcx_attached(ifindex: u32, direction: TcDirection) -> Result<Vec<(u32, String)>, Error> {
    let attach_type = match direction {
        TcDirection::Ingress => sys::BPF_TCX_INGRESS,
        TcDirection::Egress => sys::BPF_TCX_EGRESS,
    };
    let ids = syscall::tcx_query(ifindex, attach_type).map_err(|source| Error::Query { what: "tcx programs", ifindex, source })?;
    Ok(ids.into_iter().map(|id| (id, program_name(id).unwrap_or_default())).collect())
}

/// The name of a loaded program; it may be gone, or we may not be allowed to ask.
fn program_name(id: u32) -> io::Result<String> {
    let prog = syscall::prog_open(id)?;
    syscall::prog_facts(prog.as_fd()).map(|(_, name)| name)
}

/// What the driver of a device says of XDP (Linux 6.3): `NETDEV_XDP_ACT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Native XDP with redirect: what `uplink` needs.
    pub native: bool,
    /// AF_XDP zero-copy.
    pub zero_copy: bool,
    /// Frames in parts (`xdp.frags`).
    pub fragments: bool,
}

/// What the driver of a device can do. A veth says so only while its peer is up and ready.
pub fn xdp_features(ifindex: u32) -> Result<XdpFeatures, Error> {
    let found = syscall::xdp_query(ifindex).map_err(|source| Error::Query { what: "XDP features", ifindex, source })?;
    let has = |bits: u64| found.feature_flags & bits == bits;
    // linux/netdev.h, enum netdev_xdp_act: basic 1, redirect 2, ndo_xmit 4, xsk_zerocopy 8, hw_offload 16, rx_sg 32.
    Ok(XdpFeatures { native: has(1 | 2), zero_copy: has(8), fragments: has(32) })
}
