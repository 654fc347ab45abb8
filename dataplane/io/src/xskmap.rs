//! Registering sockets where the XDP program looks for them.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::config::XskmapSlot;

/// The part of `union bpf_attr` that the map element commands use.
#[repr(C)]
struct MapElement {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` uses.
#[repr(C)]
struct ObjectInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
}

const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;

/// Lets packets of the slot's key go to this socket. Replaces another socket that stands there.
pub(crate) fn register(slot: &XskmapSlot, xsk: RawFd) -> io::Result<()> {
    element(BPF_MAP_UPDATE_ELEM, slot, &(xsk as u32))
}

/// Lets no packet go to the slot's socket any more. Not being there is no error: the kernel removes closed sockets by itself.
pub(crate) fn unregister(slot: &XskmapSlot) -> io::Result<()> {
    match element(BPF_MAP_DELETE_ELEM, slot, &0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn element(command: libc::c_int, slot: &XskmapSlot, value: &u32) -> io::Result<()> {
    let map = map_info(slot)?;
    if map.kind != BPF_MAP_TYPE_XSKMAP || (map.key_size, map.value_size) != (4, 4) {
        return Err(io::Error::other(format!("the map is no XSKMAP but of type {}", map.kind)));
    }
    let attributes = MapElement {
        map_fd: slot.map.as_raw_fd() as u32,
        _pad: 0,
        key: (&raw const slot.key) as u64,
        value: (&raw const *value) as u64,
        flags: 0,
    };
    // SAFETY: key and value have four bytes each, as just asked, which `slot.key` and `value` provide through the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attributes, size_of::<MapElement>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn map_info(slot: &XskmapSlot) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let attributes = ObjectInfo { fd: slot.map.as_raw_fd() as u32, info_len: size_of::<MapInfo>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which is as large, and any bytes are a valid `MapInfo`.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attributes, size_of::<ObjectInfo>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}
