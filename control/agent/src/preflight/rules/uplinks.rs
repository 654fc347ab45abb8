//! What the facts about the uplinks mean. Pure.

use netlink_packet_route::link::BondMode;
use ringway_io::FrameSize;

use super::super::facts::{DeviceFacts, Facts};
use super::super::{Finding, Severity};
use crate::config::{Config, Mode};
use crate::run::workers_default;

use Severity::{Error, Note, Warning};

/// Kinds of device that have no queue of their own or hand frames to another namespace before XDP could see them all.
const KINDS_REFUSED: [(&str, &str); 7] = [
    ("macvlan", "it is a view of its parent device and cannot carry native XDP"),
    ("macvtap", "it is a view of its parent device and cannot carry native XDP"),
    ("ipvlan", "it is a view of its parent device and cannot carry native XDP"),
    ("bridge", "XDP belongs on the NICs that are its ports; the bridge itself sees frames too late"),
    ("vxlan", "it is an overlay device; frames from the wire arrive on the NIC below"),
    ("geneve", "it is an overlay device; frames from the wire arrive on the NIC below"),
    ("ipip", "it is an overlay device; frames from the wire arrive on the NIC below"),
];

/// A name that is no device's.
pub fn missing(name: &str, facts: &Facts) -> Finding {
    let candidates: Vec<&str> =
        facts.devices.iter().filter(|device| device.ethernet && device.controller.is_none()).map(|device| device.name.as_str()).collect();
    Finding::new(
        Error,
        format!("uplink {name} does not exist in this network namespace"),
        "packets of clients arrive there",
        format!(
            "give a device of `ip link`; Ethernet devices here: {}",
            if candidates.is_empty() { "none".into() } else { candidates.join(", ") }
        ),
    )
}

/// Everything about one uplink.
pub fn judge(device: &DeviceFacts, config: &Config, facts: &Facts) -> Vec<Finding> {
    let name = &device.name;
    let mut findings = Vec::new();
    if device.loopback || !device.ethernet {
        let what = format!("uplink {name} is no Ethernet device");
        return vec![Finding::new(Error, what, "frames are parsed from an Ethernet header on", "give the NIC")];
    }
    let kind = device.kind.as_deref().unwrap_or("");
    if let Some((_, why)) = KINDS_REFUSED.iter().find(|(refused, _)| *refused == kind) {
        findings.push(Finding::new(Error, format!("uplink {name} is a {kind}"), *why, "give the NIC below it"));
    }
    let controller = device.controller.and_then(|index| facts.devices.iter().find(|device| device.ifindex == index));
    if let Some(bond) = controller.filter(|controller| controller.is_bond()) {
        findings.push(Finding::new(
            Error,
            format!("uplink {name} is a member of the bond {}", bond.name),
            "addresses and routes are the bond's, and which member transmits is its to say",
            format!("--uplink {} instead: its members are found, and followed", bond.name),
        ));
    }
    if let Some(bridge) = controller.filter(|controller| controller.kind.as_deref() == Some("bridge")) {
        findings.push(Finding::new(
            Error,
            format!("uplink {name} is a port of the bridge {}", bridge.name),
            "what goes back to the kernel would be switched, not routed, and the addresses stand on the bridge",
            format!("take {name} out of the bridge, or give another NIC"),
        ));
    }
    if !device.up {
        findings.push(Finding::new(Error, format!("uplink {name} is down"), "no packet arrives", format!("ip link set {name} up")));
    } else if !device.carrier {
        findings.push(Finding::new(
            Warning,
            format!("uplink {name} has no carrier"),
            "no packet arrives until the link is there",
            "check the cable or the peer",
        ));
    }
    let label = format!("uplink {name}");
    findings.extend(other_program(&label, device, facts));
    if device.is_bond() {
        findings.extend(bond(device, config, facts));
    } else {
        findings.extend(queues(device, config, facts));
        findings.extend(driver(&label, device, config));
    }
    findings
}

fn other_program(label: &str, device: &DeviceFacts, facts: &Facts) -> Option<Finding> {
    let xdp = device.xdp.as_ref().filter(|xdp| !xdp.ours && !facts.namespace_held)?;
    let why = if device.is_bond() { "while a bond has a program, its members can have none" } else { "a device has one XDP program" };
    Some(Finding::new(
        Error,
        format!("{label} carries the XDP program {} `{}`, which is not ours", xdp.program_id, xdp.program_name),
        why,
        format!("stop its owner, or remove it: ip link set {} xdp off (xdpgeneric off)", device.name),
    ))
}

