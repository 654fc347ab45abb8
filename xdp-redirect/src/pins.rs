//! Pinned maps: taken over by the next start if nothing about them has changed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use libbpf_rs::{MapCore, MapFlags, MapHandle, OpenMapMut};
use ringway_engine::flow::BUCKET_ENTRIES;

use crate::Error;
use crate::syscall;

/// What became of one map at load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapFate {
    Created,
    /// The pinned one of an earlier process is used on, with its entries.
    Reused,
    /// The pinned one did not fit and was replaced by an empty one.
    Replaced {
        why: String,
    },
}

/// `struct node_meta`: how the pinned flow tables were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeMeta {
    pub(crate) layout_version: u32,
    pub(crate) bucket_bits4: u32,
    pub(crate) bucket_bits6: u32,
    pub(crate) seed: u64,
}

impl NodeMeta {
    /// Of another layout, of which this may be shorter, only the version means something.
    fn from_bytes(bytes: &[u8]) -> Option<NodeMeta> {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let seed = bytes.get(16..24).and_then(|seed| seed.try_into().ok()).map(u64::from_ne_bytes);
        Some(NodeMeta { layout_version: word(0)?, bucket_bits4: word(4)?, bucket_bits6: word(8)?, seed: seed.unwrap_or_default() })
    }

    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..4].copy_from_slice(&self.layout_version.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.bucket_bits4.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.bucket_bits6.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.seed.to_ne_bytes());
        bytes
    }

    /// What an earlier process left at `path`; `None` if nothing, or nothing that is one.
    pub(crate) fn read_pinned(path: &Path) -> Option<NodeMeta> {
        let map = MapHandle::from_pinned_path(path).ok()?;
        let value = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok()??;
        NodeMeta::from_bytes(&value).filter(|meta| meta.layout_version != 0)
    }
}

pub(crate) fn map_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join("map")
}

/// Gives `map` the pinned map at `path` if it is like what `map` would become; else removes the pin.
/// `stale` says why no pinned map may be used, if so.
pub(crate) fn take_over(map: &mut OpenMapMut<'_>, name: &'static str, path: &Path, stale: Option<&str>) -> Result<MapFate, Error> {
    if !path.exists() {
        return Ok(MapFate::Created);
    }
    let misfit = match (stale, MapHandle::from_pinned_path(path)) {
        (Some(why), _) => Some(why.to_string()),
        (None, Err(error)) => Some(format!("cannot be opened: {error}")),
        (None, Ok(pinned)) => match misfit(map, &pinned)? {
            None => {
                map.reuse_fd(pinned.as_fd()).map_err(|source| Error::Map { action: "reusing", map: name, source })?;
                None
            }
            why => why,
        },
    };
    let Some(why) = misfit else { return Ok(MapFate::Reused) };
    fs::remove_file(path).map_err(|source| Error::Pin { action: "unpinning", path: path.into(), source })?;
    Ok(MapFate::Replaced { why })
}

/// How the pinned map differs from the one that the object describes.
fn misfit(map: &OpenMapMut<'_>, pinned: &MapHandle) -> Result<Option<String>, Error> {
    let info = pinned.info().map_err(|source| Error::Map { action: "querying", map: "pinned", source })?;
    let facts = [
        ("type", map.map_type() as u32, info.map_type() as u32),
        ("key size", map.key_size(), info.info.key_size),
        ("value size", map.value_size(), info.info.value_size),
        ("max_entries", map.max_entries(), info.info.max_entries),
        ("flags", map.map_flags(), info.info.map_flags),
    ];
    Ok(facts
        .iter()
        .find(|(_, wanted, found)| wanted != found)
        .map(|(what, wanted, found)| format!("its {what} is {found}, wanted is {wanted}")))
}

/// Pins `map` unless it came from there.
pub(crate) fn pin_new(map: &MapHandle, fate: &MapFate, path: &Path) -> Result<(), Error> {
    if *fate == MapFate::Reused {
        return Ok(());
    }
    syscall::pin(map.as_fd(), path).map_err(|source| Error::Pin { action: "pinning", path: path.into(), source })
}

/// Buckets of a flow table of `slots` slots, as a power of two.
pub(crate) fn bucket_bits_of(slots: usize) -> Result<u32, Error> {
    let buckets = slots / BUCKET_ENTRIES;
    if !slots.is_power_of_two() || !(2..=1 << 24).contains(&buckets) {
        return Err(Error::Argument { what: "the number of flow slots", value: slots as u64, allowed: "a power of two, 8 to 2^26" });
    }
    Ok(buckets.ilog2())
}

/// 64 random bits from the kernel.
pub(crate) fn random_seed() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer has the length that is given.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == bytes.len() as isize { Ok(u64::from_ne_bytes(bytes)) } else { Err(io::Error::last_os_error()) }
}
