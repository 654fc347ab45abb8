//! Workers on real veth pairs: what only the kernel can show. Needs root.

mod support;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ringway_engine::engine::{Origin, Packet};
use ringway_engine::tables::Snapshot;
use ringway_engine::verdict::{DropReason, Verdict};
use ringway_io::{BindMode, Dataplane, DataplaneConfig, Error, FrameGauges, FrameSize, NeighborRequest, PacketEngine, Port, WorkerState};

use support::engines::EachPacket;
use support::{CLIENT, Network, SERVER, eventually, ip};

/// What comes in on one side goes out on the other: a bridge of two ports.
fn cross(_: &Snapshot, packet: &mut Packet<'_>) -> Verdict {
    match packet.origin {
        Origin::Uplink(_) => Verdict::Host,
        Origin::Host => Verdict::Uplink { uplink: 0 },
    }
}

fn start(network: &Network, config: DataplaneConfig, engine: impl PacketEngine + 'static) -> Result<Dataplane, Error> {
    network.inside("node", || Dataplane::start(config, vec![engine], Snapshot::default()))
}

fn assert_conserved(frames: FrameGauges) {
    assert_eq!(frames.lost, 0, "{frames:?}");
    assert_eq!(frames.pool + frames.fill + frames.rx + frames.tx + frames.completion + frames.held, frames.total, "{frames:?}");
}

#[test]
fn packets_cross_both_ways_and_no_frame_is_lost() {
    let network = Network::new();
    let (_programs, config) = network.worker();
    let dataplane = start(&network, config, EachPacket::new(cross)).expect("start");
    let client = network.udp("client", CLIENT, 0);
    let server = network.udp("server", SERVER, 7);
    let mut buffer = [0; 2048];
    for i in 0..500u32 {
        let payload = vec![i as u8; 1 + (i as usize * 7) % 1400];
        client.send_to(&payload, (SERVER, 7)).expect("send");
        let (len, from) = server.recv_from(&mut buffer).expect("the request arrives");
        assert_eq!(&buffer[..len], payload);
        server.send_to(&buffer[..len], from).expect("send");
        let (len, _) = client.recv_from(&mut buffer).expect("the reply arrives");
        assert_eq!(&buffer[..len], payload);
    }
    let status = &dataplane.status()[0];
    assert_eq!(status.state, WorkerState::Running);
    assert!(status.sockets.iter().all(|socket| socket.mode == BindMode::Copy && socket.failed.is_none()), "{status:?}");
    dataplane.stop();
    dataplane.stop();
    let stats = &dataplane.stats()[0];
    // Two ARP packets, and a thousand of ours.
    assert!(stats.packets >= 1002, "{stats:?}");
    assert_eq!(stats.verdicts.uplink + stats.verdicts.host, stats.packets);
    assert_eq!(stats.verdicts.drops.iter().sum::<u64>(), 0, "{stats:?}");
    assert_conserved(stats.frames);
    assert_eq!((stats.frames.tx, stats.frames.completion, stats.frames.rx), (0, 0, 0), "{stats:?}");
    assert_eq!(dataplane.status()[0].state, WorkerState::Stopped);
}

