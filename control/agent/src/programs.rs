//! The control half's view of the BPF programs: filter maps, attaching, what is left over from an earlier process.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use xdp_redirect::{Attachment, LoadOptions, MapFate, ProgramName, Programs, XdpMode};

use crate::filter::{FilterKey, FilterMaps, FilterValue};

/// Capacity of the maps of frontends and VIPs of each family, see `maps.h`.
pub const FRONTENDS_MAX: usize = 131_072;
/// See [`FRONTENDS_MAX`].
pub const VIPS_MAX: usize = 65_536;

/// Sockets of all uplinks' queues together, see `maps.h`.
const UPLINK_QUEUES_MAX: u32 = 1_024;

/// The filter maps in the kernel.
#[derive(Debug)]
pub struct KernelMaps<'a>(pub &'a Programs);

impl FilterMaps for KernelMaps<'_> {
    fn set(&mut self, key: FilterKey, value: FilterValue) -> Result<(), String> {
        let programs = self.0;
        let result = match (key, value) {
            (FilterKey::DeviceMac(ifindex), FilterValue::Mac(mac)) => {
                programs.device_macs.upsert(ifindex, mac).and_then(|()| programs.uplinks.set_mac(ifindex, mac))
            }
            (FilterKey::Address(address), FilterValue::Address(value)) => programs.addresses.upsert(address, value),
            (FilterKey::Frontend(key), FilterValue::Frontend(value)) => programs.frontends.upsert(&key, value),
            (key, value) => return Err(format!("{key:?} cannot hold {value:?}")),
        };
        result.map_err(|error| error.to_string())
    }

    fn remove(&mut self, key: FilterKey) -> Result<(), String> {
        let programs = self.0;
        let result = match key {
            FilterKey::DeviceMac(ifindex) => programs.device_macs.remove(ifindex),
            FilterKey::Address(address) => programs.addresses.remove(address),
            FilterKey::Frontend(key) => programs.frontends.remove(&key),
        };
        result.map_err(|error| error.to_string())
    }
}

/// What the maps hold, be it from an earlier process.
///
/// # Errors
/// The kernel does not let us read them.
pub fn filter_entries(programs: &Programs) -> anyhow::Result<Vec<(FilterKey, FilterValue)>> {
    let macs = programs.device_macs.entries()?.into_iter().map(|(ifindex, mac)| (FilterKey::DeviceMac(ifindex), FilterValue::Mac(mac)));
    let addresses = programs.addresses.entries()?.into_iter();
    let addresses = addresses.map(|(address, value)| (FilterKey::Address(address), FilterValue::Address(value)));
    let frontends = programs.frontends.entries()?.into_iter();
    let frontends = frontends.map(|(key, value)| (FilterKey::Frontend(key), FilterValue::Frontend(value)));
    Ok(macs.chain(addresses).chain(frontends).collect())
}

/// Loads, and says what became of the maps of an earlier process.
///
/// # Errors
/// See [`Programs::load`].
pub fn load(options: LoadOptions) -> anyhow::Result<Programs> {
    let (programs, report) = Programs::load(options).context("cannot load the BPF programs")?;
    for (map, fate) in &report.maps {
        match fate {
            MapFate::Replaced { why } => tracing::warn!("the pinned map {map} of an earlier process is replaced: {why}"),
            MapFate::Created | MapFate::Reused => {}
        }
    }
    tracing::info!(
        "programs loaded, {}",
        if report.kept_flows() { "the flow tables of an earlier process are taken over" } else { "the flow tables are new" }
    );
    Ok(programs)
}

/// Says what an attach did.
pub fn log_attachment(what: &str, device: &str, attachment: &Attachment) {
    match attachment {
        Attachment::Attached => tracing::debug!("{what} attached to {device}"),
        Attachment::TakenOver => tracing::info!("{what} on {device} taken over in place"),
        Attachment::Replaced { why } => tracing::warn!("{what} on {device} attached anew: {why}"),
    }
}

