//! Ports of this host that flows have: who has them for certain stands in [`flows`](super::flows), and here who may.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use dataplane_core::model::{NatPorts, Protocol};

use super::{
    flows::Key,
    ops::{Flags, Ports, Virtual},
};

/// The first one, which a UDP socket of the host has.
const FIRST: u16 = 50_000;
pub const BOUND: u16 = FIRST;

/// How many are looked at for one flow.
const PROBES: usize = 32;

/// A flow of datagrams certainly keeps its port for so long, and certainly not for longer than that: two seconds, while an
/// entry notes packets once a second.
pub const SPARED: Duration = Duration::from_millis(900);
const SPARED_AT_MOST: Duration = Duration::from_millis(2_300);

/// Datagrams both ways: 180 s, and two more for the port.
const STREAM_AT_MOST: Duration = Duration::from_secs(183);

/// Flows that need different ports: those of one family and protocol to one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    v6: bool,
    udp: bool,
    backend: usize,
}

impl Group {
    pub fn of(frontend: Virtual, backend: usize) -> Self {
        Self { v6: frontend.v6, udp: is_udp(frontend), backend }
    }
}

pub fn is_udp(frontend: Virtual) -> bool {
    frontend.protocol() == Protocol::Udp
}

/// Who had a port last.
#[derive(Clone, Debug)]
pub struct Holder {
    pub key: Key,
    /// Not before its last packet.
    latest: Duration,
    /// Whether the backend may have answered, and the client gone on after that.
    answered: bool,
    confirmed: bool,
    /// Whether it was reset for certain, and nobody has gone on since; and whether client and backend have certainly ended it.
    reset: bool,
    ends: [bool; 2],
}

impl Holder {
    fn new(key: Key, now: Duration) -> Self {
        Self { key, latest: now, answered: false, confirmed: false, reset: false, ends: [false; 2] }
    }

    /// Whether nobody else may have its port.
    fn may_keep(&self, udp: bool, now: Duration) -> bool {
        let silent = now - self.latest;
        if udp {
            return silent <= if self.confirmed { STREAM_AT_MOST } else { SPARED_AT_MOST };
        }
        self.confirmed && !self.reset && self.ends != [true; 2]
    }

    /// Notes a packet. `is_its`: whether it was surely one of this flow.
    fn note(&mut self, by_client: bool, flags: Flags, is_its: bool, now: Duration) {
        let udp = is_udp(self.key.1);
        self.latest = now;
        self.confirmed |= by_client && self.answered && (udp || flags.goes_on());
        self.answered |= !by_client;
        if udp {
            return;
        }
        self.reset &= !flags.goes_on();
        if is_its {
            self.reset |= flags == Flags::Reset;
            self.ends[usize::from(by_client)] |= flags == Flags::Fin;
        }
    }
}

/// The ports that were lent.
pub struct Lent {
    count: u16,
    holders: BTreeMap<(Group, u16), Holder>,
    /// Flows that may have been opened by packets of which nobody saw what they became: family and protocol, and when.
    unseen: Vec<(bool, bool, Duration)>,
}

impl Lent {
    pub fn new(ports: Ports) -> Self {
        Self { count: ports.count(), holders: BTreeMap::new(), unseen: Vec::new() }
    }

    pub fn range(&self) -> RangeInclusive<u16> {
        FIRST..=FIRST + self.count - 1
    }

    pub fn nat_ports(&self) -> NatPorts {
        NatPorts::new(self.range()).expect("a good range")
    }

    pub fn holder(&self, group: Group, port: u16) -> Option<&Holder> {
        self.holders.get(&(group, port))
    }

    /// A packet of a client was sent to a backend from this port. `goes_on`: of a connection that surely stood before.
    pub fn lend(&mut self, group: Group, port: u16, key: Key, goes_on: bool, now: Duration) {
        let holder = self.holders.entry((group, port)).or_insert_with(|| Holder::new(key, now));
        if holder.key != key {
            *holder = Holder::new(key, now);
        } else if !goes_on {
            (holder.reset, holder.ends) = (false, [false; 2]);
        }
    }

    /// What a connection had goes with it.
    pub fn give_back(&mut self, group: Group, port: u16, key: &Key) {
        if self.holder(group, port).is_some_and(|holder| holder.key == *key) {
            self.holders.remove(&(group, port));
        }
    }

    /// Notes a client's packet, and that it went to a backend from a port, if it did.
    pub fn note_client(&mut self, key: &Key, flags: Flags, went: Option<(Group, u16)>, now: Duration) {
        for (place, holder) in self.holders.iter_mut().filter(|(_, holder)| holder.key == *key) {
            holder.note(true, flags, went == Some(*place), now);
        }
    }

    /// Notes a backend's packet to a port that came to the client of `key`.
    pub fn note_backend(&mut self, group: Group, port: u16, key: Key, flags: Flags, now: Duration) {
        self.lend(group, port, key, true, now);
        if let Some(holder) = self.holders.get_mut(&(group, port)) {
            holder.note(false, flags, true, now);
        }
    }

    /// Somebody may have got a port.
    pub fn note_unseen(&mut self, frontend: Virtual, now: Duration) {
        self.unseen.push((frontend.v6, is_udp(frontend), now));
    }

    /// How many ports are looked at for a flow, at least.
    fn looked_at(&self, group: Group) -> usize {
        usize::from(self.count).min(PROBES) - usize::from(group.udp)
    }

    fn count(&self, group: Group, unseen_since: Duration, counts: impl Fn(&Holder) -> bool) -> usize {
        let seen = self.holders.iter().filter(|((of, _), holder)| *of == group && counts(holder)).count();
        let unseen = |(v6, udp, at): &&(bool, bool, Duration)| {
            (*v6, *udp) == (group.v6, group.udp) && *at >= unseen_since
        };
        seen + self.unseen.iter().filter(unseen).count()
    }

    /// Whether a flow may find no port that nobody has.
    pub fn may_have_none_free(&self, group: Group) -> bool {
        self.count(group, Duration::ZERO, |_| true) >= self.looked_at(group)
    }

    /// Whether a flow may find no port at all: all that it looks at may be those of flows that keep them.
    pub fn may_be_exhausted(&self, group: Group, now: Duration) -> bool {
        // Who was not seen was not answered.
        let young = if group.udp { now.saturating_sub(SPARED_AT_MOST) } else { Duration::MAX };
        self.count(group, young, |holder| holder.may_keep(group.udp, now)) >= self.looked_at(group)
    }

    /// Nothing that was seen lives on.
    pub fn forget(&mut self) {
        self.holders.clear();
        self.unseen.clear();
    }
}
