//! An XSK: one AF_XDP socket, bound to one queue of one device.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{BindMode, BindWanted, PortConfig, RingDepths};
use crate::error::Error;
use crate::mapping::Mapping;
use crate::ring::{Consumer, Producer};
use crate::rings::Rings;
use crate::umem::{Pool, Umem};

/// What a worker asks the kernel about a socket. A trait, so that tests can put a kernel of their own behind the rings.
pub(crate) trait Socket {
    /// For `poll`; negative where there is nothing to wait for.
    fn fd(&self) -> RawFd;
    fn mode(&self) -> BindMode;
    /// Whether packets that span frames can be transmitted.
    fn is_multi_buffer(&self) -> bool;
    /// Asks the kernel to transmit what is in the tx ring.
    fn kick(&self) -> io::Result<()>;
    /// Asks the kernel to receive into what is in the fill ring.
    fn wake_rx(&self) -> io::Result<()>;
    /// `XDP_STATISTICS`, or why the socket is of no use any more.
    fn statistics(&self) -> io::Result<libc::xdp_statistics>;
}

/// The kernel's socket.
#[derive(Debug)]
pub(crate) struct Xsk {
    fd: OwnedFd,
    mode: BindMode,
    multi_buffer: bool,
}

/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17): how many frames one `sendto` transmits in copy mode; 32 by default.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// Pause between two attempts to bind a busy queue.
const BIND_PAUSE: Duration = Duration::from_millis(5);

impl Xsk {
    /// Makes the socket, fills its fill ring out of `pool`, and only then binds it: some drivers take their first frames at bind
    /// and never ask again.
    pub fn open(port: &PortConfig, umem: &Umem, pool: &mut Pool, depths: RingDepths, patience: Duration) -> Result<(Xsk, Rings), Error> {
        let failed = |attempt, source| error_of(port, attempt, source);
        let fd = open_socket().map_err(|e| failed("open an AF_XDP socket", e))?;
        register_umem(&fd, umem).map_err(|e| failed("register the frames as UMEM", e))?;
        let mut rings = map_rings(&fd, depths).map_err(|e| failed("set up the rings", e))?;
        raise_tx_budget(&fd, depths.tx);
        raise_send_buffer(&fd, depths.tx, umem.frame_bytes());
        if port.mode == BindWanted::Copy {
            rings.limit_fill(depths.rx);
        }
        rings.refill(pool);
        bind(&fd, port, patience).map_err(|e| failed("bind an AF_XDP socket", e))?;
        let mode = mode_in_force(&fd).map_err(|e| failed("ask for the mode in force", e))?;
        if mode == BindMode::Copy {
            rings.limit_fill(depths.rx);
        }
        Ok((Xsk { fd, mode, multi_buffer: port.multi_buffer }, rings))
    }
}

impl Socket for Xsk {
    fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn mode(&self) -> BindMode {
        self.mode
    }

    fn is_multi_buffer(&self) -> bool {
        self.multi_buffer
    }

