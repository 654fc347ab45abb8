//! A host: one smoltcp stack, and what its sockets have to do.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::bed::Endpoint;

/// Room for the longest message: this stack waits for ever for the update of a closed window that was lost.
const BUFFER_BYTES: usize = 32_768;

/// A connection of the client.
struct Connection {
    handle: SocketHandle,
    to: Endpoint,
    source_port: u16,
    message: Vec<u8>,
    sent: usize,
    echo: Vec<u8>,
}

/// One host with one address.
pub struct Host {
    pub address: IpAddr,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    /// Listening sockets, and what each has to send back.
    servers: Vec<(SocketHandle, VecDeque<u8>)>,
    port: u16,
    /// Connections that the other stack has reset.
    pub resets: u32,
}

impl Host {
    /// `mtu` in bytes of an IP packet.
    pub fn new(address: IpAddr, mtu: usize, seed: u64) -> Host {
        let mut wire = Wire { received: VecDeque::new(), sent: VecDeque::new(), mtu };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let prefix_len = if address.is_ipv6() { 64 } else { 24 };
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(address.into(), prefix_len)).expect("room for one"));
        interface.routes_mut().add_default_ipv4_route(Ipv4Addr::new(192, 0, 2, 254)).expect("room for both");
        interface.routes_mut().add_default_ipv6_route(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)).expect("room for both");
        Host {
            address,
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
            servers: Vec::new(),
            port: 0,
            resets: 0,
        }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// Echoes what comes at `port` over so many connections at a time, until the client closes.
    pub fn serve(&mut self, port: u16, connections: usize) {
        self.port = port;
        self.servers = (0..connections).map(|_| (self.socket(), VecDeque::new())).collect();
    }

    /// Sends the message, collects its echo, closes.
    pub fn connect(&mut self, to: Endpoint, source_port: u16, message: Vec<u8>) {
        let handle = self.socket();
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), (IpAddress::from(to.0), to.1), source_port).expect("a socket that was just made");
        self.connections.push(Connection { handle, to, source_port, message, sent: 0, echo: Vec::new() });
    }

    pub fn poll(&mut self, now_ms: u64) {
        self.interface.poll(Instant::from_millis(now_ms as i64), &mut self.wire, &mut self.sockets);
        for Connection { handle, to, source_port, message, sent, echo } in &mut self.connections {
            let socket = self.sockets.get_mut::<tcp::Socket>(*handle);
            if socket.state() == tcp::State::Closed && echo.len() < message.len() {
                // One run in a thousand: this stack resets connections whose first data overtakes the end of the handshake.
                *source_port += 100;
                (*sent, self.resets) = (0, self.resets + 1);
                echo.clear();
                socket.connect(self.interface.context(), (IpAddress::from(to.0), to.1), *source_port).expect("a closed socket can connect");
            }
            if socket.can_send() && *sent < message.len() {
                *sent += socket.send_slice(&message[*sent..]).expect("it can send");
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), echo.extend_from_slice(bytes))).expect("it can receive");
            }
            if echo.len() >= message.len() && socket.may_send() {
                socket.close();
            }
        }
        for (handle, waiting) in &mut self.servers {
            let socket = self.sockets.get_mut::<tcp::Socket>(*handle);
            if !socket.is_open() {
                waiting.clear();
                socket.listen(self.port).expect("a closed socket can listen");
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), waiting.extend(bytes.iter()))).expect("it can receive");
            }
            if socket.can_send() && !waiting.is_empty() {
                let taken = socket.send_slice(waiting.make_contiguous()).expect("it can send");
                waiting.drain(..taken);
            }
            if waiting.is_empty() && socket.state() == tcp::State::CloseWait {
                socket.close();
            }
        }
    }

    /// IP packets for the network.
    pub fn sent(&mut self) -> impl Iterator<Item = Vec<u8>> {
        std::mem::take(&mut self.wire.sent).into_iter()
    }

    pub fn receive(&mut self, packet: Vec<u8>) {
        self.wire.received.push_back(packet);
    }

    /// Every connection has all that it sent, and both sides have closed.
    pub fn is_done(&self) -> bool {
        self.connections.iter().all(|connection| {
            let state = self.sockets.get::<tcp::Socket>(connection.handle).state();
            connection.echo.len() == connection.message.len() && matches!(state, tcp::State::Closed | tcp::State::TimeWait)
        })
    }

    pub fn echoes(&mut self) -> Vec<Vec<u8>> {
        self.connections.iter_mut().map(|connection| std::mem::take(&mut connection.echo)).collect()
    }
}

/// The stack's device: two queues of IP packets.
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        self.received.pop_front().map(|packet| (Received(packet), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.push_back(packet);
        result
    }
}
