//! Loading: constants in, pinned maps taken over, programs verified, maps pinned.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapHandle, OpenObject, PrintCallback, PrintLevel, set_print};
use libbpf_sys as sys;
use ringway_engine::affinity::AffinitySlot;
use ringway_engine::family::{Family, V4, V6};
use ringway_engine::flow::FlowSlot;
use ringway_engine::tables::{NODE_PORT_ALIAS, NODE_PORT_ALIAS6, VIP_ALIAS, VIP_ALIAS6};

use crate::cgroup;
use crate::maps::{BothFamilies, NamedMap};
use crate::pins::{self, MapFate, NodeMeta};
use crate::program::ProgramFds;
use crate::skel::{RingwaySkel, RingwaySkelBuilder};
use crate::{Addresses, Counters, DeviceMacs, Error, Frontends, Uplinks, XskMap, flows};

/// What has to be known before the programs are loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// A folder on a bpffs, see [`crate::bpffs::ensure`]. Maps are pinned below `map`, links below `link`.
    pub pin_dir: PathBuf,
    /// Slots of the flow table of IPv4, [`ringway_engine::flow::slots_for`]: a power of two.
    pub flow_slots: usize,
    /// Slots of that of IPv6, likewise. One is twice as large.
    pub flow6_slots: usize,
    /// Slots of the affinity table, [`ringway_engine::affinity::AffinityTable::slots_for`].
    pub affinity_slots: usize,
    /// The host's side of the hostlink.
    pub rw1_ifindex: u32,
    /// Number of workers = queues of the hostlink, 1 to 256.
    pub workers: u32,
    /// Some uplink runs XDP in generic mode, where the program sees again what we hand back.
    pub generic_uplinks: bool,
}

/// What was found and done at load.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// One per map, in a fixed order.
    pub maps: Vec<(&'static str, MapFate)>,
}

impl LoadReport {
    /// True if the flows of an earlier process are there, of both families.
    pub fn kept_flows(&self) -> bool {
        self.maps.iter().filter(|(name, _)| name.starts_with("flows")).all(|(_, fate)| *fate == MapFate::Reused)
    }
}

/// The loaded programs and their maps. `Send` and `Sync`; dropping it closes descriptors, nothing else: what is pinned
/// or attached stays.
#[derive(Debug)]
pub struct Programs {
    pub frontends: Frontends,
    pub addresses: Addresses,
    pub uplinks: Uplinks,
    pub device_macs: DeviceMacs,
    /// Sockets of all uplinks; see [`Uplinks`] for the keys. Up to 1024.
    pub xsks_uplinks: XskMap,
    /// Sockets of `rw0` by queue. Up to 256.
    pub xsks_hostlink: XskMap,
    pub counters: Arc<Counters>,
    pub(crate) fds: ProgramFds,
    pub(crate) pin_dir: PathBuf,
    slots: &'static [FlowSlot<V4>],
    slots6: &'static [FlowSlot<V6>],
    affinity: &'static [AffinitySlot],
    seed: u64,
}

