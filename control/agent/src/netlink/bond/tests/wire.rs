//! RTM_NEWLINK and RTM_DELLINK of a bond and its members, byte by byte: attributes by their numbers in linux/if_link.h, in the order of
//! `bond_fill_info` and `bond_fill_slave_info`.

use std::net::Ipv6Addr;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use super::BOND;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 1 << 6;
const IFF_SLAVE: u32 = 1 << 11;
const IFF_LOWER_UP: u32 = 1 << 16;

/// A message about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub ifindex: u32,
    bytes: Vec<u8>,
}

/// A bond, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BondMessage {
    pub mode: u8,
    pub up: bool,
    pub active: Option<u32>,
    pub all_receive: bool,
    pub aggregator: Option<u16>,
}

/// A member, or a device that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberMessage {
    pub ifindex: u32,
    pub master: Option<u32>,
    pub up: bool,
    pub carrier: bool,
    pub backup: bool,
    /// BOND_LINK_UP 0, FAIL 1, DOWN 2, BACK 3.
    pub mii: u8,
    pub aggregator: Option<u16>,
}

impl Message {
    fn link(kind: u16, ifindex: u32, flags: u32, attributes: &[u8]) -> Message {
        // struct nlmsghdr, struct ifinfomsg.
        let length = (16 + 16 + attributes.len()) as u32;
        let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        let info = [&[0, 0][..], &ARPHRD_ETHER.to_ne_bytes(), &ifindex.to_ne_bytes(), &flags.to_ne_bytes(), &[0xff; 4]].concat();
        Message { ifindex, bytes: [header, info, attributes.to_vec()].concat() }
    }

    pub fn gone(ifindex: u32) -> Message {
        Message::link(RTM_DELLINK, ifindex, 0, &attribute(3, b"gone\0"))
    }

    /// A veth on a bridge.
    pub fn bridge_port(ifindex: u32, bridge: u32) -> Message {
        let info = nested(18, &[attribute(1, b"veth\0"), attribute(4, b"bridge\0")]);
        let attributes = [device(&format!("eth{ifindex}"), ifindex), attribute(10, &bridge.to_ne_bytes()), info].concat();
        Message::link(RTM_NEWLINK, ifindex, IFF_UP | IFF_LOWER_UP | IFF_RUNNING, &attributes)
    }

    pub fn parsed(&self) -> RouteNetlinkMessage {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&self.bytes).expect("a message of the kernel's format");
        let NetlinkPayload::InnerMessage(message) = message.payload else { panic!("{message:?} is about no link") };
        message
    }
}

impl BondMessage {
    pub fn tell(&self) -> Message {
        let attributes = [device("bond0", BOND), nested(18, &[attribute(1, b"bond\0"), nested(2, &self.settings())])].concat();
        // A bond has a carrier while a member has one; what it says of that is not asked for.
        Message::link(RTM_NEWLINK, BOND, if self.up { IFF_UP | IFF_RUNNING | IFF_LOWER_UP } else { 0 }, &attributes)
    }

    fn settings(&self) -> Vec<Vec<u8>> {
        let byte = |kind: u16, value: u8| attribute(kind, &[value]);
        let half = |kind: u16, value: u16| attribute(kind, &value.to_ne_bytes());
        let word = |kind: u16, value: u32| attribute(kind, &value.to_ne_bytes());
        let mut settings = vec![byte(1, self.mode)];
        settings.extend(self.active.map(|ifindex| word(2, ifindex)));
        settings.extend([word(3, 100), word(4, 0), word(5, 0), word(28, 0), byte(6, 1), word(7, 0)]);
        settings.push(nested(8, &[attribute(0, &[10, 0, 0, 1])]));
        settings.extend([word(9, 0), word(10, 0)]);
        settings.push(nested(31, &[attribute(0, &Ipv6Addr::LOCALHOST.octets())]));
        settings.extend([word(11, 11), byte(12, 0), byte(13, 0), byte(14, 1), word(15, 1), byte(16, 1), byte(17, self.all_receive.into())]);
        settings.extend([word(18, 0), word(19, 1), word(20, 1), byte(29, 1), byte(21, 0), byte(22, 0), byte(27, 1), byte(30, 2)]);
        settings.push(byte(32, 1));
        if self.mode == 4 {
            settings.extend([half(24, 65_535), half(25, 0), attribute(26, &[0; 6])]);
            // `bond_3ad_get_active_agg_info` fails while there is none.
            let info = |id| nested(23, &[half(1, id), half(2, 2), half(3, 15), half(4, 1), attribute(5, &[2, 0, 0, 0, 1, 1])]);
            settings.extend(self.aggregator.map(info));
        }
        settings
    }
}

impl MemberMessage {
    pub fn tell(&self) -> Message {
        // A veth whose peer is in another namespace: IFLA_LINK, IFLA_LINK_NETNSID.
        let mut attributes = device(&format!("eth{}", self.ifindex), self.ifindex);
        attributes.extend([attribute(5, &7u32.to_ne_bytes()), attribute(37, &0i32.to_ne_bytes())].concat());
        let mut info = vec![attribute(1, b"veth\0")];
        let mut flags = if self.up { IFF_UP } else { 0 } | if self.carrier { IFF_LOWER_UP | IFF_RUNNING } else { 0 };
        if let Some(master) = self.master {
            flags |= IFF_SLAVE;
            attributes.extend(attribute(10, &master.to_ne_bytes()));
            info.extend([attribute(4, b"bond\0"), nested(5, &self.state())]);
        }
        attributes.extend(nested(18, &info));
        Message::link(RTM_NEWLINK, self.ifindex, flags, &attributes)
    }

    fn state(&self) -> Vec<Vec<u8>> {
        let mut state = vec![attribute(1, &[self.backup.into()]), attribute(2, &[self.mii]), attribute(3, &7u32.to_ne_bytes())];
        state.extend([attribute(4, &mac(self.ifindex)), attribute(5, &0u16.to_ne_bytes()), attribute(9, &0i32.to_ne_bytes())]);
        if let Some(id) = self.aggregator {
            state.extend([attribute(6, &id.to_ne_bytes()), attribute(7, &[0x3d]), attribute(8, &0x3du16.to_ne_bytes())]);
        }
        state
    }
}

fn mac(ifindex: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, ifindex as u8]
}

/// What every device says: name, MTU, MAC.
fn device(name: &str, ifindex: u32) -> Vec<u8> {
    let name = attribute(3, format!("{name}\0").as_bytes());
    [name, attribute(4, &1_500u32.to_ne_bytes()), attribute(1, &mac(ifindex))].concat()
}

/// struct nlattr, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind, &attributes.concat())
}