/// Attaches `node`, for NodePorts and VIPs of the node's own sockets. Without a root cgroup it goes on without, for everything else works.
///
/// # Errors
/// The kernel refuses.
pub fn attach_node(programs: &Programs) -> Result<(), xdp_redirect::Error> {
    match xdp_redirect::cgroup::root() {
        Ok(root) => log_attachment("node", &root.path.display().to_string(), &programs.attach_node(&root)?),
        Err(error) => tracing::warn!("NodePorts, load-balancer and external addresses are not served to the node's own sockets: {error}"),
    }
    Ok(())
}

/// Attaches `uplink`, natively if wanted and possible. Returns the mode in force, or `None` if native is refused and generic is allowed:
/// the programs have to be loaded for generic uplinks first.
///
/// # Errors
/// Somebody else's program is there, or the wanted mode is impossible.
pub fn attach_uplink(programs: &Programs, name: &str, ifindex: u32, mode: XdpMode, may_be_generic: bool) -> anyhow::Result<bool> {
    match programs.attach_uplink(ifindex, mode) {
        Ok(attachment) => {
            log_attachment("uplink", name, &attachment);
            Ok(true)
        }
        Err(error @ xdp_redirect::Error::Attach { .. }) if mode == XdpMode::Native && may_be_generic => {
            tracing::warn!("{name}: native XDP is refused, generic is used: {error}");
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("uplink {name}")),
    }
}

/// Where each uplink's queues begin in the map of sockets.
///
/// # Errors
/// There are more queues than the map has places.
pub fn queue_bases(queues: &[u32]) -> anyhow::Result<Vec<u32>> {
    let mut next = 0u32;
    let bases = queues.iter().map(|count| {
        let base = next;
        next = next.saturating_add(*count);
        base
    });
    let bases = bases.collect();
    if next > UPLINK_QUEUES_MAX {
        anyhow::bail!(
            "the uplinks have {next} queues together, at most {UPLINK_QUEUES_MAX} are possible: reduce them with `ethtool -L DEV combined N`"
        );
    }
    Ok(bases)
}

/// Removes pinned links that no device of today needs: their devices are gone, or are neither uplink nor pod nor overlay any more.
///
/// # Errors
/// The folder of pins cannot be read, or a link cannot be removed.
pub fn drop_stale_links(programs: &Programs, uplinks: &[u32], edges: &BTreeSet<u32>) -> Result<(), xdp_redirect::Error> {
    for link in xdp_redirect::prune(programs.pin_dir())? {
        tracing::debug!("unpinned {}, whose device {} is gone", link.program.as_str(), link.ifindex);
    }
    for link in xdp_redirect::pinned_links(programs.pin_dir())? {
        use ProgramName::*;
        match link.program {
            Uplink | EdgeUplinkIn | EdgeUplinkOut if !uplinks.contains(&link.ifindex) => programs.detach_uplink(link.ifindex)?,
            EdgePodIn | EdgePodOut if !edges.contains(&link.ifindex) => programs.detach_pod(link.ifindex)?,
            EdgeOverlayIn | EdgeTunnelIn if !edges.contains(&link.ifindex) => programs.detach_overlay(link.ifindex)?,
            _ => continue,
        }
        tracing::info!("detached {} from device {}: it is not ours to serve any more", link.program.as_str(), link.ifindex);
    }
    Ok(())
}

/// What an earlier process has left on the bpffs of the state directory, in words; nothing if it cannot be read.
pub fn leftovers(state_dir: &Path) -> Vec<String> {
    let Ok(pin_dir) = xdp_redirect::bpffs::pin_dir(state_dir) else { return Vec::new() };
    let links = xdp_redirect::pinned_links(&pin_dir).unwrap_or_default();
    let place = |ifindex| if ifindex == 0 { "the root cgroup".to_owned() } else { format!("device {ifindex}") };
    let mut words: Vec<String> = links.iter().map(|link| format!("program {} on {}", link.program.as_str(), place(link.ifindex))).collect();
    if xdp_redirect::bpffs::is_bpffs(&pin_dir) {
        words.push(format!("maps and links pinned in {}", pin_dir.display()));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_of_queues() {
        assert_eq!(queue_bases(&[2, 4, 1]).unwrap(), [0, 2, 6]);
        assert!(queue_bases(&[1_000, 25]).unwrap_err().to_string().contains("1025 queues"));
        assert!(queue_bases(&[u32::MAX, 25]).is_err());
    }
}
