//! Loading: constants in, pinned maps taken over, programs verified, maps pinned.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapHandle, OpenObject, PrintCallback, PrintLevel, set_print};
use ringway_engine::affinity::AffinitySlot;
use ringway_engine::flow::FlowSlot;
use ringway_engine::tables::{NODE_PORT_ALIAS, VIP_ALIAS};

use crate::cgroup;
use crate::maps::NamedMap;
use crate::pins::{self, MapFate, NodeMeta};
use crate::skel::{RingwaySkel, RingwaySkelBuilder};
use crate::{Addresses, Counters, DeviceMacs, Error, Frontends, Uplinks, XskMap, flows};

/// What has to be known before the programs are loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// A folder on a bpffs, see [`crate::bpffs::ensure`]. Maps are pinned below `map`, links below `link`.
    pub pin_dir: PathBuf,
    /// Slots of the flow table, [`ringway_engine::flow::FlowTable::slots_for`]: a power of two.
    pub flow_slots: usize,
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
    /// True if the flows of an earlier process are there.
    pub fn kept_flows(&self) -> bool {
        self.maps.iter().any(|(name, fate)| *name == "flows4" && *fate == MapFate::Reused)
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
    slots: &'static [FlowSlot],
    affinity: &'static [AffinitySlot],
    seed: u64,
}

/// The programs by name.
#[derive(Debug)]
pub(crate) struct ProgramFds {
    pub(crate) uplink: OwnedFd,
    pub(crate) hostlink: OwnedFd,
    pub(crate) edge_pod_in: OwnedFd,
    pub(crate) edge_pod_out: OwnedFd,
    pub(crate) edge_uplink_in: OwnedFd,
    pub(crate) edge_uplink_out: OwnedFd,
    pub(crate) edge_overlay_in: OwnedFd,
    pub(crate) edge_tunnel_in: OwnedFd,
    pub(crate) edge_node_out: OwnedFd,
    pub(crate) deliver: OwnedFd,
    pub(crate) node_connect4: OwnedFd,
    pub(crate) node_sendmsg4: OwnedFd,
    pub(crate) node_recvmsg4: OwnedFd,
    pub(crate) node_getpeername4: OwnedFd,
}