impl Programs {
    /// Loads the programs and pins their maps, or takes over those that an earlier process pinned in `pin_dir`.
    ///
    /// # Errors
    /// [`Error::Load`] with the verifier's log, [`Error::Pin`] if `pin_dir` is on no bpffs, [`Error::Argument`].
    pub fn load(options: LoadOptions) -> Result<(Programs, LoadReport), Error> {
        let bucket_bits4 = pins::bucket_bits_of(options.flow_slots)?;
        let bucket_bits6 = pins::bucket_bits_of(options.flow6_slots)?;
        if !(1..=256).contains(&options.workers) {
            return Err(Error::Argument { what: "the number of workers", value: options.workers.into(), allowed: "1 to 256" });
        }
        let dir = pins::map_dir(&options.pin_dir);
        fs::create_dir_all(&dir).map_err(|source| Error::Pin { action: "creating", path: dir.clone(), source })?;

        let log = LibbpfLog::capture();
        // The skeleton borrows the place where its object lives. It is as large as a pointer, and a process loads once.
        let place: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = RingwaySkelBuilder::default().open(place).map_err(|source| log.error("opening the object", source))?;

        let rodata =
            open.maps.rodata_data.as_deref_mut().ok_or(Error::Argument { what: "the object's rodata", value: 0, allowed: "present" })?;
        let layout_version = rodata.layout_version;
        let names = rodata.counter_names.iter().map(|name| c_string(name)).collect();
        let (meta, stale) = node_meta(&dir, layout_version, [bucket_bits4, bucket_bits6])?;
        rodata.seed = meta.seed;
        rodata.bucket_bits4 = bucket_bits4;
        rodata.bucket_bits6 = bucket_bits6;
        rodata.rw1_ifindex = options.rw1_ifindex;
        rodata.workers = options.workers;
        rodata.generic_uplinks = options.generic_uplinks.into();
        rodata.netns_cookie = cgroup::netns_cookie().map_err(Error::NetnsCookie)?;
        rodata.node_port_alias4 = V4::from_ip(NODE_PORT_ALIAS);
        rodata.vip_alias4 = V4::from_ip(VIP_ALIAS);
        rodata.node_port_alias6.word = V6::from_ip(NODE_PORT_ALIAS6);
        rodata.vip_alias6.word = V6::from_ip(VIP_ALIAS6);
        if !options.generic_uplinks {
            // Packets in several parts, without which native XDP refuses a large MTU. Generic XDP puts them into one part for programs
            // without the flag. For those with it the kernel makes a copy that forgets where the Ethernet header begins (seen on 6.18):
            // `edge` would not know the packets that pass.
            open.progs.uplink.set_flags(sys::BPF_F_XDP_HAS_FRAGS);
        }
        let affinity_slots = u32::try_from(options.affinity_slots).unwrap_or(u32::MAX);
        let maps = &mut open.maps;
        for (map, name, entries) in [
            (&mut maps.flows4, "flows4", 1 << bucket_bits4),
            (&mut maps.flows6, "flows6", 1 << bucket_bits6),
            (&mut maps.affinity, "affinity", affinity_slots),
        ] {
            map.set_max_entries(entries).map_err(|source| Error::Map { action: "sizing", map: name, source })?;
        }
        let stale = stale.as_deref();
        macro_rules! take_over {
            ($($map:ident)*) => {
                [$((stringify!($map), pins::take_over(&mut maps.$map, stringify!($map), &dir.join(stringify!($map)), stale)?)),*]
            };
        }
        let fates = take_over!(flows4 flows6 affinity frontends4 frontends6 addresses4 addresses6 uplinks device_macs xsks_uplinks
            xsks_hostlink node_peers4 node_peers6 counters node_meta);

        let skel = open.load().map_err(|source| log.error("verifying", source))?;
        drop(log);
        let programs = Programs::from_skel(&skel, &options, names, meta, &fates)?;
        Ok((programs, LoadReport { maps: fates.into() }))
    }

