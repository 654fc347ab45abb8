//! Asks devices of the caller's network namespace by `ioctl`: driver, queues, offloads, link.
//!
//! Structs and numbers are those of linux/ethtool.h and linux/sockios.h.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::Error;

/// Queues of a device (`ethtool -l`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    pub rx: u32,
    pub tx: u32,
    pub combined: u32,
    pub rx_max: u32,
    pub tx_max: u32,
    pub combined_max: u32,
}

impl Channels {
    /// Queues that receive now, at least 1.
    pub fn receiving(&self) -> u32 {
        (self.rx + self.combined).max(1)
    }

    /// Queues that transmit now, at least 1.
    pub fn transmitting(&self) -> u32 {
        (self.tx + self.combined).max(1)
    }
}

/// What a device is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Has a carrier (`IFF_RUNNING`).
    pub running: bool,
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GRINGPARAM: u32 = 0x10;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// A command's argument begins with its number.
///
/// # Safety
/// `repr(C)`, as large as the kernel's struct of that command, any bytes are valid.
unsafe trait Argument {}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    _rest: [u8; 32 + 32 + 32 + 32 + 12 + 5 * 4],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct ChannelsArgument {
    command: u32,
    rx_max: u32,
    tx_max: u32,
    other_max: u32,
    combined_max: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_ringparam`.
#[repr(C)]
#[derive(Default)]
struct RingArgument {
    command: u32,
    rx_max: [u32; 3],
    tx_max: u32,
    rx: u32,
    rx_mini_and_jumbo: [u32; 2],
    tx: u32,
}

/// `struct ethtool_value`.
#[repr(C)]
#[derive(Default)]
struct Value {
    command: u32,
    value: u32,
}

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<ChannelsArgument>() == 36 && size_of::<RingArgument>() == 36);

// SAFETY: sizes are those just asserted, all integers.
unsafe impl Argument for DriverInfo {}
// SAFETY: likewise.
unsafe impl Argument for ChannelsArgument {}
// SAFETY: likewise.
unsafe impl Argument for RingArgument {}
// SAFETY: two integers, as in the kernel.
unsafe impl Argument for Value {}

/// The kernel driver's name (`ethtool -i`): "veth", "virtio_net", "ixgbe".
pub fn driver(ifname: &str) -> Result<String, Error> {
    let mut argument = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], _rest: [0; 160] };
    ethtool(ifname, &mut argument).map_err(|e| failed("read the driver", ifname, e))?;
    let name = CStr::from_bytes_until_nul(&argument.driver).unwrap_or(c"");
    Ok(name.to_string_lossy().into_owned())
}

/// Queues, now and at most. A device whose driver does not tell has one of each.
pub fn channels(ifname: &str) -> Result<Channels, Error> {
    let mut argument = ChannelsArgument { command: ETHTOOL_GCHANNELS, ..ChannelsArgument::default() };
    match ethtool(ifname, &mut argument) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Ok(Channels { combined: 1, combined_max: 1, ..Channels::default() })
        }
        Err(error) => Err(failed("read the number of queues", ifname, error)),
        Ok(()) => {
            let ChannelsArgument { rx, tx, combined, rx_max, tx_max, combined_max, .. } = argument;
            Ok(Channels { rx, tx, combined, rx_max, tx_max, combined_max })
        }
    }
}

/// Sizes of the NIC's own receive and transmit rings in descriptors (`ethtool -g`); `None` if the driver has no such thing.
pub fn hardware_rings(ifname: &str) -> Result<Option<(u32, u32)>, Error> {
    let mut argument = RingArgument { command: ETHTOOL_GRINGPARAM, ..RingArgument::default() };
    match ethtool(ifname, &mut argument) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(failed("read the sizes of the hardware rings", ifname, error)),
        Ok(()) => Ok(Some((argument.rx, argument.tx))),
    }
}

/// Index, MAC, MTU and state.
pub fn link(ifname: &str) -> Result<Link, Error> {
    let socket = control_socket().map_err(|e| failed("open a socket to read the link", ifname, e))?;
    let ask = |request: libc::c_ulong, attempt: &'static str| {
        let mut argument = request_of(ifname).map_err(|e| failed(attempt, ifname, e))?;
        ioctl(&socket, request, &mut argument).map_err(|e| failed(attempt, ifname, e))?;
        Ok::<_, Error>(argument.ifr_ifru)
    };
    let index = ask(libc::SIOCGIFINDEX as libc::c_ulong, "read the index")?;
    let address = ask(libc::SIOCGIFHWADDR as libc::c_ulong, "read the MAC")?;
    let mtu = ask(libc::SIOCGIFMTU as libc::c_ulong, "read the MTU")?;
    let flags = ask(libc::SIOCGIFFLAGS as libc::c_ulong, "read the state")?;
    // SAFETY: each request writes the member of the union that is read here (netdevice(7)); all of them are integers.
    let (ifindex, address, mtu, flags) = unsafe { (index.ifru_ifindex, address.ifru_hwaddr.sa_data, mtu.ifru_mtu, flags.ifru_flags) };
    let flags = libc::c_int::from(flags);
    Ok(Link {
        ifindex: ifindex as u32,
        mac: std::array::from_fn(|i| address[i] as u8),
        mtu: mtu as u32,
        up: flags & libc::IFF_UP != 0,
        running: flags & libc::IFF_RUNNING != 0,
    })
}

/// Whether the device computes checksums of what it transmits (`ethtool -k`, tx-checksumming).
pub fn tx_checksum(ifname: &str) -> Result<bool, Error> {
    let mut argument = Value { command: ETHTOOL_GTXCSUM, value: 0 };
    ethtool(ifname, &mut argument).map_err(|e| failed("read tx-checksumming", ifname, e))?;
    Ok(argument.value != 0)
}

/// `ethtool -K DEV tx on|off`. Off on `rw1`, the stack completes checksums before we see them.
pub fn set_tx_checksum(ifname: &str, on: bool) -> Result<(), Error> {
    let mut argument = Value { command: ETHTOOL_STXCSUM, value: u32::from(on) };
    ethtool(ifname, &mut argument).map_err(|e| failed("set tx-checksumming", ifname, e))
}

fn ethtool<A: Argument>(ifname: &str, argument: &mut A) -> io::Result<()> {
    let socket = control_socket()?;
    let mut request = request_of(ifname)?;
    request.ifr_ifru.ifru_data = (&raw mut *argument).cast();
    // `argument` is borrowed for the whole call, and by the contract of `Argument` as large as what the kernel writes.
    ioctl(&socket, SIOCETHTOOL, &mut request)
}

fn request_of(ifname: &str) -> io::Result<libc::ifreq> {
    if ifname.is_empty() || ifname.len() >= libc::IFNAMSIZ || ifname.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no device has such a name: it has 1 to 15 bytes"));
    }
    // SAFETY: an `ifreq` of zeroes is valid: an empty name, integers, a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(ifname.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ioctl(socket: &OwnedFd, request: libc::c_ulong, argument: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: all requests of this file take an `ifreq`, whose name is terminated, and which is borrowed through the call;
    // with SIOCETHTOOL its pointer leads to an `Argument` of the command.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), request as _, &raw mut *argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn failed(attempt: &'static str, ifname: &str, source: io::Error) -> Error {
    Error::Device { attempt, ifname: ifname.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device() {
        let lo = link("lo").expect("every network namespace has one");
        assert_eq!((lo.ifindex, lo.mac), (1, [0; 6]));
        assert_eq!(channels("lo").expect("queues").receiving(), 1);
        assert_eq!(hardware_rings("lo").expect("rings"), None);
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let error = link("nosuchdev0").expect_err("no such device");
        assert!(error.to_string().contains("read the index of device nosuchdev0"), "{error}");
        assert!(driver("").is_err());
        assert!(driver("a-name-that-is-too-long").is_err());
    }
}
