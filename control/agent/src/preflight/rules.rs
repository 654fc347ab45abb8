//! What the facts mean for `run`. Pure.

#[cfg(test)]
mod tests;
mod uplinks;

use std::net::SocketAddr;

use ringway_io::FrameSize;

use super::facts::{DeviceFacts, Facts};
use super::{Finding, Severity};
use crate::config::Config;
use crate::netlink::Ipv6;
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

/// Frames of one socket, roughly: what fills its rings at their usual depths.
const FRAMES_PER_SOCKET: u64 = 6_144;

/// Bytes of the flow table per IPv4 flow: four slots of 64 bytes.
const FLOW_BYTES: u64 = 256;
/// Those of IPv6 are of 128 bytes.
const FLOW6_BYTES: u64 = 512;

/// Everything that is to be said, worst first.
pub fn judge(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(capabilities(facts));
    findings.extend(kernel(facts));
    findings.extend(memory(config, facts));
    findings.extend(other_process(config, facts));
    findings.extend(facts.not_listening.iter().map(not_listening));
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
        match device(facts, name) {
            Some(device) => findings.extend(uplinks::judge(device, config, facts)),
            None => findings.push(uplinks::missing(name, facts)),
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
    // Without the capability it fails, too, but that is said already.
    if let Some(error) = facts.af_xdp_error.as_ref().filter(|_| facts.capabilities >> CAP_NET_RAW & 1 == 1) {
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
    let tables = u64::from(config.flows_max) * FLOW_BYTES + u64::from(config.flows6_max) * FLOW6_BYTES;
    if tables > facts.memory_bytes / 2 {
        findings.push(Finding::new(
            Error,
            format!("the flow tables take {} MiB, {} MiB are available", tables >> 20, facts.memory_bytes >> 20),
            "the tables are allocated at start and never swapped",
            "lower --flows-max and --flows6-max",
        ));
    }
    let queues: u64 = config.uplinks.iter().flat_map(|name| facts.nics(name)).map(|nic| u64::from(nic.rx_queues)).sum();
    // Each worker has a socket on the hostlink beside those of its queues.
    let sockets = queues + config.workers.map_or(queues.min(facts.cpus as u64), |workers| workers as u64);
    let needed = sockets * FRAMES_PER_SOCKET * u64::from(FrameSize::Bytes4096.bytes());
    let unlimited = facts.capabilities >> CAP_IPC_LOCK & 1 == 1;
    if let Some(limit) = facts.memlock_bytes.filter(|limit| !unlimited && *limit < needed) {
        findings.push(Finding::new(
            Error,
            format!("the limit of locked memory is {} MiB", limit >> 20),
            format!("the frames of {sockets} sockets take up to {} MiB that the kernel locks", needed >> 20),
            "set `ulimit -l unlimited` (systemd: LimitMEMLOCK=infinity) or add CAP_IPC_LOCK",
        ));
    }
    findings
}

fn other_process(config: &Config, facts: &Facts) -> Vec<Finding> {
    let dir = config.state_dir.display();
    let mut findings = Vec::new();
    let why = "a network namespace has one hostlink and one owner of the programs";
    if let Some(pid) = facts.running_pid {
        findings.push(Finding::new(
            Error,
            format!("a ringway with process id {pid} runs with the state directory {dir}"),
            why,
            format!("stop it: kill {pid}"),
        ));
    } else if facts.namespace_held {
        findings.push(Finding::new(
            Error,
            "a ringway runs in this network namespace with another state directory",
            why,
            "stop it (`ss -xlp src @ringway` shows its process id), or run this one in another network namespace",
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

fn not_listening((flag, address, reason): &(&str, SocketAddr, String)) -> Finding {
    Finding::new(
        Error,
        format!("{flag}: cannot listen at {address}: {reason}"),
        "load balancers, probes and scrapers ask there; at its default it is where kube-proxy listens, which must not run beside ringway",
        format!("stop who has it (`ss -ltnp sport = :{}` shows the process), or give another {flag} (\"\" = off)", address.port()),
    )
}

fn device<'a>(facts: &'a Facts, name: &str) -> Option<&'a DeviceFacts> {
    facts.devices.iter().find(|device| device.name == name)
}

fn ports(config: &Config, facts: &Facts) -> Vec<Finding> {
    let is_dedicated = |v6: bool| config.snat_addresses.iter().any(|address| address.is_ipv6() == v6);
    if is_dedicated(false) && (is_dedicated(true) || facts.network.ipv6_devices.is_empty()) {
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
            "--snat-ports outside of the NodePort range, or a dedicated --snat-address of each family",
        ));
    }
    findings
}

fn ipv6(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let off = |what: &str, remedy: &str| {
        vec![Finding::new(Note, what, "only IPv4 is served here, and services of both families by IPv4", remedy)]
    };
    match network.ipv6 {
        Ipv6::Absent => {
            return off("the kernel has no IPv6, or was started with ipv6.disable=1", "nothing; if the cluster has IPv6: boot without it");
        }
        Ipv6::Disabled => {
            return off(
                "net.ipv6.conf.all.disable_ipv6 is 1",
                "nothing; if the cluster has IPv6: sysctl -w net.ipv6.conf.all.disable_ipv6=0",
            );
        }
        Ipv6::On => {}
    }
    let mut findings = Vec::new();
    if !network.ipv6_forwarding && !network.ipv6_devices.is_empty() {
        findings.push(Finding::new(
            Warning,
            format!("net.ipv6.conf.all.forwarding is 0, and there are IPv6 addresses on {}", network.ipv6_devices.join(", ")),
            "the kernel forwards between uplinks and pods: of IPv6 services, only backends on other nodes are reached without it",
            "sysctl -w net.ipv6.conf.all.forwarding=1 (ringway changes no setting itself); first accept_ra=2 where routers give addresses",
        ));
    }
    for name in &network.ipv6_expiring {
        findings.push(Finding::new(
            Warning,
            format!("{name} has an IPv6 address from a router, but listens to routers no more"),
            "it forwards, and with net.ipv6.conf.*.accept_ra at 1 the kernel then ignores them: address and default route expire",
            format!("sysctl -w net.ipv6.conf.{name}.accept_ra=2 (ringway changes no setting itself)"),
        ));
    }
    findings
}

fn settings(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.network.ip_forward {
        findings.push(Finding::new(
            Warning,
            "net.ipv4.ip_forward is 0",
            "the kernel forwards between uplinks and pods: only backends on other nodes are reached without it",
            "sysctl -w net.ipv4.ip_forward=1 (ringway changes no setting itself)",
        ));
    }
    findings.extend(ipv6(facts));
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
    if let Some(error) = &facts.cgroup_error {
        findings.push(Finding::new(
            Warning,
            format!("the root cgroup cannot be opened: {error}"),
            "NodePorts, load-balancer and external addresses are served to clients outside and to pods, but not to the node's own sockets",
            "mount -t cgroup2 none /sys/fs/cgroup/unified; in a container, mount the host's /sys/fs/cgroup",
        ));
    }
    if let Some(error) = &facts.credentials_error {
        findings.push(Finding::new(
            Error,
            format!("the credentials for the apiserver cannot be used: {error}"),
            "without them no object can be read",
            "give a --kubeconfig whose files can be read, or run in a pod with a service account",
        ));
    }
    for endpoint in config.apiserver.iter().flat_map(|access| &access.endpoints).filter(|endpoint| !endpoint.tls && !endpoint.is_local()) {
        findings.push(Finding::new(
            Warning,
            format!("the apiserver {endpoint} is not asked over TLS"),
            "whoever is on the way can read our credentials and say where services lead",
            "an https:// URL",
        ));
    }
    if let (Some(error), Some(dir)) = (&facts.manifests_error, &config.manifests) {
        findings.push(Finding::new(
            Warning,
            format!("the folder {} cannot be read: {error}", dir.display()),
            "it gives no service until it is there; it is followed and may come later",
            format!("mkdir -p {}", dir.display()),
        ));
    }
    findings
}
