//! The desired state itself: owners, their objects, and what is asked of them.

use std::{cmp::Reverse, collections::VecDeque, sync::Arc};

use hashbrown::{HashMap, HashSet};

use super::{
    Conflict, Failure, HeldBack, Phase, Progress, Refusal, RemovalGuard, ServiceId, ServiceStatus,
    claims::{Claims, Handover},
    guard::Watch,
    progress::{Open, Revisions},
};
use crate::{
    model::{Frontend, ModelError, Service, ServiceName},
    slab::Slab,
    source::{ObjectName, OwnerName, Precedence, Revision},
};

/// What all owners want, merged.
#[derive(Debug)]
pub struct DesiredState {
    pub(super) guard: RemovalGuard,
    pub(super) revision: Revision,
    pub(super) owners: Vec<Owner>,
    pub(super) owner_places: HashMap<OwnerName, usize>,
    pub(super) objects: Slab<Object>,
    pub(super) claims: Claims,
    /// Services whose rows may differ from what the tables hold, each once.
    pub(super) queue: VecDeque<ServiceId>,
    /// How many were ever put into it.
    pub(super) queued: u64,
    pub(super) revisions: Revisions,
    /// Whether there was a moment when all owners were synced.
    pub(super) was_synced: bool,
    /// Whether somebody has confirmed a removal since the beginning.
    pub(super) found_confirmed: bool,
}

/// Why a source cannot register.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The name is none.
    #[error("this cannot be an owner's name: {0}")]
    Name(#[from] ModelError),
    /// There is a source of this name, and it still has its handle.
    #[error(
        "there is a source named {owner} already: give this one another name, or drop the other's handle first"
    )]
    Taken {
        /// The name.
        owner: OwnerName,
    },
    /// The operating system gives no thread to run it on.
    #[error("there is no thread to run the source on: {error}")]
    Thread {
        /// What the operating system said.
        error: std::io::ErrorKind,
    },
}

#[derive(Debug)]
pub(super) struct Owner {
    pub name: OwnerName,
    pub precedence: Precedence,
    pub registered: bool,
    pub synced: bool,
    pub services: HashMap<ServiceName, ServiceId>,
    /// Backends that take new flows, over all services.
    pub serving: u64,
    pub watch: Watch,
    pub held: HashSet<ServiceId>,
}

#[derive(Debug)]
pub(super) struct Object {
    pub owner: usize,
    pub name: ServiceName,
    /// As it is to be in the tables. `None`: it is to be out of them.
    pub service: Option<Arc<Service>>,
    /// What it will be once somebody confirms. `Some(None)`: it will go.
    pub held: Option<Option<Arc<Service>>>,
    /// Whether its owner has mentioned it since it registered.
    pub confirmed: bool,
    pub settled: Settled,
    pub queued: bool,
    /// Frontends that it has ceased to claim since the tables last held it as desired.
    pub dropped: Vec<Frontend>,
    pub failure: Option<Box<Failure>>,
    pub revision: Revision,
    pub open: Option<Box<OpenRevisions>>,
}

/// What the last attempt to put an object into the tables came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    NotYet,
    Applied,
    Refused(Box<Refusal>),
}

/// Revisions that wait for an object.
#[derive(Debug, Default)]
pub(super) struct OpenRevisions {
    pub waiting: Vec<Revision>,
    pub stuck: Vec<Revision>,
}

impl DesiredState {
    /// Nobody wants anything.
    pub fn new(guard: RemovalGuard) -> Self {
        Self {
            guard,
            revision: Revision::ZERO,
            owners: Vec::new(),
            owner_places: HashMap::new(),
            objects: Slab::default(),
            claims: Claims::default(),
            queue: VecDeque::new(),
            queued: 0,
            revisions: Revisions::default(),
            was_synced: false,
            found_confirmed: false,
        }
    }

