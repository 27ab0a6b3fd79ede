//! Flows live as long as they should, and no longer.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use dataplane_core::{
    abi::{FLOW_REPLY, FlowV4, FlowV6, TupleV4, TupleV6},
    pipeline::{Seen, Tick, Timeouts},
    tables::Store,
};
use dataplane_testkit::{
    net::{Route, UdpClient, wait_for},
    require_kernel,
};
use rustix::net::{self, AddressFamily, SocketType, sockopt};

use crate::world::{Front, Hooks, PATIENCE, World};

/// One entry: which packets it is for, what they become, whether it is that of the replies, and what was seen and
/// when.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    from: SocketAddr,
    to: SocketAddr,
    new_from: SocketAddr,
    new_to: SocketAddr,
    reply: bool,
    seen: u32,
    last_seen: Tick,
}

/// All entries of a family, whatever their age, confirmed or not.
fn entries(world: &World, v6: bool) -> Vec<Entry> {
    macro_rules! convert {
        ($tuple:ty, $flow:ty, $address:path) => {
            |entry: Result<($tuple, $flow), _>| {
                let (tuple, flow) = entry.unwrap();
                let at = |address, port: dataplane_core::wire::Be16| {
                    SocketAddr::new(IpAddr::from($address(address)), port.get())
                };
                Entry {
                    from: at(tuple.source, tuple.source_port),
                    to: at(tuple.destination, tuple.destination_port),
                    new_from: at(flow.source, flow.source_port),
                    new_to: at(flow.destination, flow.destination_port),
                    reply: flow.flags & FLOW_REPLY != 0,
                    seen: Seen::from(flow.state).of_any_incarnation().0,
                    last_seen: Tick(flow.last_seen),
                }
            }
        };
    }
    let tables = world.plane.tables();
    let mut entries: Vec<Entry> = if v6 {
        let all = tables.conntrack_v6().entries().chain(tables.opening_v6().entries());
        all.map(convert!(TupleV6, FlowV6, std::net::Ipv6Addr::from)).collect()
    } else {
        let all = tables.conntrack_v4().entries().chain(tables.opening_v4().entries());
        all.map(convert!(TupleV4, FlowV4, std::net::Ipv4Addr::from)).collect()
    };
    entries.sort_by_key(|entry| (entry.from, entry.to));
    entries
}

