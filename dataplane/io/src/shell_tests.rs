//! The shell between a fake kernel and engines that decide anything: no frame is ever lost, whatever happens in what order.

mod spanning;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;
use proptest::prelude::*;
use ringway_engine::engine::{BATCH_MAX, Packet};
use ringway_engine::tables::Snapshot;
use ringway_engine::verdict::{DropReason, Verdict, VerdictCounts};

use crate::config::{BindMode, Port};
use crate::fake::FakeKernel;
use crate::packet_engine::PacketEngine;
use crate::shared::Shared;
use crate::shell::{Clock, PortState, Shell};
use crate::umem::Umem;

const DEPTH: u32 = 64;
const FRAME_BYTES: u32 = 2048;

/// Answers with the next verdict of a list, and makes packets of `len` bytes of what it is given, unless that is to stay as it is.
struct Listed {
    verdicts: VecDeque<Verdict>,
    len: Option<usize>,
    counts: VerdictCounts,
}

impl PacketEngine for Listed {
    fn process(&mut self, _: &Snapshot, _: u32, packets: &mut [Packet<'_>], verdicts: &mut ArrayVec<Verdict, BATCH_MAX>) {
        for packet in packets {
            if let Some(len) = self.len {
                write_packet(packet.bytes, len);
                packet.len = len;
            }
            let verdict = self.verdicts.pop_front().unwrap_or(Verdict::Drop(DropReason::NoRoute));
            self.verdicts.push_back(verdict);
            self.counts.count(verdict);
            verdicts.push(verdict);
        }
    }

    fn sweep(&mut self, _: u32, _: usize) -> usize {
        0
    }

    fn counts(&self) -> &VerdictCounts {
        &self.counts
    }
}

/// An IPv4 header, so that it can be divided.
fn write_packet(frame: &mut [u8], len: usize) {
    frame.fill(0xaa);
    let total = (len.saturating_sub(14) as u16).to_be_bytes();
    for (at, byte) in [(12, 8), (13, 0), (14, 0x45), (16, total[0]), (17, total[1]), (20, 0), (21, 0)] {
        frame[at] = byte;
    }
}

/// A worker's shell with two ports, uplink 0 and the hostlink.
struct Bench {
    shell: Shell<crate::fake::FakeSocket>,
    kernels: Vec<Rc<RefCell<FakeKernel>>>,
    shared: Arc<Shared>,
    engine: Listed,
    now_ns: u64,
}

impl Bench {
    fn new(frames: u32, mode: BindMode, verdicts: Vec<Verdict>) -> Bench {
        Bench::with_large_frames(frames, 0, mode, verdicts)
    }

    fn with_large_frames(frames: u32, large_frames: u32, mode: BindMode, verdicts: Vec<Verdict>) -> Bench {
        let (umem, pool) = Umem::new(frames, FRAME_BYTES, large_frames).expect("memory");
        let shared = Arc::new(Shared::new(&[2], Snapshot::default()).expect("eventfds"));
        let mut kernels = Vec::new();
        let mut ports = Vec::new();
        for port in [Port::Uplink(0), Port::Host] {
            let (kernel, socket, rings) = FakeKernel::socket(&umem, DEPTH, mode);
            kernels.push(kernel);
            ports.push(PortState::new(port, socket, rings));
        }
        let shell = Shell::new(umem, pool, ports, shared.clone(), 0);
        let engine = Listed { verdicts: verdicts.into(), len: Some(60), counts: VerdictCounts::default() };
        Bench { shell, kernels, shared, engine, now_ns: 1 }
    }

    /// As `Worker::round`.
    fn round(&mut self) {
        let clock = Clock { ns: self.now_ns };
        let snapshot = self.shared.snapshot.load_full();
        self.shell.replenish();
        if self.shell.holds(clock) == Some(0) {
            self.shell.resubmit(&mut self.engine, &snapshot, clock);
        }
        self.shell.serve(&mut self.engine, &snapshot, clock);
        self.shell.inject();
        self.shell.flush();
        self.shell.gauge();
        self.shell.publish(&self.engine);
    }

