//! 60,000 flows to one destination: what becomes of them when ports, or the table of reservations, run out.
//!
//! All come from one client, over UDP, each from a port of its own, to one backend's port; each datagram says which flow
//! it is of, and the socket takes nothing from anybody else. Sockets live for a batch only: a flow goes on from another
//! socket of its port.

use std::{
    net::SocketAddr,
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use dataplane_core::{
    model::{Masquerade, NatPorts},
    pipeline::{DropReason, Hook, Timeouts, Verdict},
    tables::{Capacity, Store},
};
use dataplane_testkit::{net::wait_for, require_kernel};

use crate::{
    masquerade::cut_off,
    peers::DatagramClient,
    world::{Front, Hooks, PATIENCE, World},
};

const FRONT: Front = Front::UDP_V4;
const FLOWS: Range<u16> = 2_000..62_000;
/// Datagrams at a time: fewer than the server's socket has room for.
const BATCH: usize = 100;

/// One backend that answers by way of the balancer only.
struct Crowd {
    world: World,
    /// What its packets were refused for.
    refused: DropReason,
}

impl Crowd {
    fn new(ports: NatPorts, nat: u32, timeouts: Timeouts, refused: DropReason) -> Self {
        let capacity = Capacity { conntrack: 1 << 18, opening: 1 << 18, nat, ..World::capacity() };
        let net = World::topology(Hooks::Tcx, 1);
        // The host's own sockets keep some.
        net.balancer.sysctl("net/ipv4/ip_local_port_range", "1024 1999").unwrap();
        let mut world = World::with(Hooks::Tcx, net, |builder| {
            builder.capacity(capacity).nat_ports(ports).timeouts(timeouts)
        });
        world.masquerade = Masquerade::Auto;
        cut_off(&world.net);
        world.balance(FRONT, [world.backend(FRONT, 0)]);
        Self { world, refused }
    }

    /// How many packets were refused so far.
    fn refusals(&self) -> u64 {
        self.world.count(Hook::Ingress, Verdict::Drop(self.refused))
    }

    fn reservations(&self) -> usize {
        self.world.plane.tables().nat_v4().fill().unwrap() as usize
    }

    /// The client's ports that have one of the balancer's.
    fn holders(&self) -> Vec<u16> {
        let tables = self.world.plane.tables();
        let port = |entry: Result<_, _>| -> u16 {
            let (_, flow): (dataplane_core::abi::TupleV4, dataplane_core::abi::FlowV4) = entry.unwrap();
            flow.destination_port.get()
        };
        let mut ports: Vec<u16> = tables.nat_v4().entries().map(port).collect();
        ports.sort_unstable();
        ports
    }

    /// Each of these flows says so much, and hears as much; which of them were heard, and when. All others were refused,
    /// and counted as such.
    fn speak(&self, flows: &[u16], times: usize) -> Vec<(u16, Instant)> {
        let client = self.world.net.client_addresses.v4.into();
        let mut heard = Vec::new();
        for batch in flows.chunks(BATCH) {
            let before = self.refusals();
            let sockets: Vec<(u16, DatagramClient)> = self.world.net.client.run(|| {
                let connect = |port: &u16| {
                    let from = SocketAddr::new(client, *port);
                    (*port, DatagramClient::connect(from, FRONT.virtual_address(), PATIENCE).unwrap())
                };
                batch.iter().map(connect).collect()
            });
            let said = |port: u16, time: usize| format!("flow {port}, {time}");
            sockets.iter().for_each(|(port, socket)| socket.say(&said(*port, 0)).unwrap());
            let mut answered = vec![false; sockets.len()];
            wait_for(PATIENCE, "an answer or a refusal for each", || {
                for ((port, socket), answered) in sockets.iter().zip(&mut answered) {
                    *answered = *answered || socket.heard(&said(*port, 0)).unwrap().is_some();
                }
                let count = answered.iter().filter(|answered| **answered).count() as u64;
                count + (self.refusals() - before) == sockets.len() as u64
            })
            .unwrap();
            for ((port, socket), answered) in sockets.iter().zip(answered) {
                for time in 1..if answered { times } else { 0 } {
                    assert_eq!(socket.ask(&said(*port, time)).unwrap(), "backend0");
                }
                heard.extend(answered.then(|| (*port, Instant::now())));
            }
        }
        heard
    }
}

/// The ports of the default range run out: half-open flows lose theirs, those that stand go on, the others are refused by
/// name; and when those that stand have ended, their ports are given out again.
#[test]
fn when_ports_run_out_60_000_flows_are_served_or_refused_by_name() {
    require_kernel!();
    const STREAM: Duration = Duration::from_secs(12);
    const HALF_OPEN: usize = 3_000;
    let timeouts = Timeouts { udp_stream: STREAM.as_millis() as u64, ..Timeouts::default() };
    let ports = NatPorts::default();
    let count = ports.count() as usize;
    let crowd = Crowd::new(ports, 1 << 17, timeouts, DropReason::NatExhausted);
    let flows: Vec<u16> = FLOWS.collect();
    let (half_open, others) = flows.split_at(HALF_OPEN);
    // So long they are spared, and two ticks.
    let spared = Duration::from_millis(2_250);

    let start = Instant::now();
    // They are answered once, and do not go on.
    assert_eq!(crowd.speak(half_open, 1).len(), HALF_OPEN);
    assert_eq!((crowd.reservations(), crowd.refusals()), (HALF_OPEN, 0));
    thread::sleep(spared);
    let standing = crowd.speak(others, 2);
    let (served, took, refused) = (standing.len(), start.elapsed(), crowd.refusals() as usize);
    assert_eq!(served + refused, others.len());
    // 32 random probes in each try, and more than two tries for each port.
    let holders = crowd.holders();
    let half_open_left = half_open.iter().filter(|port| holders.binary_search(port).is_ok()).count();
    eprintln!(
        "{count} ports: {HALF_OPEN} half open, of which {half_open_left} were left; {served} served and {refused} refused in {took:.1?}"
    );
    assert!(
        holders.len() <= count && holders.len() * 100 >= count * 97,
        "{} of {count} taken",
        holders.len()
    );
    // A flow may still have found another port than theirs.
    assert!(half_open_left * 50 < HALF_OPEN, "{half_open_left} left");
    assert!(served > count * 97 / 100 && refused > 0);

    // Those whose time is not over go on; looked at in turn, since what goes on later may be over by then.
    let mut went_on = 0;
    for batch in standing.rchunks(BATCH).take(40) {
        let fresh = batch.iter().filter(|(_, last)| last.elapsed() < STREAM * 3 / 4);
        let fresh: Vec<u16> = fresh.map(|(port, _)| *port).collect();
        let before = crowd.refusals();
        assert_eq!(crowd.speak(&fresh, 1).len(), fresh.len());
        assert_eq!(crowd.refusals(), before, "a flow that stands was refused");
        went_on += fresh.len();
    }
    eprintln!("{went_on} of those that stood went on");
    assert!(went_on >= 10 * BATCH, "this machine is too slow for a time-out of {STREAM:?}");

    // They end by themselves.
    let limit = STREAM + Duration::from_secs(30);
    wait_for(limit, "their ports come back", || crowd.reservations() == 0).unwrap();
    let before = crowd.refusals();
    let later = &flows[..8_000];
    assert_eq!((crowd.speak(later, 2).len(), crowd.refusals()), (later.len(), before));
}

/// A wide range: nearly all find a port at once, the rest when they try again, and all of them stand.
#[test]
fn of_a_wide_range_60_000_flows_have_a_port_each() {
    require_kernel!();
    let ports = NatPorts::new(2_000..=65_535).unwrap();
    let crowd = Crowd::new(ports, 1 << 17, Timeouts::default(), DropReason::NatExhausted);
    let flows: Vec<u16> = FLOWS.collect();
    let start = Instant::now();
    let mut missing = flows.clone();
    let mut refused = Vec::new();
    while !missing.is_empty() && refused.len() < 20 {
        let heard: Vec<u16> = crowd.speak(&missing, 2).into_iter().map(|(port, _)| port).collect();
        missing.retain(|port| heard.binary_search(port).is_err());
        refused.push(missing.len());
    }
    eprintln!("refused at each try: {refused:?}; {:.1?}", start.elapsed());
    assert!(refused[0] < flows.len() / 50 && missing.is_empty(), "{refused:?}");
    assert_eq!(crowd.holders(), flows, "each has one");
    let before = crowd.refusals();
    let again: Vec<u16> = flows.iter().copied().step_by(7).collect();
    assert_eq!((crowd.speak(&again, 1).len(), crowd.refusals()), (again.len(), before));
}

/// Too small a table: it is named, those that stand go on, and there is room again when they are over.
#[test]
fn a_full_table_of_reservations_refuses_by_name_and_recovers() {
    require_kernel!();
    const ROOM: usize = 1_024;
    let timeouts = Timeouts { udp_stream: 4_000, ..Timeouts::default() };
    let crowd = Crowd::new(NatPorts::default(), ROOM as u32, timeouts, DropReason::NatFull);
    let flows: Vec<u16> = FLOWS.take(3 * ROOM).collect();
    let standing: Vec<u16> = crowd.speak(&flows, 2).into_iter().map(|(port, _)| port).collect();
    eprintln!("{} of {} found room for {ROOM}", standing.len(), flows.len());
    assert_eq!((standing.len(), crowd.holders()), (ROOM, standing.clone()));
    let last = &standing[ROOM - BATCH..];
    assert_eq!(crowd.speak(last, 1).len(), last.len(), "those that stand go on");
    wait_for(Duration::from_secs(60), "there is room again", || crowd.reservations() == 0).unwrap();
    let before = crowd.refusals();
    let others = &flows[2 * ROOM..];
    assert_eq!((crowd.speak(others, 2).len(), crowd.refusals()), (others.len(), before));
}
