use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
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

#[test]
fn each_family_has_rules_and_routes_of_its_own() {
    let mut fib = default_rules();
    let everything = net("::/0");
    fib.add_rule(Rule { from: everything, to: everything, ..rule(0, RuleAction::Lookup(255)) });
    fib.add_rule(Rule { from: net("fd00:9::/32"), to: everything, ..rule(50, RuleAction::Refuse) });
    fib.add_rule(Rule { from: everything, to: everything, ..rule(32766, RuleAction::Lookup(254)) });
    fib.add_route(255, net("fd00::1/128"), route(RouteKind::Local));
    // As many tables have the same number in both families.
    fib.add_route(254, net("fd00::/64"), dev(3));
    fib.add_route(254, net("fd00::/127"), dev(4));
    let gateway = NextHop { ifindex: 3, gateway: Some(ip("fe80::1")), weight: 1 };
    fib.add_route(254, everything, route(RouteKind::Unicast([gateway].into())));
    let fib = fib.build();
    for (src, dst, expected) in [
        ("fd00:1::1", "fd00::1", FibResult::Local),
        ("fd00:1::1", "fd00::", via(4, "fd00::")),
        ("fd00:1::1", "fd00::2", via(3, "fd00::2")),
        ("fd00:1::1", "fd00::ffff:ffff:ffff:ffff", via(3, "fd00::ffff:ffff:ffff:ffff")),
        ("fd00:1::1", "fd00:0:0:1::", via(3, "fe80::1")),
        ("fd00:1::1", "::ffff:10.0.0.1", via(3, "fe80::1")),
        ("fd00:9::1", "fd00::2", FibResult::None),
        ("192.0.2.1", "10.0.0.1", FibResult::Local),
        ("192.0.2.1", "10.0.0.9", via(2, "10.0.0.9")),
        ("192.0.2.1", "fd00::2", FibResult::None),
        ("fd00:1::1", "10.0.0.1", FibResult::None),
    ] {
        assert_eq!(fib.lookup(ip(src), ip(dst), None, 0), expected, "{src} → {dst}");
    }
}
