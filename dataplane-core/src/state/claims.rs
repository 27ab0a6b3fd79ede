//! Who wants which frontend, and who has it.

use hashbrown::{HashMap, hash_map::Entry};

use super::ServiceId;
use crate::model::Frontend;

/// All claims. Almost every frontend has one claimant.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<Frontend, Claim>);

#[derive(Debug)]
struct Claim {
    winner: ServiceId,
    losers: Vec<ServiceId>,
}

/// Who had a frontend, and who has it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handover {
    pub from: ServiceId,
    pub to: ServiceId,
}

impl Claims {
    pub fn winner(&self, frontend: &Frontend) -> Option<ServiceId> {
        self.0.get(frontend).map(|claim| claim.winner)
    }

    /// Winner and losers.
    pub fn claimants(&self, frontend: &Frontend) -> impl Iterator<Item = ServiceId> {
        self.0
            .get(frontend)
            .into_iter()
            .flat_map(|claim| std::iter::once(claim.winner).chain(claim.losers.iter().copied()))
    }

    pub fn is_contested(&self, frontend: &Frontend) -> bool {
        self.0.get(frontend).is_some_and(|claim| !claim.losers.is_empty())
    }

    /// Adds a claim. The first claimant has won; whoever comes later has lost until the next election.
    pub fn add(&mut self, frontend: Frontend, service: ServiceId) {
        match self.0.entry(frontend) {
            Entry::Vacant(place) => {
                place.insert(Claim { winner: service, losers: Vec::new() });
            }
            Entry::Occupied(mut claim) => claim.get_mut().losers.push(service),
        }
    }

    /// Takes a claim away. `rank` is larger for who is to win.
    pub fn remove<R: Ord>(
        &mut self,
        frontend: &Frontend,
        service: ServiceId,
        rank: impl Fn(ServiceId) -> R,
    ) -> Option<Handover> {
        let claim = self.0.get_mut(frontend)?;
        if claim.winner != service {
            claim.losers.retain(|&loser| loser != service);
            return None;
        }
        let Some(best) = best(&claim.losers, rank) else {
            self.0.remove(frontend);
            return None;
        };
        claim.winner = claim.losers.swap_remove(best);
        Some(Handover { from: service, to: claim.winner })
    }

    /// Decides anew who has a frontend.
    pub fn elect<R: Ord>(&mut self, frontend: &Frontend, rank: impl Fn(ServiceId) -> R) -> Option<Handover> {
        let claim = self.0.get_mut(frontend)?;
        let best = best(&claim.losers, &rank)?;
        if rank(claim.losers[best]) <= rank(claim.winner) {
            return None;
        }
        std::mem::swap(&mut claim.winner, &mut claim.losers[best]);
        Some(Handover { from: claim.losers[best], to: claim.winner })
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

fn best<R: Ord>(services: &[ServiceId], rank: impl Fn(ServiceId) -> R) -> Option<usize> {
    (0..services.len()).max_by_key(|&place| rank(services[place]))
}
