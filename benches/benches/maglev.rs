//! Maglev tables: making one, and a backend that comes and goes in one service among many, through the controller into
//! memory tables.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that can't run must stop")]

use std::{net::Ipv4Addr, sync::Arc};

use benches::control::Control;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use dataplane_core::{
    compile::{BackendKey, Share, maglev_table},
    memory::MemoryTables,
    model::{Backend, Choice, Frontend, MaglevSize, Protocol, Service},
    tables::Capacity,
};

fn address(number: u32) -> std::net::IpAddr {
    Ipv4Addr::from(0x0a00_0001 + number).into()
}

/// The weights of a table are all 1, or 1 to 4 in turn.
fn table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev, a table of 16381 places");
    group.sample_size(10);
    for (backends, heaviest) in [(10, 1), (1_000, 1), (1_000, 4)] {
        let share = |number: u32| {
            let backend = BackendKey { address: address(number), port: 8080, local: false };
            Share { backend, times: (number % heaviest + 1) as u16 }
        };
        let shares: Vec<Share> = (0..backends).map(share).collect();
        let id = BenchmarkId::new(format!("{backends} backends"), format!("weights up to {heaviest}"));
        group.bench_function(id, |bencher| {
            bencher.iter(|| maglev_table(MaglevSize::default(), 0, &shares));
        });
    }
    group.finish();
}

fn service(number: u32, backends: u32) -> Service {
    let frontend = Frontend::new(address(1 << 20 | number), 80, Protocol::Tcp).unwrap();
    let backend = |n| Backend::new(address(number << 10 | n), 8080).unwrap();
    Service::builder(&format!("s{number}"))
        .frontend(frontend)
        .backends((0..backends).map(backend))
        .choice(Choice::Maglev(MaglevSize::default()))
        .build()
        .unwrap()
}

/// The cost is that of one table, however many services there are.
fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev, one of 10 backends comes or goes, among services");
    group.sample_size(10);
    for services in [1, 10, 100] {
        let capacity = Capacity {
            frontends: 256,
            slots: 1 << 20,
            backends: 4096,
            conntrack: 8,
            opening: 8,
            nat: 8,
            affinity: 8,
            fragments: 8,
        };
        let control = Control::new(Arc::new(MemoryTables::new(capacity))).unwrap();
        control.replace((0..services).map(|number| service(number, 10)).collect()).unwrap();
        let mut turn = 0;
        group.bench_function(BenchmarkId::from_parameter(services), |bencher| {
            bencher.iter_batched(
                || {
                    turn += 1;
                    service(services / 2, 9 + turn % 2)
                },
                |service| control.change(service).unwrap(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(group, table, change);
criterion_main!(group);
