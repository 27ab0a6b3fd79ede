//! A dataplane that is opened anew with other ports for source NAT: no connection loses its own.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use dataplane_core::{
    model::{Masquerade, NatPorts},
    pipeline::Timeouts,
    tables::Store as _,
};
use dataplane_ebpf::{Builder, EbpfDataplane, Error, PinDir, PinFault, TcMode, Uplink, XdpMode};
use dataplane_testkit::{
    net::{LoadBalancerTopology, wait_for},
    pins::PinFolder,
    require_kernel,
};

use crate::{
    masquerade::cut_off,
    peers::DatagramClient,
    world::{Front, Hooks, PATIENCE, World},
};

const FRONT: Front = Front::UDP_V4;
const OLD: RangeInclusive<u16> = 50_000..=50_099;
const OTHER: RangeInclusive<u16> = 51_000..=51_099;
const BOTH: RangeInclusive<u16> = 50_000..=51_099;

fn with_ports(builder: Builder, folder: &PinFolder, ports: RangeInclusive<u16>) -> Builder {
    let timeouts = Timeouts { udp_stream: 4_000, ..Timeouts::default() };
    builder
        .pins(PinDir::new(folder.edge()).unwrap())
        .nat_ports(NatPorts::new(ports).unwrap())
        .timeouts(timeouts)
}

/// The ports that are given out.
fn reserved(plane: &EbpfDataplane) -> Vec<u16> {
    plane.tables().nat_v4().entries().map(|entry| entry.unwrap().0.destination_port.get()).collect()
}

#[test]
fn another_range_takes_no_port_from_a_connection() {
    require_kernel!();
    let folder = PinFolder::new("nat-range");
    let net = World::topology(Hooks::Tcx, 1);
    let mut world = World::with(Hooks::Tcx, net, |builder| with_ports(builder, &folder, OLD));
    world.masquerade = Masquerade::Auto;
    cut_off(&world.net);
    world.balance(FRONT, [world.backend(FRONT, 0)]);
    let connect = |net: &LoadBalancerTopology, port| {
        let from = SocketAddr::new(net.client_addresses.v4.into(), port);
        net.client.run(|| DatagramClient::connect(from, FRONT.virtual_address(), PATIENCE).unwrap())
    };
    let live = connect(&world.net, 2_000);
    // Twice: what goes on after an answer is kept for long.
    assert_eq!([live.ask("one").unwrap(), live.ask("two").unwrap()], ["backend0"; 2]);
    let held = reserved(&world.plane);
    assert!(held.len() == 1 && OLD.contains(&held[0]), "{held:?}");

    // The tables serve on without a controller.
    let (net, _servers) = world.leave_attached();
    let uplinks: Vec<String> = net.balancer_interfaces().map(|one| one.name().to_owned()).collect();
    let open = |ports: RangeInclusive<u16>| {
        let builder = EbpfDataplane::builder().capacity(World::capacity());
        let builder = uplinks.iter().fold(with_ports(builder, &folder, ports), |builder, name| {
            builder.uplink(Uplink::named(name).xdp(XdpMode::Off).tc(TcMode::Auto))
        });
        net.balancer.run(|| builder.open())
    };
    match open(OTHER) {
        Err(error @ Error::Pin { .. }) => {
            let text = error.to_string();
            let Error::Pin { path, reason } = error else { unreachable!() };
            assert!(path.ends_with("maps/nat_v4"), "{text}");
            let wanted = PinFault::NatPorts {
                pinned_first: *OLD.start(),
                pinned_last: *OLD.end(),
                first: *OTHER.start(),
                last: *OTHER.end(),
                connections: 1,
            };
            assert_eq!(reason, wanted);
            assert!(text.contains("50000 to 50099") && text.contains("51000 to 51099"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(live.ask("three").unwrap(), "backend0", "what was refused changed something");

    // One that holds both is taken, and the connection lives.
    let plane = open(BOTH).unwrap();
    assert!(plane.is_adopted());
    assert_eq!(live.ask("four").unwrap(), "backend0");
    assert_eq!(reserved(&plane), held);
    plane.leave_attached().unwrap();

    // Nothing is said for longer than flows are kept: then nobody loses anything by it.
    let mut opened = None;
    wait_for(PATIENCE + Duration::from_secs(10), "the connection is over", || {
        opened = match open(OTHER) {
            Ok(plane) => Some(plane),
            Err(Error::Pin { reason: PinFault::NatPorts { .. }, .. }) => None,
            Err(error) => panic!("{error}"),
        };
        opened.is_some()
    })
    .unwrap();
    let plane = opened.unwrap();
    assert_eq!(connect(&net, 2_001).ask("five").unwrap(), "backend0");
    assert!(reserved(&plane).iter().any(|port| OTHER.contains(port)));
    plane.detach().unwrap();
}