    /// Adds an owner, or lets one come back. An owner that comes back has what it left, but is unsynced: it must
    /// mention what it wants to keep before it says that it is synced.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn register(&mut self, name: &str, precedence: Precedence) -> Result<OwnerName, RegisterError> {
        let name = OwnerName::new(name)?;
        let Some(&place) = self.owner_places.get(&name) else {
            self.owner_places.insert(name.clone(), self.owners.len());
            self.owners.push(Owner {
                name: name.clone(),
                precedence,
                registered: true,
                synced: false,
                services: HashMap::new(),
                serving: 0,
                watch: Watch::default(),
                held: HashSet::new(),
            });
            return Ok(name);
        };
        let owner = &mut self.owners[place];
        if owner.registered {
            return Err(RegisterError::Taken { owner: name });
        }
        owner.registered = true;
        owner.synced = false;
        owner.precedence = precedence;
        let services: Vec<ServiceId> = owner.services.values().copied().collect();
        for &id in &services {
            if let Some(object) = self.objects.get_mut(id.0) {
                object.confirmed = false;
            }
        }
        for id in services {
            self.elect_all(id);
        }
        Ok(name)
    }

    /// The owner's handle is gone: what it said last stays, and its name may be taken again.
    pub fn release(&mut self, owner: &OwnerName) {
        if let Some(&place) = self.owner_places.get(owner) {
            self.owners[place].registered = false;
        }
    }

    /// Whether there was a moment when the first full picture of each owner stood. Who comes back after it has what it left.
    pub(crate) fn was_synced(&self) -> bool {
        self.was_synced
    }

    /// Whether any service claims a frontend.
    pub(crate) fn is_claimed(&self, frontend: &Frontend) -> bool {
        self.claims.winner(frontend).is_some()
    }

    /// Whether the guard would not let so many of so many backends go at once.
    pub(crate) fn holds_back(&self, of: u64, lost: u64) -> bool {
        self.guard.holds_back(of, lost)
    }

    /// Whether somebody stands up for the removal of what nobody named.
    pub(crate) fn is_found_confirmed(&self) -> bool {
        self.found_confirmed
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How far a revision has come.
    pub fn progress(&self, revision: Revision) -> Progress {
        self.revisions.progress(revision, self.revision)
    }

    /// A service because of which a revision is incomplete, if it still is where it was.
    pub fn obstacle(&self, revision: Revision) -> Option<ServiceStatus> {
        let status = self.describe(self.revisions.example(revision)?)?;
        matches!(status.phase, Phase::Refused(_) | Phase::Conflict | Phase::HeldBack).then_some(status)
    }

    /// The status of all services, and of those not yet out of the tables. Cost: linear in them.
    pub fn status(&self) -> Vec<ServiceStatus> {
        self.objects.iter().filter_map(|(place, _)| self.describe(ServiceId(place))).collect()
    }

    /// The status of one service.
    pub fn status_of(&self, owner: &str, service: &str) -> Option<ServiceStatus> {
        let owner = OwnerName::new(owner).ok()?;
        let owner = &self.owners[*self.owner_places.get(&owner)?];
        self.describe(*owner.services.get(&ServiceName::new(service).ok()?)?)
    }

    fn describe(&self, id: ServiceId) -> Option<ServiceStatus> {
        let object = self.objects.get(id.0)?;
        let conflicts = self.conflicts(id, object);
        let phase = match (&object.service, &object.settled) {
            (None, _) => Phase::Removing,
            _ if object.held.is_some() => Phase::HeldBack,
            (_, Settled::NotYet) => Phase::Pending,
            (_, Settled::Refused(refusal)) => Phase::Refused(refusal.as_ref().clone()),
            (_, Settled::Applied) if conflicts.iter().any(|conflict| !conflict.won) => Phase::Conflict,
            (_, Settled::Applied) => Phase::Applied,
        };
        Some(ServiceStatus {
            owner: self.owners[object.owner].name.clone(),
            service: object.name.clone(),
            desired: object.service.clone(),
            held_back: object.held.as_ref().map(|held| match held {
                None => HeldBack::Removal,
                Some(service) => HeldBack::Change(Arc::clone(service)),
            }),
            revision: object.revision,
            phase,
            conflicts,
            failure: object.failure.as_deref().copied(),
        })
    }

    fn conflicts(&self, id: ServiceId, object: &Object) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for frontend in object.frontends().iter().filter(|frontend| self.claims.is_contested(frontend)) {
            let winner = self.claims.winner(frontend);
            for other in self.claims.claimants(frontend).filter(|&other| other != id) {
                // Two losers have no quarrel with each other.
                let won = winner == Some(id);
                if won || winner == Some(other) {
                    conflicts.extend(self.object_name(other).map(|with| Conflict {
                        frontend: *frontend,
                        with,
                        won,
                    }));
                }
            }
        }
        conflicts
    }

    fn object_name(&self, id: ServiceId) -> Option<ObjectName> {
        let object = self.objects.get(id.0)?;
        Some(ObjectName::new(self.owners[object.owner].name.clone(), object.name.clone()))
    }

    /// Puts a service into the queue, unless it is there.
    pub(super) fn enqueue(&mut self, id: ServiceId) {
        if let Some(object) = self.objects.get_mut(id.0) {
            if object.settled == Settled::Applied {
                object.settled = Settled::NotYet;
            }
            if !object.queued {
                object.queued = true;
                self.queue.push_back(id);
                self.queued += 1;
            }
        }
    }

    /// Decides anew who has the contested frontends of a service.
    pub(super) fn elect_all(&mut self, id: ServiceId) {
        let Some(service) = self.objects.get(id.0).and_then(|object| object.service.clone()) else {
            return;
        };
        for frontend in service.frontends() {
            self.elect(frontend);
        }
    }

    pub(super) fn elect(&mut self, frontend: &Frontend) {
        let Self { claims, objects, owners, .. } = self;
        let handover = claims.elect(frontend, |id| rank(objects, owners, id));
        self.hand_over(handover);
    }

    /// Whether a service has a frontend, or, where it was refused, would have it if there were room after all. Until
    /// there is, nothing is taken from who has it.
    pub(super) fn would_win(&self, id: ServiceId, frontend: &Frontend) -> bool {
        let Some(winner) = self.claims.winner(frontend) else {
            return false;
        };
        if winner == id {
            return true;
        }
        let refused = self.objects.get(id.0).is_some_and(Object::is_refused);
        refused && {
            let rank = |id| rank(&self.objects, &self.owners, id);
            let with_room = rank(id).map(|(_, yields, precedence, names)| (true, yields, precedence, names));
            with_room > rank(winner)
        }
    }

    /// Whether a service would have a frontend even if it were refused: all other claimants are, and rank below it.
    pub(super) fn would_keep(&self, id: ServiceId, frontend: &Frontend) -> bool {
        let rank = |id| rank(&self.objects, &self.owners, id);
        let refused = rank(id).map(|(_, yields, precedence, names)| (false, yields, precedence, names));
        self.claims.claimants(frontend).filter(|&other| other != id).all(|other| rank(other) < refused)
    }

    /// Changes what a service is to be in the tables.
    pub(super) fn set_service(&mut self, id: ServiceId, service: Option<Arc<Service>>) {
        let Some(object) = self.objects.get_mut(id.0) else {
            return;
        };
        let old = std::mem::replace(&mut object.service, service.clone());
        let owner = &mut self.owners[object.owner];
        owner.serving = owner.serving.saturating_sub(serving(old.as_deref())) + serving(service.as_deref());

        let before = old.as_deref().map_or(&[][..], Service::frontends);
        let after = service.as_deref().map_or(&[][..], Service::frontends);
        if before == after {
            return;
        }
        for frontend in missing_from(before, after) {
            if let Some(object) = self.objects.get_mut(id.0) {
                object.dropped.push(*frontend);
            }
            let Self { claims, objects, owners, .. } = self;
            let handover = claims.remove(frontend, id, |id| rank(objects, owners, id));
            self.hand_over(handover);
        }
        for frontend in missing_from(after, before) {
            self.claims.add(*frontend, id);
            self.elect(frontend);
        }
    }

    fn hand_over(&mut self, handover: Option<Handover>) {
        if let Some(Handover { from, to }) = handover {
            // Whoever loses by being refused is tried again when there is room, not because it lost.
            if self.objects.get(from.0).is_some_and(|object| !object.is_refused()) {
                self.enqueue(from);
            }
            self.enqueue(to);
        }
    }

    /// Moves all revisions that wait for a service from one list to the other.
    pub(super) fn close(&mut self, id: ServiceId, how: Open) -> Vec<Revision> {
        let Some(open) = self.objects.get_mut(id.0).and_then(|object| object.open.as_deref_mut()) else {
            return Vec::new();
        };
        let list = std::mem::take(match how {
            Open::Waiting => &mut open.waiting,
            Open::Stuck => &mut open.stuck,
        });
        for &revision in &list {
            self.revisions.close(revision, how);
        }
        list
    }

    /// Makes a revision wait for a service.
    pub(super) fn open(&mut self, id: ServiceId, how: Open, revision: Revision) {
        if let Some(object) = self.objects.get_mut(id.0) {
            let open = object.open.get_or_insert_default();
            match how {
                Open::Waiting => open.waiting.push(revision),
                Open::Stuck => open.stuck.push(revision),
            }
            self.revisions.open(revision, how, id);
        }
    }
}