    #[inline]
    fn kick(&self) -> io::Result<()> {
        // SAFETY: no buffer and no address are passed; the kernel works on the rings, whose frames it owns.
        let sent = unsafe { libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    #[inline]
    fn wake_rx(&self) -> io::Result<()> {
        // SAFETY: no buffer is passed, as in `kick`.
        let received = unsafe {
            libc::recvfrom(self.fd.as_raw_fd(), std::ptr::null_mut(), 0, libc::MSG_DONTWAIT, std::ptr::null_mut(), std::ptr::null_mut())
        };
        if received < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        // A device that goes takes its sockets' binding along and leaves ENETDOWN here; nothing else would tell a sleeping reader.
        let pending: libc::c_int = getsockopt(&self.fd, libc::SOL_SOCKET, libc::SO_ERROR, 0)?;
        if pending != 0 {
            return Err(io::Error::from_raw_os_error(pending));
        }
        let zero = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        getsockopt(&self.fd, libc::SOL_XDP, libc::XDP_STATISTICS, zero)
    }
}

fn open_socket() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn register_umem(fd: &OwnedFd, umem: &Umem) -> io::Result<()> {
    let (addr, len) = umem.region();
    let registration = libc::xdp_umem_reg { addr, len, chunk_size: umem.frame_bytes(), headroom: 0, flags: 0, tx_metadata_len: 0 };
    setsockopt(fd, libc::XDP_UMEM_REG, &registration)
}

fn map_rings(fd: &OwnedFd, depths: RingDepths) -> io::Result<Rings> {
    setsockopt(fd, libc::XDP_UMEM_FILL_RING, &depths.fill)?;
    setsockopt(fd, libc::XDP_UMEM_COMPLETION_RING, &depths.tx)?;
    setsockopt(fd, libc::XDP_RX_RING, &depths.rx)?;
    setsockopt(fd, libc::XDP_TX_RING, &depths.tx)?;
    let offsets = mmap_offsets(fd)?;
    let map = |place: libc::off_t, ring: &libc::xdp_ring_offset, depth: u32, entry: usize| {
        Mapping::of_socket(fd.as_fd(), place, ring.desc as usize + depth as usize * entry).map(Arc::new)
    };
    let fill = map(libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t, &offsets.fr, depths.fill, size_of::<u64>())?;
    let completion = map(libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t, &offsets.cr, depths.tx, size_of::<u64>())?;
    let rx = map(libc::XDP_PGOFF_RX_RING, &offsets.rx, depths.rx, size_of::<libc::xdp_desc>())?;
    let tx = map(libc::XDP_PGOFF_TX_RING, &offsets.tx, depths.tx, size_of::<libc::xdp_desc>())?;
    // SAFETY: each mapping is the ring of that name of this new socket, made with that depth; the offsets are the kernel's own,
    // and this is the only place that makes ends of a socket's rings, once.
    unsafe {
        Ok(Rings::new(
            Producer::new(fill, &offsets.fr, depths.fill)?,
            Consumer::new(rx, &offsets.rx, depths.rx)?,
            Producer::new(tx, &offsets.tx, depths.tx)?,
            Consumer::new(completion, &offsets.cr, depths.tx)?,
        ))
    }
}

fn mmap_offsets(fd: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    let zero = || libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let offsets = libc::xdp_mmap_offsets { rx: zero(), tx: zero(), fr: zero(), cr: zero() };
    getsockopt(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, offsets)
}

/// One `sendto` transmits a whole batch instead of half of one. Kernels before 6.17 do not know the option; the worker kicks
/// until nothing is pending anyway, so nothing depends on it.
fn raise_tx_budget(fd: &OwnedFd, tx_depth: u32) {
    let budget = tx_depth.min(256);
    if let Err(error) = setsockopt(fd, XDP_MAX_TX_SKB_BUDGET, &budget) {
        tracing::debug!(%error, "the kernel transmits at most 32 frames per system call");
    }
}

/// In copy mode each packet under way is an skb charged to the socket. The default buffer stops at some 200 of them, which a NIC
/// holds easily; the tx ring is the limit that is meant. Needs CAP_NET_ADMIN, as the rest; without it, it is only slower.
fn raise_send_buffer(fd: &OwnedFd, tx_depth: u32, frame_bytes: u32) {
    // The kernel doubles the value, for the skb's own share.
    let bytes = libc::c_int::try_from(tx_depth.saturating_mul(frame_bytes)).unwrap_or(libc::c_int::MAX);
    if let Err(error) = setsockopt_at(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes) {
        tracing::debug!(%error, "cannot enlarge the send buffer");
    }
}

fn bind(fd: &OwnedFd, port: &PortConfig, patience: Duration) -> io::Result<()> {
    // Without either flag the kernel tries zero-copy and falls back to copy by itself.
    let mode = match port.mode {
        BindWanted::Auto => 0,
        BindWanted::ZeroCopy => libc::XDP_ZEROCOPY,
        BindWanted::Copy => libc::XDP_COPY,
    };
    // Only where packets are that large: a driver that has zero-copy for packets of one frame only refuses the flag.
    let multi_buffer = if port.multi_buffer { libc::XDP_USE_SG } else { 0 };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: mode | multi_buffer | libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: port.ifindex,
        sxdp_queue_id: port.queue,
        sxdp_shared_umem_fd: 0,
    };
    let deadline = Instant::now() + patience;
    loop {
        // SAFETY: `address` is a `sockaddr_xdp` that lives through the call, and its length is passed.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_xdp>() as u32) };
        if bound == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(BIND_PAUSE);
    }
}

fn mode_in_force(fd: &OwnedFd) -> io::Result<BindMode> {
    let options = getsockopt(fd, libc::SOL_XDP, libc::XDP_OPTIONS, libc::xdp_options { flags: 0 })?;
    Ok(if options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0 { BindMode::ZeroCopy } else { BindMode::Copy })
}

/// `T` is the plain C type that the option takes.
fn setsockopt<T>(fd: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    setsockopt_at(fd, libc::SOL_XDP, option, value)
}

fn setsockopt_at<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes at `value`, which is as large, and keeps no pointer to it.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const *value).cast(), len) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `T` is the plain C type of integers that the option writes; `value` stands where a shorter answer leaves off.
fn getsockopt<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which is as large, and any bytes are a valid `T`.
    let got = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn error_of(port: &PortConfig, attempt: &'static str, source: io::Error) -> Error {
    let mode = match port.mode {
        BindWanted::Auto => "zero-copy or copy",
        BindWanted::ZeroCopy => "zero-copy",
        BindWanted::Copy => "copy",
    };
    let remedy = match source.raw_os_error() {
        Some(libc::EBUSY) => "another process, or a second Ringway, serves this queue: stop it",
        Some(libc::EPERM | libc::EACCES) => "CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF are needed: run as root",
        Some(libc::EOPNOTSUPP) if port.mode == BindWanted::ZeroCopy && port.multi_buffer => {
            "the driver has no zero-copy for packets that span frames, or none at all: lower the MTU, or use copy"
        }
        Some(libc::EOPNOTSUPP | libc::EINVAL) if port.mode == BindWanted::ZeroCopy => {
            "the driver or this configuration of the device has no zero-copy: use copy"
        }
        Some(libc::EINVAL) => "does the device have this queue, and is it up?",
        Some(libc::ENODEV) => "the device is gone, or in another network namespace",
        Some(libc::ENOBUFS | libc::ENOMEM) => "memory is short: lower the ring depths, or raise the limit of locked memory (ulimit -l)",
        Some(libc::EAFNOSUPPORT) => "the kernel is built without CONFIG_XDP_SOCKETS",
        _ => "`ringway check` tells what the device lacks",
    };
    Error::Socket { attempt, ifname: port.ifname.clone(), queue: port.queue, mode, source, remedy }
}
