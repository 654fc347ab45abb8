//! Nanoseconds per lookup in the flow table, beside loads from as much plain memory; and per flow made and removed.
//!
//! `one_by_one` looks up 64 keys in turn; `prefetched` hashes and prefetches all 64 first. (The engine does so with eight at a time.)
//! The keys are visited in random order, so beyond the caches each visit is a miss.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prefetch_index::prefetch_index;
use ringway_engine::engine::BATCH_MAX;
use ringway_engine::family::{Family, V4, V6};
use ringway_engine::flow::{FlowKey, FlowOp, FlowTable, Hook, NewFlow, Rewrite, SlotIndex, Tuple};

const FLOWS: [usize; 3] = [64, 32_768, 1_000_000];
const TCP: u8 = 6;

/// A family, as far as the cases differ by it.
trait Case: Family {
    /// Behind the names of the cases.
    const SUFFIX: &'static str;
    /// As many bytes as an entry has, in words.
    type Plain: Copy;

    fn address(network: u8, number: u32) -> Self::Ip;
    fn plain(number: u32) -> Self::Plain;
    /// One of its words.
    fn word(plain: &Self::Plain) -> u32;
    /// A part of an address.
    fn part(address: Self::Address) -> u32;
}

impl Case for V4 {
    const SUFFIX: &'static str = "";
    type Plain = [u32; 16];

    fn address(network: u8, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(network) << 24 | number)
    }

    fn plain(number: u32) -> [u32; 16] {
        [number; 16]
    }

    fn word(plain: &[u32; 16]) -> u32 {
        plain[5]
    }

    fn part(address: u32) -> u32 {
        address
    }
}

impl Case for V6 {
    const SUFFIX: &'static str = "_ipv6";
    type Plain = [u32; 32];

    fn address(network: u8, number: u32) -> Ipv6Addr {
        Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(network) << 64 | u128::from(number))
    }

    fn plain(number: u32) -> [u32; 32] {
        [number; 32]
    }

    fn word(plain: &[u32; 32]) -> u32 {
        plain[5]
    }

    fn part([_, low]: [u64; 2]) -> u32 {
        low as u32
    }
}

/// A client's flow through a VIP with SNAT; 100 backends, each with its own 64 k ports.
fn flow_of<F: Case>(number: u32) -> NewFlow<F> {
    let client = (F::address(10, number / 50_000), (number % 50_000) as u16 + 10_000);
    let vip = (F::address(192, 1), 80);
    let snat = (F::address(172, 1), (number / 100) as u16);
    let backend = (F::address(11, number % 100), 8080);
    let rewrite = |src, dst| Rewrite { tuple: Tuple::new(src, dst), op: FlowOp::Worker, ifindex: 0, dmac: [0; 6] };
    NewFlow {
        forward: (FlowKey::new(client, vip, 0, Hook::UplinkIn, TCP), rewrite(snat, backend)),
        reverse: (FlowKey::new(backend, snat, 0, Hook::UplinkIn, TCP), rewrite(vip, client)),
        snat: true,
    }
}

/// The numbers below `count` in random order (Fisher and Yates, with xorshift).
fn shuffled(count: usize) -> Vec<u32> {
    let mut state = 0x0139_408d_cbbf_7a44u64;
    let mut numbers: Vec<u32> = (0..count as u32).collect();
    for last in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        numbers.swap(last, (state % (last as u64 + 1)) as usize);
    }
    numbers
}

/// Runs `work` on one batch of items after the other, going round.
fn bench_batches<F: Case, T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, items: &[T], mut work: impl FnMut(&[T]) -> u32) {
    group.bench_function(BenchmarkId::new(format!("{name}{}", F::SUFFIX), items.len()), |bencher| {
        let mut batches = items.chunks_exact(BATCH_MAX).cycle();
        bencher.iter(|| work(batches.next().expect("there is a batch")));
    });
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    for flows in FLOWS {
        lookup_in::<V4>(&mut group, flows);
        lookup_in::<V6>(&mut group, flows);
    }
    group.finish();
}

fn lookup_in<F: Case>(group: &mut BenchmarkGroup<'_, WallTime>, flows: usize) {
    group.throughput(Throughput::Elements(BATCH_MAX as u64));
    let table = FlowTable::<F>::in_memory(flows, 1, 0x5eed);
    let failed = (0..flows as u32).filter(|&number| table.insert(0, &flow_of(number), 0).is_err()).count();
    if failed > 0 {
        eprintln!("{failed} of {flows} flows found both buckets full");
    }
    let keys: Vec<FlowKey<F>> = shuffled(flows).into_iter().map(|number| flow_of(number).forward.0).collect();
    let rewrite = |slot: Option<SlotIndex>| slot.map_or(0, |slot| F::part(F::load(&table.slot(slot).new_daddr)));
    bench_batches::<F, _>(group, "lookup_one_by_one", &keys, |keys| {
        keys.iter().map(|key| rewrite(table.lookup(key, table.hash(key)))).fold(0, u32::wrapping_add)
    });
    bench_batches::<F, _>(group, "lookup_prefetched", &keys, |keys| {
        let mut hashes = [0; BATCH_MAX];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = table.hash(key);
            table.prefetch(*hash);
        }
        hashes.iter().zip(keys).map(|(&hash, key)| rewrite(table.lookup(key, hash))).fold(0, u32::wrapping_add)
    });

    // The same number of entries of the same size in a plain array; `black_box` hides the sum of the indices from the optimizer.
    let plain: Vec<F::Plain> = (0..2 * flows as u32).map(F::plain).collect();
    let indices: Vec<u32> = shuffled(flows).into_iter().map(|number| 2 * number).collect();
    bench_batches::<F, _>(group, "plain_memory_one_by_one", &indices, |indices| {
        indices.iter().map(|&index| black_box(F::word(&plain[index as usize]))).fold(0, u32::wrapping_add)
    });
    bench_batches::<F, _>(group, "plain_memory_prefetched", &indices, |indices| {
        for &index in indices {
            prefetch_index(&plain, index as usize);
        }
        indices.iter().map(|&index| black_box(F::word(&plain[index as usize]))).fold(0, u32::wrapping_add)
    });

    // Room for one below the limit.
    if let Some(slot) = table.lookup(&keys[0], table.hash(&keys[0])) {
        table.remove(0, slot, 0);
    }
    let (mut number, mut now) = (2_000_000u32, 0u32);
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new(format!("insert_and_remove{}", F::SUFFIX), flows), |bencher| {
        bencher.iter(|| {
            // A tick for each flow, so that few slots rest at a time.
            (number, now) = (number.wrapping_add(1), now.wrapping_add(1));
            let removed = table.insert(0, &flow_of(number), now).map(|slot| table.remove(0, slot, now));
            black_box(removed.is_ok())
        });
    });
}

criterion_group!(benches, lookup);
criterion_main!(benches);
