//! Packets without Ethernet headers: a TUN device in the place of ipip or WireGuard. The test is the other end of the tunnel.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use ringway_engine::flow::{FlowKey, FlowOp, Hook, Rewrite};

use crate::hostlink::{Node, RW1, RW1_MAC, addr, ip_of, node, node_ip, receive, socket, vip};
use crate::namespace::{in_namespace, ip, run};
use crate::packet::udp;
use crate::scratch::{Addresses, End, end, for_both_families, to};

const ETHERNET_BYTES: usize = 14;

fn backend<F: Addresses>() -> End<F> {
    end::<F>("10.2.0.9", 8080)
}

/// The node of the hostlink's tests with a tunnel, the tunnel's other end, and its index.
fn node_with_tunnel<F: Addresses>() -> (Node<F>, File, u32) {
    let node = node::<F>();
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
    ip_of::<F>(&format!("route add {} dev tun0", backend::<F>().0));
    node.programs.attach_edge_overlay(index, false).expect("edge at the tunnel");
    (node, tun, index)
}

fn the_nodes_own_connection_goes_into_a_tunnel_and_comes_back_by_it<F: Addresses>() {
    in_namespace(|| {
        let (node, mut tun, index) = node_with_tunnel::<F>();
        let (own, snat) = ((node_ip::<F>(), 33000), (node_ip::<F>(), 10007));
        node.insert(
            (
                FlowKey::new(own, (vip::<F>(), 80), 0, Hook::NodeOut, 17),
                Rewrite { ifindex: index, ..to(snat, backend::<F>(), FlowOp::Neigh) },
            ),
            (
                FlowKey::new(backend::<F>(), snat, 0, Hook::UplinkIn, 17),
                Rewrite { ifindex: RW1, dmac: RW1_MAC, ..to((vip::<F>(), 80), own, FlowOp::Received) },
            ),
        );
        let client = socket::<F>(own);
        client.send_to(b"odd payload", addr::<F>((vip::<F>(), 80))).expect("send");
        let mut packet = [0; 2048];
        // IPv6 looks for routers meanwhile.
        let len = loop {
            let len = tun.read(&mut packet).expect("a packet");
            if packet[if F::IS_V6 { 6 } else { 9 }] == 17 {
                break len;
            }
        };
        let mut expected = udp(snat, backend::<F>()).split_off(ETHERNET_BYTES);
        // What the sender's stack chooses: identification, flags, and with them the header's checksum; of IPv6 the flow label.
        for place in if F::IS_V6 { 1..4 } else { 4..8 }.chain(if F::IS_V6 { 1..4 } else { 10..12 }) {
            expected[place] = packet[place];
        }
        assert_eq!(packet[..len], expected, "{:?}", node.nonzero());

        tun.write_all(&udp(backend::<F>(), snat)[ETHERNET_BYTES..]).expect("written");
        assert_eq!(receive::<F>(&client), Some(("odd payload".into(), (vip::<F>(), 80))), "{:?}", node.nonzero());
    });
}

fn a_workers_reply_goes_up_and_a_strangers_goes_on<F: Addresses>() {
    in_namespace(|| {
        let (node, mut tun, _) = node_with_tunnel::<F>();
        let (snat, client) = ((node_ip::<F>(), 10008), end::<F>("198.51.100.7", 40000));
        node.insert(
            (FlowKey::new(client, (vip::<F>(), 80), 0, Hook::UplinkIn, 17), to(snat, backend::<F>(), FlowOp::Worker)),
            (FlowKey::new(backend::<F>(), snat, 0, Hook::UplinkIn, 17), to((vip::<F>(), 80), client, FlowOp::Worker)),
        );
        tun.write_all(&udp(backend::<F>(), snat)[ETHERNET_BYTES..]).expect("written");
        for counter in ["uplink_in_upcall", "node_out_own_upcall", "hostlink_redirect"] {
            node.wait_for(counter, 1);
        }
        let stranger = socket::<F>((node_ip::<F>(), 9000));
        tun.write_all(&udp(backend::<F>(), (node_ip::<F>(), 9000))[ETHERNET_BYTES..]).expect("written");
        assert_eq!(receive::<F>(&stranger), Some(("odd payload".into(), backend::<F>())), "{:?}", node.nonzero());
        assert_eq!(node.count("uplink_in_miss"), 1);
    });
}

for_both_families! {
    the_nodes_own_connection_goes_into_a_tunnel_and_comes_back_by_it
    a_workers_reply_goes_up_and_a_strangers_goes_on
}
