//! The control path: text to objects, objects to tables, at 10 000 services with 100 000 endpoints.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ringway_engine::tables::Frontends;
use ringway_model::manifest::ManifestFile;
use ringway_model::{
    Change, Compiler, Endpoint, EndpointSliceModel, Folder, IpFamily, Model, Protocol, ServiceModel, ServiceName, ServicePort, ServiceType,
    SessionAffinity, Settings, SlicePort, TrafficPolicy,
};

const SERVICES: u32 = 10_000;
const ENDPOINTS_PER_SERVICE: u32 = 10;

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("ports of this bench are not zero")
}

fn name(index: u32) -> ServiceName {
    ServiceName { namespace: "default".into(), name: format!("service-{index}").into() }
}

/// Every fourth is a LoadBalancer, which needs a Maglev table.
fn service(index: u32) -> Change {
    let load_balancer = index.is_multiple_of(4);
    let address = |base: u32| IpAddr::V4(Ipv4Addr::from_bits(base + index));
    Change::Upsert(Model::Service(Arc::new(ServiceModel {
        name: name(index),
        created: None,
        service_type: if load_balancer { ServiceType::LoadBalancer } else { ServiceType::ClusterIp },
        cluster_ips: vec![address(0x0a60_0000)],
        external_ips: Vec::new(),
        load_balancer_ips: if load_balancer { vec![address(0xc633_0000)] } else { Vec::new() },
        source_ranges: Vec::new(),
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: port(80), node_port: None }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        session_affinity: SessionAffinity::None,
        health_check_node_port: None,
        reset_gone: true,
    })))
}

fn endpoint(index: u32) -> Endpoint {
    Endpoint {
        address: IpAddr::V4(Ipv4Addr::from_bits(0x0a80_0000 + index)),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(format!("node-{}", index % 100).into()),
        zone: None,
        hints: None,
        pod: None,
    }
}

/// The slice of a service; `ready` is the condition of its first endpoint.
fn slice(index: u32, ready: bool) -> Change {
    let mut endpoints: Vec<Endpoint> = (0..ENDPOINTS_PER_SERVICE).map(|number| endpoint(index * ENDPOINTS_PER_SERVICE + number)).collect();
    endpoints[0].ready = ready;
    Change::Upsert(Model::EndpointSlice(Arc::new(EndpointSliceModel {
        name: format!("service-{index}-1").into(),
        service: name(index),
        family: IpFamily::V4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: port(8080) }],
        endpoints: endpoints.into(),
        last_change_trigger: None,
    })))
}

fn everything() -> Vec<Change> {
    (0..SERVICES).map(service).chain((0..SERVICES).map(|index| slice(index, true))).collect()
}

fn compiler() -> Compiler {
    Compiler::new(Settings { node_name: "node-1".into(), ..Settings::default() })
}

/// An endpoint of a load-balanced service goes and comes back, up to the new generation of frontends.
fn slice_update(c: &mut Criterion) {
    let mut compiler = compiler();
    let mut frontends = Frontends::default().with(compiler.apply(everything()).frontends);
    let versions = [slice(SERVICES / 2, false), slice(SERVICES / 2, true)];
    let mut group = c.benchmark_group("compile");
    let mut turn = 0;
    group.bench_function("slice_update/10k_services", |b| {
        b.iter(|| {
            turn += 1;
            black_box(compiler.apply([versions[turn % 2].clone()]))
        });
    });
    group.bench_function("slice_update_and_frontends/10k_services", |b| {
        b.iter(|| {
            turn += 1;
            frontends = frontends.with(compiler.apply([versions[turn % 2].clone()]).frontends);
        });
    });
    group.finish();
}

fn cold(c: &mut Criterion) {
    let everything = everything();
    let mut group = c.benchmark_group("compile");
    group.sample_size(10);
    group.bench_function("cold/10k_services", |b| {
        b.iter_batched(|| everything.clone(), |everything| black_box(compiler().apply(everything)), BatchSize::PerIteration);
    });
    group.finish();
}

fn slice_text(index: u32) -> String {
    let endpoints: String = (0..ENDPOINTS_PER_SERVICE)
        .map(|number| {
            let address = Ipv4Addr::from_bits(0x0a80_0000 + index * ENDPOINTS_PER_SERVICE + number);
            format!("- addresses: [{address}]\n  conditions: {{ready: true}}\n  nodeName: node-{}\n", number % 100)
        })
        .collect();
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: service-{index}-1\n  labels:\n    kubernetes.io/service-name: service-{index}\n\
         addressType: IPv4\nports:\n- {{name: http, port: 8080}}\nendpoints:\n{endpoints}"
    )
}

fn file(text: &str) -> ManifestFile {
    ManifestFile { file: "a.yaml".into(), text: text.into() }
}

/// Files of a manifests folder, up to the changes for the compiler.
fn parse(c: &mut Criterion) {
    let one = slice_text(1);
    let all: String = (0..SERVICES).map(slice_text).collect();
    let edited = all.replacen("ready: true", "ready: false", 1);
    let mut group = c.benchmark_group("manifest");
    group.bench_function("one_slice", |b| b.iter(|| Folder::default().update(file(black_box(&one)))));
    group.sample_size(10);
    group.bench_function("file_of_10k_slices", |b| b.iter(|| Folder::default().update(file(black_box(&all)))));
    let mut folder = Folder::default();
    folder.update(file(&all));
    let mut turn = 0;
    group.bench_function("one_edit_in_a_file_of_10k_slices", |b| {
        b.iter(|| {
            turn += 1;
            folder.update(file(if turn % 2 == 0 { &all } else { &edited }))
        });
    });
    group.finish();
}

criterion_group!(benches, slice_update, cold, parse);
criterion_main!(benches);