impl Programs {
    /// Loads the programs and pins their maps, or takes over those that an earlier process pinned in `pin_dir`.
    ///
    /// # Errors
    /// [`Error::Load`] with the verifier's log, [`Error::Pin`] if `pin_dir` is on no bpffs, [`Error::Argument`].
    pub fn load(options: LoadOptions) -> Result<(Programs, LoadReport), Error> {
        let bucket_bits = pins::bucket_bits_of(options.flow_slots)?;
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
        let (meta, stale) = node_meta(&dir, layout_version, bucket_bits)?;
        rodata.seed = meta.seed;
        rodata.bucket_bits = bucket_bits;
        rodata.rw1_ifindex = options.rw1_ifindex;
        rodata.workers = options.workers;
        rodata.generic_uplinks = options.generic_uplinks.into();
        rodata.netns_cookie = cgroup::netns_cookie().map_err(Error::NetnsCookie)?;
        rodata.node_port_alias = u32::from_ne_bytes(NODE_PORT_ALIAS.octets());
        rodata.vip_alias = u32::from_ne_bytes(VIP_ALIAS.octets());
        open.maps.flows4.set_max_entries(1 << bucket_bits).map_err(|source| Error::Map { action: "sizing", map: "flows4", source })?;

        let affinity_slots = u32::try_from(options.affinity_slots).unwrap_or(u32::MAX);
        open.maps.affinity4.set_max_entries(affinity_slots).map_err(|source| Error::Map { action: "sizing", map: "affinity4", source })?;

        let maps = &mut open.maps;
        let stale = stale.as_deref();
        let fates = [
            ("flows4", pins::take_over(&mut maps.flows4, "flows4", &dir.join("flows4"), stale)?),
            ("affinity4", pins::take_over(&mut maps.affinity4, "affinity4", &dir.join("affinity4"), stale)?),
            ("frontends4", pins::take_over(&mut maps.frontends4, "frontends4", &dir.join("frontends4"), stale)?),
            ("addresses4", pins::take_over(&mut maps.addresses4, "addresses4", &dir.join("addresses4"), stale)?),
            ("uplinks", pins::take_over(&mut maps.uplinks, "uplinks", &dir.join("uplinks"), stale)?),
            ("device_macs", pins::take_over(&mut maps.device_macs, "device_macs", &dir.join("device_macs"), stale)?),
            ("xsks_uplinks", pins::take_over(&mut maps.xsks_uplinks, "xsks_uplinks", &dir.join("xsks_uplinks"), stale)?),
            ("xsks_hostlink", pins::take_over(&mut maps.xsks_hostlink, "xsks_hostlink", &dir.join("xsks_hostlink"), stale)?),
            ("node_peers4", pins::take_over(&mut maps.node_peers4, "node_peers4", &dir.join("node_peers4"), stale)?),
            ("counters", pins::take_over(&mut maps.counters, "counters", &dir.join("counters"), stale)?),
            ("node_meta", pins::take_over(&mut maps.node_meta, "node_meta", &dir.join("node_meta"), stale)?),
        ];

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
        let fd = |prog: BorrowedFd<'_>, program: &'static str| {
            prog.try_clone_to_owned().map_err(|source| Error::Attach { program, ifindex: 0, source })
        };
        let maps = &skel.maps;
        // First the seed, then the table that needs it: a crash between them must not leave a table without.
        named(&maps.node_meta, "node_meta")?.upsert(&0u32.to_ne_bytes(), &meta.to_bytes())?;
        let flows4 = named(&maps.flows4, "flows4")?;
        let affinity4 = named(&maps.affinity4, "affinity4")?;
        // Only the programs use it; it is pinned for the next start.
        named(&maps.node_peers4, "node_peers4")?;
        let progs = &skel.progs;
        Ok(Programs {
            frontends: Frontends(named(&maps.frontends4, "frontends4")?),
            addresses: Addresses(named(&maps.addresses4, "addresses4")?),
            uplinks: Uplinks(named(&maps.uplinks, "uplinks")?),
            device_macs: DeviceMacs(named(&maps.device_macs, "device_macs")?),
            xsks_uplinks: XskMap(named(&maps.xsks_uplinks, "xsks_uplinks")?),
            xsks_hostlink: XskMap(named(&maps.xsks_hostlink, "xsks_hostlink")?),
            counters: Arc::new(Counters { map: named(&maps.counters, "counters")?, names: counter_names }),
            fds: ProgramFds {
                uplink: fd(progs.uplink.as_fd(), "uplink")?,
                hostlink: fd(progs.hostlink.as_fd(), "hostlink")?,
                edge_pod_in: fd(progs.edge_pod_in.as_fd(), "edge_pod_in")?,
                edge_pod_out: fd(progs.edge_pod_out.as_fd(), "edge_pod_out")?,
                edge_uplink_in: fd(progs.edge_uplink_in.as_fd(), "edge_uplink_in")?,
                edge_uplink_out: fd(progs.edge_uplink_out.as_fd(), "edge_uplink_out")?,
                edge_overlay_in: fd(progs.edge_overlay_in.as_fd(), "edge_overlay_in")?,
                edge_tunnel_in: fd(progs.edge_tunnel_in.as_fd(), "edge_tunnel_in")?,
                edge_node_out: fd(progs.edge_node_out.as_fd(), "edge_node_out")?,
                deliver: fd(progs.deliver.as_fd(), "deliver")?,
                node_connect4: fd(progs.node_connect4.as_fd(), "node_connect4")?,
                node_sendmsg4: fd(progs.node_sendmsg4.as_fd(), "node_sendmsg4")?,
                node_recvmsg4: fd(progs.node_recvmsg4.as_fd(), "node_recvmsg4")?,
                node_getpeername4: fd(progs.node_getpeername4.as_fd(), "node_getpeername4")?,
            },
            pin_dir: options.pin_dir.clone(),
            slots: flows::map_slots(flows4.handle.as_fd(), meta.bucket_bits)?,
            affinity: flows::map_affinity(affinity4.handle.as_fd(), options.affinity_slots)?,
            seed: meta.seed,
        })
    }

    /// The flow table's slots: shared memory with the BPF programs. Lives as long as the process.
    pub fn flow_slots(&self) -> &'static [FlowSlot] {
        self.slots
    }

    /// The affinity table's slots, likewise, though no program reads them.
    pub fn affinity_slots(&self) -> &'static [AffinitySlot] {
        self.affinity
    }

    /// The seed of the flow table's hash: random when the table was first made, then kept with it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }
}

/// The pinned meta if the pinned maps may be used; else a new one and, if there was an old one, why it does not fit.
fn node_meta(dir: &Path, layout_version: u32, bucket_bits: u32) -> Result<(NodeMeta, Option<String>), Error> {
    let path = dir.join("node_meta");
    let stale = match NodeMeta::read_pinned(&path) {
        Some(found) if found.layout_version == layout_version && found.bucket_bits == bucket_bits => return Ok((found, None)),
        Some(found) if found.layout_version != layout_version => {
            Some(format!("its layout is version {}, ours is {layout_version}", found.layout_version))
        }
        // Only the flow table depends on it, and its max_entries will differ.
        Some(found) => return Ok((NodeMeta { bucket_bits, ..found }, None)),
        None if dir.join("flows4").exists() => Some("the seed of its flow table is lost".to_string()),
        None => None,
    };
    let seed = pins::random_seed().map_err(|source| Error::Pin { action: "choosing a seed for", path, source })?;
    Ok((NodeMeta { layout_version, bucket_bits, seed }, stale))
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