/// Those of one frame, of several, and fragments of the largest datagrams.
#[test]
fn packets_that_span_frames_cross_both_ways() {
    for (mtu, frame_size) in [(9_000, FrameSize::Bytes2048), (9_000, FrameSize::Bytes4096), (65_535, FrameSize::Bytes4096)] {
        let network = Network::with_mtu(mtu);
        let (_programs, config) = network.worker();
        let dataplane = start(&network, DataplaneConfig { frame_size, ..config }, EachPacket::new(cross)).expect("start");
        let client = network.udp("client", CLIENT, 0);
        let server = network.udp("server", SERVER, 7);
        let mut buffer = vec![0; 65_536];
        for (number, bytes) in [10, 1_750, 1_751, 3_798, 3_799, 8_900, 8_972, 60_000, 65_507, 10].into_iter().cycle().take(200).enumerate()
        {
            let payload: Vec<u8> = (0..bytes).map(|at| (at / 3 + number) as u8).collect();
            client.send_to(&payload, (SERVER, 7)).expect("send");
            let (len, from) = server.recv_from(&mut buffer).expect("the request arrives");
            assert!(buffer[..len] == payload, "MTU {mtu}, {bytes} bytes: the request");
            server.send_to(&buffer[..len], from).expect("send");
            let (len, _) = client.recv_from(&mut buffer).expect("the reply arrives");
            assert!(buffer[..len] == payload, "MTU {mtu}, {bytes} bytes: the reply");
        }
        dataplane.stop();
        let stats = &dataplane.stats()[0];
        assert_eq!(stats.verdicts.drops.iter().sum::<u64>(), 0, "{stats:?}");
        assert_conserved(stats.frames);
        assert_eq!((stats.frames.tx, stats.frames.completion, stats.frames.rx), (0, 0, 0), "{stats:?}");
        for socket in &dataplane.status()[0].sockets {
            let counters = socket.counters;
            assert_eq!(
                (counters.rx_dropped, counters.rx_ring_full, counters.rx_invalid, counters.tx_invalid),
                (0, 0, 0, 0),
                "{counters:?}"
            );
        }
    }
}

/// Without a socket that takes several frames per packet, the kernel drops and counts them.
#[test]
fn packets_that_are_too_long_for_a_socket_are_counted() {
    let network = Network::with_mtu(9_000);
    let (_programs, mut config) = network.worker();
    config.workers[0].ports.iter_mut().for_each(|port| port.multi_buffer = false);
    let dataplane = start(&network, config, EachPacket::new(cross)).expect("start");
    ip(&format!("-n {} neighbor add {SERVER} lladdr 02:00:00:00:00:99 dev ca", network.namespace("client")));
    network.udp("client", CLIENT, 0).send_to(&[0; 8_900], (SERVER, 7)).expect("send");
    eventually("the drop is counted", || dataplane.status()[0].sockets[0].counters.rx_dropped == 1);
}

#[test]
fn a_queue_is_free_again_after_stop() {
    let network = Network::new();
    let (_programs, config) = network.worker();
    for _ in 0..5 {
        let dataplane = start(&network, config.clone(), EachPacket::new(cross)).expect("start");
        let client = network.udp("client", CLIENT, 0);
        let server = network.udp("server", SERVER, 7);
        client.send_to(b"hello", (SERVER, 7)).expect("send");
        server.recv(&mut [0; 16]).expect("the packet arrives");
        drop(dataplane);
    }
}

#[test]
fn a_queue_in_use_is_named() {
    let network = Network::new();
    let (_programs, mut config) = network.worker();
    let _first = start(&network, config.clone(), EachPacket::new(cross)).expect("start");
    config.bind_patience = Duration::from_millis(20);
    let error = start(&network, config, EachPacket::new(cross)).err().expect("the queue is taken").to_string();
    assert!(error.contains("queue 0 of up0") && error.contains("stop it"), "{error}");
}

#[test]
fn zero_copy_on_a_veth_is_refused_with_a_remedy() {
    let network = Network::new();
    let (_programs, mut config) = network.worker();
    config.workers[0].ports[0].mode = ringway_io::BindWanted::ZeroCopy;
    let error = start(&network, config, EachPacket::new(cross)).err().expect("no zero-copy").to_string();
    assert!(error.contains("use copy"), "{error}");
}

