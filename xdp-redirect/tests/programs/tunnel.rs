//! Packets without Ethernet headers: a TUN device in the place of ipip or WireGuard. The test is the other end of the tunnel.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use ringway_engine::flow::{FlowKey, FlowOp, Hook, Rewrite};

use crate::hostlink::{NODE, Node, RW1, RW1_MAC, VIP, node, receive, socket};
use crate::namespace::{in_namespace, ip, run};
use crate::packet::udp;
use crate::scratch::to;

const BACKEND: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 2, 0, 9), 8080);
const ETHERNET_BYTES: usize = 14;

/// The node of the hostlink's tests with a tunnel, the tunnel's other end, and its index.
fn node_with_tunnel() -> (Node, File, u32) {
    let node = node();
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    // SAFETY: all zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"tun0") {
        *place = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: an open descriptor and an ifreq that outlives the call.
    let made = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    ip("link set tun0 addrgenmode none up");
    let index = run("ip", "-o link show tun0").split(':').next().and_then(|number| number.parse().ok()).expect("an index");
    run("sysctl", "-qw net.ipv4.conf.tun0.rp_filter=1");
    ip("route add 10.2.0.0/16 dev tun0");
    node.programs.attach_edge_overlay(index, false).expect("edge at the tunnel");
    (node, tun, index)
}

#[test]
fn the_nodes_own_connection_goes_into_a_tunnel_and_comes_back_by_it() {
    in_namespace(|| {
        let (node, mut tun, index) = node_with_tunnel();
        let (own, snat) = ((NODE, 33000), (NODE, 10007));
        node.insert(
            (FlowKey::new(own, (VIP, 80), 0, Hook::NodeOut, 17), Rewrite { ifindex: index, ..to(snat, BACKEND, FlowOp::Neigh) }),
            (
                FlowKey::new(BACKEND, snat, 0, Hook::UplinkIn, 17),
                Rewrite { ifindex: RW1, dmac: RW1_MAC, ..to((VIP, 80), own, FlowOp::Received) },
            ),
        );
        let client = socket(own);
        client.send_to(b"odd payload", (VIP, 80)).expect("send");
        let mut packet = [0; 2048];
        // IPv6 looks for routers meanwhile.
        let len = loop {
            let len = tun.read(&mut packet).expect("a packet");
            if packet[0] >> 4 == 4 {
                break len;
            }
        };
        let mut expected = udp(snat, BACKEND).split_off(ETHERNET_BYTES);
        // What the sender's stack chooses: identification, flags, and with them the header's checksum.
        for place in [4, 5, 6, 7, 10, 11] {
            expected[place] = packet[place];
        }
        assert_eq!(packet[..len], expected, "{:?}", node.nonzero());

        tun.write_all(&udp(BACKEND, snat)[ETHERNET_BYTES..]).expect("written");
        assert_eq!(receive(&client), Some(("odd payload".into(), (VIP, 80))), "{:?}", node.nonzero());
    });
}

#[test]
fn a_workers_reply_goes_up_and_a_strangers_goes_on() {
    in_namespace(|| {
        let (node, mut tun, _) = node_with_tunnel();
        let (snat, client) = ((NODE, 10008), (Ipv4Addr::new(198, 51, 100, 7), 40000));
        node.insert(
            (FlowKey::new(client, (VIP, 80), 0, Hook::UplinkIn, 17), to(snat, BACKEND, FlowOp::Worker)),
            (FlowKey::new(BACKEND, snat, 0, Hook::UplinkIn, 17), to((VIP, 80), client, FlowOp::Worker)),
        );
        tun.write_all(&udp(BACKEND, snat)[ETHERNET_BYTES..]).expect("written");
        for counter in ["uplink_in_upcall", "node_out_own_upcall", "hostlink_redirect"] {
            node.wait_for(counter, 1);
        }
        let stranger = socket((NODE, 9000));
        tun.write_all(&udp(BACKEND, (NODE, 9000))[ETHERNET_BYTES..]).expect("written");
        assert_eq!(receive(&stranger), Some(("odd payload".into(), BACKEND)), "{:?}", node.nonzero());
        assert_eq!(node.count("uplink_in_miss"), 1);
    });
}
