//! The FIB: `ip rule` and all routing tables, looked up as the kernel does for forwarded packets.
//!
//! The kernel's order of things is in `net/core/fib_rules.c` (`fib_rules_lookup`, `fib_rule_match`), `net/ipv4/fib_rules.c`
//! (`fib4_rule_match`, `_action`, `_suppress`) and `net/ipv4/fib_trie.c` (`fib_table_lookup`). One difference is left: as long as
//! nobody ever added a rule, the kernel keeps local and main in one trie, so that a route of main wins over a *shorter* prefix of
//! local. Here local is always looked up first, as the rules say.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
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
    steps: Box<[Step]>,
    tables: Box<[Table]>,
}

/// Routes by prefix, longest first: one hash lookup for each length in use, which on a node are a handful. Measured beside a
/// multibit trie: a quarter of its time with a node's ten to five thousand routes, two thirds with a hundred thousand.
#[derive(Debug, Default)]
struct Table {
    lengths: Vec<SameLength>,
}

#[derive(Debug)]
struct SameLength {
    prefix_len: u8,
    mask: u32,
    routes: FxHashMap<u32, Route>,
}

impl Table {
    /// The route of the longest prefix that contains `address`, and that prefix's length.
    #[inline]
    fn lookup(&self, address: u32) -> Option<(u8, &Route)> {
        self.lengths.iter().find_map(|same| Some((same.prefix_len, same.routes.get(&(address & same.mask))?)))
    }

