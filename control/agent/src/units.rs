//! Values of flags and of the configuration file: durations and ranges of ports, written the same in both.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A time-out: whole seconds, written `90`, `90s`, `5m`, `24h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u32);

/// The flow table counts ticks of 16.8 ms in 32 bits and compares them as differences: half of that range is 417 days.
const TIMEOUT_MAX_SECONDS: u32 = 365 * 86_400;

/// Ports from the first to the last, both inclusive, written `LO-HI`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// Where a server listens: `ADDR`, `ADDR:PORT`, `[ADDR]:PORT`, or empty for nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum BindAddress {
    Off,
    /// Without a port: the default one.
    At(IpAddr, Option<u16>),
}

impl BindAddress {
    /// `None`: nowhere.
    pub fn with_default_port(self, port: u16) -> Option<SocketAddr> {
        match self {
            BindAddress::Off => None,
            BindAddress::At(address, given) => Some(SocketAddr::new(address, given.unwrap_or(port))),
        }
    }
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<BindAddress, String> {
        if text.is_empty() {
            return Ok(BindAddress::Off);
        }
        let at = text.parse::<IpAddr>().map(|address| BindAddress::At(address, None));
        at.or_else(|_| text.parse::<SocketAddr>().map(|address| BindAddress::At(address.ip(), Some(address.port()))))
            .ok()
            .filter(|address| !matches!(address, BindAddress::At(_, Some(0))))
            .ok_or_else(|| format!("`{text}` is no address to listen at: write ADDR or ADDR:PORT, for example 0.0.0.0:10256"))
    }
}

impl TryFrom<String> for BindAddress {
    type Error = String;

    fn try_from(text: String) -> Result<BindAddress, String> {
        text.parse()
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seconds, String> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(format!("`{text}` is no duration: write a number and s, m, h or d, for example 90s")),
        };
        let number: u64 =
            number.parse().map_err(|_| format!("`{text}` is no duration: write a number and s, m, h or d, for example 90s"))?;
        match number.checked_mul(factor) {
            Some(seconds @ 1..) if seconds <= u64::from(TIMEOUT_MAX_SECONDS) => Ok(Seconds(seconds as u32)),
            _ => Err(format!("`{text}` is out of range: a time-out is between 1s and 365d")),
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s if s % 86_400 == 0 => write!(f, "{}d", s / 86_400),
            s if s % 3_600 == 0 => write!(f, "{}h", s / 3_600),
            s if s % 60 == 0 => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    /// Accepts a number of seconds as well as text.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a duration such as 90s, 5m or 24h")]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl PortRange {
    /// Whether the two ranges have a port in common.
    pub fn overlaps(&self, other: &PortRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// How many ports there are.
    pub fn count(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<PortRange, String> {
        let wrong = || format!("`{text}` is no range of ports: write LO-HI, for example 10000-29999");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let parse = |port: &str| port.trim().parse::<u16>().map_err(|_| wrong());
        let (first, last) = (parse(first)?, parse(last)?);
        if first == 0 || first > last {
            return Err(format!("`{text}` is no range of ports: the first port must be at least 1 and at most the last"));
        }
        Ok(PortRange { first, last })
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<PortRange, String> {
        text.parse()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> String {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_servers_listen() {
        let at = |text: &str| text.parse::<BindAddress>().map(|address| address.with_default_port(7).map(|at| at.to_string()));
        assert_eq!(at(""), Ok(None));
        assert_eq!(at("0.0.0.0"), Ok(Some("0.0.0.0:7".into())));
        assert_eq!(at("127.0.0.1:99"), Ok(Some("127.0.0.1:99".into())));
        assert_eq!(at("::1"), Ok(Some("[::1]:7".into())));
        assert_eq!(at("[::]:99"), Ok(Some("[::]:99".into())));
        for wrong in ["host:99", ":99", "0.0.0.0:0", "0.0.0.0:70000", "1.2.3"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        for text in ["", "s", "0", "0s", "1w", "-5s", "366d", "99999999999999999999s", "1.5h"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
        assert_eq!(Seconds(7_200).to_string(), "2h");
    }

    #[test]
    fn port_ranges() {
        assert_eq!("10000-29999".parse(), Ok(PortRange { first: 10_000, last: 29_999 }));
        for text in ["", "1", "0-5", "5-4", "1-65536", "a-b", "1-2-3"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
        let range = |first, last| PortRange { first, last };
        assert!(range(10, 20).overlaps(&range(20, 30)));
        assert!(!range(10, 20).overlaps(&range(21, 30)));
    }
}
