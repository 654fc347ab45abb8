//! What the facts mean for `run`. Pure.

use ringway_io::FrameSize;

use super::facts::{DeviceFacts, Facts};
use super::{Finding, Severity};
use crate::config::Config;
use crate::units::PortRange;

use Severity::{Error, Note, Warning};

/// The oldest kernel with tcx (`BPF_TCX_INGRESS`); everything else that we use is older.
const KERNEL_MIN: (u32, u32) = (6, 6);

/// Kubernetes' default `--service-node-port-range`.
const NODE_PORTS: PortRange = PortRange { first: 30_000, last: 32_767 };

/// Capabilities by number in `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Bytes of a UMEM for one queue, roughly: what the limit of locked memory must allow.
const UMEM_BYTES_PER_QUEUE: u64 = 32 << 20;

/// Bytes of the flow table per flow: four slots of 64 bytes.
const FLOW_BYTES: u64 = 256;

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

/// Everything that is to be said, worst first.
pub fn judge(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(capabilities(facts));
    findings.extend(kernel(facts));
    findings.extend(memory(config, facts));
    findings.extend(other_process(config, facts));
    for (number, name) in config.uplinks.iter().enumerate() {
        if config.uplinks[..number].contains(name) {
            findings.push(Finding::new(
                Error,
                format!("uplink {name} is given twice"),
                "each uplink has one set of sockets",
                format!("give --uplink {name} once"),
            ));
            continue;
        }
        match facts.devices.iter().find(|device| device.name == *name) {
            Some(device) => findings.extend(uplink(device, config, facts)),
            None => findings.push(missing_uplink(name, facts)),
        }
    }
    findings.extend(ports(config, facts));
    findings.extend(settings(config, facts));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn capabilities(facts: &Facts) -> Vec<Finding> {
    let has = |capability: u32| facts.capabilities >> capability & 1 == 1;
    let mut missing = Vec::new();
    if !has(CAP_NET_ADMIN) {
        missing.push(("CAP_NET_ADMIN", "to attach programs, make the hostlink and set routes"));
    }
    if !has(CAP_NET_RAW) {
        missing.push(("CAP_NET_RAW", "to open AF_XDP sockets"));
    }
    if !has(CAP_SYS_ADMIN) {
        if !(has(CAP_BPF) && has(CAP_PERFMON)) {
            missing.push(("CAP_BPF and CAP_PERFMON", "to load programs (CAP_SYS_ADMIN includes them)"));
        }
        missing.push(("CAP_SYS_ADMIN", "to mount the bpffs that keeps maps and links over a restart"));
    }
    let finding = |(name, why): (&str, &str)| {
        Finding::new(
            Error,
            format!("the capability {name} is missing"),
            format!("it is needed {why}"),
            "run as root, or add the capability to the container",
        )
    };
    missing.into_iter().map(finding).collect()
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.tcx == Some(false) || facts.tcx.is_none() && facts.kernel < KERNEL_MIN {
        let (major, minor) = facts.kernel;
        findings.push(Finding::new(
            Error,
            format!("the kernel ({major}.{minor}) has no tcx hooks"),
            "established flows are rewritten by programs at these hooks, which came with 6.6",
            "boot Linux 6.6 or newer",
        ));
    }
    if let Some(error) = &facts.af_xdp_error {
        findings.push(Finding::new(
            Error,
            format!("an AF_XDP socket cannot be opened: {error}"),
            "the workers receive and transmit by AF_XDP",
            "use a kernel with CONFIG_XDP_SOCKETS; in a container allow the address family AF_XDP",
        ));
    }
    if !facts.bpffs {
        findings.push(Finding::new(
            Error,
            "the kernel has no bpffs",
            "maps and links are pinned there, so that flows survive a restart",
            "use a kernel with CONFIG_BPF_SYSCALL",
        ));
    }
    if facts.veth == Some(false) {
        findings.push(Finding::new(
            Error,
            "the kernel has no veth devices",
            "the hostlink between the workers and the node is a veth pair",
            "install the package with the kernel's modules, or use a kernel with CONFIG_VETH",
        ));
    }
    findings
}

fn memory(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let table = u64::from(config.flows_max) * FLOW_BYTES;
    if table > facts.memory_bytes / 2 {
        findings.push(Finding::new(
            Error,
            format!("the flow table takes {} MiB, {} MiB are available", table >> 20, facts.memory_bytes >> 20),
            "the table is allocated at start and never swapped",
            "lower --flows-max",
        ));
    }
    let queues: u64 = config.uplinks.iter().filter_map(|name| device(facts, name)).map(|device| u64::from(device.rx_queues)).sum();
    let needed = (queues + 1) * UMEM_BYTES_PER_QUEUE;
    let unlimited = facts.capabilities >> CAP_IPC_LOCK & 1 == 1;
    if let Some(limit) = facts.memlock_bytes.filter(|limit| !unlimited && *limit < needed) {
        findings.push(Finding::new(
            Error,
            format!("the limit of locked memory is {} MiB", limit >> 20),
            format!("the frames of {queues} queues take about {} MiB that the kernel locks", needed >> 20),
            "set `ulimit -l unlimited` (systemd: LimitMEMLOCK=infinity) or add CAP_IPC_LOCK",
        ));
    }
    findings
}

fn other_process(config: &Config, facts: &Facts) -> Vec<Finding> {
    let dir = config.state_dir.display();
    let mut findings = Vec::new();
    if let Some(pid) = facts.running_pid {
        findings.push(Finding::new(
            Error,
            format!("a ringway with process id {pid} runs with the state directory {dir}"),
            "a network namespace has one hostlink and one owner of the programs",
            format!("stop it with `kill {pid}`; a second node in another network namespace needs its own --state-dir"),
        ));
    }
    if !facts.leftovers.is_empty() {
        findings.push(Finding::new(
            Note,
            format!("an earlier process left: {}", facts.leftovers.join(", ")),
            "it did not end in order; established flows live on in what it left, and `run` takes it over",
            "nothing; to remove it instead: ringway cleanup",
        ));
    }
    findings
}

fn device<'a>(facts: &'a Facts, name: &str) -> Option<&'a DeviceFacts> {
    facts.devices.iter().find(|device| device.name == name)
}

