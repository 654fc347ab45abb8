//! Settings of the network namespace that the preflight looks at. Only read, never changed.

use super::NetlinkError;

/// Sysctls of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkFacts {
    /// `net.ipv4.ip_forward`
    pub ip_forward: bool,
    /// `rp_filter` in force by device name (the larger of `all` and the device's): 0 off, 1 strict, 2 loose.
    pub rp_filter: Vec<(String, u8)>,
    /// `net.ipv4.ip_local_port_range`, inclusive.
    pub local_port_range: (u16, u16),
    /// `net.ipv4.ip_local_reserved_ports`: inclusive ranges.
    pub reserved_ports: Vec<(u16, u16)>,
}

impl NetworkFacts {
    /// Reads `/proc/sys/net/ipv4` of the calling thread's network namespace.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn read() -> Result<NetworkFacts, NetlinkError> {
        unimplemented!()
    }

    /// Whether the kernel may give any of `ports` (inclusive) to a socket of its own choice.
    pub fn may_use(&self, ports: (u16, u16)) -> bool {
        let _ = ports;
        unimplemented!()
    }
}
