//! Facts about the node, as far as the preflight judges them. Nothing is changed here.
//!
//! Devices are read by netlink and settings from `/proc`, which follow the network namespace of the process; `/sys` shows the
//! namespace in which it was mounted, which is another one under `nsenter --net`.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use futures::TryStreamExt;
use netlink_packet_route::link::{BondMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use ringway_io::ethtool;
use xdp_redirect::ProgramName;
use xdp_redirect::probe::{self, XdpFeatures};

use crate::apiserver;
use crate::config::Config;
use crate::netlink::{self, NetworkFacts};
use crate::{health, http, lock};

/// What was found on the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// `CapEff` of this process.
    pub capabilities: u64,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// The error of `socket(AF_XDP)`, if it failed.
    pub af_xdp_error: Option<String>,
    /// The kernel has tcx hooks; `None` if it does not let us ask.
    pub tcx: Option<bool>,
    /// Why the root of the cgroup hierarchy (version 2) cannot be opened.
    pub cgroup_error: Option<String>,
    /// `bpf` is in `/proc/filesystems`.
    pub bpffs: bool,
    /// The kernel has veth, built in, loaded or loadable; `None` if that cannot be known.
    pub veth: Option<bool>,
    /// CPUs on which this process may run.
    pub cpus: usize,
    /// Soft limit of locked memory in bytes; `None` = unlimited.
    pub memlock_bytes: Option<u64>,
    /// `MemAvailable` in bytes.
    pub memory_bytes: u64,
    /// Settings of the network namespace.
    pub network: NetworkFacts,
    /// All devices of the network namespace.
    pub devices: Vec<DeviceFacts>,
    /// Why the credentials for the apiserver cannot be used.
    pub credentials_error: Option<String>,
    /// Whether the folder of manifests can be read now.
    pub manifests_error: Option<String>,
    /// The process that runs with this state directory.
    pub running_pid: Option<u32>,
    /// A process runs in this network namespace, with this state directory or another.
    pub namespace_held: bool,
    /// What a crashed process has left, in words.
    pub leftovers: Vec<String>,
    /// Where the servers cannot listen: flag, address, the kernel's reason.
    pub not_listening: Vec<(&'static str, SocketAddr, String)>,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    pub name: String,
    pub ifindex: u32,
    pub up: bool,
    pub carrier: bool,
    /// `veth`, `bridge`, `macvlan`…; `None` for a device without a kind: a physical or paravirtual NIC.
    pub kind: Option<String>,
    pub loopback: bool,
    /// Of bonds only.
    pub bond_mode: Option<BondMode>,
    /// ifindex of the bridge or bond of which it is a part.
    pub controller: Option<u32>,
    /// Queues that receive now.
    pub rx_queues: u32,
    /// The kernel driver's name, if it tells.
    pub driver: Option<String>,
    pub mtu: u32,
    pub ethernet: bool,
    /// Of uplinks and members of bonds only, like `rx_queues` and `driver`.
    pub xdp: Option<XdpFacts>,
    /// What the driver says it can do; a veth says so only while its peer is up.
    pub features: Option<XdpFeatures>,
}

/// An XDP program on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpFacts {
    pub program_id: u32,
    pub program_name: String,
    /// It hangs on a link that a ringway with this state directory has pinned.
    pub ours: bool,
}

impl Facts {
    /// The devices whose queues serve an uplink: itself, or the members of a bond.
    pub fn nics(&self, uplink: &str) -> impl Iterator<Item = &DeviceFacts> {
        let bonds = self.devices.iter().filter(move |device| device.name == uplink && device.is_bond());
        let bond = bonds.map(|device| device.ifindex).next();
        let name = uplink.to_owned();
        self.devices.iter().filter(move |device| bond.map_or(device.name == name, |bond| device.controller == Some(bond)))
    }
}

impl DeviceFacts {
    pub fn is_bond(&self) -> bool {
        self.kind.as_deref() == Some("bond")
    }
}

