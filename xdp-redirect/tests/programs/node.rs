//! NodePorts and VIPs of the node's own sockets: real sockets in a namespace of the test's own, with the aliases on its loopback device.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use ringway_engine::family::V4;
use ringway_engine::tables::{FrontendKey, NODE_PORT_ALIAS, NODE_PORT_ALIAS6, VIP_ALIAS, VIP_ALIAS6};
use xdp_redirect::{Attachment, FrontendUse, Programs, Sockets, cgroup, pinned_links};

use crate::namespace::{Namespace, in_namespace, ip};
use crate::scratch::{Addresses, Scratch, for_both_families, ip as ip_of};

fn node<F: Addresses>() -> IpAddr {
    ip_of::<F>("192.0.2.11").into()
}

fn other<F: Addresses>() -> IpAddr {
    ip_of::<F>("192.0.2.12").into()
}

/// Nobody's address here: a host elsewhere, of which one port is a service's.
fn vip<F: Addresses>() -> IpAddr {
    ip_of::<F>("203.0.113.10").into()
}

fn node_port_alias<F: Addresses>() -> IpAddr {
    if F::IS_V6 { NODE_PORT_ALIAS6.into() } else { NODE_PORT_ALIAS.into() }
}

fn vip_alias<F: Addresses>() -> IpAddr {
    if F::IS_V6 { VIP_ALIAS6.into() } else { VIP_ALIAS.into() }
}

/// Addresses of the loopback device: all of 127.0.0.0/8, but only one of IPv6.
fn loopbacks<F: Addresses>() -> Vec<IpAddr> {
    if F::IS_V6 { vec![Ipv6Addr::LOCALHOST.into()] } else { vec![Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(127, 9, 9, 9).into()] }
}

fn unspecified<F: Addresses>() -> IpAddr {
    if F::IS_V6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

const NODE_PORT: u16 = 30_080;
/// Ports of the alias: of `VIP` port 80, and of `NODE` port 80, which is a vip::<F>() as well.
const VIP_PORT: u16 = 7;
const OWN_VIP_PORT: u16 = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn addresses<F: Addresses>() {
    ip("link set lo up");
    for address in [node::<F>(), other::<F>(), node_port_alias::<F>(), vip_alias::<F>()] {
        ip(&format!("addr add {address} dev lo{}", if F::IS_V6 { " nodad" } else { "" }));
    }
}

/// Programs that know the NodePort on `NODE`, attached.
fn serve<F: Addresses>(scratch: &Scratch) -> Programs {
    addresses::<F>();
    let (programs, _) = scratch.load();
    for protocol in [TCP, UDP] {
        let at = |address| FrontendKey { address, port: NODE_PORT, protocol };
        programs.frontends.upsert(&at(node::<F>()), used(Sockets::NodePort)).expect("the NodePort");
        programs.frontends.upsert(&at(node_port_alias::<F>()), used(Sockets::Routed)).expect("its alias");
        for (address, port) in [(vip::<F>(), VIP_PORT), (node::<F>(), OWN_VIP_PORT)] {
            programs.frontends.upsert(&FrontendKey { address, port: 80, protocol }, used(Sockets::Vip(port))).expect("a vip::<F>()");
        }
    }
    // A ClusterIP's port of the same number is no NodePort.
    programs
        .frontends
        .upsert(&FrontendKey { address: other::<F>(), port: NODE_PORT, protocol: TCP }, used(Sockets::Routed))
        .expect("another");
    assert_eq!(programs.attach_node(&cgroup::root().expect("the root cgroup")).expect("attached"), Attachment::Attached);
    programs
}

fn used(sockets: Sockets) -> FrontendUse {
    FrontendUse { sockets, ..FrontendUse::default() }
}

fn addr(address: IpAddr, port: u16) -> SocketAddr {
    (address, port).into()
}

fn tcp_reaches_the_alias_and_sees_the_node_port<F: Addresses>() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve::<F>(&scratch);
        let listener = TcpListener::bind((node_port_alias::<F>(), NODE_PORT)).expect("a listener");
        for address in [vec![node::<F>()], loopbacks::<F>()].concat() {
            let stream = TcpStream::connect(addr(address, NODE_PORT)).expect("a connection");
            assert_eq!(stream.peer_addr().expect("a peer"), addr(address, NODE_PORT));
            let (accepted, _) = listener.accept().expect("accepted");
            assert_eq!(accepted.local_addr().expect("an address").ip(), node_port_alias::<F>());
        }
        let refused = |address, port| TcpStream::connect(addr(address, port)).expect_err("refused").kind();
        assert_eq!(refused(other::<F>(), NODE_PORT), ErrorKind::ConnectionRefused, "answers on the chosen address only");
        assert_eq!(refused(node::<F>(), NODE_PORT + 1), ErrorKind::ConnectionRefused, "another port");
    });
}

