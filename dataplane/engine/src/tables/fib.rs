//! The FIB: `ip rule` and all routing tables, looked up as the kernel does for forwarded packets.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;
use rustc_hash::FxHashMap;

/// What a rule does when it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Look up this table; go on with the next rule if it has no route.
    Lookup(u32),
    /// blackhole, unreachable, prohibit.
    Refuse,
    /// Go to the first rule whose priority is at least this.
    Goto(u32),
    Nop,
}

/// One line of `ip rule`. Rules by firewall mark, TOS, ports or a user id never match our packets unless they say zero: leave them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub priority: u32,
    pub from: Ipv4Net,
    pub to: Ipv4Net,
    pub invert: bool,
    /// Only packets received on this device.
    pub iif: Option<u32>,
    /// Ignore routes whose prefix is at most this long.
    pub suppress_prefix_len: Option<u8>,
    pub action: RuleAction,
}

/// One way of a unicast route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    pub ifindex: u32,
    pub gateway: Option<Ipv4Addr>,
    /// 1 to 256.
    pub weight: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// At least one way that is up.
    Unicast(Box<[NextHop]>),
    /// An address of this node (local and broadcast).
    Local,
    /// blackhole, unreachable, prohibit.
    Refuse,
    /// Leave this table.
    Throw,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub kind: RouteKind,
    /// `mtu` of the route's metrics.
    pub mtu: Option<u32>,
    pub metric: u32,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibResult {
    /// Delivered to this node.
    Local,
    /// Out of `ifindex` to the neighbor `address` (the gateway, or the destination itself).
    Via { ifindex: u32, address: Ipv4Addr, route_mtu: Option<u32> },
    /// No route, or one that refuses.
    None,
}

/// Rules and tables of one generation.
#[derive(Debug, Default)]
pub struct Fib {
    rules: Box<[Rule]>,
    tables: FxHashMap<u32, PrefixMap<Ipv4Net, Route>>,
}

/// Collects rules and routes into a [`Fib`].
#[derive(Debug, Default)]
pub struct FibBuilder {
    fib: Fib,
}