    fn stats(&self) -> crate::stats::WorkerStats {
        self.shared.workers[0].stats.load()
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.stats().verdicts.drops[reason as usize]
    }

    fn assert_conserved(&self) {
        let frames = self.stats().frames;
        let sum = frames.pool + frames.fill + frames.rx + frames.tx + frames.completion + frames.held;
        assert_eq!((sum, frames.lost), (frames.total, 0), "{frames:?}");
    }
}

fn hold(last_octet: u8) -> Verdict {
    Verdict::Hold { ifindex: 3, address: Ipv4Addr::new(10, 0, 0, last_octet).into() }
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        // Uplink 3 is none of this worker's.
        prop_oneof![Just(0u8), Just(0), Just(3)].prop_map(|uplink| Verdict::Uplink { uplink }),
        Just(Verdict::Host),
        Just(Verdict::Again),
        Just(Verdict::AwaitFirst),
        (60..2_000u32, prop_oneof![Just(None), Just(Some(0)), Just(Some(3))]).prop_map(|(mtu, uplink)| Verdict::Divide { mtu, uplink }),
        any::<u8>().prop_map(|octet| hold(octet % 24)),
        Just(Verdict::Drop(DropReason::NoRoute)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Receive {
        port: usize,
        count: usize,
        len: u32,
    },
    /// A packet that may span frames, of which only some may come.
    ReceivePacket {
        port: usize,
        len: usize,
        cut: Option<usize>,
    },
    Complete {
        port: usize,
        count: usize,
    },
    Stall {
        port: usize,
        stalled: bool,
    },
    Inject {
        port: usize,
    },
    Shorten(usize),
    Wait {
        ms: u64,
    },
    Round,
}

fn any_step() -> impl Strategy<Value = Step> {
    let port = 0..2usize;
    prop_oneof![
        (port.clone(), 1..100usize, 1..1793u32).prop_map(|(port, count, len)| Step::Receive { port, count, len }),
        (port.clone(), 60..12_000usize, prop::option::of(1..4usize)).prop_map(|(port, len, cut)| Step::ReceivePacket { port, len, cut }),
        (port.clone(), 1..100usize).prop_map(|(port, count)| Step::Complete { port, count }),
        (port.clone(), any::<bool>()).prop_map(|(port, stalled)| Step::Stall { port, stalled }),
        port.prop_map(|port| Step::Inject { port }),
        prop_oneof![0..2_000usize, 2_000..12_000usize].prop_map(Step::Shorten),
        (1..700u64).prop_map(|ms| Step::Wait { ms }),
        Just(Step::Round),
        Just(Step::Round),
    ]
}

proptest! {
    #[test]
    fn frames_are_conserved(
        verdicts in prop::collection::vec(any_verdict(), 1..40),
        steps in prop::collection::vec(any_step(), 1..200),
        frames in 1..400u32,
        large_frames in 0..6u32,
        zero_copy in any::<bool>(),
    ) {
        let mode = if zero_copy { BindMode::ZeroCopy } else { BindMode::Copy };
        let mut bench = Bench::with_large_frames(frames, large_frames, mode, verdicts);
        for step in steps {
            match step {
                Step::Receive { port, count, len } => {
                    bench.kernels[port].borrow_mut().receive(count, len);
                }
                Step::ReceivePacket { port, len, cut } => {
                    let mut packet = vec![0; len];
                    write_packet(&mut packet, len);
                    bench.kernels[port].borrow_mut().receive_part(&packet, 0..cut.unwrap_or(usize::MAX));
                }
                Step::Complete { port, count } => bench.kernels[port].borrow_mut().complete(count),
                Step::Stall { port, stalled } => bench.kernels[port].borrow_mut().stalled = stalled,
                Step::Inject { port } => {
                    let bytes = ArrayVec::try_from(&[0xff; 60][..]).expect("it fits");
                    let port = [Port::Uplink(0), Port::Host][port];
                    let _ = bench.shared.workers[0].inject.push(crate::shared::Injected { port, bytes });
                }
                // One that was received in a frame has no more room than that.
                Step::Shorten(len) => bench.engine.len = Some(len),
                Step::Wait { ms } => bench.now_ns += ms * 1_000_000,
                Step::Round => {}
            }
            bench.round();
            bench.assert_conserved();
        }
        bench.shell.release_held();
        bench.shell.gauge();
        bench.shell.publish(&bench.engine);
        bench.assert_conserved();
        prop_assert_eq!(bench.stats().frames.held, 0);
    }
}

#[test]
fn a_batch_goes_out_with_as_few_kicks_as_the_kernel_allows() {
    let mut bench = Bench::new(512, BindMode::Copy, vec![Verdict::Host]);
    bench.round();
    assert_eq!(bench.kernels[0].borrow_mut().receive(64, 60), 64);
    bench.round();
    assert_eq!(bench.kernels[1].borrow().transmitted, 64);
    let counters = bench.shared.workers[0].sockets[1].counters.load();
    // 32 frames per kick.
    assert_eq!((counters.kicks, counters.tx_packets, counters.tx_bytes), (2, 64, 64 * 60));
}

#[test]
fn a_full_tx_ring_drops_and_a_later_round_transmits_the_rest() {
    let mut bench = Bench::new(512, BindMode::Copy, vec![Verdict::Host]);
    bench.kernels[1].borrow_mut().stalled = true;
    for _ in 0..5 {
        bench.round();
        assert_eq!(bench.kernels[0].borrow_mut().receive(20, 60), 20);
    }
    bench.round();
    assert_eq!(bench.drops(DropReason::TxRingFull), 100 - u64::from(DEPTH));
    bench.kernels[1].borrow_mut().stalled = false;
    bench.round();
    assert_eq!(bench.kernels[1].borrow().transmitted, u64::from(DEPTH));
    bench.assert_conserved();
}

#[test]
fn frames_under_way_are_no_more_than_completions_find_room_for() {
    let mut bench = Bench::new(512, BindMode::Copy, vec![Verdict::Host]);
    for _ in 0..10 {
        bench.round();
        assert_eq!(bench.kernels[0].borrow_mut().receive(20, 60), 20);
    }
    bench.round();
    assert_eq!(bench.kernels[1].borrow().transmitted, u64::from(DEPTH), "the kernel took them, and completed none");
    bench.kernels[1].borrow_mut().complete(usize::MAX);
    bench.kernels[0].borrow_mut().receive(10, 60);
    bench.round();
    assert_eq!(bench.kernels[1].borrow().transmitted, u64::from(DEPTH) + 10);
}

#[test]
fn an_uplink_without_a_queue_of_this_worker_and_an_empty_packet_are_drops() {
    let mut bench = Bench::new(512, BindMode::Copy, vec![Verdict::Uplink { uplink: 3 }]);
    bench.round();
    bench.kernels[1].borrow_mut().receive(1, 60);
    bench.round();
    assert_eq!(bench.drops(DropReason::TxRingFull), 1);
    bench.engine = Listed { verdicts: vec![Verdict::Host].into(), len: Some(0), counts: VerdictCounts::default() };
    bench.kernels[1].borrow_mut().receive(1, 60);
    bench.round();
    assert_eq!(bench.drops(DropReason::TxRingFull), 2);
    bench.assert_conserved();
}

#[test]
fn a_socket_whose_device_is_gone_is_left_alone() {
    let mut bench = Bench::new(512, BindMode::Copy, vec![Verdict::Host]);
    bench.round();
    // The fake kernel has no statistics.
    bench.shell.poll_statistics();
    bench.kernels[0].borrow_mut().receive(5, 60);
    bench.round();
    let failed = &bench.shared.workers[0].sockets[0].failed;
    assert!(failed.get().is_some_and(|why| why.contains("start the dataplane again")), "{failed:?}");
    assert_eq!(bench.stats().packets, 0);
    bench.assert_conserved();
}
