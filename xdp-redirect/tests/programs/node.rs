//! NodePorts and VIPs of the node's own sockets: real sockets in a namespace of the test's own, with the aliases on its loopback device.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use ringway_engine::tables::{FrontendKey, NODE_PORT_ALIAS, VIP_ALIAS};
use xdp_redirect::{Attachment, FrontendUse, Programs, Sockets, cgroup, pinned_links};

use crate::namespace::{Namespace, in_namespace, ip};
use crate::scratch::Scratch;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 12);
/// Nobody's address here: a host elsewhere, of which one port is a service's.
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const NODE_PORT: u16 = 30_080;
/// Ports of the alias: of `VIP` port 80, and of `NODE` port 80, which is a VIP as well.
const VIP_PORT: u16 = 7;
const OWN_VIP_PORT: u16 = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn addresses() {
    ip("link set lo up");
    for address in [NODE, OTHER, NODE_PORT_ALIAS, VIP_ALIAS] {
        ip(&format!("addr add {address}/32 dev lo"));
    }
}

/// Programs that know the NodePort on `NODE`, attached.
fn serve(scratch: &Scratch) -> Programs {
    addresses();
    let (programs, _) = scratch.load();
    for protocol in [TCP, UDP] {
        let at = |address| FrontendKey { address, port: NODE_PORT, protocol };
        programs.frontends.upsert(&at(NODE), used(Sockets::NodePort)).expect("the NodePort");
        programs.frontends.upsert(&at(NODE_PORT_ALIAS), used(Sockets::Routed)).expect("its alias");
        for (address, port) in [(VIP, VIP_PORT), (NODE, OWN_VIP_PORT)] {
            programs.frontends.upsert(&FrontendKey { address, port: 80, protocol }, used(Sockets::Vip(port))).expect("a VIP");
        }
    }
    // A ClusterIP's port of the same number is no NodePort.
    programs.frontends.upsert(&FrontendKey { address: OTHER, port: NODE_PORT, protocol: TCP }, used(Sockets::Routed)).expect("another");
    assert_eq!(programs.attach_node(&cgroup::root().expect("the root cgroup")).expect("attached"), Attachment::Attached);
    programs
}

fn used(sockets: Sockets) -> FrontendUse {
    FrontendUse { sockets, ..FrontendUse::default() }
}

fn addr(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address, port).into()
}

#[test]
fn tcp_reaches_the_alias_and_sees_the_node_port() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve(&scratch);
        let listener = TcpListener::bind((NODE_PORT_ALIAS, NODE_PORT)).expect("a listener");
        for address in [NODE, Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 9, 9)] {
            let stream = TcpStream::connect(addr(address, NODE_PORT)).expect("a connection");
            assert_eq!(stream.peer_addr().expect("a peer"), addr(address, NODE_PORT));
            let (accepted, _) = listener.accept().expect("accepted");
            assert_eq!(accepted.local_addr().expect("an address").ip(), IpAddr::V4(NODE_PORT_ALIAS));
        }
        let refused = |address, port| TcpStream::connect(addr(address, port)).expect_err("refused").kind();
        assert_eq!(refused(OTHER, NODE_PORT), ErrorKind::ConnectionRefused, "answers on the chosen address only");
        assert_eq!(refused(NODE, NODE_PORT + 1), ErrorKind::ConnectionRefused, "another port");
    });
}

#[test]
fn udp_answers_come_from_where_they_were_asked() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve(&scratch);
        let server = UdpSocket::bind((NODE_PORT_ALIAS, NODE_PORT)).expect("a server");
        let answer = || {
            let mut buffer = [0; 16];
            let (_, client) = server.recv_from(&mut buffer).expect("a question");
            server.send_to(b"answer", client).expect("an answer");
        };
        let mut buffer = [0; 16];
        let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        for address in [NODE, Ipv4Addr::LOCALHOST] {
            client.send_to(b"question", addr(address, NODE_PORT)).expect("sent");
            answer();
            assert_eq!(client.recv_from(&mut buffer).expect("an answer").1, addr(address, NODE_PORT), "unconnected");
        }
        let connected = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a client");
        connected.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        connected.connect(addr(NODE, NODE_PORT)).expect("connected");
        assert_eq!(connected.peer_addr().expect("a peer"), addr(NODE, NODE_PORT));
        connected.send(b"question").expect("sent");
        answer();
        connected.recv(&mut buffer).expect("an answer");
        // What comes from elsewhere keeps its name.
        let stranger = UdpSocket::bind((OTHER, 0)).expect("a stranger");
        stranger.send_to(b"hello", client.local_addr().map(|own| addr(NODE, own.port())).expect("an address")).expect("sent");
        assert_eq!(client.recv_from(&mut buffer).expect("a datagram").1, stranger.local_addr().expect("an address"));
    });
}

