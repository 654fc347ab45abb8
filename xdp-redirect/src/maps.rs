//! The maps that user space writes, typed. All methods take effect for the next packet.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};
use ringway_engine::tables::FrontendKey;

use crate::{Error, syscall};

/// What the programs know of a frontend: a value of `frontends4` and `frontends6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontendUse {
    /// It may have backends on this node, so `uplink` must look at the flow table.
    pub here: bool,
    /// How sockets of the node itself that use it come to us.
    pub sockets: Sockets,
    /// No frontend any more: its established flows are still ours, new ones are not.
    pub draining: bool,
}

/// How sockets of the node itself come to us that use a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sockets {
    /// By a route of the address.
    #[default]
    Routed,
    /// They are sent to the same port of [`NODE_PORT_ALIAS`](ringway_engine::tables::NODE_PORT_ALIAS), or of the same of IPv6.
    NodePort,
    /// They are sent to this port of [`VIP_ALIAS`](ringway_engine::tables::VIP_ALIAS), or of the same of IPv6; 0 if there is none for them.
    Vip(u16),
}

impl FrontendUse {
    const HERE: u32 = 1;
    const NODE_PORT: u32 = 2;
    const DRAINING: u32 = 4;
    const VIP: u32 = 8;

    fn flags(self) -> u32 {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let sockets = match self.sockets {
            Sockets::Routed => 0,
            Sockets::NodePort => Self::NODE_PORT,
            Sockets::Vip(port) => Self::VIP | u32::from(port) << 16,
        };
        flag(self.here, Self::HERE) | flag(self.draining, Self::DRAINING) | sockets
    }

    fn from_flags(flags: u32) -> FrontendUse {
        let is_set = |flag| flags & flag != 0;
        let sockets = match (is_set(Self::NODE_PORT), is_set(Self::VIP)) {
            (true, _) => Sockets::NodePort,
            (_, true) => Sockets::Vip((flags >> 16) as u16),
            _ => Sockets::Routed,
        };
        FrontendUse { here: is_set(Self::HERE), sockets, draining: is_set(Self::DRAINING) }
    }
}

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

/// A map of IPv4 and one of IPv6 that mean the same.
#[derive(Debug)]
pub(crate) struct BothFamilies {
    pub(crate) v4: NamedMap,
    pub(crate) v6: NamedMap,
}

impl BothFamilies {
    fn of(&self, address: IpAddr) -> &NamedMap {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    fn entries(&self) -> Result<Vec<Entry>, Error> {
        Ok([self.v4.entries()?, self.v6.entries()?].concat())
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_ne_bytes)
}

/// Which destinations are ours: `frontends4` and `frontends6`.
#[derive(Debug)]
pub struct Frontends(pub(crate) BothFamilies);

impl Frontends {
    /// Adds a frontend or changes what it is.
    pub fn upsert(&self, key: &FrontendKey, value: FrontendUse) -> Result<(), Error> {
        self.0.of(key.address).upsert(&frontend_bytes(key), &value.flags().to_ne_bytes())
    }

    pub fn remove(&self, key: &FrontendKey) -> Result<(), Error> {
        self.0.of(key.address).remove(&frontend_bytes(key))
    }

    /// All frontends: the next start compares them with what should be there.
    pub fn entries(&self) -> Result<Vec<(FrontendKey, FrontendUse)>, Error> {
        let value = |bytes: &[u8]| FrontendUse::from_flags(read_u32(bytes));
        Ok(self.0.entries()?.iter().filter_map(|(key, bytes)| Some((frontend_of(key)?, value(bytes)))).collect())
    }
}

/// `struct frontend4` or `struct frontend6`.
fn frontend_bytes(key: &FrontendKey) -> Vec<u8> {
    [&address_bytes(key.address)[..], &key.port.to_be_bytes(), &[key.protocol, 0]].concat()
}

fn frontend_of(bytes: &[u8]) -> Option<FrontendKey> {
    let (address, &[hi, lo, protocol, _]) = bytes.split_last_chunk()?;
    Some(FrontendKey { address: address_of(address)?, port: u16::from_be_bytes([hi, lo]), protocol })
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// What an address is to us beside its frontends: a value of `addresses4` and `addresses6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressUse {
    /// Answer ARP or neighbor solicitations for it.
    pub announced: bool,
    /// Every port of it is ours: a worker refuses what no frontend takes.
    pub closed: bool,
    /// A service's and no node's: what no frontend takes is dropped, for the kernel would send it back into the network.
    pub vip: bool,
    /// It answers pings.
    pub ping: bool,
    /// Replies to SNAT come to these ports of it, both ends included.
    pub snat_ports: Option<(u16, u16)>,
}

/// Addresses that are ours as such: `addresses4` and `addresses6`.
#[derive(Debug)]
pub struct Addresses(pub(crate) BothFamilies);

impl Addresses {
    /// Adds an address or changes what it is.
    pub fn upsert(&self, address: IpAddr, value: AddressUse) -> Result<(), Error> {
        self.0.of(address).upsert(&address_bytes(address), &value.to_bytes())
    }

    pub fn remove(&self, address: IpAddr) -> Result<(), Error> {
        self.0.of(address).remove(&address_bytes(address))
    }