    fn routes_of_length(&mut self, prefix: Ipv4Net) -> &mut FxHashMap<u32, Route> {
        let prefix_len = prefix.prefix_len();
        let place = self.lengths.partition_point(|same| same.prefix_len > prefix_len);
        if self.lengths.get(place).is_none_or(|same| same.prefix_len != prefix_len) {
            let mask = u32::from(prefix.netmask());
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
    pub fn lookup(&self, src: Ipv4Addr, dst: Ipv4Addr, iif: Option<u32>, flow_hash: u64) -> FibResult {
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

    /// The route itself, before one of its ways is selected: unicast or local. `None` where there is none or one that refuses.
    pub fn find(&self, src: Ipv4Addr, dst: Ipv4Addr, iif: Option<u32>) -> Option<&Route> {
        let address = u32::from(dst);
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
fn matches(rule: &Rule, src: Ipv4Addr, dst: Ipv4Addr, iif: Option<u32>) -> bool {
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

/// Collects rules and routes into a [`Fib`].
#[derive(Debug, Default)]
pub struct FibBuilder {
    rules: Vec<Rule>,
    tables: FxHashMap<u32, Table>,
}

impl FibBuilder {
    /// Rules of equal priority keep the order in which they are added, which is the kernel's.
    pub fn add_rule(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Of several routes to one prefix the one with the lowest metric stays, of equal ones the first added (the kernel's order in a
    /// dump). Unicast routes without a way are passed over, as the kernel passes over dead ones.
    pub fn add_route(&mut self, table: u32, prefix: Ipv4Net, route: Route) {
        if matches!(&route.kind, RouteKind::Unicast(ways) if ways.is_empty()) {
            return;
        }
        let routes = self.tables.entry(table).or_default().routes_of_length(prefix);
        let network = u32::from(prefix.network());
        if routes.get(&network).is_none_or(|present| route.metric < present.metric) {
            routes.insert(network, route);
        }
    }

    pub fn build(mut self) -> Fib {
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
        Fib { steps: steps.collect(), tables: tables.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn rule(priority: u32, action: RuleAction) -> Rule {
        Rule { priority, from: net("0.0.0.0/0"), to: net("0.0.0.0/0"), invert: false, iif: None, suppress_prefix_len: None, action }
    }

    fn route(kind: RouteKind) -> Route {
        Route { kind, mtu: None, metric: 0 }
    }

    fn dev(ifindex: u32) -> Route {
        route(RouteKind::Unicast([NextHop { ifindex, gateway: None, weight: 1 }].into()))
    }

    fn via(ifindex: u32, address: &str) -> FibResult {
        FibResult::Via { ifindex, address: ip(address), route_mtu: None }
    }

    /// Tables 255, 254, 253 by the kernel's default rules, and a few routes.
    fn default_rules() -> FibBuilder {
        let mut fib = FibBuilder::default();
        fib.add_rule(rule(32766, RuleAction::Lookup(254)));
        fib.add_rule(rule(32767, RuleAction::Lookup(253)));
        fib.add_rule(rule(0, RuleAction::Lookup(255)));
        fib.add_route(255, net("10.0.0.1/32"), route(RouteKind::Local));
        fib.add_route(254, net("10.0.0.0/24"), dev(2));
        let gateway = NextHop { ifindex: 2, gateway: Some(ip("10.0.0.254")), weight: 1 };
        fib.add_route(254, net("0.0.0.0/0"), Route { kind: RouteKind::Unicast([gateway].into()), mtu: Some(1400), metric: 100 });
        fib
    }

    fn lookup(fib: &Fib, dst: &str) -> FibResult {
        fib.lookup(ip("192.0.2.1"), ip(dst), None, 0)
    }

    #[test]
    fn default_rules_local_connected_and_gateway() {
        let fib = default_rules().build();
        assert_eq!(lookup(&fib, "10.0.0.1"), FibResult::Local);
        assert_eq!(lookup(&fib, "10.0.0.9"), via(2, "10.0.0.9"));
        let expected = FibResult::Via { ifindex: 2, address: ip("10.0.0.254"), route_mtu: Some(1400) };
        assert_eq!(lookup(&fib, "198.51.100.1"), expected);
    }

    #[test]
    fn an_empty_fib_has_no_route() {
        assert_eq!(lookup(&Fib::default(), "10.0.0.1"), FibResult::None);
    }

    #[test]
    fn lowest_metric_stays_and_of_equal_ones_the_first() {
        let mut fib = default_rules();
        for (ifindex, metric) in [(5, 20), (6, 10), (7, 10), (8, 30)] {
            fib.add_route(254, net("10.1.0.0/16"), Route { metric, ..dev(ifindex) });
        }
        assert_eq!(lookup(&fib.build(), "10.1.2.3"), via(6, "10.1.2.3"));
    }

    #[test]
    fn a_route_without_ways_is_passed_over() {
        let mut fib = default_rules();
        fib.add_route(254, net("10.1.0.0/16"), route(RouteKind::Unicast(Box::default())));
        fib.add_route(254, net("10.1.0.0/16"), Route { metric: 9, ..dev(6) });
        assert_eq!(lookup(&fib.build(), "10.1.2.3"), via(6, "10.1.2.3"));
    }

    #[test]
    fn refuse_ends_the_lookup_and_throw_leaves_the_table() {
        let mut fib = default_rules();
        fib.add_rule(rule(100, RuleAction::Lookup(116)));
        fib.add_route(116, net("10.1.0.0/16"), route(RouteKind::Refuse));
        fib.add_route(116, net("10.2.0.0/16"), route(RouteKind::Throw));
        fib.add_route(116, net("0.0.0.0/0"), dev(9));
        fib.add_route(254, net("10.2.0.0/16"), dev(6));
        let fib = fib.build();
        assert_eq!(lookup(&fib, "10.1.2.3"), FibResult::None);
        assert_eq!(lookup(&fib, "10.2.2.3"), via(6, "10.2.2.3"));
        assert_eq!(lookup(&fib, "10.3.2.3"), via(9, "10.3.2.3"));
    }

    #[test]
    fn selectors_and_their_inversion() {
        let selected = Rule { from: net("10.9.0.0/16"), to: net("10.8.0.0/16"), iif: Some(3), ..rule(100, RuleAction::Refuse) };
        for invert in [false, true] {
            let mut fib = default_rules();
            fib.add_rule(Rule { invert, ..selected.clone() });
            let fib = fib.build();
            let cases = [
                ("10.9.0.1", "10.8.0.1", Some(3), true),
                ("10.7.0.1", "10.8.0.1", Some(3), false),
                ("10.9.0.1", "10.7.0.1", Some(3), false),
                ("10.9.0.1", "10.8.0.1", Some(4), false),
                ("10.9.0.1", "10.8.0.1", None, false),
            ];
            for (src, dst, iif, selects) in cases {
                let refused = fib.lookup(ip(src), ip(dst), iif, 0) == FibResult::None;
                assert_eq!(refused, selects != invert, "{src} → {dst} on {iif:?}, invert {invert}");
            }
        }
    }

    #[test]
    fn goto_skips_rules_and_only_forward() {
        let mut fib = default_rules();
        fib.add_rule(rule(100, RuleAction::Goto(200)));
        fib.add_rule(rule(150, RuleAction::Refuse));
        fib.add_rule(rule(200, RuleAction::Nop));
        fib.add_rule(rule(300, RuleAction::Goto(100)));
        assert_eq!(lookup(&fib.build(), "10.0.0.9"), via(2, "10.0.0.9"));
    }

    #[test]
    fn suppress_prefix_length_ignores_short_prefixes() {
        let mut fib = default_rules();
        fib.add_rule(Rule { suppress_prefix_len: Some(0), ..rule(100, RuleAction::Lookup(254)) });
        fib.add_rule(rule(200, RuleAction::Lookup(116)));
        fib.add_route(116, net("0.0.0.0/0"), dev(9));
        let fib = fib.build();
        assert_eq!(lookup(&fib, "10.0.0.9"), via(2, "10.0.0.9"));
        assert_eq!(lookup(&fib, "198.51.100.1"), via(9, "198.51.100.1"));
    }

    #[test]
    fn multipath_follows_the_weights_and_the_hash() {
        let ways = [(2, 1), (3, 3)].map(|(ifindex, weight)| NextHop { ifindex, gateway: None, weight });
        let mut fib = default_rules();
        fib.add_route(254, net("10.1.0.0/16"), route(RouteKind::Unicast(ways.into())));
        let fib = fib.build();
        let mut taken = [0; 4];
        for hash in 0..4000u64 {
            let first = fib.lookup(ip("192.0.2.1"), ip("10.1.0.1"), None, hash);
            assert_eq!(first, fib.lookup(ip("192.0.2.1"), ip("10.1.0.1"), None, hash));
            let FibResult::Via { ifindex, .. } = first else { panic!("no route") };
            taken[ifindex as usize] += 1;
        }
        assert!((950..=1050).contains(&taken[2]) && taken[2] + taken[3] == 4000, "{taken:?}");
    }
}
