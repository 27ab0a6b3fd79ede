//! Programs of others in front of ours and behind it, on the interface towards the client: they see every packet that is
//! not ours. Of what is ours, those in front see each packet as it came, and those behind none of what comes in.

mod census;

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode as XdpFlags,
    tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
};
use aya_obj::programs::XdpAttachType;
use census::{Census, CensusProgram, Kind};
use dataplane_core::model::Protocol;
use dataplane_ebpf::{Order, TcMode, Uplink, XdpMode};
use dataplane_testkit::{
    net::{AddressPlan, Interface, UdpEchoServer, wait_for},
    pins::PinFolder,
    require_kernel,
};

use crate::{
    kernel,
    others::refusal,
    world::{Front, Hooks, PATIENCE, World, ask, backend_port},
};

/// Questions of each kind.
const TIMES: u64 = 20;
/// A port of the balancer's own, one that nobody has, and the one that nobody serves at a virtual address.
const OWN: u16 = 7777;
const CLOSED: u16 = 7778;
const NO_SERVICE: u16 = 7779;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: Kind = Kind { ethertype: 0x0806, protocol: 0, port: 0 };
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn kinds(protocol: u8, port: u16) -> [Kind; 2] {
    [IPV4, IPV6].map(|ethertype| Kind { ethertype, protocol, port })
}

/// Whether a packet from the client is for a service.
fn is_ours(kind: Kind) -> bool {
    matches!((kind.protocol, kind.port), (TCP, 80) | (UDP, 53))
}

/// Whether packets of a kind are there only once somebody talks. Groups are joined and neighbours looked for over IPv6 also
/// while strangers come.
fn is_talk(kind: Kind) -> bool {
    kind == ARP || matches!(kind.protocol, ICMP | TCP | UDP)
}

/// Where a stranger's program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    /// The interface's only one for XDP, in the driver.
    Xdp,
    /// In front of all that is at tcx.
    TcxFirst,
    /// Behind it.
    TcxLast,
    /// A filter of this priority.
    Clsact(u16),
}

/// A stranger's program at work.
struct Stranger {
    spot: Spot,
    program: CensusProgram,
    _tc: Option<SchedClassifier>,
    _xdp: Option<Xdp>,
}

impl Stranger {
    fn at(spot: Spot, direction: TcAttachType, interface: &Interface, folder: &PinFolder) -> Self {
        let path = folder.root().join(format!("{direction:?}-{spot:?}").replace(['(', ')'], ""));
        let program = CensusProgram::load(spot == Spot::Xdp, &path).unwrap();
        let name = interface.name();
        let mut stranger = Self { spot, program, _tc: None, _xdp: None };
        let mut made = Ok(());
        let options = match spot {
            Spot::Xdp => {
                let mut xdp = Xdp::from_pin(&path, XdpAttachType::Interface).unwrap();
                interface.namespace().run(|| xdp.attach(name, XdpFlags::Driver)).unwrap();
                stranger._xdp = Some(xdp);
                return stranger;
            }
            Spot::TcxFirst => TcAttachOptions::TcxOrder(LinkOrder::first()),
            Spot::TcxLast => TcAttachOptions::TcxOrder(LinkOrder::last()),
            Spot::Clsact(priority) => {
                // One may be there.
                made = interface.namespace().run(|| qdisc_add_clsact(name));
                TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() })
            }
        };
        let mut tc = SchedClassifier::from_pin(&path).unwrap();
        let attach = || tc.attach_with_options(name, direction, options);
        let link =
            interface.namespace().run(attach).unwrap_or_else(|error| panic!("{error}, qdisc: {made:?}"));
        if matches!(spot, Spot::Clsact(_)) {
            // It would be taken off by number, in whichever namespace this is dropped; it goes with its own.
            std::mem::forget(tc.take_link(link).unwrap());
        }
        stranger._tc = Some(tc);
        stranger
    }
}