fn missing_uplink(name: &str, facts: &Facts) -> Finding {
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

fn uplink(device: &DeviceFacts, config: &Config, facts: &Facts) -> Vec<Finding> {
    let name = &device.name;
    let mut findings = Vec::new();
    if device.loopback || !device.ethernet {
        findings.push(Finding::new(
            Error,
            format!("uplink {name} is no Ethernet device"),
            "frames are parsed from an Ethernet header on",
            "give the NIC",
        ));
    }
    let kind = device.kind.as_deref().unwrap_or("");
    if let Some((_, why)) = KINDS_REFUSED.iter().find(|(refused, _)| *refused == kind) {
        findings.push(Finding::new(Error, format!("uplink {name} is a {kind}"), *why, "give the NIC below it"));
    }
    if kind == "bond" {
        findings.push(Finding::new(
            Error,
            format!("uplink {name} is a bond"),
            "AF_XDP sockets bind to the queues of its members",
            "give each member as --uplink",
        ));
    }
    if let Some(controller) = device.controller.and_then(|index| facts.devices.iter().find(|device| device.ifindex == index)) {
        if controller.kind.as_deref() == Some("bridge") {
            findings.push(Finding::new(
                Error,
                format!("uplink {name} is a port of the bridge {}", controller.name),
                "what goes back to the kernel would be switched, not routed, and the addresses stand on the bridge",
                format!("take {name} out of the bridge, or give another NIC"),
            ));
        }
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
    if let Some(xdp) = device.xdp.as_ref().filter(|xdp| !xdp.ours) {
        findings.push(Finding::new(
            Error,
            format!("uplink {name} carries the XDP program {} `{}`, which is not ours", xdp.program_id, xdp.program_name),
            "a device has one XDP program",
            format!("stop its owner, or remove it: ip link set {name} xdp off (xdpgeneric off)"),
        ));
    }
    if FrameSize::for_mtu(device.mtu).is_none() {
        let most = FrameSize::Bytes4096.mtu_max();
        findings.push(Finding::new(
            Error,
            format!("uplink {name} has an MTU of {}", device.mtu),
            format!("a frame holds packets of at most {most} bytes"),
            format!("ip link set {name} mtu {most}"),
        ));
    }
    findings.extend(queues(device, config, facts));
    findings.extend(driver(device, config));
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

fn driver(device: &DeviceFacts, config: &Config) -> Option<Finding> {
    use crate::config::Mode;
    let what = device.kind.as_deref().or(device.driver.as_deref()).unwrap_or("device");
    let features = device.features?;
    if config.mode == Mode::ZeroCopy && !features.zero_copy {
        return Some(Finding::new(
            Error,
            format!("uplink {} ({what}) has no zero-copy", device.name),
            "its driver does not hand out its own buffers",
            "--mode auto or --mode copy",
        ));
    }
    // A veth says so only while its peer is up, so this is no proof.
    if !features.native && config.mode != Mode::Generic && what != "veth" {
        return Some(Finding::new(
            Warning,
            format!("uplink {} ({what}) has no native XDP", device.name),
            "generic XDP works after the kernel has built an skb and is slower",
            "give the NIC below it, or --mode generic to say that this is wished",
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
        return Some(Finding::new(
            Note,
            format!("uplink {} ({what}) will be driven in mode {mode}", device.name),
            "the best that its driver offers",
            "",
        ));
    }
    None
}

fn ports(config: &Config, facts: &Facts) -> Vec<Finding> {
    if !config.snat_addresses.is_empty() {
        return Vec::new();
    }
    let snat = config.snat_ports;
    let mut findings = Vec::new();
    if facts.network.may_use((snat.first, snat.last)) {
        let (first, last) = facts.network.local_port_range;
        let local = PortRange { first, last };
        findings.push(Finding::new(
            Error,
            format!("SNAT ports {snat} overlap the node's ephemeral ports {local}"),
            "the node's own connections would take the same ports as the connections that we translate",
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={snat}, or --snat-ports outside of {local}"),
        ));
    }
    if snat.overlaps(&NODE_PORTS) {
        findings.push(Finding::new(
            Error,
            format!("SNAT ports {snat} overlap Kubernetes' NodePorts {NODE_PORTS}"),
            "a reply to us and a connection to a NodePort would look alike",
            "--snat-ports outside of the NodePort range, or a dedicated --snat-address",
        ));
    }
    findings
}

fn settings(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.network.ip_forward {
        findings.push(Finding::new(
            Error,
            "net.ipv4.ip_forward is 0",
            "the kernel forwards between the uplink and the pods of this node",
            "sysctl -w net.ipv4.ip_forward=1 (ringway changes no setting itself)",
        ));
    }
    let strict = |name: &str| facts.network.rp_filter.iter().any(|(device, value)| device == name && *value == 1);
    let strict: Vec<&str> = config.uplinks.iter().map(String::as_str).filter(|name| strict(name)).collect();
    if !strict.is_empty() {
        findings.push(Finding::new(
            Note,
            format!("strict reverse-path filtering on {}", strict.join(", ")),
            "that is fine: packets keep their devices and their sources",
            "",
        ));
    }
    if let Some(error) = &facts.manifests_error {
        findings.push(Finding::new(
            Warning,
            format!("the folder {} cannot be read: {error}", config.manifests.display()),
            "there is no service until it is there; it is followed and may come later",
            format!("mkdir -p {}", config.manifests.display()),
        ));
    }
    findings
}
