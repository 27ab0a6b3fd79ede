//! What sources have said, and who therefore serves what.

use std::collections::BTreeMap;

use super::ops::{BACKENDS, Object, SERVICES, Virtual, Wish};

/// Two owners' services. The first owner wins where both claim a frontend.
#[derive(Clone, Default)]
pub struct Desired {
    owners: [[Option<Wish>; SERVICES]; 2],
    winners: BTreeMap<Virtual, Object>,
}

impl Desired {
    /// The state after a commit; `None` where it must be refused: a service twice, or a frontend in two services of one
    /// owner.
    pub fn with(&self, wishes: &[Wish], full_picture: bool) -> Option<Self> {
        let mut after = self.clone();
        if full_picture {
            after.owners[wishes[0].object.owner()] = Default::default();
        }
        for (i, wish) in wishes.iter().enumerate() {
            if wishes[..i].iter().any(|other| other.object.service() == wish.object.service()) {
                return None;
            }
            after.owners[wish.object.owner()][wish.object.service()] = Some(wish.clone());
        }
        for owner in &after.owners {
            let mut claimed: Vec<_> = owner.iter().flatten().flat_map(Wish::frontends).collect();
            let count = claimed.len();
            claimed.sort();
            claimed.dedup();
            if claimed.len() != count {
                return None;
            }
        }
        after.settle();
        Some(after)
    }

    pub fn remove(&mut self, object: Object) {
        self.owners[object.owner()][object.service()] = None;
        self.settle();
    }

    fn settle(&mut self) {
        self.winners.clear();
        for wish in self.wishes().cloned().collect::<Vec<_>>() {
            for frontend in wish.frontends() {
                self.winners.entry(frontend).or_insert(wish.object);
            }
        }
    }

    /// All services, the first owner's first.
    pub fn wishes(&self) -> impl Iterator<Item = &Wish> {
        self.owners.iter().flatten().flatten()
    }

    /// Who serves a frontend.
    pub fn winner(&self, frontend: Virtual) -> Option<&Wish> {
        self.winners.get(&frontend).and_then(|object| self.wish(*object))
    }

    pub fn wish(&self, object: Object) -> Option<&Wish> {
        self.owners[object.owner()][object.service()].as_ref()
    }

    /// How many frontends are served.
    pub fn served(&self) -> usize {
        self.winners.len()
    }

    /// How many of a service's frontends it has itself, and how many it claims.
    pub fn won(&self, wish: &Wish) -> (usize, usize) {
        let is_won = |frontend: &Virtual| {
            self.winner(*frontend).is_some_and(|winner| {
                (winner.object.owner(), winner.object.service())
                    == (wish.object.owner(), wish.object.service())
            })
        };
        (wish.frontends().filter(is_won).count(), wish.frontends().count())
    }

    /// Whether anybody who serves anything sends this backend new connections.
    pub fn selects(&self, backend: usize, v6: bool) -> bool {
        self.wishes().any(|wish| wish.is_v6() == v6 && wish.is_selectable(backend) && self.won(wish).0 > 0)
    }

    /// Which backends of a family are there: those of services that serve anything.
    pub fn present(&self, v6: bool) -> [bool; BACKENDS] {
        let mut present = [false; BACKENDS];
        for wish in self.wishes().filter(|wish| wish.is_v6() == v6 && self.won(wish).0 > 0) {
            for (i, present) in present.iter_mut().enumerate() {
                *present |= wish.has(i);
            }
        }
        present
    }
}