/// Asks everybody, who all answer as they should.
fn talk(world: &World) {
    let net = &world.net;
    let own = UdpEchoServer::start(&net.balancer, "balancer", &net.backends[0].gateways.with_port(OWN));
    let own = own.unwrap();
    for gateway in net.client_side.addresses().unwrap() {
        net.client_interface.flush_neighbour(gateway.addr()).unwrap();
    }
    net.client.run(|| {
        for _ in 0..TIMES {
            for address in net.backends[0].gateways.with_port(OWN) {
                assert_eq!(ask(Protocol::Udp, address, PATIENCE).unwrap(), "balancer");
            }
            for address in net.backends[1].addresses.with_port(backend_port(Protocol::Udp)) {
                assert_eq!(ask(Protocol::Udp, address, PATIENCE).unwrap(), "backend1");
            }
            for address in net.backends[0].gateways.with_port(CLOSED) {
                assert_eq!(refusal(Protocol::Tcp, address), Some(libc::ECONNREFUSED));
            }
            for address in AddressPlan::vip(0).with_port(NO_SERVICE) {
                let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
                std::net::UdpSocket::bind(any).unwrap().send_to(b"?", address).unwrap();
            }
        }
    });
    assert_eq!(own.received(), 2 * TIMES);
    for front in Front::ALL {
        let who = world.ask(front, TIMES as usize);
        assert!(who.iter().all(|name| name.starts_with("backend")), "{who:?}");
    }
}

/// What comes in from the client: packets that are not ours are seen by all, in front of us and behind us.
fn check_ingress(world: &World, before: &[Stranger], behind: &[Stranger]) -> Result<(), String> {
    let mut exact: Census = [OWN, backend_port(Protocol::Udp), NO_SERVICE]
        .into_iter()
        .flat_map(|port| kinds(UDP, port).map(|kind| (kind, TIMES)))
        .collect();
    exact.extend(kinds(TCP, CLOSED).map(|kind| (kind, TIMES)));
    let everybody: Vec<(Spot, Census)> =
        before.iter().chain(behind).map(|stranger| (stranger.spot, stranger.program.census())).collect();
    let others = |census: &Census| {
        let mut others = census.clone();
        others.retain(|kind, _| is_talk(*kind) && !is_ours(*kind));
        others
    };
    let (_, first) = &everybody[0];
    for (spot, census) in &everybody {
        let seen = others(census);
        let is_exact = exact.iter().all(|(kind, count)| seen.get(kind) == Some(count));
        if !is_exact || !seen.contains_key(&ARP) || seen != others(first) {
            return Err(format!("{spot:?} saw {census:?}, the first one {first:?}"));
        }
    }
    let [tcp, udp] = [kinds(TCP, 80), kinds(UDP, 53)].map(|kinds| kinds.to_vec());
    for (place, (spot, census)) in everybody.iter().enumerate() {
        let count = |kind: &Kind| census.get(kind).copied().unwrap_or(0);
        // What XDP sends never comes to tc.
        let sent_before = world.hooks.xdp_redirects() && *spot != Spot::Xdp;
        let holds = if place >= before.len() {
            tcp.iter().chain(&udp).all(|kind| count(kind) == 0)
        } else if sent_before {
            udp.iter().all(|kind| count(kind) < TIMES)
        } else {
            udp.iter().all(|kind| count(kind) == TIMES) && tcp.iter().all(|kind| count(kind) >= 3 * TIMES)
        };
        if !holds {
            return Err(format!("{spot:?} saw of ours {census:?}"));
        }
    }
    Ok(())
}

/// What goes out to the client passes everybody, ours too, which is translated where it came in.
fn check_egress(world: &World, strangers: &[Stranger]) -> Result<(), String> {
    let mut seen = None;
    for stranger in strangers {
        let mut census = stranger.program.census();
        census.retain(|kind, _| is_talk(*kind));
        let datagrams: u64 =
            census.iter().filter(|(kind, _)| kind.protocol == UDP).map(|(_, count)| count).sum();
        let is_told = if world.hooks.xdp_redirects() {
            (4 * TIMES..6 * TIMES).contains(&datagrams)
        } else {
            datagrams == 6 * TIMES
        };
        let first = seen.get_or_insert_with(|| census.clone());
        if !is_told || census != *first {
            return Err(format!(
                "{:?} saw {datagrams} datagrams, {census:?}, the first one {first:?}",
                stranger.spot
            ));
        }
    }
    Ok(())
}