/// Sockets and XDP are its members'.
fn bond(device: &DeviceFacts, config: &Config, facts: &Facts) -> Vec<Finding> {
    let name = &device.name;
    let mut findings = Vec::new();
    if device.bond_mode == Some(BondMode::Broadcast) {
        findings.push(Finding::new(
            Error,
            format!("the bond {name} sends everything by all of its members (mode broadcast)"),
            "a worker sends a packet once",
            "another mode: active-backup, 802.3ad, balance-xor …",
        ));
    }
    if facts.nics(name).next().is_none() {
        findings.push(Finding::new(
            Error,
            format!("the bond {name} has no members"),
            "AF_XDP sockets bind to the queues of its members",
            format!("ip link set DEV down; ip link set DEV master {name}"),
        ));
    }
    let queues = config.uplinks.iter().flat_map(|uplink| facts.nics(uplink)).map(|nic| nic.rx_queues);
    let workers = config.workers.unwrap_or_else(|| workers_default(queues, facts.cpus));
    for member in facts.nics(name) {
        let label = format!("the member {} of the bond {name}", member.name);
        if !member.up {
            let what = format!("{label} is down");
            findings.push(Finding::new(
                Warning,
                what,
                "nothing is sent or received by it until it is up",
                format!("ip link set {} up", member.name),
            ));
        }
        if (member.rx_queues as usize) < workers {
            findings.push(Finding::new(
                Warning,
                format!("{label} has {} receive queues for {workers} workers", member.rx_queues),
                "while it transmits, workers without a queue there send by the kernel, which is slower",
                format!("ethtool -L {} combined {workers}, or --workers {}", member.name, member.rx_queues),
            ));
        }
        findings.extend(other_program(&label, member, facts));
        findings.extend(driver(&label, member, config));
    }
    findings
}

fn queues(device: &DeviceFacts, config: &Config, facts: &Facts) -> Option<Finding> {
    let workers = config.workers?;
    if workers > facts.cpus {
        return Some(Finding::new(
            Warning,
            format!("{workers} workers on {} CPUs", facts.cpus),
            "workers are pinned; two on one CPU take turns",
            format!("--workers {}", facts.cpus),
        ));
    }
    let queues = device.rx_queues as usize;
    (workers > queues).then(|| {
        Finding::new(
            Note,
            format!("uplink {} has {queues} receive queues for {workers} workers", device.name),
            "a queue belongs to one worker: the others only carry upcalls and other uplinks",
            format!("ethtool -L {} combined {workers}, or fewer --workers", device.name),
        )
    })
}

fn driver(label: &str, device: &DeviceFacts, config: &Config) -> Option<Finding> {
    let what = device.kind.as_deref().or(device.driver.as_deref()).unwrap_or("device");
    let features = device.features?;
    if config.mode == Mode::ZeroCopy && !features.zero_copy {
        return Some(Finding::new(
            Error,
            format!("{label} ({what}) has no zero-copy"),
            "its driver does not hand out its own buffers",
            "--mode auto or --mode copy",
        ));
    }
    // A veth says so only while its peer is up, so this is no proof.
    if !features.native && config.mode != Mode::Generic && what != "veth" {
        return Some(Finding::new(
            Warning,
            format!("{label} ({what}) has no native XDP"),
            "generic XDP works after the kernel has built an skb and is slower",
            "give the NIC below it, or --mode generic to say that this is wished",
        ));
    }
    if FrameSize::is_spanned_by(device.mtu) && !features.fragments && config.mode != Mode::Generic && what != "veth" {
        let consequence = if config.mode == Mode::Auto { "generic XDP is used, which is slower" } else { "the start fails" };
        return Some(Finding::new(
            Warning,
            format!("{label} ({what}) has an MTU of {}, and no native XDP for packets in several parts", device.mtu),
            format!("where its driver refuses native XDP at that MTU, {consequence}"),
            format!("ip link set {} mtu 1500, or --mode generic to say that this is wished", device.name),
        ));
    }
    if config.mode == Mode::Auto {
        let mode = if features.zero_copy {
            "zero-copy"
        } else if features.native {
            "copy"
        } else {
            return None;
        };
        return Some(Finding::new(Note, format!("{label} ({what}) will be driven in mode {mode}"), "the best that its driver offers", ""));
    }
    None
}
