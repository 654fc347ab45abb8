//! The programs by name: where each is attached, and its descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_rs::Object;
use libbpf_sys as sys;

use crate::Error;

/// The programs that can be attached, as named in pins and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgramName {
    Uplink,
    Hostlink,
    EdgePodIn,
    EdgePodOut,
    EdgeUplinkIn,
    EdgeUplinkOut,
    EdgeOverlayIn,
    EdgeTunnelIn,
    EdgeNodeOut,
    Deliver,
    NodeConnect4,
    NodeConnect6,
    NodeSendmsg4,
    NodeSendmsg6,
    NodeRecvmsg4,
    NodeRecvmsg6,
    NodeGetpeername4,
    NodeGetpeername6,
}

impl ProgramName {
    /// In the order of the variants.
    pub const ALL: [ProgramName; 18] = [
        ProgramName::Uplink,
        ProgramName::Hostlink,
        ProgramName::EdgePodIn,
        ProgramName::EdgePodOut,
        ProgramName::EdgeUplinkIn,
        ProgramName::EdgeUplinkOut,
        ProgramName::EdgeOverlayIn,
        ProgramName::EdgeTunnelIn,
        ProgramName::EdgeNodeOut,
        ProgramName::Deliver,
        ProgramName::NodeConnect4,
        ProgramName::NodeConnect6,
        ProgramName::NodeSendmsg4,
        ProgramName::NodeSendmsg6,
        ProgramName::NodeRecvmsg4,
        ProgramName::NodeRecvmsg6,
        ProgramName::NodeGetpeername4,
        ProgramName::NodeGetpeername6,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ProgramName::Uplink => "uplink",
            ProgramName::Hostlink => "hostlink",
            ProgramName::EdgePodIn => "edge_pod_in",
            ProgramName::EdgePodOut => "edge_pod_out",
            ProgramName::EdgeUplinkIn => "edge_uplink_in",
            ProgramName::EdgeUplinkOut => "edge_uplink_out",
            ProgramName::EdgeOverlayIn => "edge_overlay_in",
            ProgramName::EdgeTunnelIn => "edge_tunnel_in",
            ProgramName::EdgeNodeOut => "edge_node_out",
            ProgramName::Deliver => "deliver",
            ProgramName::NodeConnect4 => "node_connect4",
            ProgramName::NodeConnect6 => "node_connect6",
            ProgramName::NodeSendmsg4 => "node_sendmsg4",
            ProgramName::NodeSendmsg6 => "node_sendmsg6",
            ProgramName::NodeRecvmsg4 => "node_recvmsg4",
            ProgramName::NodeRecvmsg6 => "node_recvmsg6",
            ProgramName::NodeGetpeername4 => "node_getpeername4",
            ProgramName::NodeGetpeername6 => "node_getpeername6",
        }
    }

    /// Attach type and flags of a new link.
    ///
    /// Others' tcx programs should see client and backend as if no service existed. So ours runs first on the way in, where
    /// it translates from the frontend, and last on the way out, where it translates back to it.
    pub(crate) fn attach_point(self) -> (sys::bpf_attach_type, u32) {
        match self {
            ProgramName::Uplink | ProgramName::Hostlink => (sys::BPF_XDP, 0),
            ProgramName::EdgePodIn
            | ProgramName::EdgeUplinkIn
            | ProgramName::EdgeOverlayIn
            | ProgramName::EdgeTunnelIn
            | ProgramName::Deliver => (sys::BPF_TCX_INGRESS, sys::BPF_F_BEFORE),
            ProgramName::EdgePodOut | ProgramName::EdgeUplinkOut | ProgramName::EdgeNodeOut => (sys::BPF_TCX_EGRESS, sys::BPF_F_AFTER),
            ProgramName::NodeConnect4 => (sys::BPF_CGROUP_INET4_CONNECT, 0),
            ProgramName::NodeConnect6 => (sys::BPF_CGROUP_INET6_CONNECT, 0),
            ProgramName::NodeSendmsg4 => (sys::BPF_CGROUP_UDP4_SENDMSG, 0),
            ProgramName::NodeSendmsg6 => (sys::BPF_CGROUP_UDP6_SENDMSG, 0),
            ProgramName::NodeRecvmsg4 => (sys::BPF_CGROUP_UDP4_RECVMSG, 0),
            ProgramName::NodeRecvmsg6 => (sys::BPF_CGROUP_UDP6_RECVMSG, 0),
            ProgramName::NodeGetpeername4 => (sys::BPF_CGROUP_INET4_GETPEERNAME, 0),
            ProgramName::NodeGetpeername6 => (sys::BPF_CGROUP_INET6_GETPEERNAME, 0),
        }
    }
}

/// The loaded programs, in the order of [`ProgramName::ALL`].
#[derive(Debug)]
pub(crate) struct ProgramFds(Vec<OwnedFd>);

impl ProgramFds {
    /// Duplicates the descriptors of a loaded object.
    pub(crate) fn of(object: &Object) -> Result<ProgramFds, Error> {
        let duplicate = |name: ProgramName| {
            let program = name.as_str();
            let found = object.progs().find(|found| found.name() == program).ok_or_else(|| std::io::ErrorKind::NotFound.into());
            let fd = found.and_then(|found| found.as_fd().try_clone_to_owned());
            fd.map_err(|source| Error::Attach { program, ifindex: 0, source })
        };
        ProgramName::ALL.into_iter().map(duplicate).collect::<Result<_, _>>().map(ProgramFds)
    }

    pub(crate) fn get(&self, name: ProgramName) -> BorrowedFd<'_> {
        self.0[name as usize].as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_programs_are_listed_in_order() {
        for (number, name) in ProgramName::ALL.into_iter().enumerate() {
            assert_eq!(name as usize, number, "{name:?}");
        }
    }
}
