//! `deliver`: orders in, packets where they belong.

use ringway_engine::family::V4;
use ringway_engine::order::{Order, is_echo, order_mac};
use xdp_redirect::{LoadOptions, ProgramName, Programs, SkbContext, TcAction};

use crate::packet::{ACK, CLIENT_MAC, tcp};
use crate::scratch::{Scratch, end, uplink_use};

const LOOPBACK: u32 = 1;
const DEVICE: u32 = 0x01_0203;
const DEVICE_MAC: [u8; 6] = [2, 9, 9, 9, 9, 9];
const MARK: u32 = 0x5257_0001;

fn ordered(destination: [u8; 6]) -> Vec<u8> {
    let mut frame = tcp(end::<V4>("198.51.100.7", 5000), end::<V4>("203.0.113.10", 80), ACK);
    frame[..6].copy_from_slice(&destination);
    frame
}

/// Action, mark, MAC addresses.
fn run(programs: &Programs, frame: &[u8], mark: u32) -> (TcAction, u32, [u8; 6], [u8; 6]) {
    let result = programs.test_run_tc(ProgramName::Deliver, frame, SkbContext { mark, ..SkbContext::default() }).expect("a test run");
    assert_eq!(result.frame[12..], frame[12..], "an order changes nothing but the MAC addresses");
    let mac = |at: usize| result.frame[at..at + 6].try_into().expect("six bytes");
    (result.action, result.mark, mac(0), mac(6))
}

#[test]
fn orders_are_carried_out() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    programs.device_macs.upsert(DEVICE, DEVICE_MAC).expect("a device");

    let received = ordered(order_mac(Order::Received, DEVICE));
    assert_eq!(run(&programs, &received, 0), (TcAction::Redirect, MARK, DEVICE_MAC, CLIENT_MAC));

    let neigh = order_mac(Order::Neigh, DEVICE);
    assert_eq!(run(&programs, &ordered(neigh), 0), (TcAction::Redirect, MARK, neigh, CLIENT_MAC));

    // The source field of this order is the pod's MAC.
    let peer = ordered(order_mac(Order::Peer, DEVICE));
    assert_eq!(run(&programs, &peer, 0), (TcAction::Redirect, 0, CLIENT_MAC, DEVICE_MAC));

    let probe = order_mac(Order::Probe, DEVICE);
    assert_eq!(run(&programs, &ordered(probe), 0).0, TcAction::Drop);
    let mut echo = order_mac(Order::Echo, DEVICE);
    let (action, _, returned, _) = run(&programs, &ordered(echo), 0);
    echo[1] = 0x53;
    assert_eq!((action, returned, is_echo(returned)), (TcAction::Redirect, echo, true));
    assert_eq!(programs.counters.get("deliver_probe").expect("counters"), Some(2), "both");
    for counter in ["deliver_received", "deliver_neigh", "deliver_peer"] {
        assert_eq!(programs.counters.get(counter).expect("counters"), Some(1), "{counter}");
    }
}

#[test]
fn what_comes_back_on_rw1_itself_goes_on() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let (action, mark, ..) = run(&programs, &ordered(DEVICE_MAC), MARK);
    assert_eq!((action, mark), (TcAction::Next, 0));
}

#[test]
fn other_frames_are_dropped_and_counted() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    for destination in [DEVICE_MAC, [2, 0x52, 99, 0, 0, 1], [2, 0x53, 0, 0, 0, 1]] {
        assert_eq!(run(&programs, &ordered(destination), 0).0, TcAction::Drop, "{destination:x?}");
    }
    assert_eq!(programs.counters.get("deliver_drop_unknown").expect("counters"), Some(3));
    for order in [Order::Received, Order::Peer] {
        assert_eq!(run(&programs, &ordered(order_mac(order, DEVICE)), 0).0, TcAction::Drop, "{order:?} on a device without a MAC");
    }
    assert_eq!(programs.counters.get("deliver_drop_device").expect("counters"), Some(2));
}

#[test]
fn with_generic_xdp_the_source_says_that_it_comes_from_us() {
    let scratch = Scratch::new();
    let (programs, _) = Programs::load(LoadOptions { generic_uplinks: true, ..scratch.options() }).expect("programs");
    programs.uplinks.set(&[uplink_use(DEVICE)]).expect("an uplink");
    for device in [DEVICE, LOOPBACK] {
        programs.device_macs.upsert(device, DEVICE_MAC).expect("a device");
    }
    let uplink = ordered(order_mac(Order::Received, DEVICE));
    assert_eq!(run(&programs, &uplink, 0), (TcAction::Redirect, MARK, DEVICE_MAC, [2, 0x52, 0, 0, 0, 1]));
    let pod = ordered(order_mac(Order::Received, LOOPBACK));
    assert_eq!(run(&programs, &pod, 0), (TcAction::Redirect, MARK, DEVICE_MAC, CLIENT_MAC));
}