/// Looks at the node.
///
/// # Errors
/// Only if netlink or `/proc` cannot be read at all; what is merely missing is a fact.
pub async fn gather(config: &Config) -> anyhow::Result<Facts> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket to list the devices")?;
    tokio::spawn(connection);
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await.context("cannot list the devices by netlink")?;
    let mut devices: Vec<DeviceFacts> = links.iter().map(device_facts).collect();
    let pinned = xdp_redirect::bpffs::pin_dir(&config.state_dir).and_then(|dir| xdp_redirect::pinned_links(&dir)).unwrap_or_default();
    let uplinks: Vec<u32> = devices.iter().filter(|device| config.uplinks.contains(&device.name)).map(|device| device.ifindex).collect();
    // Members of bonds are looked at like uplinks.
    let concerned =
        |device: &DeviceFacts| uplinks.contains(&device.ifindex) || device.controller.is_some_and(|index| uplinks.contains(&index));
    for device in devices.iter_mut().filter(|device| concerned(device)) {
        let ours = pinned.iter().any(|link| link.program == ProgramName::Uplink && link.ifindex == device.ifindex && link.live);
        look_closer(device, ours);
    }
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let running_pid = lock::holder(&config.state_dir);
    let namespace_held = lock::namespace_held();
    let leftovers = if namespace_held { Vec::new() } else { leftovers(config, &devices) };
    Ok(Facts {
        capabilities: capabilities(&status),
        kernel: kernel_version(&release),
        af_xdp_error: rustix::net::socket(rustix::net::AddressFamily::XDP, rustix::net::SocketType::RAW, None).err().map(|e| e.to_string()),
        tcx: probe::has_tcx().ok(),
        cgroup_error: xdp_redirect::cgroup::root().err().map(|error| error.to_string()),
        bpffs: std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.trim_end().ends_with("\tbpf"))),
        veth: has_veth(&release, &devices),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memlock_bytes: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
        memory_bytes: std::fs::read_to_string("/proc/meminfo").map_or(0, |text| memory_available(&text)),
        network: NetworkFacts::read().context("cannot read the settings of this network namespace")?,
        devices,
        credentials_error: match &config.apiserver {
            Some(access) => apiserver::check(access).await.err().map(|error| format!("{error:#}")),
            None => None,
        },
        manifests_error: config.manifests.as_ref().and_then(|dir| std::fs::read_dir(dir).err()).map(|error| error.to_string()),
        leftovers,
        running_pid,
        namespace_held,
        // A ringway that runs here has them, and is said to run.
        not_listening: if namespace_held { Vec::new() } else { not_listening(config) },
    })
}

fn device_facts(link: &LinkMessage) -> DeviceFacts {
    let flags = link.header.flags;
    let mut facts = DeviceFacts {
        ifindex: link.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        ethernet: link.header.link_layer_type == netlink_packet_route::link::LinkLayerType::Ether,
        ..DeviceFacts::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => facts.name.clone_from(name),
            LinkAttribute::Controller(index) => facts.controller = Some(*index),
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            LinkAttribute::LinkInfo(info) => {
                facts.kind = info.iter().find_map(kind_name);
                facts.bond_mode = netlink::bond_mode(info);
            }
            _ => {}
        }
    }
    facts
}

/// What only matters for uplinks. A device that vanishes meanwhile keeps the defaults.
fn look_closer(device: &mut DeviceFacts, ours: bool) {
    device.rx_queues = ethtool::channels(&device.name).map_or(1, |channels| channels.receiving());
    device.driver = ethtool::driver(&device.name).ok();
    device.features = probe::xdp_features(device.ifindex).ok();
    let attached = probe::xdp_attached(device.ifindex).ok().flatten();
    device.xdp = attached.map(|found| XdpFacts { program_id: found.prog_id, program_name: found.prog_name, ours });
}

fn kind_name(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Other(name)) => Some(name.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// What a process that did not end in order has left, in words.
fn leftovers(config: &Config, devices: &[DeviceFacts]) -> Vec<String> {
    let hostlink = devices.iter().filter(|device| [netlink::RW0, netlink::RW1].contains(&device.name.as_str()));
    let devices = hostlink.map(|device| format!("device {}", device.name));
    crate::programs::leftovers(&config.state_dir).into_iter().chain(devices).collect()
}

/// Listens for a moment.
fn not_listening(config: &Config) -> Vec<(&'static str, SocketAddr, String)> {
    let refused = |(flag, address)| Some((flag, address, http::bind_to_both(address).err()?.to_string()));
    health::addresses(config).filter_map(refused).collect()
}

fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
}

fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn memory_available(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.and_then(|value| value.split_whitespace().next()).and_then(|value| value.parse().ok()).unwrap_or(0);
    kib * 1024
}

fn has_veth(release: &str, devices: &[DeviceFacts]) -> Option<bool> {
    if devices.iter().any(|device| device.kind.as_deref() == Some("veth")) || Path::new("/sys/module/veth").exists() {
        return Some(true);
    }
    let modules = Path::new("/lib/modules").join(release);
    let lists = ["modules.builtin", "modules.dep"].map(|name| std::fs::read_to_string(modules.join(name)));
    if lists.iter().all(Result::is_err) {
        return None;
    }
    Some(lists.iter().flatten().any(|list| list.contains("/veth.ko")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_proc() {
        assert_eq!(capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n"), 0x1ff_feff_ffff);
        assert_eq!(kernel_version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(kernel_version("weird"), (0, 0));
        assert_eq!(memory_available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), 2 << 20);
    }
}