impl Object {
    pub fn is_refused(&self) -> bool {
        matches!(self.settled, Settled::Refused(_))
    }

    pub fn frontends(&self) -> &[Frontend] {
        self.service.as_deref().map_or(&[], Service::frontends)
    }
}

/// Backends that take new flows.
pub(super) fn serving(service: Option<&Service>) -> u64 {
    service.map_or(0, |service| {
        service.backends().iter().filter(|backend| backend.is_selectable()).count() as u64
    })
}

/// Not refused, not yielding, precedence, and the names backwards.
type Rank<'a> = (bool, bool, Precedence, Reverse<(&'a OwnerName, &'a ServiceName)>);

/// Who is to have a frontend: the largest. Whoever was refused comes last, so that the frontend is not lost with it;
/// whoever is about to go, or was not mentioned since its owner came back, comes next to last.
fn rank<'a>(objects: &'a Slab<Object>, owners: &'a [Owner], id: ServiceId) -> Option<Rank<'a>> {
    let object = objects.get(id.0)?;
    let owner = owners.get(object.owner)?;
    let yields = object.held.is_some() || !object.confirmed;
    Some((!object.is_refused(), !yields, owner.precedence, Reverse((&owner.name, &object.name))))
}

/// The frontends of `of` that are not in `set`.
fn missing_from<'a>(of: &'a [Frontend], set: &'a [Frontend]) -> impl Iterator<Item = &'a Frontend> {
    /// Up to so many are compared one by one.
    const FEW: usize = 16;
    let hashed: Option<HashSet<&Frontend>> = (set.len() > FEW).then(|| set.iter().collect());
    of.iter().filter(move |frontend| match &hashed {
        Some(hashed) => !hashed.contains(frontend),
        None => !set.contains(frontend),
    })
}
