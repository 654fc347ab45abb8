//! The two families of addresses: whatever has an IPv4 address in the lab has its twin of IPv6, too.
//!
//! Tests name addresses by IPv4. A [`Namespace`](super::Namespace) speaks one family: what goes into it by these names is translated
//! on its way in ([`Family::of`]), and what its commands print on its way out ([`Family::named`]). So one test serves both families.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Of which addresses one speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

/// The first 96 bits of a twin; the last 32 are the IPv4 address. A unique local prefix (RFC 4193).
const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0);
const PREFIX_BITS: u8 = 96;

impl Family {
    /// As Kubernetes writes it in `ipFamilies` and `addressType`.
    pub fn kubernetes(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// `ip` or `ip6`: the family in the language of nftables and of tcpdump.
    pub fn word(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    /// `text` with the twin of this family for each IPv4 address in it: in brackets before a port or in a URL, with a prefix that is
    /// 96 bits longer. `127.0.0.1` becomes `::1`, and all addresses of one family all of the other.
    ///
    /// ```
    /// # use ringway_tests::lab::Family;
    /// assert_eq!(Family::V6.of("route add 10.96.0.0/16 via 10.0.0.11"), "route add fd00::a60:0/112 via fd00::a00:b");
    /// assert_eq!(Family::V6.of("http://10.0.0.100/ 10.0.0.11:80 0.0.0.0/0"), "http://[fd00::a00:64]/ [fd00::a00:b]:80 ::/0");
    /// ```
    pub fn of(self, text: &str) -> String {
        match self {
            Family::V4 => text.to_owned(),
            Family::V6 => replace_words(text, |byte| byte.is_ascii_digit() || byte == b'.', of_word),
        }
    }

    /// The other way round: what a command printed, in the names that tests use. An IPv4 address that appears where IPv6 is spoken is
    /// marked, so that nobody takes it for a name.
    ///
    /// ```
    /// # use ringway_tests::lab::Family;
    /// let printed = "a1 [fd00::a00:b]:80, fd00::a60:0/112, ::1: 10.0.0.1";
    /// assert_eq!(Family::V6.named(printed), "a1 10.0.0.11:80, 10.96.0.0/16, 127.0.0.1: IPv4(10.0.0.1)");
    /// ```
    pub fn named(self, text: &str) -> String {
        match self {
            Family::V4 => text.to_owned(),
            Family::V6 => replace_words(text, |byte| byte.is_ascii_hexdigit() || b".:[]".contains(&byte), named_word),
        }
    }
}

/// Lines of `ip` in both families. Addresses of IPv6 need no detection of duplicates: they are there with the command's end.
pub(super) fn both(lines: &str) -> String {
    let twin = |line: &str| Family::V6.of(line) + if line.starts_with("address add") { " nodad\n" } else { "\n" };
    format!("{lines}\n{}", lines.lines().map(twin).collect::<String>())
}

/// What to write for a word between what stands before and behind it, and what is left behind it then.
type Replace = for<'a> fn(before: &str, word: &str, behind: &'a str) -> Option<(String, &'a str)>;

/// Replaces runs of such bytes that stand alone.
fn replace_words(text: &str, is_part: fn(u8) -> bool, replace: Replace) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (before, length) = (&text[..text.len() - rest.len()], rest.bytes().take_while(|byte| is_part(*byte)).count());
        let continues = before.ends_with(|char: char| char.is_ascii_alphanumeric() || char == ':' || char == '.');
        let (word, behind) = rest.split_at(length.max(first.len_utf8()));
        let Some((twin, behind)) = replace(before, word, behind).filter(|_| !continues) else {
            replaced += word;
            rest = behind;
            continue;
        };
        replaced += &twin;
        rest = behind;
    }
    replaced
}

fn of_word<'a>(before: &str, word: &str, behind: &'a str) -> Option<(String, &'a str)> {
    let address: Ipv4Addr = word.parse().ok()?;
    let twin =
        if address.is_loopback() { Ipv6Addr::LOCALHOST } else { Ipv6Addr::from_bits(PREFIX.to_bits() | u128::from(address.to_bits())) };
    if before.ends_with("://") || behind.starts_with(':') {
        return Some((format!("[{twin}]"), behind));
    }
    match prefix_bits(behind) {
        Some((0, behind)) => Some(("::/0".to_owned(), behind)),
        Some((bits, behind)) => Some((format!("{twin}/{}", bits + PREFIX_BITS), behind)),
        None => Some((twin.to_string(), behind)),
    }
}

fn named_word<'a>(_: &str, word: &str, behind: &'a str) -> Option<(String, &'a str)> {
    if word.parse::<Ipv4Addr>().is_ok() {
        return Some((format!("IPv4({word})"), behind));
    }
    // With a port in brackets, alone, or before a colon that belongs to the sentence.
    let (address, more) = match word.strip_prefix('[').and_then(|word| word.split_once(']')) {
        Some(bracketed) => bracketed,
        None if word.parse::<Ipv6Addr>().is_ok() => (word, ""),
        None => (word.strip_suffix(':')?, ":"),
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let name = if address.is_loopback() {
        Ipv4Addr::LOCALHOST
    } else if address.to_bits() >> 32 == PREFIX.to_bits() >> 32 || address.is_unspecified() {
        Ipv4Addr::from_bits(address.to_bits() as u32)
    } else {
        return None;
    };
    match prefix_bits(behind).filter(|_| more.is_empty()) {
        Some((bits, behind)) => Some((format!("{name}/{}", bits.saturating_sub(PREFIX_BITS)), behind)),
        None => Some((format!("{name}{more}"), behind)),
    }
}

/// The length of a prefix and what is behind it, if one begins here.
fn prefix_bits(text: &str) -> Option<(u8, &str)> {
    let digits = text.strip_prefix('/')?;
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    Some((digits[..length].parse().ok()?, &digits[length..]))
}