#[test]
fn a_full_tx_ring_drops_and_counts() {
    let network = Network::new();
    let (_programs, mut config) = network.worker();
    config.rings.tx = 64;
    // With the link down the kernel takes nothing out of the tx ring.
    ip(&format!("-n {} link set rw0 down", network.namespace("node")));
    let dataplane = start(&network, config, EachPacket::new(|_: &Snapshot, _: &mut Packet<'_>| Verdict::Host)).expect("start");
    let client = network.udp("client", CLIENT, 0);
    ip(&format!("-n {} neighbor add {SERVER} lladdr 02:00:00:00:00:99 dev ca", network.namespace("client")));
    for _ in 0..200 {
        client.send_to(b"into the void", (SERVER, 7)).expect("send");
    }
    eventually("drops are counted", || dataplane.stats()[0].verdicts.drops[DropReason::TxRingFull as usize] >= 136);
    eventually("frames are counted", || dataplane.stats()[0].frames.tx == 64);
    assert_conserved(dataplane.stats()[0].frames);
    dataplane.stop();
    assert_conserved(dataplane.stats()[0].frames);
}

#[test]
fn an_empty_pool_is_counted_and_recovers() {
    let network = Network::new();
    let (_programs, mut config) = network.worker();
    config.frames = Some(16);
    let mut next = 0u32;
    let hold = EachPacket::new(move |snapshot: &Snapshot, _: &mut Packet<'_>| {
        next += 1;
        match snapshot.generation {
            1 => Verdict::Hold { ifindex: 9, address: Ipv4Addr::from(0x0a00_0000 + next).into() },
            _ => Verdict::Drop(DropReason::NoRoute),
        }
    });
    let dataplane = start(&network, config, hold).expect("start");
    let client = network.udp("client", CLIENT, 0);
    ip(&format!("-n {} neighbor add {SERVER} lladdr 02:00:00:00:00:99 dev ca", network.namespace("client")));
    let send = || {
        for _ in 0..100 {
            client.send_to(b"hold me", (SERVER, 7)).expect("send");
        }
    };
    send();
    eventually("the kernel found no frame", || dataplane.stats()[0].verdicts.drops[DropReason::NoFrames as usize] > 0);
    let stats = dataplane.stats()[0];
    assert!(stats.refill_short > 0 && stats.frames.pool == 0, "{stats:?}");
    assert_conserved(stats.frames);
    dataplane.publisher().publish(Snapshot::default());
    eventually("nothing is held any more", || dataplane.stats()[0].frames.held == 0);
    let dropped = || dataplane.stats()[0].verdicts.drops[DropReason::NoRoute as usize];
    let before = dropped();
    send();
    eventually("packets are received again", || dropped() > before);
    dataplane.stop();
    assert_conserved(dataplane.stats()[0].frames);
}

#[test]
fn a_held_packet_leaves_with_the_snapshot_that_knows_its_neighbor() {
    let network = Network::new();
    let (_programs, config) = network.worker();
    let dataplane = start(
        &network,
        config,
        EachPacket::new(|snapshot: &Snapshot, packet: &mut Packet<'_>| match (packet.origin, snapshot.generation) {
            (Origin::Uplink(_), 1) => Verdict::Hold { ifindex: 5, address: SERVER.into() },
            (Origin::Uplink(_), _) => Verdict::Host,
            (Origin::Host, _) => Verdict::Uplink { uplink: 0 },
        }),
    )
    .expect("start");
    ip(&format!("-n {0} neighbor add {SERVER} lladdr {1} dev ca", network.namespace("client"), mac(&network, "server", "cb")));
    let client = network.udp("client", CLIENT, 0);
    let server = network.udp("server", SERVER, 7);
    for i in 0..6u8 {
        client.send_to(&[i], (SERVER, 7)).expect("send");
    }
    eventually("the neighbor is asked for", || {
        dataplane.next_neighbor_request() == Some(NeighborRequest { ifindex: 5, address: SERVER.into() })
    });
    eventually("four wait, two are dropped", || {
        let stats = dataplane.stats()[0];
        stats.frames.held == 4 && stats.verdicts.drops[DropReason::NeighborUnresolved as usize] == 2
    });
    assert_eq!(dataplane.next_neighbor_request(), None, "asked for once");
    let generation = dataplane.publisher().publish(Snapshot::default());
    assert!(dataplane.publisher().wait_acting(generation, Duration::from_secs(1)));
    for i in 0..4u8 {
        let mut byte = [0];
        server.recv(&mut byte).expect("a held packet arrives");
        assert_eq!(byte, [i], "in order");
    }
    dataplane.stop();
    assert_conserved(dataplane.stats()[0].frames);
}

