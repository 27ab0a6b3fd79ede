//! What services with affinity remember of their clients.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::ops::{Object, Virtual};

/// Time-outs are counted in ticks of 134 ms, and rounded up.
const SLACK: Duration = Duration::from_millis(300);

/// A client's address, and the index of the frontend that it comes to: what is remembered stands under these.
pub type Client = (IpAddr, u32);

/// Where a client went last.
#[derive(Clone, Copy, Debug)]
pub struct Hint {
    pub frontend: Virtual,
    /// Whose frontend it was.
    pub object: Object,
    pub backend: usize,
    /// Which life of the backend.
    pub life: u32,
    /// Whether it stands for certain, and was never out of use since.
    is_sure: bool,
    /// When it was noted last: not before, and not after.
    since: Duration,
    until: Duration,
}

/// What is remembered of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// That it went to this backend.
    Backend(usize),
    Nothing,
    /// One or the other.
    Unknown,
}

/// A packet of a client for which a backend was chosen, or may have been.
#[derive(Clone, Copy, Debug)]
pub enum Visit {
    /// It went to this backend, in this life, which was chosen then.
    New(usize, u32),
    /// It went to this backend, which may have been chosen before.
    Perhaps(usize),
    /// It went nowhere.
    Dropped,
}

#[derive(Default)]
pub struct Clients {
    hints: BTreeMap<Client, Hint>,
    /// When a packet may last have been remembered that the model does not follow.
    stray: Option<Duration>,
}

impl Clients {
    pub fn recall(&self, client: Client, timeout: Duration, now: Duration) -> Recalled {
        let may_hold = |at: Duration| now - at <= timeout + SLACK;
        match self.hints.get(&client) {
            Some(hint) if hint.is_sure && now - hint.since <= timeout => Recalled::Backend(hint.backend),
            Some(hint) if may_hold(hint.until) => Recalled::Unknown,
            _ if self.stray.is_some_and(may_hold) => Recalled::Unknown,
            _ => Recalled::Nothing,
        }
    }

    pub fn note(
        &mut self,
        client: Client,
        (frontend, object): (Virtual, Object),
        visit: Visit,
        timeout: Duration,
        now: Duration,
    ) {
        let recalled = self.recall(client, timeout, now);
        let (backend, life) = match visit {
            Visit::New(backend, life) => (backend, life),
            Visit::Perhaps(backend) => (backend, 0),
            Visit::Dropped => (0, 0),
        };
        let is_sure = matches!(visit, Visit::New(..));
        let fresh = Hint { frontend, object, backend, life, is_sure, since: now, until: now };
        let hint = self.hints.entry(client).or_insert(fresh);
        match (visit, recalled) {
            (Visit::New(..), _) => *hint = fresh,
            // It went there because of this, or was of a connection that stands.
            (Visit::Perhaps(backend), Recalled::Backend(before)) if backend == before => hint.until = now,
            (Visit::Dropped, Recalled::Backend(_)) => hint.until = now,
            _ => (hint.is_sure, hint.until) = (false, now),
        }
    }

    /// A packet that the model does not follow was somebody's first.
    pub fn stray(&mut self, now: Duration) {
        self.stray = Some(now);
        self.keep(|_, _| false);
    }

    /// What is not in use any more is not sure to be when it is again.
    pub fn keep(&mut self, is_in_use: impl Fn(&Client, &Hint) -> bool) {
        for (client, hint) in &mut self.hints {
            hint.is_sure &= is_in_use(client, hint);
        }
    }
}