/// Strangers at these places, in the order in which they see a packet that comes in.
fn check(label: &str, hooks: Hooks, order: Order, before: &[Spot], behind: &[Spot]) {
    let net = World::topology(hooks, 2);
    let (folder, link) = (PinFolder::new(label), net.client_side.clone());
    let place = |spot: &Spot| {
        let egress = (*spot != Spot::Xdp).then(|| Stranger::at(*spot, TcAttachType::Egress, &link, &folder));
        (Stranger::at(*spot, TcAttachType::Ingress, &link, &folder), egress)
    };
    // In front of those that are there, or behind them.
    let mut first: Vec<_> = if order == Order::Last { before.iter().map(place).collect() } else { vec![] };
    let world = if order == Order::Last {
        let mode = if hooks == Hooks::Clsact { TcMode::Clsact } else { TcMode::Auto };
        let names: Vec<_> = net.balancer_interfaces().map(|link| link.name().to_owned()).collect();
        let uplink = |name| Uplink::named(name).xdp(XdpMode::Off).tc(mode).order(order);
        World::at(hooks, net, &[], |builder| {
            names.iter().map(uplink).fold(builder, |all, one| all.uplink(one))
        })
    } else {
        World::with(hooks, net, |builder| builder)
    };
    if order == Order::First {
        first.extend(before.iter().map(place));
    }
    let (behind, mut out): (Vec<_>, Vec<_>) = behind.iter().map(place).unzip();
    let (before, out_before): (Vec<_>, Vec<_>) = first.into_iter().unzip();
    out.extend(out_before);
    world.balance_all();
    talk(&world);
    let mut told = String::new();
    let mut holds = |result: Result<(), String>| result.map_err(|why| told = why).is_ok();
    let outcome = wait_for(PATIENCE, "strangers that saw everything", || {
        holds(check_ingress(&world, &before, &behind))
    });
    outcome.unwrap_or_else(|error| panic!("{error}: {told}"));
    let out: Vec<_> = out.into_iter().flatten().collect();
    check_egress(&world, &out).unwrap();
    for front in [Front::UDP_V4, Front::UDP_V6] {
        assert_eq!(world.counters(front).packets, TIMES);
    }
    // And all of them are still there.
    for attachment in world.plane.attachments() {
        assert_eq!(attachment.standing, dataplane_ebpf::Standing::Attached, "{attachment}");
    }
}

fn has_tcx() -> Result<(), &'static str> {
    if kernel::is_at_least(6, 6) { Ok(()) } else { Err("before Linux 6.6 there is no tcx") }
}

#[test]
fn strangers_around_us_at_tcx_see_what_is_not_ours() {
    require_kernel!(has_tcx());
    let behind = [Spot::TcxLast, Spot::Clsact(10)];
    check("tcx", Hooks::Tcx, Order::First, &[Spot::TcxFirst], &behind);
    check("tcx-last", Hooks::Tcx, Order::Last, &[Spot::TcxFirst], &behind);
}

#[test]
fn strangers_around_us_at_clsact_see_what_is_not_ours() {
    require_kernel!();
    check("clsact", Hooks::Clsact, Order::First, &[], &[Spot::Clsact(10)]);
    check("clsact-last", Hooks::Clsact, Order::Last, &[Spot::Clsact(10)], &[]);
    if has_tcx().is_ok() {
        check("both", Hooks::Clsact, Order::First, &[Spot::TcxFirst], &[Spot::Clsact(10)]);
    }
}

#[test]
fn a_stranger_in_the_slot_of_xdp_sees_everything() {
    require_kernel!();
    check("slot", Hooks::Tcx, Order::First, &[Spot::Xdp], &[Spot::Clsact(10)]);
}

#[test]
fn strangers_at_tcx_see_what_our_xdp_passes_on() {
    require_kernel!(has_tcx());
    check("xdp", Hooks::Xdp, Order::First, &[Spot::TcxFirst], &[Spot::TcxLast]);
}