#[test]
fn a_held_packet_expires() {
    let network = Network::new();
    let (_programs, config) = network.worker();
    let hold = EachPacket::new(|_: &Snapshot, _: &mut Packet<'_>| Verdict::Hold { ifindex: 5, address: SERVER.into() });
    let dataplane = start(&network, config, hold).expect("start");
    ip(&format!("-n {} neighbor add {SERVER} lladdr 02:00:00:00:00:99 dev ca", network.namespace("client")));
    network.udp("client", CLIENT, 0).send_to(b"hold me", (SERVER, 7)).expect("send");
    eventually("it is held", || dataplane.stats()[0].frames.held == 1);
    eventually("it is dropped", || dataplane.stats()[0].verdicts.drops[DropReason::NeighborUnresolved as usize] == 1);
    let stats = dataplane.stats()[0];
    assert!((10..=21).contains(&stats.resubmitted), "every 50 ms for a second: {stats:?}");
    eventually("its frame is free", || dataplane.stats()[0].frames.held == 0);
}

#[test]
fn a_sleeping_worker_acts_on_a_new_generation_at_once() {
    let network = Network::new();
    let (_programs, config) = network.worker();
    let dataplane = start(&network, config, EachPacket::new(cross)).expect("start");
    let publisher = dataplane.publisher();
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    let generations = 20;
    for _ in 0..generations {
        let generation = publisher.publish(Snapshot::default());
        assert!(publisher.wait_acting(generation, Duration::from_secs(5)));
    }
    // Asleep it would look every 100 ms only.
    assert!(start.elapsed() < Duration::from_millis(100 * generations / 2), "{:?}", start.elapsed());
}

#[test]
fn a_worker_that_panics_is_seen() {
    let network = Network::new();
    let (_programs, config) = network.worker();
    let dataplane =
        start(&network, config, EachPacket::new(|_: &Snapshot, _: &mut Packet<'_>| panic!("the engine is on fire"))).expect("start");
    ip(&format!("-n {} neighbor add {SERVER} lladdr 02:00:00:00:00:99 dev ca", network.namespace("client")));
    network.udp("client", CLIENT, 0).send_to(b"burn", (SERVER, 7)).expect("send");
    eventually("the state tells", || matches!(&dataplane.status()[0].state, WorkerState::Failed(why) if why.contains("on fire")));
    let publisher = dataplane.publisher();
    let generation = publisher.publish(Snapshot::default());
    assert!(publisher.wait_acting(generation, Duration::from_secs(1)), "a dead worker holds nobody up");
    assert!(dataplane.inject(Port::Host, &[0; 60]).is_err());
}

#[test]
fn a_device_that_goes_is_seen() {
    let network = Network::new();
    let (_programs, config) = network.worker();
    let dataplane = start(&network, config, EachPacket::new(cross)).expect("start");
    ip(&format!("-n {} link delete rw0", network.namespace("node")));
    eventually("the socket has failed", || dataplane.status()[0].sockets[1].failed.is_some());
    let status = &dataplane.status()[0];
    assert_eq!((&status.state, &status.sockets[0].failed), (&WorkerState::Running, &None), "the other goes on");
    dataplane.stop();
    assert_conserved(dataplane.stats()[0].frames);
}

#[test]
fn an_injected_frame_is_transmitted() {
    let network = Network::new();
    let (_programs, config) = network.worker();
    let dataplane = start(&network, config, EachPacket::new(cross)).expect("start");
    let received = |namespace: &str, device: &str| {
        let path = format!("/sys/class/net/{device}/statistics/rx_packets");
        let output = std::process::Command::new("ip").args(["netns", "exec", &network.namespace(namespace), "cat", &path]).output();
        String::from_utf8_lossy(&output.expect("cat").stdout).trim().parse::<u64>().expect("a number")
    };
    let before = received("client", "ca");
    dataplane.inject(Port::Uplink(0), &[0xff; 60]).expect("inject");
    eventually("the client receives it", || received("client", "ca") == before + 1);
    assert_eq!(dataplane.stats()[0].injected, 1);
    assert!(dataplane.inject(Port::Uplink(1), &[0xff; 60]).is_err());
    assert!(dataplane.inject(Port::Host, &[0xff; 4]).is_err());
    assert!(dataplane.inject(Port::Host, &[0xff; 9000]).is_err());
}

fn mac(network: &Network, namespace: &str, device: &str) -> String {
    let mac = network.inside(namespace, || ringway_io::ethtool::link(device).expect("the device is there").mac);
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
