//! ICMP errors about what is balanced reach whom they are for.

use std::{io, net::IpAddr};

use dataplane_core::{
    model::{Backend, Masquerade, Protocol},
    pipeline::Verdict,
};
use dataplane_testkit::{
    net::{HttpServer, Interface, Namespace, Route, UdpClient, http, veth},
    require_kernel,
};

use crate::{
    masquerade::cut_off,
    world::{Front, Hooks, PATIENCE, World, backend_port},
};

/// What the narrow link carries; the least that IPv6 allows.
const NARROW: u32 = 1280;
/// Many segments.
const LENGTH: u64 = 1 << 20;

/// A host behind another one, which does not send it more than [`NARROW`] bytes at once. The host itself does not know.
struct Far {
    host: Namespace,
    addresses: [IpAddr; 2],
    _ends: (Interface, Interface),
}

impl Far {
    fn behind(router: &Namespace, router_addresses: [IpAddr; 2], world: &World) -> Self {
        let host = Namespace::new("far").unwrap();
        let (near, far) = veth(router, "to-far", &host, "eth0").unwrap();
        for (interface, addresses) in
            [(&near, ["198.18.7.1/24", "2001:db8:7::1/64"]), (&far, ["198.18.7.2/24", "2001:db8:7::2/64"])]
        {
            for address in addresses {
                interface.add_address(address.parse().unwrap()).unwrap();
            }
        }
        near.set_mtu(NARROW).unwrap();
        router.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]).unwrap();
        for (prefix, gateway, router_address) in [
            ("198.18.7.0/24", "198.18.7.1", router_addresses[0]),
            ("2001:db8:7::/64", "2001:db8:7::1", router_addresses[1]),
        ] {
            host.add_route(&Route::default_via(gateway.parse().unwrap())).unwrap();
            world.net.balancer.add_route(&Route::to(prefix.parse().unwrap()).via(router_address)).unwrap();
        }
        let addresses = ["198.18.7.2", "2001:db8:7::2"].map(|address| address.parse().unwrap());
        Self { host, addresses, _ends: (near, far) }
    }
}

/// A backend that has nobody at its port says so, and a client hears it from the address that it asked.
pub fn check_closed_port(world: &World, client: &Namespace) {
    for front in [Front::UDP_V4, Front::UDP_V6] {
        let address = world.net.backends[0].addresses.both()[usize::from(front.v6)];
        world.balance(front, [Backend::new(address, 9).unwrap()]);
        let error = client.run(|| {
            let client = UdpClient::connect(front.virtual_address()).unwrap();
            client.exchange(b"who?", PATIENCE).unwrap_err()
        });
        let cause = std::error::Error::source(&error).and_then(|error| error.downcast_ref::<io::Error>());
        let errno = cause.and_then(io::Error::raw_os_error);
        assert_eq!(errno, Some(libc::ECONNREFUSED), "{}: {error}", front.name());
        // The error is no packet of the flow.
        let counted = world.counters(front);
        assert_eq!((counted.packets, counted.reply_packets), (1, 0), "{counted:?}");
    }
}

#[test]
fn tcx_tells_a_client_of_a_closed_port() {
    require_kernel!();
    let world = World::new(Hooks::Tcx);
    check_closed_port(&world, &world.net.client);
}

#[test]
fn xdp_tells_a_client_of_a_closed_port() {
    require_kernel!();
    let world = World::new(Hooks::Xdp);
    check_closed_port(&world, &world.net.client);
}

/// The source stays, or is the balancer's own: then backends know no way to clients.
pub const MASQUERADES: [Masquerade; 2] = [Masquerade::Never, Masquerade::Always];

pub fn world_of(hooks: Hooks, masquerade: Masquerade) -> World {
    let mut world = World::new(hooks);
    world.masquerade = masquerade;
    if masquerade != Masquerade::Never {
        cut_off(&world.net);
    }
    world
}

/// A router among the clients says that a backend's segments are too big for whoever is behind it.
pub fn check_narrow_client(world: &World, router: &Namespace, addresses: [IpAddr; 2]) {
    let far = Far::behind(router, addresses, world);
    for front in Front::TCP {
        world.balance(front, [world.backend(front, 0)]);
        let down = far.host.run(|| http::download(front.virtual_address(), LENGTH, PATIENCE).unwrap());
        assert_eq!(down.bytes, LENGTH, "{}", front.name());
    }
    assert_told(&world.net.backends[0].namespace, world);
}

/// A router before a backend says that a client's segments are too big.
pub fn check_narrow_backend(world: &World, client: &Namespace) {
    let router = &world.net.backends[0];
    let far = Far::behind(&router.namespace, router.addresses.both(), world);
    let port = backend_port(Protocol::Tcp);
    let addresses = far.addresses.map(|address| (address, port).into());
    let _server = HttpServer::start(&far.host, "far", &addresses).unwrap();
    for front in Front::TCP {
        let backend = far.addresses[usize::from(front.v6)];
        world.balance(front, [Backend::new(backend, port).unwrap()]);
        let up = client.run(|| http::upload(front.virtual_address(), LENGTH, PATIENCE).unwrap());
        assert_eq!(up.bytes, LENGTH, "{}", front.name());
    }
    assert_told(client, world);
}

/// The sender heard it, of both families; else the transfer was not what these tests are about.
fn assert_told(sender: &Namespace, world: &World) {
    let heard = sender.statistics().unwrap();
    assert!(heard.icmp.in_destination_unreachable > 0, "{heard:?}");
    assert!(heard.icmp6.in_packet_too_big > 0, "{heard:?}");
    for hook in dataplane_core::pipeline::Hook::ALL {
        for verdict in Verdict::all().filter(|verdict| matches!(verdict, Verdict::Drop(_))) {
            assert_eq!(world.count(hook, verdict), 0, "{hook:?} {verdict}");
        }
    }
}

#[test]
fn tcx_carries_word_of_a_narrow_link_to_a_backend() {
    require_kernel!();
    for masquerade in MASQUERADES {
        let world = world_of(Hooks::Tcx, masquerade);
        check_narrow_client(&world, &world.net.client, world.net.client_addresses.both());
    }
}

#[test]
fn xdp_carries_word_of_a_narrow_link_to_a_backend() {
    require_kernel!();
    for masquerade in MASQUERADES {
        let world = world_of(Hooks::Xdp, masquerade);
        check_narrow_client(&world, &world.net.client, world.net.client_addresses.both());
    }
}

#[test]
fn tcx_carries_word_of_a_narrow_link_to_a_client() {
    require_kernel!();
    for masquerade in MASQUERADES {
        let world = world_of(Hooks::Tcx, masquerade);
        check_narrow_backend(&world, &world.net.client);
    }
}

#[test]
fn xdp_carries_word_of_a_narrow_link_to_a_client() {
    require_kernel!();
    for masquerade in MASQUERADES {
        let world = world_of(Hooks::Xdp, masquerade);
        check_narrow_backend(&world, &world.net.client);
    }
}
