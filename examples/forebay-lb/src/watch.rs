//! Looking around: what happens to uplinks and services, told once in the log and always in the status.

use std::collections::BTreeSet;

use control_static::StaticStatus;
use dataplane_core::{Controller, source::OwnerName, state::Phase};
use dataplane_ebpf::{EbpfDataplane, Standing};

use crate::{
    failure::explain,
    status::{Board, how_to_confirm},
};

/// Who owns what stands in files: the name that a `StaticSource` has unless it is given another.
const OWNER: &str = "static";

/// What was seen before.
pub struct Watch {
    control: Controller,
    source: StaticStatus,
    warnings: BTreeSet<String>,
    trouble: Option<String>,
    /// The state of the files of which is known what became of it.
    told: u64,
    /// Who has something held back.
    held: BTreeSet<OwnerName>,
    /// Whether frontends of an earlier run are held back.
    unclaimed: bool,
}

impl Watch {
    /// Nothing was seen before.
    pub fn new(control: Controller, source: StaticStatus) -> Self {
        let (warnings, held) = (BTreeSet::new(), BTreeSet::new());
        Self { control, source, warnings, trouble: None, told: 0, held, unclaimed: false }
    }

    /// Looks at the uplinks, brings back those that can be, and tells what is new.
    pub fn look(&mut self, plane: &EbpfDataplane, board: &Board) {
        let refreshed = plane.refresh();
        let attachments = plane.attachments();
        let lost =
            attachments.iter().find(|one| one.standing != Standing::Attached).map(|one| one.to_string());
        let trouble = refreshed.err().map(|error| explain(&error)).or(lost);
        if trouble != self.trouble {
            match &trouble {
                Some(trouble) => tracing::warn!("{trouble}"),
                None => tracing::info!("all uplinks work again"),
            }
        }
        let warnings: BTreeSet<_> = plane.warnings().iter().map(ToString::to_string).collect();
        warnings.difference(&self.warnings).for_each(|warning| tracing::warn!("{warning}"));
        board.see(attachments, warnings.iter().cloned().collect(), trouble.clone());
        (self.warnings, self.trouble) = (warnings, trouble);
        self.look_at_services();
        let unclaimed = self.control.holds_unclaimed_back();
        if unclaimed && !self.unclaimed {
            tracing::warn!(
                "most of what an earlier run served is in no file any more, so its removal is held back; if it is meant: \
                 {}",
                how_to_confirm()
            );
        }
        self.unclaimed = unclaimed;
    }

    /// Tells what became of the last state of the files, once that is known.
    fn look_at_services(&mut self) {
        let generation = self.source.now().generation;
        if generation == self.told && self.held.is_empty() {
            return;
        }
        let services = self.control.status();
        let held: Vec<_> = services.iter().filter(|service| service.held_back.is_some()).collect();
        if generation != self.told && !services.iter().any(|service| service.phase == Phase::Pending) {
            self.told = generation;
            for service in &services {
                let name = &service.service;
                match &service.phase {
                    Phase::Refused(refusal) => tracing::warn!("service {name} was refused: {refusal}"),
                    Phase::Conflict => tracing::warn!("service {name} has lost a frontend to another one"),
                    _ => {}
                }
            }
            if !held.is_empty() {
                tracing::warn!(
                    "most of what serves is to be removed, so the removal is held back for {} services; if it is \
                     meant: {}",
                    held.len(),
                    how_to_confirm()
                );
            }
        }
        self.held = held.into_iter().map(|service| service.owner.clone()).collect();
    }

    /// Lets through what is held back.
    pub fn confirm(&mut self) {
        self.look_at_services();
        if self.held.is_empty() && self.control.holds_unclaimed_back() {
            tracing::info!("SIGUSR1: what an earlier run served, and no file names, is removed now");
            match OwnerName::new(OWNER) {
                Ok(owner) => drop(self.control.confirm(&owner)),
                Err(error) => tracing::error!("{error}"),
            }
        } else if self.held.is_empty() {
            tracing::info!("SIGUSR1: nothing is held back");
        }
        for owner in std::mem::take(&mut self.held) {
            tracing::info!("SIGUSR1: what was held back of {owner} is removed now");
            self.control.confirm(&owner);
        }
    }
}
