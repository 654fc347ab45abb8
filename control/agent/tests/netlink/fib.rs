//! `Fib::lookup` against the kernel's own answers (`RTM_GETROUTE`) for random rules and routes of both families.
//!
//! The kernel is asked for *forwarded* packets (with a receiving device), reverse-path filtering off and local sources accepted in
//! the test's namespace, so that its checks of the source do not hide the route. The flow hashes differ, so of a multipath route the
//! kernel's way has to be one that we select for some hash.
//!
//! Two habits of IPv6 are kept out (net/ipv6/route.c, ip6_fib.c): of several routes with one prefix and metric the kernel prefers one by
//! the device on which the packet came (`rt6_score_route`), so no route leads out of a receiving device; and a dump leaves out what
//! stands between two ways of one multipath route, so routes by gateways have metrics of their own.

use std::collections::HashSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::StreamExt;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType};
use ringway_agent::netlink::FollowerConfig;
use ringway_engine::tables::FibResult;
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::namespace::{Known, Namespace, add_address6, add_device, ifindex, ip, ip_batch, ip6_batch, sysctl};

const CONFIGURATIONS: u64 = 12;
const QUERIES: usize = 600;
const DEVICES: u32 = 5;

/// xorshift64*: reproducible by the seed in the failure's text.
struct Random {
    state: u64,
    v6: bool,
}

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        ((self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::from(limit)) as u32
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.below(one_in) == 0
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u32) as usize]
    }

    /// Few distinct addresses, so that prefixes and packets meet.
    fn destination(&mut self) -> IpAddr {
        let (a, b, c) = (self.below(3) as u8, self.below(3) as u8, self.below(4) as u8 + 1);
        if self.v6 {
            return Ipv6Addr::new(0xfd10, a.into(), b.into(), 0, 0, 0, 0, c.into()).into();
        }
        Ipv4Addr::new(10, a, b, c).into()
    }

    fn source(&mut self) -> IpAddr {
        let (a, b, c) = (self.below(2) as u8, self.below(2) as u8, self.below(3) as u8 + 1);
        if self.v6 {
            return Ipv6Addr::new(0xfd72, a.into(), b.into(), 0, 0, 0, 0, c.into()).into();
        }
        Ipv4Addr::new(172, 16 + a, b, c).into()
    }

    fn prefix(&mut self, address: IpAddr) -> String {
        let lengths = if self.v6 { [0, 16, 31, 32, 47, 48, 126, 127, 128] } else { [0, 8, 15, 16, 23, 24, 30, 31, 32] };
        let length = lengths[self.below(9) as usize];
        ipnet::IpNet::new(address, length).unwrap().trunc().to_string()
    }

    fn device(&mut self) -> String {
        format!("d{}", self.below(DEVICES))
    }

    fn table(&mut self) -> &'static str {
        self.of(&["116", "117", "118", "main", "default", "local"])
    }

    fn rule(&mut self) -> String {
        let mut line = format!("rule add pref {} ", (self.below(12) + 1) * 100);
        if self.chance(4) {
            line.push_str("not ");
        }
        if self.chance(2) {
            let address = self.source();
            write!(line, "from {} ", self.prefix(address)).unwrap();
        }
        if self.chance(3) {
            let address = self.destination();
            write!(line, "to {} ", self.prefix(address)).unwrap();
        }
        if self.chance(3) {
            let device = self.of(&["d0", "d1", "d4", "absent", "lo"]);
            write!(line, "iif {device} ").unwrap();
        }
        // Selectors that no packet of ours has, or every one.
        match self.below(12) {
            0 => line.push_str("fwmark 1 "),
            1 => line.push_str("fwmark 0/0xff "),
            2 => line.push_str("tos 0x10 "),
            3 => line.push_str("uidrange 0-10 "),
            4 => line.push_str("uidrange 10-20 "),
            5 => line.push_str("oif d0 "),
            _ => {}
        }
        match self.below(10) {
            0 => line.push_str(self.of(&["blackhole", "unreachable", "prohibit"])),
            1 => line.push_str("nop"),
            2 | 3 => write!(line, "goto {}", (self.below(14) + 2) * 100).unwrap(),
            _ => {
                write!(line, "lookup {} ", self.table()).unwrap();
                if self.chance(4) {
                    write!(line, "suppress_prefixlength {}", self.of(&["0", "15", "16", "24", "32"])).unwrap();
                }
            }
        }
        line
    }

    fn route(&mut self) -> String {
        let address = self.destination();
        let prefix = self.prefix(address);
        let kind = match self.below(12) {
            0 => "unreachable",
            1 => "blackhole",
            2 => "prohibit",
            3 | 4 => "throw",
            5 => "local",
            _ => "",
        };
        let mut line = format!("route append {kind} {prefix} table {} ", self.table());
        let by_gateway = self.v6 && kind.is_empty() && self.chance(2);
        if by_gateway {
            write!(line, "metric {} ", self.below(3) * 10 + 5).unwrap();
        } else if self.chance(2) {
            write!(line, "metric {} ", self.below(3) * 10).unwrap();
        }
        if self.v6 && !by_gateway && self.chance(4) {
            write!(line, "pref {} ", self.of(&["low", "medium", "high"])).unwrap();
        }
        if self.chance(8) {
            line.push_str("tos 0x10 ");
        }
        if kind == "local" {
            // A local route of a short prefix would make random sources local, too.
            write!(line, "dev {}", self.device()).unwrap();
        }
        if kind.is_empty() {
            if self.chance(4) {
                write!(line, "mtu {} ", 1000 + self.below(500)).unwrap();
            }
            let by_gateway = if self.v6 { by_gateway } else { self.chance(2) };
            if self.chance(3) && (by_gateway || !self.v6) {
                for _ in 0..=self.below(3) {
                    write!(line, "nexthop {} weight {} ", self.way(by_gateway), self.below(5) + 1).unwrap();
                }
            } else {
                line.push_str(&self.way(by_gateway));
            }
        }
        line
    }

    fn way(&mut self, by_gateway: bool) -> String {
        let (device, number) = (self.device(), self.below(5) + 1);
        match (by_gateway, self.v6) {
            (false, _) => format!("dev {device}"),
            (true, false) => format!("via 10.200.0.{number} dev {device} onlink"),
            (true, true) if self.chance(2) => format!("via fe80::{number} dev {device}"),
            (true, true) => format!("via fd20::{number} dev {device} onlink"),
        }
    }
}

