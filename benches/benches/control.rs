//! Services through the controller into memory tables: all of them, the same ones again, none any more, and one change
//! among them; and how much memory they take.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that can't run must stop")]

use std::sync::Arc;

use benches::{
    catalogue::{Catalogue, backends, service},
    control::{Control, capacity},
};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dataplane_core::memory::MemoryTables;

fn control(size: u32) -> Control {
    Control::new(Arc::new(MemoryTables::new(capacity(size)))).unwrap()
}

fn full(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("control, full picture");
    group.sample_size(10);
    for size in [10, 1_000, 10_000] {
        let picture = Catalogue::new(size).all().unwrap();
        group.throughput(Throughput::Elements(size.into()));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched(
                || (control(size), picture.clone()),
                |(control, picture)| {
                    control.replace(picture).unwrap();
                    // Returned, so that its end is not measured.
                    control
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// What is there already costs a comparison.
fn same(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("control, same picture again");
    group.sample_size(10);
    for size in [1_000, 10_000] {
        let picture = Catalogue::new(size).all().unwrap();
        let control = control(size);
        control.replace(picture.clone()).unwrap();
        group.throughput(Throughput::Elements(size.into()));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched(
                || picture.clone(),
                |picture| control.replace(picture).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn removal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("control, removal of all");
    group.sample_size(10);
    for size in [1_000, 10_000] {
        let picture = Catalogue::new(size).all().unwrap();
        group.throughput(Throughput::Elements(size.into()));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched(
                || {
                    let control = control(size);
                    control.replace(picture.clone()).unwrap();
                    control
                },
                |control| {
                    control.replace(Vec::new()).unwrap();
                    control
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Criterion measures time only: this is printed, once.
fn memory(_: &mut Criterion) {
    const SERVICES: u32 = 100_000;
    let control = control(SERVICES);
    let picture = Catalogue::new(SERVICES).all().unwrap();
    let before = resident();
    control.replace(picture).unwrap();
    let added = resident().saturating_sub(before) / u64::from(SERVICES);
    eprintln!(
        "control, memory: {added} bytes per service of {SERVICES}, its entries of the tables in RAM included, what the \
         embedder said excluded"
    );
}

/// Resident memory, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("control, one service changed among");
    for size in [10, 1_000, 10_000, 100_000] {
        let control = control(size);
        control.replace(Catalogue::new(size).all().unwrap()).unwrap();
        let [first, second, third] = backends(size / 2);
        let versions =
            [service(size / 2, &[first, second]).unwrap(), service(size / 2, &[first, third]).unwrap()];
        let mut turn = 0usize;
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched(
                || {
                    turn += 1;
                    versions[turn % 2].clone()
                },
                |service| control.change(service).unwrap(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(group, memory, full, same, removal, change);
criterion_main!(group);
