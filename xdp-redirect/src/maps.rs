//! The maps that user space writes, typed. All methods take effect for the next packet.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};
use ringway_engine::tables::FrontendKey;

use crate::{Error, syscall};

/// Flag of a frontend: it may have backends on this node, so `uplink` must look at the flow table.
pub const FRONTEND_HERE: u32 = 1;
/// Flag of a frontend: a NodePort, so the node's own sockets that use it are sent to
/// [`NODE_PORT_ALIAS`](ringway_engine::tables::NODE_PORT_ALIAS).
pub const FRONTEND_NODE_PORT: u32 = 2;
/// Flag of what was a frontend: its established flows are still ours, new ones are not.
pub const FRONTEND_DRAINING: u32 = 4;
/// Flag of a VIP: answer ARP for it.
pub const VIP_ANNOUNCED: u32 = 1;
/// Flag of a VIP: every port of it is ours, a worker refuses what no frontend takes.
pub const VIP_CLOSED: u32 = 2;

/// Key and value.
type Entry = (Vec<u8>, Vec<u8>);

/// A map with its name for errors.
#[derive(Debug)]
pub(crate) struct NamedMap {
    pub(crate) handle: MapHandle,
    pub(crate) name: &'static str,
}

impl NamedMap {
    pub(crate) fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.handle.lookup(key, MapFlags::ANY).map_err(|source| Error::Map { action: "reading", map: self.name, source })
    }

    pub(crate) fn upsert(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        // Not through libbpf-rs, whose errors do not tell the errno: E2BIG is what a full hash map says.
        syscall::map_update(&self.handle, key, value).map_err(|error| match error.raw_os_error() {
            Some(libc::E2BIG) => Error::MapFull { map: self.name, max_entries: self.handle.max_entries() },
            _ => Error::Map { action: "writing", map: self.name, source: error.into() },
        })
    }

    /// Removing what is not there is no error.
    pub(crate) fn remove(&self, key: &[u8]) -> Result<(), Error> {
        match self.handle.delete(key) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::Map { action: "removing from", map: self.name, source }),
            _ => Ok(()),
        }
    }

    /// Keys and values. Entries that come or go meanwhile may be missed.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for key in self.handle.keys() {
            if let Some(value) = self.lookup(&key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_ne_bytes)
}

/// Which destinations are ours: `frontends4`.
#[derive(Debug)]
pub struct Frontends(pub(crate) NamedMap);

impl Frontends {
    /// Adds a frontend or changes its flags ([`FRONTEND_HERE`], [`FRONTEND_NODE_PORT`]).
    pub fn upsert(&self, key: &FrontendKey, flags: u32) -> Result<(), Error> {
        self.0.upsert(&frontend_bytes(key), &flags.to_ne_bytes())
    }

    pub fn remove(&self, key: &FrontendKey) -> Result<(), Error> {
        self.0.remove(&frontend_bytes(key))
    }

    /// All frontends with their flags: the next start compares them with what should be there.
    pub fn entries(&self) -> Result<Vec<(FrontendKey, u32)>, Error> {
        Ok(self.0.entries()?.iter().filter_map(|(key, value)| Some((frontend_of(key)?, read_u32(value)))).collect())
    }
}

/// `struct frontend4`.
fn frontend_bytes(key: &FrontendKey) -> [u8; 8] {
    let (a, p) = (key.address.octets(), key.port.to_be_bytes());
    [a[0], a[1], a[2], a[3], p[0], p[1], key.protocol, 0]
}

fn frontend_of(bytes: &[u8]) -> Option<FrontendKey> {
    let &[a, b, c, d, hi, lo, protocol, _] = bytes else { return None };
    Some(FrontendKey { address: Ipv4Addr::new(a, b, c, d), port: u16::from_be_bytes([hi, lo]), protocol })
}