fn udp_answers_come_from_where_they_were_asked<F: Addresses>() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve::<F>(&scratch);
        let server = UdpSocket::bind((node_port_alias::<F>(), NODE_PORT)).expect("a server");
        let answer = || {
            let mut buffer = [0; 16];
            let (_, client) = server.recv_from(&mut buffer).expect("a question");
            server.send_to(b"answer", client).expect("an answer");
        };
        let mut buffer = [0; 16];
        let client = UdpSocket::bind((unspecified::<F>(), 0)).expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        for address in [node::<F>(), loopbacks::<F>()[0]] {
            client.send_to(b"question", addr(address, NODE_PORT)).expect("sent");
            answer();
            assert_eq!(client.recv_from(&mut buffer).expect("an answer").1, addr(address, NODE_PORT), "unconnected");
        }
        let connected = UdpSocket::bind((unspecified::<F>(), 0)).expect("a client");
        connected.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        connected.connect(addr(node::<F>(), NODE_PORT)).expect("connected");
        assert_eq!(connected.peer_addr().expect("a peer"), addr(node::<F>(), NODE_PORT));
        connected.send(b"question").expect("sent");
        answer();
        connected.recv(&mut buffer).expect("an answer");
        // What comes from elsewhere keeps its name.
        let stranger = UdpSocket::bind((other::<F>(), 0)).expect("a stranger");
        stranger.send_to(b"hello", client.local_addr().map(|own| addr(node::<F>(), own.port())).expect("an address")).expect("sent");
        assert_eq!(client.recv_from(&mut buffer).expect("a datagram").1, stranger.local_addr().expect("an address"));
    });
}

/// A vip::<F>() may be a host's address, even the node's own: only the service's port is taken.
fn a_vips_port_is_reached_at_the_alias_and_no_other<F: Addresses>() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve::<F>(&scratch);
        for (address, port) in [(vip::<F>(), VIP_PORT), (node::<F>(), OWN_VIP_PORT)] {
            let listener = TcpListener::bind((vip_alias::<F>(), port)).expect("a listener");
            let stream = TcpStream::connect(addr(address, 80)).expect("a connection");
            assert_eq!(stream.peer_addr().expect("a peer"), addr(address, 80));
            listener.accept().expect("accepted");
        }
        let own = TcpListener::bind((node::<F>(), 81)).expect("a listener");
        TcpStream::connect(addr(node::<F>(), 81)).expect("a server of the node itself");
        own.accept().expect("accepted");
        let stranger = TcpStream::connect(addr(vip::<F>(), 81)).expect_err("no route to it");
        assert_eq!(stranger.kind(), ErrorKind::NetworkUnreachable, "as if there were no Ringway");
    });
}

fn one_socket_talks_to_many_vips<F: Addresses>() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve::<F>(&scratch);
        let servers = [VIP_PORT, OWN_VIP_PORT].map(|port| UdpSocket::bind((vip_alias::<F>(), port)).expect("a server"));
        let client = UdpSocket::bind((unspecified::<F>(), 0)).expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let mut buffer = [0; 16];
        for address in [vip::<F>(), node::<F>()] {
            client.send_to(b"question", addr(address, 80)).expect("sent");
        }
        for (address, server) in [vip::<F>(), node::<F>()].into_iter().zip(&servers) {
            let (_, from) = server.recv_from(&mut buffer).expect("a question");
            server.send_to(b"answer", from).expect("an answer");
            assert_eq!(client.recv_from(&mut buffer).expect("an answer").1, addr(address, 80));
        }
    });
}

fn a_draining_frontend_takes_no_new_socket<F: Addresses>() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let programs = serve::<F>(&scratch);
        let listener = TcpListener::bind((vip_alias::<F>(), OWN_VIP_PORT)).expect("a listener");
        let before = TcpStream::connect(addr(node::<F>(), 80)).expect("a connection");
        listener.accept().expect("accepted");
        let draining = |sockets| FrontendUse { draining: true, ..used(sockets) };
        for (address, port, sockets) in [
            (node::<F>(), 80, Sockets::Vip(OWN_VIP_PORT)),
            (node::<F>(), NODE_PORT, Sockets::NodePort),
            (node_port_alias::<F>(), NODE_PORT, Sockets::Routed),
        ] {
            programs.frontends.upsert(&FrontendKey { address, port, protocol: TCP }, draining(sockets)).expect("draining");
        }
        for target in [addr(node::<F>(), 80), addr(node::<F>(), NODE_PORT), addr(loopbacks::<F>()[0], NODE_PORT)] {
            assert_eq!(TcpStream::connect(target).expect_err("refused").kind(), ErrorKind::ConnectionRefused);
        }
        assert_eq!(before.peer_addr().expect("a peer"), addr(node::<F>(), 80), "what is connected keeps its name");
    });
}

