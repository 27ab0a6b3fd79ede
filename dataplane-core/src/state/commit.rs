//! Transactions: checked as a whole, then taken as a whole.

use std::{sync::Arc, time::Duration};

use hashbrown::{HashMap, HashSet};

use super::{
    DesiredState, ServiceId,
    desired::{Object, Settled, serving},
    progress::Open,
};
use crate::{
    model::{Frontend, Service, ServiceName},
    source::{Changes, CommitError, OwnerName, Revision},
};

/// How many revisions that wait for one service are told apart. Of one that changes more often without ever reaching
/// the tables, the oldest are counted as overtaken.
const MOST_OPEN_REVISIONS: usize = 4096;

impl DesiredState {
    /// Takes an owner's changes as a whole, or refuses them as a whole. `now` is for the guard against mass removal.
    ///
    /// # Errors
    /// [`CommitError`]; nothing was changed.
    pub fn commit(
        &mut self,
        owner: &OwnerName,
        changes: Changes,
        now: Duration,
    ) -> Result<Revision, CommitError> {
        let place =
            self.place_of(owner).ok_or_else(|| CommitError::NotRegistered { owner: owner.clone() })?;
        let named = check_names(&changes)?;
        self.check_frontends(place, &changes, &named)?;
        let revision = self.begin();
        let removals = self.removals(place, &changes, &named, revision);
        drop(named);
        self.found_confirmed |= changes.confirmed;
        let hold = !changes.confirmed && self.takes_too_much(place, &changes.upserts, &removals, now);

        for id in removals {
            match self.objects.get(id.0) {
                Some(object) if hold && serving(object.service.as_deref()) > 0 => {
                    self.hold(id, None, revision);
                }
                _ => self.change(id, None, revision),
            }
        }
        for service in changes.upserts {
            match self.owners[place].services.get(service.name()) {
                Some(&id) => self.upsert(id, service, hold, revision),
                None => self.insert(place, service, revision),
            }
        }
        Ok(revision)
    }

    /// The owner's first full picture stands: what it has not mentioned goes. Cost: linear in what the owner has.
    pub fn synced(&mut self, owner: &OwnerName, now: Duration) -> Revision {
        let Some(place) = self.place_of(owner).filter(|&place| !self.owners[place].synced) else {
            return self.revision;
        };
        self.owners[place].synced = true;
        self.was_synced |= self.owners.iter().all(|owner| owner.synced);
        let revision = self.begin();
        let mut absent: Vec<ServiceId> = self.owners[place].services.values().copied().collect();
        absent.retain(|id| {
            self.objects.get(id.0).is_some_and(|object| !object.confirmed && object.service.is_some())
        });
        let hold = self.takes_too_much(place, &[], &absent, now);
        for id in absent {
            match self.objects.get(id.0) {
                Some(object) if hold && serving(object.service.as_deref()) > 0 => {
                    self.hold(id, None, revision);
                }
                _ => self.change(id, None, revision),
            }
        }
        revision
    }

    /// Lets through what is held back of an owner.
    pub fn confirm(&mut self, owner: &OwnerName) -> Revision {
        self.found_confirmed = true;
        let Some(place) = self.place_of(owner).filter(|&place| !self.owners[place].held.is_empty()) else {
            return self.revision;
        };
        let revision = self.begin();
        for id in std::mem::take(&mut self.owners[place].held) {
            let Some(held) = self.objects.get_mut(id.0).and_then(|object| object.held.take()) else {
                continue;
            };
            for stuck in self.close(id, Open::Stuck) {
                self.open(id, Open::Waiting, stuck);
            }
            self.elect_all(id);
            self.change(id, held, revision);
        }
        revision
    }

    fn place_of(&self, owner: &OwnerName) -> Option<usize> {
        self.owner_places.get(owner).copied()
    }

    fn begin(&mut self) -> Revision {
        self.revision = self.revision.next();
        self.revision
    }

    /// Refuses two services of this owner on one frontend, as they will be after the changes.
    fn check_frontends(
        &self,
        place: usize,
        changes: &Changes,
        named: &HashSet<&ServiceName>,
    ) -> Result<(), CommitError> {
        let several = changes.upserts.len() > 1;
        let mut within: HashMap<&Frontend, &ServiceName> = HashMap::new();
        if several {
            within.reserve(changes.upserts.len());
        }
        for service in &changes.upserts {
            let second = service.name();
            for frontend in service.frontends() {
                let twice = |first: &ServiceName| CommitError::FrontendTwice {
                    frontend: *frontend,
                    first: first.clone(),
                    second: second.clone(),
                };
                if several && let Some(first) = within.insert(frontend, second) {
                    return Err(twice(first));
                }
                // Whoever is not in a full picture goes, or at least yields.
                if changes.full_picture {
                    continue;
                }
                for other in self.claims.claimants(frontend) {
                    if let Some(object) = self.objects.get(other.0)
                        && object.owner == place
                        && !named.contains(&object.name)
                        && !object.yields()
                    {
                        return Err(twice(&object.name));
                    }
                }
            }
        }
        Ok(())
    }