fn address_of(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

/// Addresses of frontends as such: `vips4`.
#[derive(Debug)]
pub struct Vips(pub(crate) NamedMap);

impl Vips {
    /// Adds a VIP or changes its flags ([`VIP_ANNOUNCED`], [`VIP_CLOSED`]).
    pub fn upsert(&self, address: Ipv4Addr, flags: u32) -> Result<(), Error> {
        self.0.upsert(&address.octets(), &flags.to_ne_bytes())
    }

    pub fn remove(&self, address: Ipv4Addr) -> Result<(), Error> {
        self.0.remove(&address.octets())
    }

    pub fn entries(&self) -> Result<Vec<(Ipv4Addr, u32)>, Error> {
        Ok(self.0.entries()?.iter().filter_map(|(key, value)| Some((address_of(key)?, read_u32(value)))).collect())
    }
}

/// Which ports of which addresses replies to SNAT come to: `snat4`.
#[derive(Debug)]
pub struct SnatPorts(pub(crate) NamedMap);

impl SnatPorts {
    /// Sets the ports of an address, both ends included.
    pub fn upsert(&self, address: Ipv4Addr, ports: RangeInclusive<u16>) -> Result<(), Error> {
        let (lo, hi) = (ports.start().to_ne_bytes(), ports.end().to_ne_bytes());
        self.0.upsert(&address.octets(), &[lo[0], lo[1], hi[0], hi[1]])
    }

    pub fn remove(&self, address: Ipv4Addr) -> Result<(), Error> {
        self.0.remove(&address.octets())
    }

    pub fn entries(&self) -> Result<Vec<(Ipv4Addr, RangeInclusive<u16>)>, Error> {
        let range = |v: &[u8]| match *v {
            [a, b, c, d] => Some(u16::from_ne_bytes([a, b])..=u16::from_ne_bytes([c, d])),
            _ => None,
        };
        Ok(self.0.entries()?.iter().filter_map(|(key, value)| Some((address_of(key)?, range(value)?))).collect())
    }
}

/// Where an uplink's queues begin in [`crate::Programs::xsks_uplinks`]: `uplinks`.
///
/// Queue q of the uplink is at key base + q. Without an entry, what is ours is dropped at that uplink.
#[derive(Debug)]
pub struct Uplinks(pub(crate) NamedMap);

impl Uplinks {
    pub fn upsert(&self, ifindex: u32, base: u32) -> Result<(), Error> {
        self.0.upsert(&ifindex.to_ne_bytes(), &base.to_ne_bytes())
    }

    pub fn remove(&self, ifindex: u32) -> Result<(), Error> {
        self.0.remove(&ifindex.to_ne_bytes())
    }

    pub fn entries(&self) -> Result<Vec<(u32, u32)>, Error> {
        Ok(self.0.entries()?.iter().map(|(key, value)| (read_u32(key), read_u32(value))).collect())
    }
}

/// Own MAC address of every device that an order or a flow's op may name: `device_macs`.
#[derive(Debug)]
pub struct DeviceMacs(pub(crate) NamedMap);

impl DeviceMacs {
    pub fn upsert(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), Error> {
        let [a, b, c, d, e, f] = mac;
        self.0.upsert(&ifindex.to_ne_bytes(), &[a, b, c, d, e, f, 0, 0])
    }

    pub fn remove(&self, ifindex: u32) -> Result<(), Error> {
        self.0.remove(&ifindex.to_ne_bytes())
    }

    pub fn entries(&self) -> Result<Vec<(u32, [u8; 6])>, Error> {
        let mac = |v: &[u8]| v.get(..6).and_then(|v| <[u8; 6]>::try_from(v).ok());
        Ok(self.0.entries()?.iter().filter_map(|(key, value)| Some((read_u32(key), mac(value)?))).collect())
    }
}

/// A map from queue to AF_XDP socket. An entry vanishes by itself when its socket is closed.
#[derive(Debug)]
pub struct XskMap(pub(crate) NamedMap);

impl XskMap {
    /// Puts a bound socket at `key`. It must be bound to the device and queue whose packets are redirected by this key;
    /// the kernel drops what does not fit.
    pub fn set(&self, key: u32, socket: RawFd) -> Result<(), Error> {
        self.0.upsert(&key.to_ne_bytes(), &socket.to_ne_bytes())
    }

    pub fn remove(&self, key: u32) -> Result<(), Error> {
        self.0.remove(&key.to_ne_bytes())
    }

    /// How many sockets it can hold.
    pub fn max_entries(&self) -> u32 {
        self.0.handle.max_entries()
    }

    /// The descriptor of the map, for libxdp's `xsk_socket__update_xskmap`. Valid as long as `self`.
    pub fn as_raw_fd(&self) -> RawFd {
        self.0.handle.as_fd().as_raw_fd()
    }
}

impl AsFd for XskMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.handle.as_fd()
    }
}