/// A VIP may be a host's address, even the node's own: only the service's port is taken.
#[test]
fn a_vips_port_is_reached_at_the_alias_and_no_other() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve(&scratch);
        for (address, port) in [(VIP, VIP_PORT), (NODE, OWN_VIP_PORT)] {
            let listener = TcpListener::bind((VIP_ALIAS, port)).expect("a listener");
            let stream = TcpStream::connect(addr(address, 80)).expect("a connection");
            assert_eq!(stream.peer_addr().expect("a peer"), addr(address, 80));
            listener.accept().expect("accepted");
        }
        let own = TcpListener::bind((NODE, 81)).expect("a listener");
        TcpStream::connect(addr(NODE, 81)).expect("a server of the node itself");
        own.accept().expect("accepted");
        let stranger = TcpStream::connect(addr(VIP, 81)).expect_err("no route to it");
        assert_eq!(stranger.kind(), ErrorKind::NetworkUnreachable, "as if there were no Ringway");
    });
}

#[test]
fn one_socket_talks_to_many_vips() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve(&scratch);
        let servers = [VIP_PORT, OWN_VIP_PORT].map(|port| UdpSocket::bind((VIP_ALIAS, port)).expect("a server"));
        let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let mut buffer = [0; 16];
        for address in [VIP, NODE] {
            client.send_to(b"question", addr(address, 80)).expect("sent");
        }
        for (address, server) in [VIP, NODE].into_iter().zip(&servers) {
            let (_, from) = server.recv_from(&mut buffer).expect("a question");
            server.send_to(b"answer", from).expect("an answer");
            assert_eq!(client.recv_from(&mut buffer).expect("an answer").1, addr(address, 80));
        }
    });
}

#[test]
fn a_draining_frontend_takes_no_new_socket() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let programs = serve(&scratch);
        let listener = TcpListener::bind((VIP_ALIAS, OWN_VIP_PORT)).expect("a listener");
        let before = TcpStream::connect(addr(NODE, 80)).expect("a connection");
        listener.accept().expect("accepted");
        let draining = |sockets| FrontendUse { draining: true, ..used(sockets) };
        for (address, port, sockets) in
            [(NODE, 80, Sockets::Vip(OWN_VIP_PORT)), (NODE, NODE_PORT, Sockets::NodePort), (NODE_PORT_ALIAS, NODE_PORT, Sockets::Routed)]
        {
            programs.frontends.upsert(&FrontendKey { address, port, protocol: TCP }, draining(sockets)).expect("draining");
        }
        for target in [addr(NODE, 80), addr(NODE, NODE_PORT), addr(Ipv4Addr::LOCALHOST, NODE_PORT)] {
            assert_eq!(TcpStream::connect(target).expect_err("refused").kind(), ErrorKind::ConnectionRefused);
        }
        assert_eq!(before.peer_addr().expect("a peer"), addr(NODE, 80), "what is connected keeps its name");
    });
}

#[test]
fn other_namespaces_are_left_alone() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let _programs = serve(&scratch);
        let other = Namespace::new();
        other.run(|| {
            addresses();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, NODE_PORT)).expect("a listener");
            TcpStream::connect(addr(Ipv4Addr::LOCALHOST, NODE_PORT)).expect("the namespace's own server");
            listener.accept().expect("accepted");
        });
    });
}

#[test]
fn links_outlive_the_process_and_know_their_sockets_after_it() {
    in_namespace(|| {
        let scratch = Scratch::new();
        let programs = serve(&scratch);
        let _listener = TcpListener::bind((NODE_PORT_ALIAS, NODE_PORT)).expect("a listener");
        let connect = || TcpStream::connect(addr(Ipv4Addr::LOCALHOST, NODE_PORT)).expect("a connection");
        let before = connect();
        drop(programs);
        connect();
        let (programs, _) = scratch.load();
        let root = cgroup::root().expect("the root cgroup");
        assert_eq!(programs.attach_node(&root).expect("attached"), Attachment::TakenOver);
        assert_eq!(before.peer_addr().expect("a peer"), addr(Ipv4Addr::LOCALHOST, NODE_PORT));
        let links = pinned_links(&scratch.pin_dir).expect("links");
        assert!(links.len() == 4 && links.iter().all(|link| link.live && link.ifindex == 0), "{links:?}");
        xdp_redirect::cleanup(&scratch.pin_dir).expect("cleanup");
        let refused = TcpStream::connect(addr(Ipv4Addr::LOCALHOST, NODE_PORT)).expect_err("not translated any more");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}
