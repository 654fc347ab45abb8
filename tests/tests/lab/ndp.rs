//! Neighbor discovery for announced VIPs (RFC 4861), before real hosts, a switch that snoops, and malformed solicitations.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::IpHeaders;
use ringway_tests::lab::{Capture, Family, Frame, Net, RingwayOptions, Topology, address, wait_for};

use crate::{VIP_80, VIP_URL, ensure_served, frames, lab, serving, web};

/// ff02::1.
pub const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Flags of an advertisement (RFC 4861 section 4.4).
pub const SOLICITED: u8 = 0x40;
pub const OVERRIDE: u8 = 0x20;

/// The solicited-node group of the VIP (RFC 4291 section 2.7.1).
const GROUP: &str = "ff02::1:ff00:64";
/// MAC address of who asks here.
const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const PATIENCE: Duration = Duration::from_secs(3);
/// Of the router's port to node1: what node1 receives and sends.
const PORT: &str = "node1-eth0";

/// A neighbor advertisement as it must look: hop limit 255, code 0, a checksum that holds.
pub struct Advertisement {
    pub destination: [u8; 16],
    pub flags: u8,
    pub target: [u8; 16],
    /// Of the option that says the target's link-layer address.
    pub mac: Option<[u8; 6]>,
}

impl Advertisement {
    pub fn read(frame: &Frame) -> Option<Advertisement> {
        let packet = etherparse::SlicedPacket::from_ethernet(&frame.bytes).ok()?;
        let ip = packet.net.as_ref()?.ipv6_ref()?.header();
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &packet.transport else { return None };
        let bytes = icmp.slice();
        if ip.hop_limit() != 255 || bytes.get(..2)? != [136, 0] || !icmp.is_checksum_valid(ip.source(), ip.destination()) {
            return None;
        }
        let option = bytes.get(24..32).filter(|option| option[..2] == [2, 1]).and_then(|option| option[2..].try_into().ok());
        Some(Advertisement { destination: ip.destination(), flags: bytes[4], target: bytes.get(8..24)?.try_into().ok()?, mac: option })
    }
}

/// A solicitation for the VIP, by whom and as what it is to be spoiled.
struct Solicitation<'a> {
    source: &'a str,
    destination: &'a str,
    hops: u8,
    code: u8,
    target: &'a str,
    options: &'a [u8],
}

impl Default for Solicitation<'_> {
    fn default() -> Self {
        // Source link-layer address.
        Solicitation {
            source: "10.0.0.1",
            destination: GROUP,
            hops: 255,
            code: 0,
            target: address::VIP,
            options: &[1, 1, 2, 0, 0, 0, 0, 0x0a],
        }
    }
}

impl Solicitation<'_> {
    fn frame(&self, net: &Net) -> Result<Vec<u8>> {
        let IpHeaders::Ipv6(header, _) = frames::ip(Family::V6, self.source, self.destination, self.hops)? else { unreachable!() };
        let target = frames::octets(Family::V6, self.target)?;
        let group = [0x33, 0x33, 0xff, 0, 0, 0x64];
        let to = if self.destination == GROUP { group } else { net.node1.mac("eth0")? };
        let builder = etherparse::PacketBuilder::ethernet2(ASKER, to).ip(IpHeaders::Ipv6(header, Default::default()));
        let mut frame = Vec::new();
        builder.icmpv6_raw(135, self.code, [0; 4]).write(&mut frame, &[&target, self.options].concat())?;
        Ok(frame)
    }
}

fn announced(name: &str, test: impl FnOnce(&Net) -> Result<()>) -> Result<()> {
    serving(name, Topology::new().family(Family::V6), RingwayOptions::default(), &["b1"], |net, _| {
        net.client.curl(VIP_URL)?;
        test(net)
    })
}