fn devices() {
    ip("link set lo up");
    sysctl("ipv4/ip_forward", "1");
    // Else the kernel takes the ways to routers that answer, and takes turns.
    sysctl("ipv6/conf/all/forwarding", "1");
    for device in ["r0", "r1"] {
        add_device(device);
    }
    for number in 0..DEVICES {
        add_device(&format!("d{number}"));
        for (setting, value) in [("rp_filter", "0"), ("accept_local", "1"), ("forwarding", "1")] {
            sysctl(&format!("ipv4/conf/d{number}/{setting}"), value);
        }
        ip(&format!("addr add 10.200.{number}.1/24 dev d{number}"));
        add_address6(&format!("d{number}"), format!("fd20:{number}::1/64").parse().unwrap());
    }
    sysctl("ipv4/conf/all/rp_filter", "0");
    // Dead without a carrier here, and alive without one there.
    for family in ["ipv4", "ipv6"] {
        sysctl(&format!("{family}/conf/d2/ignore_routes_with_linkdown"), "1");
    }
}

#[test]
fn lookups_equal_the_kernels() {
    compare(false);
}

#[test]
fn lookups_of_ipv6_equal_the_kernels() {
    compare(true);
}

fn compare(v6: bool) {
    let mut compared = 0;
    let mut outcomes = HashSet::new();
    for seed in 1..=CONFIGURATIONS {
        Namespace::new().run(async || {
            let mut random = Random { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), v6 };
            devices();
            // Followed live, not read at the end: what changes silently counts too.
            let mut known = Known::start(FollowerConfig::default()).await;
            let mut lines = String::new();
            for _ in 0..14 {
                writeln!(lines, "{}", random.rule()).unwrap();
            }
            for _ in 0..120 {
                writeln!(lines, "{}", random.route()).unwrap();
            }
            // Some lines ask for the impossible (the same route twice): `ip` says so and goes on.
            if v6 {
                ip6_batch(&lines)
            } else {
                ip_batch(&lines)
            };
            ip("link set d2-p down");
            ip("link set d3-p down");
            ip("link set d4 down");
            known.settle().await;

            let (connection, mut handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let receiving = if v6 { ["r0", "r1"].map(ifindex).to_vec() } else { ["d0", "d1", "d2", "d3"].map(ifindex).to_vec() };
            let fib = known.now.fib.as_ref().unwrap();
            for _ in 0..QUERIES {
                let (src, dst) = (random.source(), random.destination());
                let iif = receiving[random.below(receiving.len() as u32) as usize];
                let kernel = ask(&mut handle, src, dst, iif).await;
                let ours: HashSet<String> =
                    (0..64u64).map(|hash| format!("{:?}", fib.lookup(src, dst, Some(iif), hash << 32 | hash))).collect();
                let context = || {
                    let family = if v6 { "-6" } else { "-4" };
                    let shown = ["rule show", "route show table all"].map(|words| ip(&format!("{family} {words}")));
                    format!("seed {seed}: {src} → {dst} on {iif}\n{lines}{}\n{}", shown.join("\n"), ip("link show"))
                };
                assert!(ours.contains(&format!("{kernel:?}")), "kernel {kernel:?}, ours {ours:?}; {}", context());
                compared += 1;
                outcomes.insert(std::mem::discriminant(&kernel));
            }
        });
    }
    assert_eq!(outcomes.len(), 3, "local, via and none all occurred");
    println!("{compared} lookups compared");
}

async fn ask(handle: &mut Handle, src: IpAddr, dst: IpAddr, iif: u32) -> FibResult {
    let bits = if dst.is_ipv4() { 32 } else { 128 };
    let builder = RouteMessageBuilder::<IpAddr>::new().destination_prefix(dst, bits).unwrap().source_prefix(src, bits).unwrap();
    let mut message = builder.input_interface(iif).build();
    // As forwarded packets have; otherwise the kernel asks for nobody's.
    message.attributes.push(RouteAttribute::Uid(0));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
    request.header.flags = NLM_F_REQUEST;
    match handle.request(request).unwrap().next().await.map(|answer| answer.payload) {
        Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))) => result(&route, dst),
        Some(NetlinkPayload::Error(_)) => FibResult::None,
        other => panic!("RTM_GETROUTE answered {other:?}"),
    }
}

fn result(route: &RouteMessage, dst: IpAddr) -> FibResult {
    let (mut ifindex, mut address, mut route_mtu) = (0, dst, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => ifindex = *oif,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => address = (*gateway).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => address = (*gateway).into(),
            RouteAttribute::Metrics(metrics) => {
                route_mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) => Some(*bytes),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    match route.header.kind {
        RouteType::Unicast => FibResult::Via { ifindex, address, route_mtu },
        RouteType::Local | RouteType::Broadcast => FibResult::Local,
        _ => FibResult::None,
    }
}
