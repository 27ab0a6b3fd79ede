//! What the tables hold when the changes are over, read from the tables: the ledger of control may be wrong.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use dataplane_core::{
    control::WaitError,
    model::{Backend, Choice, Frontend, MaglevSize, Protocol, Service},
    reconcile::Usage,
    tables::{Capacity, Store, WordArray},
};
use dataplane_testkit::{net::wait_for, witness::Witness};

use super::{changes::Wanted, history::Standing};
use crate::world::{PATIENCE, World, backend_port};

/// Room for the services, and for their clients' flows.
pub const CAPACITY: Capacity = Capacity {
    frontends: 256,
    slots: 1 << 15,
    backends: 256,
    conntrack: 1 << 18,
    opening: 1 << 18,
    nat: 1 << 16,
    affinity: 1 << 10,
    fragments: 64,
};

/// What is taken of the tables, the same at the beginning and at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    usage: Usage,
    /// services, conntrack, connections not confirmed, nat; of IPv4 and IPv6.
    entries: [u32; 8],
    words: Words,
}

/// `service_words`, `backends_v4`, `backends_v6`: elements that packets would follow.
type Words = [usize; 3];

impl Fill {
    pub fn of(world: &World) -> Self {
        let tables = world.plane.tables();
        Self {
            usage: world.control.usage(),
            entries: [
                tables.services_v4().fill().unwrap(),
                tables.services_v6().fill().unwrap(),
                tables.conntrack_v4().fill().unwrap(),
                tables.conntrack_v6().fill().unwrap(),
                tables.opening_v4().fill().unwrap(),
                tables.opening_v6().fill().unwrap(),
                tables.nat_v4().fill().unwrap(),
                tables.nat_v6().fill().unwrap(),
            ],
            words: words(world),
        }
    }

    /// Waits until it is so again.
    pub fn comes_back(&self, world: &World) {
        let back = wait_for(Duration::from_secs(60), "all is as it was", || Self::of(world) == *self);
        back.unwrap_or_else(|error| panic!("{error}: {:?}, not {self:?}", Self::of(world)));
    }
}

fn words(world: &World) -> Words {
    let tables = world.plane.tables();
    let taken = |array: &dyn WordArray| {
        // The lower half has what packets compare: a service's place, a backend's generation.
        (0..array.capacity()).filter(|index| array.load(*index, 0).unwrap() as u32 != 0).count()
    };
    [tables.service_words(), tables.backends_v4(), tables.backends_v6()].map(taken)
}

/// Clients stay remembered when their frontend has gone, until others need the room: no more of them than there were
/// indexes of frontends, since each family has one client.
pub fn clients_are_remembered(world: &World) {
    let tables = world.plane.tables();
    let remembered = [tables.affinity_v4().fill().unwrap(), tables.affinity_v6().fill().unwrap()];
    assert!(remembered.iter().all(|count| (1..=2 * CAPACITY.frontends).contains(count)), "{remembered:?}");
}

/// Follows every frontend as packets do: it leads to those that get new flows, and to nobody else; and nothing else is
/// in the tables.
pub fn hold_what_is_wanted(world: &World, services: &[Wanted]) {
    let hosts: Vec<_> = world.net.backends.iter().map(|host| host.addresses).collect();
    let witness = Witness::new(world.plane.tables());
    let (mut frontends, mut backends) = (0, [BTreeSet::new(), BTreeSet::new()]);
    for wanted in services {
        let (front, address) = (Wanted::front(wanted.number()), Wanted::address(wanted.number()));
        let frontend = Frontend::new(address.ip(), address.port(), front.protocol).unwrap();
        let picture = wanted.picture();
        let (mut open, mut found) = (BTreeSet::new(), BTreeSet::new());
        for (host, standing) in hosts.iter().zip(picture.iter().flatten()) {
            let address = host.with_port(backend_port(front.protocol))[usize::from(front.v6)];
            if *standing != Standing::Absent {
                backends[usize::from(front.v6)].insert((address, front.protocol.number()));
            }
            if *standing == Standing::Open {
                open.insert(address);
            }
        }
        let resolved = witness.resolve(&frontend);
        assert_eq!(resolved.is_some(), picture.is_some(), "{frontend}");
        found.extend(resolved.into_iter().flatten());
        assert_eq!(found, open, "{frontend}");
        let remembers = witness.affinity(&frontend).is_some_and(|ticks| ticks > 0);
        assert_eq!(remembers, picture.is_some() && wanted.affinity(), "{frontend}");
        frontends += usize::from(picture.is_some());
    }
    witness.addresses_match_frontends();
    let expected = [frontends, backends[0].len(), backends[1].len()];
    let settled = wait_for(PATIENCE, "what is not wanted goes", || words(world) == expected);
    settled.unwrap_or_else(|error| panic!("{error}: {:?}, not {expected:?}", words(world)));
    witness.marks_match_lists();
}

/// Fills every line of the slot table, and nearly all of the others that services take; then takes it all away. Nothing
/// may have been lost.
pub fn take_all_there_is(world: &World) {
    let full: Vec<Service> = vec![
        large(Ipv4Addr::new(198, 18, 0, 0).into(), 64_513),
        large("2001:db8::".parse::<Ipv6Addr>().unwrap().into(), 64_483),
    ];
    let revision = world.agent.replace(full).unwrap();
    world.control.wait_applied(revision, PATIENCE).unwrap();
    let one_more = Service::builder("one-more")
        .frontend(Frontend::new([203, 0, 113, 200].into(), 80, Protocol::Tcp).unwrap())
        .backend(Backend::new([198, 18, 0, 1].into(), 80).unwrap());
    let revision = world.agent.transaction().upsert(one_more.build().unwrap()).commit().unwrap();
    let refused = world.control.wait_applied(revision, PATIENCE);
    assert!(matches!(&refused, Err(WaitError::Incomplete { .. })), "{refused:?}: there was more room");
    remove_all(world);
}

/// A list of 250 backends, with a table of so many places: 2048 lines of 64 bytes, or 2047.
fn large(network: IpAddr, places: u32) -> Service {
    const MANY: u16 = 250;
    let address = |number: u16| match network {
        IpAddr::V4(network) => IpAddr::from((u32::from(network) + u32::from(number)).to_be_bytes()),
        IpAddr::V6(network) => IpAddr::from((u128::from(network) + u128::from(number)).to_be_bytes()),
    };
    let frontends = (1..=MANY).map(|port| Frontend::new(address(999), port, Protocol::Tcp).unwrap());
    let backends = (1..=MANY).map(|number| Backend::new(address(number), 80).unwrap());
    let name = if network.is_ipv4() { "large-v4" } else { "large-v6" };
    let service = Service::builder(name).choice(Choice::Maglev(MaglevSize::new(places).unwrap()));
    service.frontends(frontends).backends(backends).build().unwrap()
}

pub fn remove_all(world: &World) {
    let revision = world.agent.transaction().full_picture().confirm_removals().commit().unwrap();
    world.control.wait_applied(revision, PATIENCE).unwrap();
}
