//! Whether this network namespace has IPv6. The kernel shows the namespace of the thread that reads, in files: rtnetlink cannot tell.

use std::fs;

use super::NetlinkError;

/// IPv6 in this network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// The kernel has none, or was started with `ipv6.disable=1`.
    #[default]
    Absent,
    /// `net.ipv6.conf.all.disable_ipv6` is 1.
    Disabled,
    On,
}

impl Ipv6 {
    /// Looks at the calling thread's network namespace.
    pub fn read() -> Ipv6 {
        match is_disabled("all") {
            None => Ipv6::Absent,
            Some(true) => Ipv6::Disabled,
            Some(false) => Ipv6::On,
        }
    }
}

/// Switches IPv6 on for a device of ours, if the node has IPv6; whether the device has it now. Devices are made without where
/// `net.ipv6.conf.default.disable_ipv6` is 1, and have none with an MTU below 1280 (RFC 8200 section 5).
pub(super) fn switch_on(device: &str) -> bool {
    if Ipv6::read() == Ipv6::On
        && is_disabled(device) == Some(true)
        && let Err(error) = fs::write(setting(device), "0")
    {
        let error = NetlinkError::new(format!("write 0 into {}", setting(device)), error);
        tracing::warn!("the node's own sockets do not reach services by IPv6: {error}");
    }
    is_on(device)
}

/// Whether the node and this device of it have IPv6.
pub(super) fn is_on(device: &str) -> bool {
    Ipv6::read() == Ipv6::On && is_disabled(device) == Some(false)
}

/// `None` where there is no IPv6 that could be.
fn is_disabled(device: &str) -> Option<bool> {
    Some(fs::read_to_string(setting(device)).ok()?.trim() != "0")
}

fn setting(device: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6")
}
