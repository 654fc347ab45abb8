//! Settings of the network namespace that the preflight looks at. Only read, never changed.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::{Ipv6, NetlinkError};

/// Sysctls of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkFacts {
    /// `net.ipv4.ip_forward`
    pub ip_forward: bool,
    /// `rp_filter` in force by device name (the larger of `all` and the device's): 0 off, 1 strict, 2 loose. Sorted.
    pub rp_filter: Vec<(String, u8)>,
    /// `net.ipv4.ip_local_port_range`, inclusive.
    pub local_port_range: (u16, u16),
    /// `net.ipv4.ip_local_reserved_ports`: inclusive ranges.
    pub reserved_ports: Vec<(u16, u16)>,
    pub ipv6: Ipv6,
    /// `net.ipv6.conf.all.forwarding`
    pub ipv6_forwarding: bool,
    /// Devices with an IPv6 address that others can reach. Sorted.
    pub ipv6_devices: Vec<String>,
    /// Those of them that were given an address by a router and do not listen to routers any more: `accept_ra` is 1 and they forward.
    pub ipv6_expiring: Vec<String>,
}

/// The kernel shows the network namespace of the thread that reads.
const ROOT: &str = "/proc/sys/net/ipv4";
const ROOT6: &str = "/proc/sys/net/ipv6/conf";
const ADDRESSES6: &str = "/proc/thread-self/net/if_inet6";

impl NetworkFacts {
    /// Reads `/proc/sys/net` of the calling thread's network namespace.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn read() -> Result<NetworkFacts, NetlinkError> {
        let root = Path::new(ROOT);
        let all = parse(&root.join("conf/all/rp_filter"), |text| text.parse::<u8>().ok())?;
        let mut rp_filter = Vec::new();
        let conf = root.join("conf");
        let failed = |error| NetlinkError::new(format!("list {}", conf.display()), error);
        for entry in fs::read_dir(&conf).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name == "all" || name == "default" {
                continue;
            }
            match fs::read_to_string(conf.join(&name).join("rp_filter")) {
                Ok(text) => rp_filter.push((name, text.trim().parse().unwrap_or(0).max(all))),
                // The device went in between.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(NetlinkError::new(format!("read rp_filter of {name}"), error)),
            }
        }
        rp_filter.sort_unstable();
        Ok(NetworkFacts {
            ip_forward: parse(&root.join("ip_forward"), |text| Some(text != "0"))?,
            rp_filter,
            local_port_range: parse(&root.join("ip_local_port_range"), |text| {
                let (first, last) = text.split_once(char::is_whitespace)?;
                Some((first.parse().ok()?, last.trim().parse().ok()?))
            })?,
            reserved_ports: parse(&root.join("ip_local_reserved_ports"), parse_ranges)?,
            ..NetworkFacts::read_ipv6()
        })
    }

    /// What concerns IPv6. A file that is not there is one of a kernel or a device without it.
    fn read_ipv6() -> NetworkFacts {
        let is = |device: &str, setting: &str, wanted: &str| {
            fs::read_to_string(format!("{ROOT6}/{device}/{setting}")).is_ok_and(|text| text.trim() == wanted)
        };
        let mut addresses = parse_addresses6(&fs::read_to_string(ADDRESSES6).unwrap_or_default());
        addresses.sort_unstable();
        let is_deaf = |name: &str| is(name, "accept_ra", "1") && !is(name, "forwarding", "0");
        let expiring = addresses.iter().filter(|(name, given)| *given && is_deaf(name)).map(|(name, _)| name.clone());
        let mut facts = NetworkFacts {
            ipv6: Ipv6::read(),
            ipv6_forwarding: is("all", "forwarding", "1"),
            ipv6_expiring: expiring.collect(),
            ipv6_devices: addresses.into_iter().map(|(name, _)| name).collect(),
            ..NetworkFacts::default()
        };
        facts.ipv6_expiring.dedup();
        facts.ipv6_devices.dedup();
        facts
    }

    /// Whether the kernel may give any of `ports` (inclusive) to a socket of its own choice: then they are no SNAT ports for us.
    pub fn may_use(&self, ports: (u16, u16)) -> bool {
        let (first, last) = (ports.0.max(self.local_port_range.0), ports.1.min(self.local_port_range.1));
        (first..=last).any(|port| !self.reserved_ports.iter().any(|range| (range.0..=range.1).contains(&port)))
    }
}

fn parse<T>(path: &Path, understand: impl Fn(&str) -> Option<T>) -> Result<T, NetlinkError> {
    let attempt = || format!("read {}", path.display());
    let text = fs::read_to_string(path).map_err(|error| NetlinkError::new(attempt(), error))?;
    let meaningless = || NetlinkError::new(attempt(), io::Error::new(ErrorKind::InvalidData, format!("{:?} has no meaning", text.trim())));
    understand(text.trim()).ok_or_else(meaningless)
}

/// "8080,9148-9150", or nothing.
fn parse_ranges(text: &str) -> Option<Vec<(u16, u16)>> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').filter(|part| !part.is_empty()).map(range).collect()
}

/// Devices of `if_inet6` with addresses of global scope, and whether the address is for a time only. A line: address, ifindex, length of
/// the prefix, scope, flags, device.
fn parse_addresses6(text: &str) -> Vec<(String, bool)> {
    const SCOPE_GLOBAL: &str = "00";
    const IFA_F_PERMANENT: u32 = 0x80;
    let device = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, _, _, SCOPE_GLOBAL, flags, name] => {
            Some((name.to_string(), u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & IFA_F_PERMANENT == 0)))
        }
        _ => None,
    };
    text.lines().filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges() {
        assert_eq!(parse_ranges(""), Some(vec![]));
        assert_eq!(parse_ranges("8080,9148-9150"), Some(vec![(8080, 8080), (9148, 9150)]));
        assert_eq!(parse_ranges("9148-"), None);
    }

    #[test]
    fn ports_that_the_kernel_may_use() {
        let facts = NetworkFacts { local_port_range: (32768, 60999), reserved_ports: vec![(40000, 49999)], ..NetworkFacts::default() };
        for (ports, may) in [((10000, 29999), false), ((30000, 32768), true), ((40000, 49999), false), ((49999, 50000), true)] {
            assert_eq!(facts.may_use(ports), may, "{ports:?}");
        }
    }

    #[test]
    fn ipv6_addresses_by_device() {
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fe80000000000000087000fffe000001 02 40 20 80     eth0\n\
                    fd010000000000000000000000000001 02 40 00 80     eth0\n\
                    20010db8000000000000000000000001 03 40 00 00     eth1\n";
        assert_eq!(parse_addresses6(text), [("eth0".into(), false), ("eth1".into(), true)]);
    }

    #[test]
    fn reads_the_namespace_it_runs_in() {
        let facts = NetworkFacts::read().unwrap();
        assert!(facts.local_port_range.0 < facts.local_port_range.1);
        assert!(facts.rp_filter.iter().any(|(name, _)| name == "lo"));
    }
}
