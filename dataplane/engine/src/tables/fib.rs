//! The FIB: `ip rule` and all routing tables, looked up as the kernel does for forwarded packets.
//!
//! The kernel's order of things is in `net/core/fib_rules.c` (`fib_rules_lookup`, `fib_rule_match`), `net/ipv4/fib_rules.c`
//! (`fib4_rule_match`, `_action`, `_suppress`) and `net/ipv4/fib_trie.c` (`fib_table_lookup`). One difference is left: as long as
//! nobody ever added a rule, the kernel keeps local and main in one trie, so that a route of main wins over a *shorter* prefix of
//! local. Here local is always looked up first, as the rules say.

use std::hash::Hash;
use std::net::IpAddr;
use std::ops::BitAnd;

use ipnet::IpNet;
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

/// One line of `ip rule`, of the family of `from`. Rules by firewall mark, TOS, ports or a user id never match our packets unless they say zero: leave them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub priority: u32,
    pub from: IpNet,
    pub to: IpNet,
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
    pub gateway: Option<IpAddr>,
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
    Via { ifindex: u32, address: IpAddr, route_mtu: Option<u32> },
    /// No route, or one that refuses.
    None,
}

/// Rules and tables of one generation, of both families.
#[derive(Debug, Default)]
pub struct Fib {
    v4: View<u32>,
    v6: View<u128>,
}

/// Rules and tables of one family.
#[derive(Debug)]
struct View<B> {
    steps: Box<[Step]>,
    tables: Box<[Table<B>]>,
}

/// An address as a number, the first bit the highest.
trait Bits: Copy + Eq + Hash + BitAnd<Output = Self> {
    /// # Panics
    /// If the address is of the other family.
    fn of(address: IpAddr) -> Self;
}

impl Bits for u32 {
    #[inline(always)]
    fn of(address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => unreachable!("{v6} in the tables of IPv4"),
        }
    }
}

impl Bits for u128 {
    #[inline(always)]
    fn of(address: IpAddr) -> u128 {
        match address {
            IpAddr::V6(v6) => v6.into(),
            IpAddr::V4(v4) => unreachable!("{v4} in the tables of IPv6"),
        }
    }
}

impl<B> Default for View<B> {
    fn default() -> View<B> {
        View { steps: Box::default(), tables: Box::default() }
    }
}

/// Routes by prefix, longest first: one hash lookup for each length in use, which on a node are a handful. Measured beside a
/// multibit trie: a quarter of its time with a node's ten to five thousand routes, two thirds with a hundred thousand.
#[derive(Debug)]
struct Table<B> {
    lengths: Vec<SameLength<B>>,
}

#[derive(Debug)]
struct SameLength<B> {
    prefix_len: u8,
    mask: B,
    routes: FxHashMap<B, Route>,
}

impl<B: Bits> Table<B> {
    /// The route of the longest prefix that contains `address`, and that prefix's length.
    #[inline]
    fn lookup(&self, address: B) -> Option<(u8, &Route)> {
        self.lengths.iter().find_map(|same| Some((same.prefix_len, same.routes.get(&(address & same.mask))?)))
    }

    fn routes_of_length(&mut self, prefix: IpNet) -> &mut FxHashMap<B, Route> {
        let prefix_len = prefix.prefix_len();
        let place = self.lengths.partition_point(|same| same.prefix_len > prefix_len);
        if self.lengths.get(place).is_none_or(|same| same.prefix_len != prefix_len) {
            let mask = B::of(prefix.netmask());
            self.lengths.insert(place, SameLength { prefix_len, mask, routes: FxHashMap::default() });
        }
        &mut self.lengths[place].routes
    }
}

/// A rule with its tables and targets resolved to indices.
#[derive(Debug)]
struct Step {
    rule: Rule,
    /// The rule matches every packet: most do.
    always: bool,
    effect: Effect,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    /// Index into `Fib::tables`.
    Lookup(usize),
    Refuse,
    /// Index into `Fib::steps`, always a later one.
    Goto(usize),
    Nothing,
}

impl Fib {
    /// Where the kernel would forward a packet from `src` to `dst` that was received on `iif` (`None`: on a device that no rule
    /// names). `flow_hash` selects among the ways of a multipath route: the same hash, the same way.
    #[inline]
    pub fn lookup(&self, src: IpAddr, dst: IpAddr, iif: Option<u32>, flow_hash: u64) -> FibResult {
        let Some(route) = self.find(src, dst, iif) else { return FibResult::None };
        match &route.kind {
            RouteKind::Unicast(ways) => match select(ways, flow_hash) {
                Some(way) => FibResult::Via { ifindex: way.ifindex, address: way.gateway.unwrap_or(dst), route_mtu: route.mtu },
                None => FibResult::None,
            },
            RouteKind::Local => FibResult::Local,
            RouteKind::Refuse | RouteKind::Throw => FibResult::None,
        }
    }

    /// The route itself, before one of its ways is selected: unicast or local. `None` where there is none or one that refuses, or where
    /// the addresses are of different families.
    pub fn find(&self, src: IpAddr, dst: IpAddr, iif: Option<u32>) -> Option<&Route> {
        match (src, dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.v4.find(src, dst, iif),
            (IpAddr::V6(_), IpAddr::V6(_)) => self.v6.find(src, dst, iif),
            _ => None,
        }
    }
}