/// A TCP connection from this port of the client, which is reset when it is dropped: no trace of it is left there.
fn connect(world: &World, front: Front, port: u16) -> Result<std::os::fd::OwnedFd, rustix::io::Errno> {
    let here = SocketAddr::new(world.net.client_addresses.both()[usize::from(front.v6)], port);
    world.net.client.run(|| {
        let family = if front.v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = net::socket(family, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        sockopt::set_tcp_user_timeout(&socket, 5_000)?;
        net::bind(&socket, &here)?;
        net::connect(&socket, &front.virtual_address())?;
        Ok(socket)
    })
}

/// How many connections each backend accepted.
fn accepted(world: &World) -> Vec<u64> {
    world.web.iter().map(|web| web.connections()).collect()
}

fn wait_accepted(world: &World, wanted: &[u64]) {
    wait_for(PATIENCE, "an accepted connection", || accepted(world) == wanted)
        .unwrap_or_else(|error| panic!("{error}: {:?}, not {wanted:?}", accepted(world)));
}

#[test]
fn a_connection_is_two_entries_which_both_show_how_it_ended() {
    require_kernel!();
    let world = World::new(Hooks::Tcx);
    for front in Front::TCP {
        let backend = world.backend(front, 1);
        world.balance(front, [backend]);
        world.ask(front, 1);
        let fins = Seen::CLIENT_FIN | Seen::BACKEND_FIN;
        wait_for(PATIENCE, "both entries show both FINs", || {
            entries(&world, front.v6).iter().filter(|entry| entry.seen & fins == fins).count() == 2
        })
        .unwrap_or_else(|error| panic!("{error}: {:#?}", entries(&world, front.v6)));

        let mut entries = entries(&world, front.v6);
        for entry in &mut entries {
            // Whenever that was.
            entry.last_seen = Tick::default();
        }
        let original = entries.iter().find(|entry| !entry.reply).unwrap();
        let client = original.from;
        assert_eq!(client.ip(), world.net.client_addresses.both()[usize::from(front.v6)]);
        let (virtual_address, backend) = (front.virtual_address(), backend.socket_address());
        let seen = fins | Seen::REPLIED | Seen::CONFIRMED;
        let last_seen = Tick::default();
        let expected = [
            Entry {
                from: client,
                to: virtual_address,
                new_from: client,
                new_to: backend,
                reply: false,
                seen,
                last_seen,
            },
            Entry {
                from: backend,
                to: client,
                new_from: virtual_address,
                new_to: client,
                reply: true,
                seen,
                last_seen,
            },
        ];
        for entry in &expected {
            assert!(entries.contains(entry), "no {entry:#?} in {entries:#?}");
        }
        assert_eq!(entries.len(), 2);
    }
}

#[test]
fn a_reset_shows_in_both_entries_and_the_next_connection_chooses_anew() {
    require_kernel!();
    let world = World::new(Hooks::Tcx);
    for front in Front::TCP {
        let before = accepted(&world);
        world.balance(front, [world.backend(front, 0)]);
        drop(connect(&world, front, 40_000).unwrap());
        wait_accepted(&world, &[before[0] + 1, before[1], before[2]]);
        wait_for(PATIENCE, "both entries show the reset", || {
            entries(&world, front.v6).iter().filter(|entry| entry.seen & Seen::RESET != 0).count() == 2
        })
        .unwrap();
        // The first backend keeps its flows; this is a new one, though nothing but the SYN tells it from the old one.
        world.balance(front, [world.backend(front, 0).draining(), world.backend(front, 1)]);
        let _second = connect(&world, front, 40_000).unwrap();
        wait_accepted(&world, &[before[0] + 1, before[1] + 1, before[2]]);
        assert_eq!(world.counters(front).flows, 2);
    }
}

/// Runs a closure while nothing of a kind of traffic leaves the client.
fn silenced<T>(world: &World, front: Front, closure: impl FnOnce() -> T) -> T {
    let hole = Route::to(front.virtual_address().ip().into()).blackhole();
    world.net.client.add_route(&hole).unwrap();
    let value = closure();
    world.net.client.delete_route(&hole).unwrap();
    value
}

/// A little more than the shortest time-out that there is, so that it holds as it stands.
const TIMEOUT: u64 = Timeouts::SHORTEST + 300;

/// Waits until every entry is older than [`TIMEOUT`], by the clock that the programs read: nobody may send any more.
fn wait_expired(world: &World, v6: bool) {
    let limit = Tick::ticks_of_milliseconds(TIMEOUT);
    wait_for(PATIENCE, "all entries are older than their time-out", || {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        let now = Tick::from_nanoseconds(Duration::try_from(clock).unwrap().as_nanos() as u64);
        entries(world, v6).iter().all(|entry| now.since(entry.last_seen) > limit)
    })
    .unwrap_or_else(|error| panic!("{error}: {:#?}", entries(world, v6)));
}

/// A client that vanished without a word, and comes back from the same port: once its flow has timed out, its packets go
/// where new ones go.
#[test]
fn a_tcp_flow_that_timed_out_is_chosen_anew() {
    require_kernel!();
    let net = World::topology(Hooks::Tcx, 3);
    let timeouts = Timeouts { tcp_established: TIMEOUT, ..Timeouts::default() };
    let world = World::with(Hooks::Tcx, net, |builder| builder.timeouts(timeouts));
    let clients = Front::TCP.map(|front| {
        world.balance(front, [world.backend(front, 0)]);
        let client = connect(&world, front, 41_000).unwrap();
        let established = Seen::REPLIED | Seen::CONFIRMED;
        wait_for(PATIENCE, "an established flow", || {
            let entries = entries(&world, front.v6);
            entries.len() == 2 && entries.iter().all(|entry| entry.seen == established)
        })
        .unwrap_or_else(|error| panic!("{error}: {:#?}", entries(&world, front.v6)));
        world.balance(front, [world.backend(front, 0).draining(), world.backend(front, 1)]);
        client
    });
    wait_accepted(&world, &[2, 0, 0]);
    for (front, client) in Front::TCP.into_iter().zip(clients) {
        silenced(&world, front, || drop(client));
    }
    let resets = || world.net.client.statistics().unwrap().tcp.out_resets;
    let before = resets();
    let _second = Front::TCP.map(|front| {
        wait_expired(&world, front.v6);
        assert_eq!(world.counters(front).flows, 1);
        connect(&world, front, 41_000).unwrap()
    });
    wait_accepted(&world, &[2, 2, 0]);
    // By the first SYN. At the old backend it would meet the old connection, whose answer the client resets; then the SYN
    // that is sent again would be a new flow too.
    assert_eq!(resets(), before);
    for front in Front::TCP {
        assert_eq!(world.counters(front).flows, 2);
    }
}

#[test]
fn a_udp_flow_lives_as_long_as_it_talks() {
    require_kernel!();
    let net = World::topology(Hooks::Xdp, 3);
    let timeouts = Timeouts { udp: 60_000, udp_stream: TIMEOUT, ..Timeouts::default() };
    let world = World::with(Hooks::Xdp, net, |builder| builder.timeouts(timeouts));
    let fronts = [Front::UDP_V4, Front::UDP_V6];
    let clients = fronts.map(|front| {
        world.balance(front, [world.backend(front, 0)]);
        world.net.client.run(|| UdpClient::connect(front.virtual_address())).unwrap()
    });
    let mut number = 0;
    let mut ask = || {
        number += 1;
        clients
            .each_ref()
            .map(|client| client.exchange(format!("{number}").as_bytes(), PATIENCE).unwrap().server)
    };
    ask();
    for front in fronts {
        world.balance(front, [world.backend(front, 0).draining(), world.backend(front, 1)]);
    }
    // It talks for longer than the time-out: its entries are refreshed about once a second.
    let begin = Instant::now();
    wait_for(PATIENCE, "twice the time-out", || {
        let asked = begin.elapsed();
        assert_eq!(ask(), ["backend0", "backend0"], "after {asked:?}");
        asked > 2 * Duration::from_millis(TIMEOUT)
    })
    .unwrap();
    for front in fronts {
        assert_eq!(world.counters(front).flows, 1);
        let [one, two] = entries(&world, front.v6).try_into().unwrap();
        assert_eq!([one.seen, two.seen], [Seen::REPLIED | Seen::CONFIRMED; 2]);
    }
    for front in fronts {
        wait_expired(&world, front.v6);
    }
    assert_eq!(ask(), ["backend1", "backend1"], "after a silence");
    for front in fronts {
        assert_eq!(world.counters(front).flows, 2);
    }
}

/// New flows avoid a backend once its removal is applied. Flows that it has go to it a little longer: until the grace
/// period is over, within which a packet may still be on its way there.
#[test]
fn a_udp_flow_to_a_backend_that_is_removed_moves() {
    require_kernel!();
    let world = World::new(Hooks::Tcx);
    for front in [Front::UDP_V4, Front::UDP_V6] {
        world.balance(front, [world.backend(front, 0)]);
        let client = world.net.client.run(|| UdpClient::connect(front.virtual_address())).unwrap();
        let mut number = 0;
        let mut ask = || {
            number += 1;
            client.exchange(format!("{number}").as_bytes(), PATIENCE).unwrap().server
        };
        assert_eq!(ask(), "backend0");
        world.balance(front, [world.backend(front, 1), world.backend(front, 2)]);
        wait_for(PATIENCE, "the flow moves", || ask() != "backend0").unwrap();
        let moved = ask();
        for _ in 0..10 {
            assert_eq!(ask(), moved);
        }
        assert_eq!(world.counters(front).flows, 2);
    }
}
