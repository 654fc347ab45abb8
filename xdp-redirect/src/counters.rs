//! What became of the packets that the programs saw.

use libbpf_rs::{MapCore, MapFlags};

use crate::Error;
use crate::maps::NamedMap;

/// The counters of all programs: `counters`. Every packet counts once in every program that sees it.
#[derive(Debug)]
pub struct Counters {
    pub(crate) map: NamedMap,
    /// From the object's rodata, in the order of `enum counter`.
    pub(crate) names: Vec<String>,
}

impl Counters {
    /// Name and value of each counter, summed over all CPUs. They count from the first load of the pinned map on.
    pub fn read(&self) -> Result<Vec<(&str, u64)>, Error> {
        self.names.iter().zip(0u32..).map(|(name, index)| Ok((name.as_str(), self.sum(index)?))).collect()
    }

    /// One counter by name; `None` if there is none of this name.
    pub fn get(&self, name: &str) -> Result<Option<u64>, Error> {
        match self.names.iter().zip(0u32..).find(|(n, _)| *n == name) {
            Some((_, index)) => self.sum(index).map(Some),
            None => Ok(None),
        }
    }

    fn sum(&self, index: u32) -> Result<u64, Error> {
        let per_cpu = self.map.handle.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY).map_err(|source| Error::Map {
            action: "reading",
            map: self.map.name,
            source,
        })?;
        Ok(per_cpu.unwrap_or_default().iter().filter_map(|v| Some(u64::from_ne_bytes(v.as_slice().try_into().ok()?))).sum())
    }
}
