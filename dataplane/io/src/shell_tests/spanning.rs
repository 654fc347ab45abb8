//! Packets that span frames, in, through and out.

use super::*;

/// Bytes that differ from frame to frame, behind the headers of an IPv4 packet.
fn packet(len: usize, seed: u8) -> Vec<u8> {
    let mut packet = vec![0; len];
    write_packet(&mut packet, len);
    for (at, byte) in packet.iter_mut().enumerate().skip(34) {
        *byte = (at / 7) as u8 ^ seed;
    }
    packet
}

/// What comes in on one side goes out on the other as it is.
fn bench(verdict: Verdict) -> Bench {
    let mut bench = Bench::with_large_frames(512, 8, BindMode::Copy, vec![verdict]);
    bench.engine.len = None;
    bench.round();
    bench
}

impl Bench {
    fn receive_packet(&mut self, packet: &[u8]) {
        assert!(self.kernels[0].borrow_mut().receive_packet(packet));
    }

    /// A round, and what it transmitted on the hostlink.
    fn transmitted(&mut self) -> Vec<Vec<u8>> {
        self.round();
        self.assert_conserved();
        std::mem::take(&mut self.kernels[1].borrow_mut().packets)
    }
}

#[test]
fn packets_of_any_size_leave_in_order_as_they_came() {
    let mut bench = bench(Verdict::Host);
    let sizes = [60, 1_792, 1_793, 9_014, 2_048, 4_096, 65_549, 60];
    let packets: Vec<_> = sizes.iter().enumerate().map(|(number, &len)| packet(len, number as u8)).collect();
    for packet in &packets {
        bench.receive_packet(packet);
    }
    assert_eq!(bench.transmitted(), packets);
    let stats = bench.stats();
    assert_eq!((stats.packets, stats.bytes), (8, sizes.iter().sum::<usize>() as u64));
    let counters = bench.shared.workers[0].sockets[1].counters.load();
    assert_eq!((counters.tx_packets, counters.tx_bytes), (8, stats.bytes));
    bench.kernels[1].borrow_mut().complete(usize::MAX);
    bench.round();
    assert_eq!(bench.stats().frames.tx, 0);
}

#[test]
fn a_packet_may_come_in_several_rounds() {
    let mut bench = bench(Verdict::Host);
    let packet = packet(5_000, 1);
    for frames in [0..1, 1..2] {
        assert!(bench.kernels[0].borrow_mut().receive_part(&packet, frames));
        assert!(bench.transmitted().is_empty());
        assert_eq!(bench.stats().frames.rx, 1, "its beginning");
    }
    assert!(bench.kernels[0].borrow_mut().receive_part(&packet, 2..3));
    assert_eq!(bench.transmitted(), [packet]);
}

#[test]
fn without_its_end_a_packet_is_dropped_with_what_follows_it() {
    let mut bench = bench(Verdict::Host);
    let large = packet(5_000, 1);
    assert!(bench.kernels[0].borrow_mut().receive_part(&large, 0..2));
    assert!(bench.transmitted().is_empty());
    bench.receive_packet(&packet(60, 2));
    assert!(bench.transmitted().is_empty());
    assert_eq!((bench.drops(DropReason::Malformed), bench.stats().frames.rx), (1, 0));
    assert!(bench.kernels[0].borrow_mut().receive_part(&large, 0..1));
    bench.receive_packet(&packet(9_014, 3));
    bench.receive_packet(&large);
    assert_eq!(bench.transmitted(), [large]);
    assert_eq!(bench.drops(DropReason::Malformed), 2);
}

/// As no network carries one; the next packet is whole again.
#[test]
fn a_packet_that_no_large_frame_holds_is_dropped() {
    let mut bench = bench(Verdict::Host);
    assert!(bench.kernels[0].borrow_mut().receive_part(&vec![1; 100_000], 0..39));
    bench.round();
    bench.receive_packet(&packet(5_000, 1));
    let small = packet(60, 2);
    bench.receive_packet(&small);
    assert_eq!(bench.transmitted(), [small]);
    assert_eq!(bench.drops(DropReason::NoFrames), 1);
}

#[test]
fn without_a_large_frame_a_packet_is_dropped() {
    let mut bench = bench(hold(1));
    for address in 1..=8 {
        bench.engine.verdicts = vec![hold(address)].into();
        bench.receive_packet(&packet(5_000, 1));
        bench.round();
    }
    assert_eq!(bench.stats().frames.held, 8);
    bench.receive_packet(&packet(5_000, 1));
    assert!(bench.transmitted().is_empty());
    assert_eq!(bench.drops(DropReason::NoFrames), 1);
    bench.engine.verdicts = vec![Verdict::Host].into();
    bench.now_ns += 60_000_000;
    assert_eq!(bench.transmitted(), vec![packet(5_000, 1); 8], "as they were");
}

#[test]
fn a_full_tx_ring_takes_all_of_a_packet_or_nothing() {
    let mut bench = bench(Verdict::Host);
    bench.kernels[1].borrow_mut().stalled = true;
    // Three frames each: 21 packets fill the ring but for one frame, into which the last one fits.
    for number in 0..22 {
        bench.receive_packet(&packet(5_000, number));
        bench.round();
        bench.assert_conserved();
    }
    bench.receive_packet(&packet(60, 22));
    bench.round();
    assert_eq!((bench.drops(DropReason::TxRingFull), bench.stats().frames.tx), (1, u64::from(DEPTH)));
    bench.kernels[1].borrow_mut().stalled = false;
    let expected: Vec<_> = (0..21).map(|number| packet(5_000, number)).chain([packet(60, 22)]).collect();
    assert_eq!(bench.transmitted(), expected);
}

#[test]
fn what_becomes_small_leaves_in_one_frame() {
    let mut bench = bench(Verdict::Host);
    bench.receive_packet(&packet(9_014, 1));
    bench.engine.len = Some(590);
    let transmitted = bench.transmitted();
    assert_eq!(transmitted.iter().map(Vec::len).collect::<Vec<_>>(), [590]);
    assert_eq!(bench.kernels[1].borrow().transmitted, 1);
}

#[test]
fn a_large_packet_is_divided_for_a_narrower_hop() {
    for (mtu, expected) in [(1_500, vec![1_514; 6]), (5_000, vec![5_010]), (2_048, vec![2_058; 4])] {
        let mut bench = bench(Verdict::Divide { mtu, uplink: None });
        bench.receive_packet(&packet(9_014, 1));
        let mut transmitted = bench.transmitted();
        let last = transmitted.pop().expect("fragments");
        assert_eq!(transmitted.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        let payload = |frame: &Vec<u8>| frame[34..].to_vec();
        let whole: Vec<u8> = transmitted.iter().chain([&last]).flat_map(payload).collect();
        assert_eq!(whole, packet(9_014, 1)[34..]);
    }
}

#[test]
fn a_socket_of_single_frames_transmits_no_large_packet() {
    let mut bench = bench(Verdict::Uplink { uplink: 0 });
    bench.kernels[1].borrow_mut().receive_packet(&packet(5_000, 1));
    bench.kernels[0].borrow_mut().multi_buffer = false;
    assert!(bench.transmitted().is_empty());
    assert_eq!(bench.drops(DropReason::TooBig), 1);
}
