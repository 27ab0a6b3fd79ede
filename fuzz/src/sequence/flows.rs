//! What was seen of connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::{
    ops::{BACKENDS, Virtual},
    ports::{SPARED, is_udp},
};

/// A connection lives at least so long after a packet of it: what its time-out is by the documentation, less two seconds, since an
/// entry notes packets once a second.
const CLOSING: Duration = Duration::from_secs(8);
const OPENING: Duration = Duration::from_secs(58);
const STREAM: Duration = Duration::from_secs(178);
const ESTABLISHED: Duration = Duration::from_secs(6 * 3600 - 2);

/// From whom, to which frontend.
pub type Key = (SocketAddr, Virtual);

/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its backend; `None` where it may have one that nobody saw.
    pub backend: Option<usize>,
    /// The port of this host that it comes from, if it does.
    pub port: Option<u16>,
    /// Which life of the backend; see [`Lives`].
    pub life: u32,
    /// Index of the frontend that it began with: with the frontend it ends.
    pub index: Option<u32>,
    pub last: Duration,
    /// Whether either side may have said that it ends.
    pub ending: bool,
    /// Whether the frontend's service was without the backend since: then the collector may end it at any time.
    pub left: bool,
    /// Whether the backend surely answered, and whether the client surely went on after that.
    pub answered: bool,
    pub confirmed: bool,
}

impl Known {
    /// Whether it lives for certain, unless something but time has ended it.
    pub fn is_certain(&self, frontend: Virtual, now: Duration) -> bool {
        let timeout = match (self.ending, self.confirmed) {
            (true, _) => CLOSING,
            (false, false) => OPENING,
            (false, true) if is_udp(frontend) => STREAM,
            (false, true) => ESTABLISHED,
        };
        now - self.last <= timeout
    }

    /// Whether it keeps its port whoever else wants it.
    pub fn keeps_port(&self, frontend: Virtual, now: Duration) -> bool {
        (self.confirmed && !self.ending) || (is_udp(frontend) && now - self.last <= SPARED)
    }

    /// It is over, or may be.
    pub fn end(&mut self) {
        (self.last, self.answered, self.confirmed) = (Duration::ZERO, false, false);
    }
}

/// All connections that were seen.
#[derive(Default)]
pub struct Flows {
    known: BTreeMap<Key, Known>,
    order: Vec<Key>,
    /// Whose answers the packets of a backend to a client may be.
    answers: BTreeMap<(SocketAddr, bool, usize), BTreeSet<Virtual>>,
}

impl Flows {
    pub fn get(&self, key: &Key) -> Option<&Known> {
        self.known.get(key)
    }

    /// All that were seen.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.order.iter().copied()
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Key, &mut Known)> {
        self.known.iter_mut()
    }

    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Known> {
        self.known.get_mut(key)
    }

    /// The one that `which` stands for.
    pub fn pick(&self, which: u8) -> Option<Key> {
        let place = usize::from(which) % self.order.len().max(1);
        self.order.get(place).copied()
    }

    /// Notes what was seen of one.
    pub fn note(&mut self, key: Key, known: Known) {
        let backends = known.backend.map_or(0..BACKENDS, |backend| backend..backend + 1);
        for backend in backends.filter(|_| known.port.is_none()) {
            self.answers.entry(answer(&key, backend)).or_default().insert(key.1);
        }
        if self.known.insert(key, known).is_none() {
            self.order.push(key);
        }
    }

    /// The frontends that an answer of this backend to the client of `key` may seem to come from.
    pub fn answered(&self, key: &Key, backend: usize) -> Vec<Virtual> {
        self.answers.get(&answer(key, backend)).into_iter().flatten().copied().collect()
    }

    /// Whether another connection has the client's port towards one of these backends, or may have.
    pub fn is_in_use(&self, key: &Key, backends: impl Fn(usize) -> bool) -> bool {
        (0..BACKENDS)
            .filter(|backend| backends(*backend))
            .any(|backend| self.answered(key, backend).iter().any(|frontend| *frontend != key.1))
    }

    /// Nothing that was seen lives on.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

fn answer(key: &Key, backend: usize) -> (SocketAddr, bool, usize) {
    (key.0, is_udp(key.1), backend)
}

/// Whether backends have been there all the time.
#[derive(Clone, Copy, Default)]
pub struct Lives {
    present: [bool; BACKENDS],
    lives: [u32; BACKENDS],
}

impl Lives {
    /// Notes who is there now. Who comes anew begins another life.
    pub fn note(&mut self, present: [bool; BACKENDS]) {
        for ((lives, before), now) in self.lives.iter_mut().zip(self.present).zip(present) {
            *lives += u32::from(now && !before);
        }
        self.present = present;
    }

    pub fn life(&self, backend: usize) -> u32 {
        self.lives[backend]
    }

    /// Whether a backend is there and has been since it was in this life.
    pub fn is_there_since(&self, backend: usize, life: u32) -> bool {
        self.present[backend] && self.lives[backend] == life
    }
}
