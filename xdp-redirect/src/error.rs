//! What can go wrong: what was attempted, on what, why, and what to do.

use std::io;
use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "loading the BPF programs ({what}): {source}; Linux 6.6 or newer, root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON) are needed{}",
        log_section(log)
    )]
    Load { what: &'static str, source: libbpf_rs::Error, log: String },

    #[error("{action} map `{map}`: {source}")]
    Map { action: &'static str, map: &'static str, source: libbpf_rs::Error },

    #[error("map `{map}` is full ({max_entries} entries): fewer Services, addresses or devices are needed on this node")]
    MapFull { map: &'static str, max_entries: u32 },

    #[error("mapping the flow table ({bytes} bytes): {source}; lower the limit of flows if memory is short")]
    MapFlows { bytes: usize, source: io::Error },

    #[error("{action} {}: {source}; is a bpffs mounted there?", path.display())]
    Pin { action: &'static str, path: PathBuf, source: io::Error },

    #[error("mounting a bpffs at {}: {source}; CAP_SYS_ADMIN is needed, or mount it yourself: mount -t bpf bpf {}", path.display(), path.display())]
    Mount { path: PathBuf, source: io::Error },

    #[error("attaching `{program}` to device {ifindex}: {source}{}", remedy(source))]
    Attach { program: &'static str, ifindex: u32, source: io::Error },

    #[error(
        "attaching `{program}` to device {ifindex}: XDP program {prog_id} `{prog_name}` ({mode}) is attached there and is not ours; \
         detach it (ip link set dev DEVICE xdp off, or stop its owner) or leave this device out"
    )]
    Conflict { program: &'static str, ifindex: u32, prog_id: u32, prog_name: String, mode: &'static str },

    #[error(
        "attaching `{program}` to the root cgroup: {source}; CAP_BPF and CAP_NET_ADMIN are needed, and a kernel with CONFIG_CGROUP_BPF"
    )]
    AttachCgroup { program: &'static str, source: io::Error },

    #[error("asking the kernel for the cookie of this network namespace: {0}")]
    NetnsCookie(io::Error),

    #[error("asking the kernel for {what} of device {ifindex}: {source}")]
    Query { what: &'static str, ifindex: u32, source: io::Error },

    #[error("test run of `{program}` on a frame of {bytes} bytes: {source}")]
    TestRun { program: &'static str, bytes: usize, source: io::Error },

    #[error("{what} is {value}, allowed is {allowed}")]
    Argument { what: &'static str, value: u64, allowed: &'static str },
}

/// The verifier's words, if it said any.
fn log_section(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("\n{log}") }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "; the driver cannot do it: choose generic mode",
        Some(libc::EEXIST) => "; XDP of the other mode is attached there: detach it (ip link set dev DEVICE xdp off)",
        Some(libc::EINVAL) => "; the device's MTU or offloads do not allow it, or the kernel is older than 6.6",
        Some(libc::ENODEV) => "; the device is gone",
        Some(libc::EPERM) => "; CAP_NET_ADMIN and CAP_BPF are needed",
        _ => "",
    }
}
