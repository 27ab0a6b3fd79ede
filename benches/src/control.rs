//! Services through a controller into tables.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use dataplane_core::{
    Controller, NextWake, Precedence, SourceHandle,
    model::Service,
    state::RemovalGuard,
    tables::{Capacity, Store},
};

/// Tables with room for this many services of the catalogue.
pub fn capacity(services: u32) -> Capacity {
    let services = services.next_power_of_two().max(1 << 10);
    // Three backends and a header of four words fill one line of eight.
    Capacity {
        frontends: services,
        slots: services * 8 + 64,
        backends: services * 4,
        conntrack: 1 << 16,
        opening: 1 << 16,
        nat: 8,
        affinity: 8,
        fragments: 8,
    }
}

/// A controller that is stepped by hand, and its only source.
#[derive(Debug)]
pub struct Control {
    controller: Controller,
    source: SourceHandle,
}

impl Control {
    /// A controller of these tables, which must be empty.
    ///
    /// # Errors
    /// Where the tables have another controller, or can't be read.
    pub fn new(tables: Arc<dyn Store>) -> Result<Self> {
        // A picture that is taken away is taken away at once.
        let controller = Controller::builder(tables).removal_guard(RemovalGuard::off()).build()?;
        let source = controller.register("bench", Precedence::new(1))?;
        Ok(Self { controller, source })
    }

    /// Commits a full picture and writes it to the tables.
    ///
    /// # Errors
    /// Where a service is not applied.
    pub fn replace(&self, picture: Vec<Service>) -> Result<()> {
        let revision = self.source.replace(picture)?;
        self.source.synced();
        self.apply(revision)
    }

    /// Commits one service and writes it to the tables.
    ///
    /// # Errors
    /// Where it is not applied.
    pub fn change(&self, service: Service) -> Result<()> {
        let revision = self.source.transaction().upsert(service).commit()?;
        self.apply(revision)
    }

    fn apply(&self, revision: dataplane_core::Revision) -> Result<()> {
        while self.controller.step(self.controller.now()) == NextWake::Now {}
        self.controller.wait_applied(revision, Duration::ZERO).context("the tables did not take all services")
    }

    /// Commits a full picture, and says how long it took until it was in the tables.
    ///
    /// # Errors
    /// As [`replace`](Self::replace).
    pub fn timed_replace(&self, picture: Vec<Service>) -> Result<Duration> {
        let start = Instant::now();
        self.replace(picture)?;
        Ok(start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use dataplane_core::memory::MemoryTables;

    use super::*;
    use crate::catalogue::{Catalogue, service};

    #[test]
    fn a_picture_is_in_the_tables_when_it_is_said_to_be() {
        let tables = Arc::new(MemoryTables::new(capacity(2_000)));
        let control = Control::new(tables.clone()).unwrap();
        control.replace(Catalogue::new(2_000).all().unwrap()).unwrap();
        assert_eq!(tables.services_v4().fill(), Ok(4_000), "with an address each");
        control.change(service(2_000, &[]).unwrap()).unwrap();
        assert_eq!(tables.services_v4().fill(), Ok(4_002));
    }

    #[test]
    fn what_has_no_room_is_an_error() {
        let tables = Arc::new(MemoryTables::new(Capacity::small()));
        let control = Control::new(tables).unwrap();
        assert!(control.replace(Catalogue::new(100).all().unwrap()).is_err());
    }
}
