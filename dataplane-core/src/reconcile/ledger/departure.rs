//! Backends that leave frontends while others hold them.

use super::{Ledger, Pointer, Release};
use crate::{
    abi::BackendRef,
    model::{Frontend, IpFamily},
};

/// A backend that left a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub family: IpFamily,
    pub frontend: Frontend,
    /// Index of the frontend.
    pub index: u32,
    pub backend: BackendRef,
}

impl Ledger {
    /// A frontend went from one list to another: backends that only the old one holds have left it.
    pub(super) fn note_departures(&mut self, frontend: &Frontend, old: u32, new: u32) {
        let (Some(old), Some(new)) = (self.lists.get(old), self.lists.get(new)) else {
            return;
        };
        let family = old.family;
        let gone = old.held.iter().filter(|held| !new.holds(held.index));
        let gone: Vec<u32> = gone.map(|held| held.index).collect();
        for index in gone {
            self.departs(family, index, frontend);
        }
    }

    /// A backend has left a frontend. Where nobody else holds it, its generation will say so to all its flows; else it is
    /// looked into after the grace period.
    pub(super) fn departs(&mut self, family: IpFamily, backend: u32, frontend: &Frontend) {
        let pool = self.backends_of(family);
        if pool.holders(backend) > 1
            && let Some(standing) = self.frontends.get(frontend)
        {
            let (index, backend) = (standing.index, pool.row(backend).reference());
            self.unlinked.push(Release::Departure(Departure { family, frontend: *frontend, index, backend }));
        }
    }

    /// Whether the flows of a frontend to a backend that left it must be looked for: the frontend still stands, does not
    /// have the backend again, and others have it.
    pub fn is_departed(&self, departure: &Departure) -> bool {
        let Departure { family, frontend, index, backend } = departure;
        let pool = self.backends_of(*family);
        let lives = pool.holders(backend.index()) > 0 && pool.row(backend.index()).reference() == *backend;
        let Some(standing) = self.frontends.get(frontend).filter(|standing| standing.index == *index) else {
            return false;
        };
        let has_it = |list: &u32| self.lists.get(*list).is_some_and(|list| list.holds(backend.index()));
        let again = match &standing.word {
            Pointer::Clear => false,
            Pointer::Sure(list) => has_it(list),
            Pointer::Unsure(lists) => lists.iter().any(has_it),
        };
        lives && !again
    }
}
