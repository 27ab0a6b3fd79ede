//! Random changes of services and backends: a stream that a seed determines, whatever else happens.

use std::collections::BTreeMap;

use dataplane_core::model::{
    Affinity, AffinityTimeout, Backend, Choice, Frontend, MaglevSize, Masquerade, Service, Weight,
};
use dataplane_testkit::{
    frames::Rng,
    net::{AddressPlan, HostAddresses},
};

use super::history::{Picture, Standing};
use crate::world::{Front, backend_port};

/// Services of each kind of traffic. They share the backends.
const SERVICES_A_KIND: usize = 12;
/// All of them.
pub const SERVICES: usize = SERVICES_A_KIND * Front::ALL.len();
/// Hosts; each is a backend of every kind.
pub const HOSTS: usize = 8;

/// A backend of a service.
#[derive(Clone, Copy, Debug)]
struct Member {
    weight: u32,
    draining: bool,
}

impl Member {
    fn is_open(self) -> bool {
        !self.draining && self.weight > 0
    }
}

/// One service, as it is or as it was before it went.
#[derive(Clone, Debug)]
pub struct Wanted {
    number: usize,
    members: BTreeMap<usize, Member>,
    maglev: bool,
    masquerade: bool,
    affinity: bool,
    exists: bool,
}

impl Wanted {
    /// Its kind of traffic.
    pub fn front(number: usize) -> Front {
        Front::ALL[number % Front::ALL.len()]
    }

    /// Where its clients go.
    pub fn address(number: usize) -> std::net::SocketAddr {
        let front = Self::front(number);
        let port = front.virtual_address().port();
        AddressPlan::vip((number / Front::ALL.len()) as u8).with_port(port)[usize::from(front.v6)]
    }

    pub fn number(&self) -> usize {
        self.number
    }

    pub fn name(number: usize) -> String {
        format!("{}-{}", Self::front(number).name(), number / Front::ALL.len())
    }

    /// What its clients may meet.
    pub fn picture(&self) -> Picture {
        let standing = |host: usize| match self.members.get(&host) {
            None => Standing::Absent,
            Some(member) if member.is_open() => Standing::Open,
            Some(_) => Standing::Idle,
        };
        self.exists.then(|| (0..HOSTS).map(standing).collect())
    }

    /// What it is to be; `None` where it is to go.
    pub fn service(&self, hosts: &[HostAddresses]) -> Option<Service> {
        let front = Self::front(self.number);
        let address = Self::address(self.number);
        let backends = self.members.iter().map(|(host, member)| {
            let address = hosts[*host].both()[usize::from(front.v6)];
            let backend = Backend::new(address, backend_port(front.protocol)).unwrap();
            let backend = backend.with_weight(Weight::new(member.weight).unwrap());
            if member.draining { backend.draining() } else { backend }
        });
        let frontend = Frontend::new(address.ip(), address.port(), front.protocol).unwrap();
        let maglev = Choice::Maglev(MaglevSize::new(251).unwrap());
        let service = Service::builder(&Self::name(self.number)).frontend(frontend).backends(backends);
        let service = service.choice(if self.maglev { maglev } else { Choice::Random });
        let masquerade = if self.masquerade { Masquerade::Auto } else { Masquerade::Never };
        let timeout = AffinityTimeout::new(1).unwrap();
        let affinity = if self.affinity { Affinity::ClientIp { timeout } } else { Affinity::None };
        self.exists.then(|| service.masquerade(masquerade).affinity(affinity).build().unwrap())
    }

    /// Whether a client comes to its backend again.
    pub fn affinity(&self) -> bool {
        self.affinity
    }
}

/// The stream.
pub struct Changes {
    rng: Rng,
    services: Vec<Wanted>,
    /// Of all that was changed, to compare two streams by.
    digest: u64,
}

impl Changes {
    /// The beginning: every service stands, with half of the hosts.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut service = |number| {
            let members =
                (0..HOSTS / 2).map(|_| (rng.below(HOSTS), Member { weight: 1, draining: false })).collect();
            let [maglev, masquerade, affinity] = [50, 50, 25].map(|percent| rng.chance(percent));
            Wanted { number, members, maglev, masquerade, affinity, exists: true }
        };
        let services = (0..SERVICES).map(&mut service).collect();
        Self { rng, services, digest: 0xcbf2_9ce4_8422_2325 }
    }

    pub fn services(&self) -> &[Wanted] {
        &self.services
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The next change: the services that are different from now on, to be committed at once.
    pub fn next(&mut self) -> Vec<Wanted> {
        let number = self.rng.below(SERVICES);
        let mut changed = vec![number];
        let what = self.rng.below(100);
        let rng = &mut self.rng;
        let service = &mut self.services[number];
        if !service.exists {
            // It is back as it was.
            service.exists = true;
        } else {
            let present: Vec<usize> = service.members.keys().copied().collect();
            let absent: Vec<usize> = (0..HOSTS).filter(|host| !service.members.contains_key(host)).collect();
            match what {
                0..30 if !absent.is_empty() => {
                    let weight = 1 + rng.below(3) as u32;
                    service.members.insert(*rng.pick(&absent), Member { weight, draining: false });
                }
                30..50 if !present.is_empty() => {
                    service.members.remove(rng.pick(&present));
                }
                50..65 if !present.is_empty() => {
                    let member = service.members.get_mut(rng.pick(&present)).unwrap();
                    member.draining = !member.draining;
                }
                65..80 if !present.is_empty() => {
                    service.members.get_mut(rng.pick(&present)).unwrap().weight = rng.below(5) as u32;
                }
                80..85 => service.maglev = !service.maglev,
                85..90 => service.masquerade = !service.masquerade,
                90..94 => service.affinity = !service.affinity,
                94..97 => service.exists = false,
                _ if !present.is_empty() => {
                    // A backend goes over to another service of the kind, in the same transaction.
                    let host = *rng.pick(&present);
                    let member = service.members.remove(&host).unwrap();
                    let kinds = Front::ALL.len();
                    let other = (number + kinds * (1 + rng.below(SERVICES_A_KIND - 1))) % SERVICES;
                    if self.services[other].exists {
                        self.services[other].members.insert(host, member);
                        changed.push(other);
                    }
                }
                _ => service.maglev = !service.maglev,
            }
        }
        // Mostly somebody is left: clients who find nobody wait long.
        for &number in &changed {
            let members = &mut self.services[number].members;
            if !members.values().any(|member| member.is_open()) && self.rng.chance(90) {
                members.insert(self.rng.below(HOSTS), Member { weight: 1, draining: false });
            }
        }
        let changed: Vec<Wanted> = changed.into_iter().map(|number| self.services[number].clone()).collect();
        for byte in format!("{changed:?}").bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        changed
    }
}

#[test]
fn a_seed_determines_the_stream() {
    let digest = |seed| {
        let mut changes = Changes::new(seed);
        let mut gone = 0;
        for _ in 0..1000 {
            gone += changes.next().iter().filter(|service| service.picture().is_none()).count();
        }
        assert!(gone > 10, "{gone} times a service went");
        changes.digest()
    };
    assert_eq!(digest(7), digest(7));
    assert_ne!(digest(7), digest(8));
}
