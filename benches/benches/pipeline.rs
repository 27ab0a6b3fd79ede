//! The pipeline on the host: frames through the simulator.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that can't run must stop")]

use std::{net::SocketAddr, sync::Arc};

use benches::catalogue::frontend;
use criterion::{Criterion, criterion_group, criterion_main};
use dataplane_core::{
    memory::{MemoryTables, SimulatedInterface, Simulator, Target},
    pipeline::{Hook, Verdict},
    tables::Capacity,
    wire::{PROTOCOL_TCP, TCP_ACK, TCP_SYN},
};
use dataplane_testkit::{fill::Filler, frames::Frame};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const UPLINK: u32 = 1;
/// Where the source address stands in an Ethernet frame without tags.
const SOURCE: std::ops::Range<usize> = 26..30;

fn simulator() -> Simulator {
    let tables =
        Arc::new(MemoryTables::new(Capacity { conntrack: 1 << 16, opening: 1 << 16, ..Capacity::default() }));
    let mut filler = Filler::default();
    let backend = filler.backend(&*tables, "192.0.2.2:8080".parse().unwrap(), false).unwrap();
    filler.service(&*tables, frontend(0).into(), PROTOCOL_TCP, &[backend]).unwrap();
    let mut simulator = Simulator::new(tables);
    simulator.add_interface(SimulatedInterface::new(UPLINK, MAC)).unwrap();
    let routes = simulator.routes_mut();
    routes.insert("192.0.2.0/24".parse().unwrap(), Target::Link(UPLINK));
    routes.insert_neighbor(UPLINK, "192.0.2.2".parse().unwrap(), [2, 0, 0, 0, 0, 2]);
    simulator
}

fn frame(to: SocketAddr, flags: u8) -> Vec<u8> {
    let client = "198.51.100.1:40000".parse().unwrap();
    Frame::tcp(client, to, flags).link(MAC, [2, 0, 0, 0, 0, 9]).payload(&[0; 64]).build()
}

fn pipeline(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline in memory");
    let simulator = simulator();
    let (syn, ack) = (frame(frontend(0).into(), TCP_SYN), frame(frontend(0).into(), TCP_ACK));
    assert_eq!(simulator.run(Hook::Xdp, UPLINK, &syn).verdict, Verdict::Forward);
    assert_eq!(simulator.run(Hook::Xdp, UPLINK, &ack).verdict, Verdict::Forward);
    group.bench_function("known flow", |bencher| bencher.iter(|| simulator.run(Hook::Xdp, UPLINK, &ack)));

    let other = frame(frontend(1).into(), TCP_ACK);
    assert!(matches!(simulator.run(Hook::Xdp, UPLINK, &other).verdict, Verdict::Pass(_)));
    group.bench_function("no service", |bencher| bencher.iter(|| simulator.run(Hook::Xdp, UPLINK, &other)));

    // Each from another client; after the first 32,768 the table is full, and each puts an older one out.
    let mut client = u32::from(std::net::Ipv4Addr::new(11, 0, 0, 0));
    let mut with_client = |frame: &[u8]| {
        client = client.wrapping_add(1);
        let mut frame = frame.to_vec();
        frame[SOURCE].copy_from_slice(&client.to_be_bytes());
        frame
    };
    assert_eq!(simulator.run(Hook::Xdp, UPLINK, &with_client(&syn)).verdict, Verdict::Forward);
    group.bench_function("new flow, conntrack of 65536 entries", |bencher| {
        bencher.iter_batched(
            || with_client(&syn),
            |frame| simulator.run(Hook::Xdp, UPLINK, &frame),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(group, pipeline);
criterion_main!(group);
