//! What the control half asks for: workers, their ports, and the sizes of rings and memory.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ringway_engine::engine::Origin;

/// What a socket of a worker is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// The uplink of this index in `NodeTables::uplinks`, or from there on a member of a bond (`Bonds`).
    Uplink(u8),
    /// `rw0`, our side of the hostlink.
    Host,
}

impl From<Port> for Origin {
    fn from(port: Port) -> Origin {
        match port {
            Port::Uplink(uplink) => Origin::Uplink(uplink),
            Port::Host => Origin::Host,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Uplink(uplink) => write!(f, "uplink {uplink}"),
            Port::Host => f.write_str("hostlink"),
        }
    }
}

/// How an XSK is asked to bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindWanted {
    /// Zero-copy, or copy where the driver has none.
    #[default]
    Auto,
    ZeroCopy,
    Copy,
}

/// How an XSK is bound, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    /// The NIC reads and writes the worker's frames.
    ZeroCopy,
    /// The kernel copies between its buffers and the worker's frames.
    Copy,
}

impl BindMode {
    /// The name in status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            BindMode::ZeroCopy => "zero-copy",
            BindMode::Copy => "copy",
        }
    }
}

/// Where the XDP program looks for a socket.
#[derive(Clone, Debug)]
pub struct XskmapSlot {
    /// A `BPF_MAP_TYPE_XSKMAP`.
    pub map: Arc<OwnedFd>,
    pub key: u32,
}

/// One queue of one device, served by one worker.
#[derive(Clone, Debug)]
pub struct PortConfig {
    pub port: Port,
    pub ifname: String,
    pub ifindex: u32,
    pub queue: u32,
    pub mode: BindWanted,
    /// Packets may span frames (`XDP_USE_SG`), as the device's MTU is larger than what one holds. Some drivers then have no zero-copy.
    pub multi_buffer: bool,
    /// `None`: the socket only transmits, or the caller registers it by other means.
    pub xskmap: Option<XskmapSlot>,
}

/// One pinned thread and its ports. A port that occurs twice receives on both queues and transmits on the first.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The core to pin the thread to; `None` leaves it to the scheduler.
    pub core: Option<usize>,
    pub ports: Vec<PortConfig>,
}

/// Bytes of a frame. The kernel keeps 256 bytes in front of each packet, so a frame of 2048 holds packets of 1792 bytes with their
/// Ethernet header, and one of 4096 holds 3840. Larger packets span frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameSize {
    #[default]
    Bytes2048,
    Bytes4096,
}

/// Bytes that the kernel reserves in front of a received packet (`XDP_PACKET_HEADROOM`).
const XDP_PACKET_HEADROOM: u32 = 256;
/// Ethernet header and two VLAN tags.
const LINK_HEADER_MAX: u32 = 14 + 2 * 4;

impl FrameSize {
    pub fn bytes(self) -> u32 {
        match self {
            FrameSize::Bytes2048 => 2048,
            FrameSize::Bytes4096 => 4096,
        }
    }

    /// The largest MTU whose packets fit into one, two VLAN tags included.
    pub fn mtu_max(self) -> u32 {
        self.bytes() - XDP_PACKET_HEADROOM - LINK_HEADER_MAX
    }

    /// The smallest frame for devices of this MTU, or the largest there is: no larger one lies in one page of memory.
    pub fn for_mtu(mtu: u32) -> FrameSize {
        if mtu <= FrameSize::Bytes2048.mtu_max() { FrameSize::Bytes2048 } else { FrameSize::Bytes4096 }
    }

    /// Whether packets of devices of this MTU span the frames that are right for it.
    pub fn is_spanned_by(mtu: u32) -> bool {
        mtu > FrameSize::for_mtu(mtu).mtu_max()
    }
}

/// Descriptors of each socket's rings; powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingDepths {
    pub rx: u32,
    /// Also the depth of the completion ring, so that a completion always finds room.
    pub tx: u32,
    /// At least the NIC's own ring plus `rx`, or a zero-copy driver starves.
    pub fill: u32,
}

impl Default for RingDepths {
    /// 2048 descriptors take 1.4 ms at 1.5 Mpps, what a worker may miss while the scheduler runs something else.
    fn default() -> RingDepths {
        RingDepths { rx: 2048, tx: 2048, fill: 4096 }
    }
}

impl RingDepths {
    /// With a fill ring that suffices for a NIC whose own receive ring has `hardware_rx` descriptors (`ethtool::hardware_rings`).
    pub fn for_hardware(hardware_rx: u32) -> RingDepths {
        let depths = RingDepths::default();
        RingDepths { fill: depths.fill.max((hardware_rx + depths.rx).next_power_of_two()), ..depths }
    }

    /// Frames that a socket can hold at once.
    pub(crate) fn frames(self, mode: BindWanted) -> u32 {
        match mode {
            BindWanted::Copy => self.rx + self.tx,
            BindWanted::Auto | BindWanted::ZeroCopy => self.fill + self.tx,
        }
    }
}

/// Everything that [`crate::Dataplane::start`] needs to know.
#[derive(Clone, Debug)]
pub struct DataplaneConfig {
    pub workers: Vec<WorkerConfig>,
    pub frame_size: FrameSize,
    pub rings: RingDepths,
    /// Frames of each worker; `None`: as many as its rings can hold at once, so that the pool never runs dry.
    pub frames: Option<u32>,
    /// How long a worker looks at empty rings before it sleeps.
    pub spin: Duration,
    /// Slots of the flow table that one worker sweeps; it goes round them in about ten seconds.
    pub sweep_slots: usize,
    /// How long a bind that fails with `EBUSY` is repeated: the kernel frees the queue of a closed socket late.
    pub bind_patience: Duration,
}

impl DataplaneConfig {
    /// The usual sizes for these workers.
    pub fn new(workers: Vec<WorkerConfig>) -> DataplaneConfig {
        DataplaneConfig {
            workers,
            frame_size: FrameSize::default(),
            rings: RingDepths::default(),
            frames: None,
            // Falling asleep and being woken costs 12-17 µs; spinning two to three times as long catches the next packet of a
            // request-response exchange, and costs an idle core nothing, for an idle worker spins once per wake-up only.
            spin: Duration::from_micros(40),
            sweep_slots: 0,
            bind_patience: Duration::from_secs(3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_fit_their_mtu() {
        let sizes = [1500, 1770, 1771, 3818, 3819, 65_535].map(|mtu| (FrameSize::for_mtu(mtu).bytes(), FrameSize::is_spanned_by(mtu)));
        assert_eq!(sizes, [(2048, false), (2048, false), (4096, false), (4096, false), (4096, true), (4096, true)]);
    }

    #[test]
    fn the_fill_ring_covers_the_hardware() {
        assert_eq!(RingDepths::for_hardware(256), RingDepths::default());
        assert_eq!(RingDepths::for_hardware(4096).fill, 8192);
    }
}