impl<B: Bits> View<B> {
    fn find(&self, src: IpAddr, dst: IpAddr, iif: Option<u32>) -> Option<&Route> {
        let address = B::of(dst);
        let mut next = 0;
        while let Some(step) = self.steps.get(next) {
            next += 1;
            if !step.always && !matches(&step.rule, src, dst, iif) {
                continue;
            }
            match step.effect {
                Effect::Lookup(table) => match self.tables[table].lookup(address) {
                    None => {}
                    Some((_, Route { kind: RouteKind::Throw, .. })) => {}
                    Some((_, Route { kind: RouteKind::Refuse, .. })) => return None,
                    Some((prefix_len, _)) if step.rule.suppress_prefix_len.is_some_and(|most| prefix_len <= most) => {}
                    Some((_, route)) => return Some(route),
                },
                Effect::Refuse => return None,
                Effect::Goto(target) => next = target,
                Effect::Nothing => {}
            }
        }
        None
    }
}

/// `fib_rule_match`: inversion covers all selectors, the device included.
fn matches(rule: &Rule, src: IpAddr, dst: IpAddr, iif: Option<u32>) -> bool {
    let selected = rule.iif.is_none_or(|wanted| iif == Some(wanted)) && rule.from.contains(&src) && rule.to.contains(&dst);
    selected != rule.invert
}

/// One of `ways` in proportion to their weights.
fn select(ways: &[NextHop], flow_hash: u64) -> Option<&NextHop> {
    let [first, rest @ ..] = ways else { return None };
    if rest.is_empty() {
        return Some(first);
    }
    let total: u64 = ways.iter().map(|way| u64::from(way.weight)).sum();
    // Callers' hashes may differ in a few bits only: spread them, then scale the upper half to the sum of weights.
    let mut point = ((flow_hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) * total) >> 32;
    for way in ways {
        match point.checked_sub(u64::from(way.weight)) {
            Some(rest) => point = rest,
            None => return Some(way),
        }
    }
    Some(first)
}

/// Collects rules and routes of both families into a [`Fib`].
#[derive(Debug, Default)]
pub struct FibBuilder {
    v4: ViewBuilder<u32>,
    v6: ViewBuilder<u128>,
}

#[derive(Debug)]
struct ViewBuilder<B> {
    rules: Vec<Rule>,
    tables: FxHashMap<u32, Table<B>>,
}

impl<B> Default for ViewBuilder<B> {
    fn default() -> ViewBuilder<B> {
        ViewBuilder { rules: Vec::new(), tables: FxHashMap::default() }
    }
}

impl FibBuilder {
    /// Rules of equal priority keep the order in which they are added, which is the kernel's.
    pub fn add_rule(&mut self, rule: Rule) {
        match rule.from {
            IpNet::V4(_) => self.v4.rules.push(rule),
            IpNet::V6(_) => self.v6.rules.push(rule),
        }
    }

    /// Of several routes to one prefix the one with the lowest metric stays, of equal ones the first added (the kernel's order in a
    /// dump). Unicast routes without a way are passed over, as the kernel passes over dead ones.
    pub fn add_route(&mut self, table: u32, prefix: IpNet, route: Route) {
        match prefix {
            IpNet::V4(_) => self.v4.add_route(table, prefix, route),
            IpNet::V6(_) => self.v6.add_route(table, prefix, route),
        }
    }

    pub fn build(self) -> Fib {
        Fib { v4: self.v4.build(), v6: self.v6.build() }
    }
}

impl<B: Bits> ViewBuilder<B> {
    fn add_route(&mut self, table: u32, prefix: IpNet, route: Route) {
        if matches!(&route.kind, RouteKind::Unicast(ways) if ways.is_empty()) {
            return;
        }
        let table = self.tables.entry(table).or_insert_with(|| Table { lengths: Vec::new() });
        let routes = table.routes_of_length(prefix);
        let network = B::of(prefix.network());
        if routes.get(&network).is_none_or(|present| route.metric < present.metric) {
            routes.insert(network, route);
        }
    }

    fn build(mut self) -> View<B> {
        self.rules.sort_by_key(|rule| rule.priority);
        let priorities: Vec<u32> = self.rules.iter().map(|rule| rule.priority).collect();
        let mut numbers = FxHashMap::default();
        let mut tables = Vec::with_capacity(self.tables.len());
        for (id, table) in self.tables {
            numbers.insert(id, tables.len());
            tables.push(table);
        }
        let steps = self.rules.into_iter().enumerate().map(|(number, rule)| {
            let effect = match rule.action {
                RuleAction::Lookup(table) => numbers.get(&table).map_or(Effect::Nothing, |&table| Effect::Lookup(table)),
                RuleAction::Refuse => Effect::Refuse,
                // Forward only, as the kernel insists: so a lookup ends.
                RuleAction::Goto(priority) => Effect::Goto(priorities.partition_point(|&present| present < priority).max(number + 1)),
                RuleAction::Nop => Effect::Nothing,
            };
            let always = !rule.invert && rule.iif.is_none() && rule.from.prefix_len() == 0 && rule.to.prefix_len() == 0;
            Step { rule, always, effect }
        });
        View { steps: steps.collect(), tables: tables.into() }
    }
}

#[cfg(test)]
mod tests;
