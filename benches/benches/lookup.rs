//! Looking a service up: in memory tables, and in the kernel's through the typed API, which is a system call.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that can't run must stop")]

use std::{hint::black_box, sync::Arc};

use benches::{catalogue::frontend, control::capacity};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dataplane_core::{
    abi::ServiceKeyV4,
    memory::MemoryTables,
    tables::Store,
    wire::{Be16, PROTOCOL_TCP},
};
use dataplane_ebpf::EbpfDataplane;
use dataplane_testkit::{fill::Filler, net};

const SIZES: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];

fn key(number: u32) -> ServiceKeyV4 {
    let frontend = frontend(number);
    let address = (*frontend.ip()).into();
    ServiceKeyV4 { address, port: Be16::new(frontend.port()), protocol: PROTOCOL_TCP, scope: 0 }
}

/// Services up to this number, and lookups of all of them in an order without pattern.
fn bench(criterion: &mut Criterion, name: &str, store: &dyn Store) {
    let mut group = criterion.benchmark_group("service lookup");
    let mut filler = Filler::default();
    let backend = filler.backend(store, "192.0.2.1:8080".parse().unwrap(), false).unwrap();
    let mut filled = 0;
    for size in SIZES {
        for number in filled..size {
            filler.service(store, frontend(number).into(), PROTOCOL_TCP, &[backend]).unwrap();
        }
        filled = size;
        let (services, words) = (store.services_v4(), store.service_words());
        let mut state = 0u64;
        group.bench_function(BenchmarkId::new(name, size), |bencher| {
            bencher.iter(|| {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let number = ((state >> 32) * u64::from(size)) >> 32;
                let found = services.get(black_box(&key(number as u32))).unwrap().unwrap();
                words.load(found.index(), 0).unwrap()
            });
        });
    }
    group.finish();
}

fn lookup(criterion: &mut Criterion) {
    let capacity = capacity(SIZES[SIZES.len() - 1]);
    bench(criterion, "memory", &MemoryTables::new(capacity));
    if let Err(reason) = net::capabilities() {
        eprintln!("not run: lookup in the kernel's tables: {reason}");
        return;
    }
    let plane = EbpfDataplane::builder().unpinned().capacity(capacity).open().unwrap();
    let tables: Arc<dyn Store> = plane.tables();
    bench(criterion, "kernel, typed get", &*tables);
}

criterion_group!(group, lookup);
criterion_main!(group);