    /// The services that are to go, by name and by absence. Before the owner is synced absence is only noted.
    fn removals(
        &mut self,
        place: usize,
        changes: &Changes,
        named: &HashSet<&ServiceName>,
        revision: Revision,
    ) -> Vec<ServiceId> {
        let owner = &self.owners[place];
        let mut removals: Vec<ServiceId> =
            changes.removals.iter().filter_map(|name| owner.services.get(name).copied()).collect();
        if changes.full_picture {
            let absent: Vec<ServiceId> =
                owner.services.iter().filter(|(name, _)| !named.contains(*name)).map(|(_, &id)| id).collect();
            if owner.synced {
                removals.extend(absent);
            } else {
                for id in absent {
                    self.doubt(id);
                }
            }
        }
        removals.retain(|&id| match self.objects.get(id.0) {
            // On its way out already: the revision waits for it too.
            Some(object) if object.service.is_none() => {
                self.open(id, Open::Waiting, revision);
                false
            }
            Some(_) => true,
            None => false,
        });
        removals
    }

    /// An unsynced owner's picture does not have it.
    fn doubt(&mut self, id: ServiceId) {
        if let Some(object) = self.objects.get_mut(id.0)
            && object.confirmed
        {
            object.confirmed = false;
            self.elect_all(id);
        }
    }

    /// Asks the guard.
    fn takes_too_much(
        &mut self,
        place: usize,
        upserts: &[Service],
        removals: &[ServiceId],
        now: Duration,
    ) -> bool {
        if self.guard.is_off() {
            return false;
        }
        let before = self.owners[place].serving;
        let mut after = before;
        for id in removals {
            let lost = self.objects.get(id.0).map_or(0, |object| serving(object.service.as_deref()));
            after = after.saturating_sub(lost);
        }
        for service in upserts {
            let old = self.owners[place].services.get(service.name());
            let old = old.and_then(|id| self.objects.get(id.0)?.service.as_deref());
            after = (after + serving(Some(service))).saturating_sub(serving(old));
        }
        self.owners[place].watch.trips(self.guard, now, before, after)
    }

    fn insert(&mut self, place: usize, service: Service, revision: Revision) {
        let name = service.name().clone();
        let id = ServiceId(self.objects.insert(Object {
            owner: place,
            name: name.clone(),
            service: None,
            held: None,
            confirmed: true,
            settled: Settled::NotYet,
            queued: false,
            dropped: Vec::new(),
            failure: None,
            revision,
            open: None,
        }));
        self.owners[place].services.insert(name, id);
        self.change(id, Some(Arc::new(service)), revision);
    }

    fn upsert(&mut self, id: ServiceId, service: Service, hold: bool, revision: Revision) {
        let Some(object) = self.objects.get_mut(id.0) else {
            return;
        };
        let yielded = object.yields();
        object.confirmed = true;
        if object.held.take().is_some() {
            self.owners[object.owner].held.remove(&id);
            self.close(id, Open::Stuck);
        }
        if let Some(object) = self.objects.get(id.0) {
            if object.service.as_deref() == Some(&service) {
                match object.settled {
                    Settled::Applied => {}
                    Settled::NotYet => self.open(id, Open::Waiting, revision),
                    Settled::Refused(_) => self.touch(id, revision),
                }
            } else if hold && serving(Some(&service)) < serving(object.service.as_deref()) {
                self.hold(id, Some(Arc::new(service)), revision);
            } else {
                self.change(id, Some(Arc::new(service)), revision);
            }
        }
        if yielded {
            self.elect_all(id);
        }
    }

    /// Makes a service what it is to be from now on.
    fn change(&mut self, id: ServiceId, service: Option<Arc<Service>>, revision: Revision) {
        if let Some(object) = self.objects.get_mut(id.0)
            && object.held.take().is_some()
        {
            self.owners[object.owner].held.remove(&id);
            self.elect_all(id);
        }
        self.set_service(id, service);
        self.touch(id, revision);
    }

    fn touch(&mut self, id: ServiceId, revision: Revision) {
        self.close(id, Open::Stuck);
        if let Some(object) = self.objects.get_mut(id.0) {
            object.revision = revision;
            let oldest = object
                .open
                .as_deref_mut()
                .and_then(|open| (open.waiting.len() >= MOST_OPEN_REVISIONS).then(|| open.waiting.remove(0)));
            if let Some(oldest) = oldest {
                self.revisions.close(oldest, Open::Waiting);
            }
        }
        self.open(id, Open::Waiting, revision);
        self.enqueue(id);
    }

    /// Keeps a change back until somebody confirms it.
    fn hold(&mut self, id: ServiceId, service: Option<Arc<Service>>, revision: Revision) {
        let Some(object) = self.objects.get_mut(id.0) else {
            return;
        };
        object.held = Some(service);
        object.revision = revision;
        self.owners[object.owner].held.insert(id);
        self.close(id, Open::Stuck);
        self.open(id, Open::Stuck, revision);
        self.elect_all(id);
    }
}

impl Object {
    /// Whether it has no more than what is left of a claim: another service of its owner may take its frontends.
    fn yields(&self) -> bool {
        self.held.is_some() || !self.confirmed
    }
}

fn check_names(changes: &Changes) -> Result<HashSet<&ServiceName>, CommitError> {
    let mut named = HashSet::with_capacity(changes.upserts.len() + changes.removals.len());
    let names = changes.upserts.iter().map(Service::name).chain(&changes.removals);
    for service in names {
        if !named.insert(service) {
            return Err(CommitError::ServiceTwice { service: service.clone() });
        }
    }
    Ok(named)
}