    pub fn entries(&self) -> Result<Vec<(IpAddr, AddressUse)>, Error> {
        Ok(self.0.entries()?.iter().filter_map(|(key, value)| Some((address_of(key)?, AddressUse::from_bytes(value)?))).collect())
    }
}

impl AddressUse {
    const ANNOUNCED: u32 = 1;
    const CLOSED: u32 = 2;
    const VIP: u32 = 4;
    const SNAT: u32 = 8;
    const PING: u32 = 16;

    /// `struct address`.
    fn to_bytes(self) -> [u8; 8] {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(self.announced, Self::ANNOUNCED) | flag(self.closed, Self::CLOSED) | flag(self.vip, Self::VIP);
        let flags = flags | flag(self.snat_ports.is_some(), Self::SNAT) | flag(self.ping, Self::PING);
        let (first, last) = self.snat_ports.unwrap_or_default();
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&flags.to_ne_bytes());
        bytes[4..6].copy_from_slice(&first.to_ne_bytes());
        bytes[6..].copy_from_slice(&last.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<AddressUse> {
        let &[_, _, _, _, a, b, c, d] = bytes else { return None };
        let is_set = |flag| read_u32(&bytes[..4]) & flag != 0;
        Some(AddressUse {
            announced: is_set(Self::ANNOUNCED),
            closed: is_set(Self::CLOSED),
            vip: is_set(Self::VIP),
            ping: is_set(Self::PING),
            snat_ports: is_set(Self::SNAT).then_some((u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))),
        })
    }
}

/// What `uplink` knows of a device it is attached to: a value of `uplinks`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkUse {
    /// Not 0.
    pub ifindex: u32,
    /// Queue q of the uplink is at key `queue_base` + q of [`crate::Programs::xsks_uplinks`].
    pub queue_base: u32,
    /// Its own address: frames for others are not ours. All 0 while it is not known: then every frame counts as sent to it.
    pub mac: [u8; 6],
    pub receives: Receives,
}

/// What a device takes for us; the rest of what is ours is dropped there. A member of a bond is not always one that receives, and on one
/// that is not the kernel, too, takes nothing but what is for itself (LACP, LLDP).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Receives {
    #[default]
    Everything,
    /// What is sent to one station.
    Unicast,
    Nothing,
}

impl Receives {
    /// `UPLINK_NO_GROUPS` and `UPLINK_INACTIVE`.
    fn flags(self) -> u16 {
        match self {
            Receives::Everything => 0,
            Receives::Unicast => 1,
            Receives::Nothing => 2,
        }
    }

    fn from_flags(flags: u16) -> Receives {
        match flags {
            0 => Receives::Everything,
            1 => Receives::Unicast,
            _ => Receives::Nothing,
        }
    }
}

/// The uplinks: `uplinks`. At a device that is not among them, what is ours is dropped.
#[derive(Debug)]
pub struct Uplinks(pub(crate) NamedMap);

impl Uplinks {
    /// Puts these in place of all, one after the other: for a moment, one that changes its place may be missing.
    ///
    /// # Errors
    /// [`Error::MapFull`]: there are more than 64; then nothing is changed.
    pub fn set(&self, uplinks: &[UplinkUse]) -> Result<(), Error> {
        let max_entries = self.0.handle.max_entries();
        if uplinks.len() > max_entries as usize {
            return Err(Error::MapFull { map: self.0.name, max_entries });
        }
        let absent = std::iter::repeat(UplinkUse::default());
        (0..max_entries).zip(uplinks.iter().copied().chain(absent)).try_for_each(|(key, uplink)| self.write(key, uplink))
    }

    /// Changes the address of a device if it is an uplink.
    pub fn set_mac(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), Error> {
        let held = (0..).zip(self.entries()?).find(|(_, uplink)| uplink.ifindex == ifindex);
        held.map_or(Ok(()), |(key, uplink)| self.write(key, UplinkUse { mac, ..uplink }))
    }

    pub fn entries(&self) -> Result<Vec<UplinkUse>, Error> {
        let mut uplinks = Vec::new();
        for key in 0..self.0.handle.max_entries() {
            let value = self.0.lookup(&key.to_ne_bytes())?;
            match value.as_deref().and_then(UplinkUse::from_bytes) {
                Some(uplink) if uplink.ifindex != 0 => uplinks.push(uplink),
                _ => break,
            }
        }
        Ok(uplinks)
    }

    fn write(&self, key: u32, uplink: UplinkUse) -> Result<(), Error> {
        self.0.upsert(&key.to_ne_bytes(), &uplink.to_bytes())
    }
}

impl UplinkUse {
    /// `struct uplink`.
    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.ifindex.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.queue_base.to_ne_bytes());
        bytes[8..14].copy_from_slice(&self.mac);
        bytes[14..].copy_from_slice(&self.receives.flags().to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<UplinkUse> {
        let mac = bytes.get(8..14)?.try_into().ok()?;
        let flags = u16::from_ne_bytes(bytes.get(14..16)?.try_into().ok()?);
        let (ifindex, queue_base) = (read_u32(&bytes[..4]), read_u32(&bytes[4..8]));
        Some(UplinkUse { ifindex, queue_base, mac, receives: Receives::from_flags(flags) })
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
