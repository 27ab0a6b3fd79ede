//! Counters belong to a frontend, not to the index that it happened to have.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

use std::{sync::Arc, time::Duration};

use dataplane_core::{
    Controller,
    abi::ServiceCounters,
    memory::{MemoryTables, SimulatedInterface, Simulator, Target},
    model::{Backend, Frontend, Masquerade, Protocol, Service},
    pipeline::{Hook, Verdict},
    source::Precedence,
    tables::{Capacity, Store},
};
use dataplane_testkit::{
    conformance::settle,
    frames::{Frame, flags},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn service(name: &str, address: &str) -> Service {
    Service::builder(name)
        .frontend(Frontend::new(address.parse().unwrap(), 80, Protocol::Tcp).unwrap())
        .backend(Backend::new("198.51.100.2".parse().unwrap(), 8080).unwrap())
        .masquerade(Masquerade::Never)
        .build()
        .unwrap()
}

#[test]
fn a_reused_index_begins_to_count_at_zero() {
    let tables = Arc::new(MemoryTables::new(Capacity::small()));
    let mut simulator = Simulator::new(tables.clone());
    simulator.add_interface(SimulatedInterface::new(1, MAC)).unwrap();
    simulator.routes_mut().insert("198.51.100.0/24".parse().unwrap(), Target::Link(1));
    let controller = Controller::new(tables.clone()).unwrap();
    let agent = controller.register("agent", Precedence::new(0)).unwrap();
    agent.synced();
    let index_of = |address: [u8; 4]| {
        let mut found = tables.services_v4().entries().map(Result::unwrap);
        found
            .find(|(key, _)| {
                key.port.get() == 80 && std::net::Ipv4Addr::from(key.address).octets() == address
            })
            .unwrap()
            .1
            .index()
    };

    agent.transaction().upsert(service("first", "203.0.113.1")).commit().unwrap();
    let now = settle(&controller, Duration::ZERO);
    let first = index_of([203, 0, 113, 1]);
    let syn = Frame::tcp("192.0.2.1:1000".parse().unwrap(), "203.0.113.1:80".parse().unwrap(), flags::SYN);
    let frame = syn.link(MAC, [2, 0, 0, 0, 0, 9]).build();
    assert_eq!(simulator.run(Hook::Ingress, 1, &frame).verdict, Verdict::Forward);
    assert_eq!(tables.counters().service(first).unwrap().packets, 1);

    agent.transaction().remove(service("first", "203.0.113.1").name()).commit().unwrap();
    let mut now = settle(&controller, now);
    // The first index that is free again is given out again; which one, is the controller's business.
    for octet in 2..200 {
        let address = format!("203.0.113.{octet}");
        let next = service("next", &address);
        agent.transaction().upsert(next.clone()).commit().unwrap();
        now = settle(&controller, now);
        if index_of([203, 0, 113, octet]) == first {
            assert_eq!(tables.counters().service(first).unwrap(), ServiceCounters::default());
            return;
        }
        agent.transaction().remove(next.name()).commit().unwrap();
        now = settle(&controller, now);
    }
    panic!("index {first} was never given out again");
}