#[test]
fn solicitations_are_answered_as_they_ask() -> Result<()> {
    announced("ndp_answers", |net| {
        let (mac, vip, asker) =
            (net.node1.mac("eth0")?, frames::octets(Family::V6, address::VIP)?, frames::octets(Family::V6, "10.0.0.1")?);
        let by_group = Solicitation::default();
        let alone = Solicitation { destination: address::VIP, ..by_group };
        // No option is needed when the asker is known already.
        let bare = Solicitation { options: &[], ..alone };
        // Detection of duplicates (RFC 4862 section 5.4): the answer is for all.
        let unspecified = Solicitation { source: "::", options: &[], ..by_group };
        // Options that nobody knows are skipped.
        let unknown = Solicitation { options: &[253, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 0x0a], ..by_group };
        for (what, asked, destination, flags) in [
            ("to the group", by_group, &asker[..], SOLICITED | OVERRIDE),
            ("to the address", alone, &asker, SOLICITED | OVERRIDE),
            ("without an option", bare, &asker, SOLICITED | OVERRIDE),
            ("of nobody", unspecified, &ALL_NODES, OVERRIDE),
            ("with options", unknown, &asker, SOLICITED | OVERRIDE),
        ] {
            let capture = Capture::start(&net.router, PORT, "icmp6", net.lab.artifact_dir())?;
            net.router.send_frames(PORT, &[asked.frame(net)?])?;
            // Who asks the address alone knows its link-layer address.
            let may_lack_mac = asked.destination != GROUP;
            capture.wait_frame(what, PATIENCE, |frame| {
                Advertisement::read(frame).is_some_and(|answer| {
                    let is_asked_for = answer.target == *vip && answer.destination == *destination;
                    let has_mac = answer.mac.map_or(may_lack_mac, |own| own == mac);
                    is_asked_for && has_mac && answer.flags & (SOLICITED | OVERRIDE) == flags
                })
            })?;
        }
        Ok(())
    })
}

/// RFC 4861 section 7.1.1: silently discarded.
#[test]
fn malformed_solicitations_are_not_answered() -> Result<()> {
    announced("ndp_malformed", |net| {
        let good = Solicitation::default();
        let bad = [
            ("from beyond a router", Solicitation { hops: 254, ..good }),
            ("of another code", Solicitation { code: 1, ..good }),
            ("for a group", Solicitation { target: GROUP, ..good }),
            ("with an option of no length", Solicitation { options: &[1, 0, 2, 0, 0, 0, 0, 0x0a], ..good }),
            ("with an option cut short", Solicitation { options: &[1, 1, 2, 0], ..good }),
            ("of nobody, with a link-layer address", Solicitation { source: "::", ..good }),
            ("of nobody, to one address", Solicitation { source: "::", destination: address::VIP, options: &[], ..good }),
            ("for nobody's address", Solicitation { target: "10.0.0.102", ..good }),
            ("for a ClusterIP", Solicitation { target: address::CLUSTER_IP, ..good }),
        ];
        let mut spoiled = good.frame(net)?;
        *spoiled.last_mut().context("a frame")? ^= 1;
        let bad = bad.into_iter().map(|(what, asked)| Ok((what, asked.frame(net)?))).collect::<Result<Vec<_>>>()?;
        let capture = Capture::start(&net.router, PORT, "icmp6", net.lab.artifact_dir())?;
        // What is said unasked after the start is said four times in 3.2 s; answers go to the asker, or to all like those.
        std::thread::sleep(Duration::from_millis(3_500));
        let is_answer = |frame: &&Frame| frame.bytes.starts_with(&ASKER) || frame.bytes.starts_with(&[0x33, 0x33, 0, 0, 0, 1]);
        let answers = || -> Result<usize> { Ok(capture.frames()?.iter().filter(is_answer).filter_map(Advertisement::read).count()) };
        let mut answered = Vec::new();
        for (what, frame) in bad.into_iter().chain([("with a wrong checksum", spoiled)]) {
            let before = answers()?;
            net.router.send_frames(PORT, &[frame])?;
            std::thread::sleep(Duration::from_millis(100));
            if answers()? > before {
                answered.push(what);
            }
        }
        ensure!(answered.is_empty(), "solicitations are answered that are malformed or for others: {answered:?}");
        net.client.curl(VIP_URL).map(drop)
    })
}