fn other_namespaces_are_left_alone<F: Addresses>() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve::<F>(&scratch);
        let other = Namespace::new();
        other.run(|| {
            addresses::<F>();
            let listener = TcpListener::bind((loopbacks::<F>()[0], NODE_PORT)).expect("a listener");
            TcpStream::connect(addr(loopbacks::<F>()[0], NODE_PORT)).expect("the namespace's own server");
            listener.accept().expect("accepted");
        });
    });
}

fn links_outlive_the_process_and_know_their_sockets_after_it<F: Addresses>() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let programs = serve::<F>(&scratch);
        let _listener = TcpListener::bind((node_port_alias::<F>(), NODE_PORT)).expect("a listener");
        let connect = || TcpStream::connect(addr(loopbacks::<F>()[0], NODE_PORT)).expect("a connection");
        let before = connect();
        drop(programs);
        connect();
        let (programs, _) = scratch.load();
        let root = cgroup::root().expect("the root cgroup");
        assert_eq!(programs.attach_node(&root).expect("attached"), Attachment::TakenOver);
        assert_eq!(before.peer_addr().expect("a peer"), addr(loopbacks::<F>()[0], NODE_PORT));
        let links = pinned_links(&scratch.pin_dir).expect("links");
        assert!(links.len() == 8 && links.iter().all(|link| link.live && link.ifindex == 0), "{links:?}");
        xdp_redirect::cleanup(&scratch.pin_dir).expect("cleanup");
        let refused = TcpStream::connect(addr(loopbacks::<F>()[0], NODE_PORT)).expect_err("not translated any more");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

for_both_families! {
    tcp_reaches_the_alias_and_sees_the_node_port
    udp_answers_come_from_where_they_were_asked
    a_vips_port_is_reached_at_the_alias_and_no_other
    one_socket_talks_to_many_vips
    a_draining_frontend_takes_no_new_socket
    other_namespaces_are_left_alone
    links_outlive_the_process_and_know_their_sockets_after_it
}

/// A socket of IPv6 that uses an IPv4 address: its connect and what it is told go through the hooks of IPv6.
#[test]
fn ipv4_mapped_addresses_are_those_of_ipv4() {
    let mapped = |address: IpAddr, port| {
        let IpAddr::V4(v4) = address else { panic!("{address} is of IPv6") };
        SocketAddr::from((v4.to_ipv6_mapped(), port))
    };
    in_namespace(move || {
        let scratch = Scratch::new();
        let _programs = serve::<V4>(&scratch);
        for (address, port, alias, alias_port) in [
            (node::<V4>(), NODE_PORT, node_port_alias::<V4>(), NODE_PORT),
            (loopbacks::<V4>()[0], NODE_PORT, node_port_alias::<V4>(), NODE_PORT),
            (vip::<V4>(), 80, vip_alias::<V4>(), VIP_PORT),
        ] {
            let listener = TcpListener::bind((alias, alias_port)).expect("a listener");
            let stream = TcpStream::connect(mapped(address, port)).expect("a connection");
            assert_eq!(stream.peer_addr().expect("a peer"), mapped(address, port));
            listener.accept().expect("accepted");

            let server = UdpSocket::bind((alias, alias_port)).expect("a server");
            let client = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a client");
            client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            let mut buffer = [0; 16];
            let mut answer = || {
                let (_, from) = server.recv_from(&mut buffer).expect("a question");
                server.send_to(b"answer", from).expect("an answer");
                client.recv_from(&mut buffer).expect("an answer").1
            };
            client.send_to(b"question", mapped(address, port)).expect("sent");
            assert_eq!(answer(), mapped(address, port), "unconnected");
            client.connect(mapped(address, port)).expect("connected");
            client.send(b"question").expect("sent");
            assert_eq!(answer(), mapped(address, port), "connected");
        }
        let refused = TcpStream::connect(mapped(other::<V4>(), NODE_PORT)).expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}