    /// Duplicates the descriptors out of the skeleton and pins what is new.
    fn from_skel(
        skel: &RingwaySkel<'_>,
        options: &LoadOptions,
        counter_names: Vec<String>,
        meta: NodeMeta,
        fates: &[(&'static str, MapFate)],
    ) -> Result<Programs, Error> {
        let dir = pins::map_dir(&options.pin_dir);
        let named = |map: &libbpf_rs::MapMut<'_>, name: &'static str| -> Result<NamedMap, Error> {
            let handle = MapHandle::try_from(map).map_err(|source| Error::Map { action: "opening", map: name, source })?;
            let fate = fates.iter().find(|(n, _)| *n == name).map_or(&MapFate::Created, |(_, fate)| fate);
            pins::pin_new(&handle, fate, &dir.join(name))?;
            Ok(NamedMap { handle, name })
        };
        let maps = &skel.maps;
        // First the seed, then the table that needs it: a crash between them must not leave a table without.
        named(&maps.node_meta, "node_meta")?.upsert(&0u32.to_ne_bytes(), &meta.to_bytes())?;
        let flows4 = named(&maps.flows4, "flows4")?;
        let flows6 = named(&maps.flows6, "flows6")?;
        let affinity = named(&maps.affinity, "affinity")?;
        // Only the programs use them; they are pinned for the next start.
        named(&maps.node_peers4, "node_peers4")?;
        named(&maps.node_peers6, "node_peers6")?;
        Ok(Programs {
            frontends: Frontends(BothFamilies { v4: named(&maps.frontends4, "frontends4")?, v6: named(&maps.frontends6, "frontends6")? }),
            addresses: Addresses(BothFamilies { v4: named(&maps.addresses4, "addresses4")?, v6: named(&maps.addresses6, "addresses6")? }),
            uplinks: Uplinks(named(&maps.uplinks, "uplinks")?),
            device_macs: DeviceMacs(named(&maps.device_macs, "device_macs")?),
            xsks_uplinks: XskMap(named(&maps.xsks_uplinks, "xsks_uplinks")?),
            xsks_hostlink: XskMap(named(&maps.xsks_hostlink, "xsks_hostlink")?),
            counters: Arc::new(Counters { map: named(&maps.counters, "counters")?, names: counter_names }),
            fds: ProgramFds::of(skel.object())?,
            pin_dir: options.pin_dir.clone(),
            slots: flows::map_slots(flows4.handle.as_fd(), meta.bucket_bits4)?,
            slots6: flows::map_slots(flows6.handle.as_fd(), meta.bucket_bits6)?,
            affinity: flows::map_affinity(affinity.handle.as_fd(), options.affinity_slots)?,
            seed: meta.seed,
        })
    }

    /// The slots of the flow table of IPv4: shared memory with the BPF programs. Lives as long as the process.
    pub fn flow_slots(&self) -> &'static [FlowSlot<V4>] {
        self.slots
    }

    /// Those of IPv6.
    pub fn flow6_slots(&self) -> &'static [FlowSlot<V6>] {
        self.slots6
    }

    /// The affinity table's slots, likewise, though no program reads them.
    pub fn affinity_slots(&self) -> &'static [AffinitySlot] {
        self.affinity
    }

    /// The seed of the flow tables' hashes: random when they were first made, then kept with them.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }
}

/// The pinned meta if the pinned maps may be used; else a new one and, if there was an old one, why it does not fit.
fn node_meta(dir: &Path, layout_version: u32, [bucket_bits4, bucket_bits6]: [u32; 2]) -> Result<(NodeMeta, Option<String>), Error> {
    let path = dir.join("node_meta");
    let stale = match NodeMeta::read_pinned(&path) {
        Some(found) if found.layout_version != layout_version => {
            Some(format!("its layout is version {}, ours is {layout_version}", found.layout_version))
        }
        // Only the flow tables depend on the bits, and their max_entries will differ.
        Some(found) => return Ok((NodeMeta { bucket_bits4, bucket_bits6, ..found }, None)),
        None if dir.join("flows4").exists() => Some("the seed of its flow table is lost".to_string()),
        None => None,
    };
    let seed = pins::random_seed().map_err(|source| Error::Pin { action: "choosing a seed for", path, source })?;
    Ok((NodeMeta { layout_version, bucket_bits4, bucket_bits6, seed }, stale))
}

fn c_string(bytes: &[i8]) -> String {
    bytes.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect()
}

/// libbpf says why a program was refused through a callback only, which is global: one load at a time.
static LOADING: Mutex<()> = Mutex::new(());
static LINES: Mutex<String> = Mutex::new(String::new());

struct LibbpfLog {
    previous: Option<(PrintLevel, PrintCallback)>,
    _loading: MutexGuard<'static, ()>,
}

impl LibbpfLog {
    fn capture() -> LibbpfLog {
        let loading = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        LINES.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let append = |_: PrintLevel, line: String| LINES.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
        LibbpfLog { previous: set_print(Some((PrintLevel::Warn, append))), _loading: loading }
    }

    fn error(&self, what: &'static str, source: libbpf_rs::Error) -> Error {
        Error::Load { what, source, log: std::mem::take(&mut LINES.lock().unwrap_or_else(PoisonError::into_inner)) }
    }
}

impl Drop for LibbpfLog {
    fn drop(&mut self) {
        set_print(self.previous.take());
    }
}
