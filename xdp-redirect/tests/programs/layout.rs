//! `flow.h` and `orders.h` against the engine: the C compiler says what stands there.

use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::process::Command;

use ringway_engine::family::{Family, V4, V6};
use ringway_engine::flow::{self, FlowKey, FlowOp, FlowSlot, Hook};

/// Compiles a C file of this folder for this machine and returns what it prints.
fn run_c(file: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let dir = tempfile::tempdir().expect("a folder below /tmp");
    let program = dir.path().join("layout");
    let compiled = Command::new("clang")
        .args(["-Wall", "-Werror", "-I", &format!("{root}/src/bpf"), "-o"])
        .arg(&program)
        .arg(format!("{root}/tests/programs/{file}"))
        .output()
        .expect("clang, which the build needs too");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    String::from_utf8(Command::new(program).output().expect("the program runs").stdout).expect("text")
}

/// What `flow.h` should print.
#[derive(Default)]
struct Wanted(String);

impl Wanted {
    fn line(&mut self, name: &str, value: u64) {
        writeln!(self.0, "{name} {value}").expect("memory");
    }

    fn entry<F: Family>(&mut self) {
        self.line("sizeof", size_of::<FlowSlot<F>>() as u64);
        macro_rules! offsets {
            ($($field:ident)*) => { $(self.line(concat!("offset.", stringify!($field)), offset_of!(FlowSlot<F>, $field) as u64);)* };
        }
        offsets!(saddr daddr ports meta new_saddr new_daddr new_ports flags asked addr_diff port_diff ifindex dmac overflowed);
        offsets!(seen last created peer);
    }

    fn hash<F: Family>(&mut self, seed: u64, key: &FlowKey<F>, i: u32) {
        let hash = flow::flow_hash(seed, key);
        let (one, two) = flow::buckets_of(hash, 1 + i % 24);
        self.line("hash", hash);
        self.line("bucket1", one as u64);
        self.line("bucket2", two as u64);
        self.line("overflow", flow::overflow_bucket_of(hash, i % 4, 1 + i % 24) as u64);
    }
}

#[test]
fn flow_h_is_as_the_engine_says() {
    let mut wanted = Wanted::default();
    wanted.entry::<V4>();
    wanted.entry::<V6>();
    macro_rules! hooks { ($($name:literal $hook:ident)*) => { $(wanted.line($name, Hook::$hook as u64);)* }; }
    hooks!("HOOK_POD_IN" PodIn "HOOK_POD_OUT" PodOut "HOOK_UPLINK_IN" UplinkIn "HOOK_UPLINK_OUT" UplinkOut "HOOK_NODE_OUT" NodeOut);
    macro_rules! ops { ($($name:literal $op:ident)*) => { $(wanted.line($name, FlowOp::$op as u64);)* }; }
    ops!("FLOW_PASS" Pass "FLOW_BRIDGE" Bridge "FLOW_PEER" Peer "FLOW_NEIGH" Neigh "FLOW_RECEIVED" Received "FLOW_WORKER" Worker);
    macro_rules! constants { ($($name:ident)*) => { $(wanted.line(stringify!($name), flow::$name as u64);)* }; }
    constants!(FLOW_FORWARD FLOW_SNAT SEEN_FIN SEEN_SYN SEEN_RST SEEN_ACK SEEN_ANY SEEN_STOPPED SEEN_POSITION SEEN_ASKED SEEN_CHALLENGED);
    constants!(POSITION_SHIFT POSITION_MASK REACH LAG RESET_REACH TICK_SHIFT TICKS_PER_SECOND BUCKET_ENTRIES OVERFLOW_BUCKETS);
    wanted.line("meta", FlowKey::<V4>::meta_of(0x12345, Hook::UplinkOut, 17).into());

    let mut state = 1u64;
    for i in 0..64 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (ports, meta) = ((state >> 19) as u32, (state >> 23) as u32);
        wanted.hash::<V4>(state, &FlowKey { saddr: (state >> 7) as u32, daddr: (state >> 13) as u32, ports, meta }, i);
        let [a, b, c, d] = [3, 5, 7, 9].map(|factor| state.wrapping_mul(factor));
        wanted.hash::<V6>(state, &FlowKey { saddr: [a, b], daddr: [c, d], ports, meta }, i);
    }
    assert_eq!(run_c("layout.c"), wanted.0);
}