#[test]
fn who_takes_the_vip_learns_that_it_is_taken() -> Result<()> {
    announced("ndp_duplicate", |net| {
        net.router.sysctl("net.ipv6.conf.lan0.accept_dad", "1")?;
        net.router.ip(&format!("address add {}/32 dev lan0", address::VIP))?;
        wait_for("the duplicate", PATIENCE, || {
            let addresses = net.router.ip("address show dev lan0")?;
            ensure!(addresses.contains("dadfailed"), "{addresses}");
            Ok(())
        })
    })
}

#[test]
fn a_router_that_asks_again_is_answered() -> Result<()> {
    announced("ndp_probe", |net| {
        let mac = net.node1.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":");
        net.router.ip(&format!("neigh replace {} lladdr {mac} dev lan0 nud probe", address::VIP))?;
        wait_for("its answer", PATIENCE, || {
            let neighbor = net.router.ip(&format!("neigh show {}", address::VIP))?;
            ensure!(neighbor.contains("REACHABLE") && neighbor.contains(&mac), "{neighbor}");
            Ok(())
        })
    })
}

/// A switch that snoops gives solicitations to those ports alone whose hosts have joined the address's group (RFC 4541).
#[test]
fn a_switch_that_snoops_lets_solicitations_through() -> Result<()> {
    lab("ndp_snooping", |lab| {
        let net = Topology::new().family(Family::V6).build(lab)?;
        net.router
            .ip("link set lan0 type bridge mcast_query_response_interval 10 mcast_startup_query_interval 10 mcast_query_interval 100 \
             mcast_snooping 1 mcast_querier 1")?;
        let groups = || net.router.exec(&["bridge", "mdb", "show", "dev", "lan0"]);
        let has_group = |group: &str| groups().map(|text| text.lines().any(|line| line.contains(PORT) && line.contains(group)));
        wait_for("the switch snoops", Duration::from_secs(10), || {
            ensure!(has_group("ff02::1:ff00:b ")?, "{}", groups()?);
            Ok(())
        })?;
        let capture = Capture::start(&net.node1, "eth0", "icmp6", lab.artifact_dir())?;
        let solicitations =
            || -> Result<usize> { Ok(capture.frames()?.iter().filter(|frame| frame.bytes[54..].first() == Some(&135)).count()) };
        wait_for("no flood", Duration::from_secs(10), || {
            let before = solicitations()?;
            net.client.shell(&format!("ping -c 1 -W 0.2 {} || true", address::VIP))?;
            ensure!(solicitations()? == before, "solicitations for nobody's address reach node1");
            Ok(())
        })?;
        let ringway = ringway_tests::lab::Ringway::start(&net, &RingwayOptions::default(), &[web(&net, &["b1"])?])?;
        wait_for("the group of the VIP", PATIENCE, || {
            ensure!(has_group(GROUP)?, "{}", groups()?);
            Ok(())
        })?;
        let joined = || -> Result<bool> { Ok(net.node1.ip("maddress show dev eth0")?.contains(GROUP)) };
        ensure!(joined()?, "eth0 has not joined {GROUP}");
        net.router.ip("neigh flush dev lan0")?;
        wait_for("the VIP", PATIENCE, || net.client.line(VIP_80, 0))?;
        ensure_served(&net.client.requests("tcp", VIP_80, 1, 10)?, &["b1"], address::NODE1)?;
        ringway.publish(&[])?;
        wait_for("the group left", PATIENCE, || {
            ensure!(!joined()?, "eth0 is still in {GROUP}");
            Ok(())
        })
    })
}
