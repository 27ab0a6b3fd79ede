//! How far an object has come.

use std::{sync::Arc, time::Duration};

use crate::{
    model::{Frontend, Service, ServiceName},
    source::{ObjectName, OwnerName, Revision},
    tables::TableError,
};

/// How far a service has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// Who committed it.
    pub owner: OwnerName,
    /// Its name.
    pub service: ServiceName,
    /// As it is to be in the tables; `None` where it is to be out of them.
    pub desired: Option<Arc<Service>>,
    /// What it will be once somebody confirms, where that is held back.
    pub held_back: Option<HeldBack>,
    /// The commit that changed it last.
    pub revision: Revision,
    /// How far it has come.
    pub phase: Phase,
    /// Which of its frontends another service claims too, won or lost.
    pub conflicts: Vec<Conflict>,
    /// What went wrong at the last attempt to write it to the tables, which will be repeated.
    pub failure: Option<Failure>,
}

/// What waits to be confirmed, because with it most of what serves would go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldBack {
    /// The service is to go.
    Removal,
    /// It is to be like this, with fewer backends that take new flows.
    Change(Arc<Service>),
}

/// How far a service has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The tables do not hold it yet as it is desired.
    Pending,
    /// The tables hold it as it is desired.
    Applied,
    /// There is no room for it. What the tables held of it before serves on. It is tried again when there is room.
    Refused(Refusal),
    /// At least one of its frontends serves another service; its others serve it.
    Conflict,
    /// It serves as before: its removal, or that of its backends, waits to be confirmed.
    HeldBack,
    /// It is no longer desired, and not out of the tables yet.
    Removing,
}

/// Why a service is not put into the tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A table is too full for it.
    #[error(
        "table {table} has no room: {needed} elements in one piece are needed, {free} of {capacity} are free; \
         remove some, or open the dataplane with a larger capacity"
    )]
    NoRoom {
        /// The table's name.
        table: &'static str,
        /// How many elements it needs, in one piece.
        needed: u32,
        /// How many are free, in one or more pieces.
        free: u32,
        /// How many there are.
        capacity: u32,
    },
    /// The table itself said that it is full.
    #[error(transparent)]
    Table(TableError),
}

/// What went wrong at the last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// Table, operation and error number.
    pub error: TableError,
    /// How many attempts have failed in a row.
    pub attempts: u32,
    /// When the next one is, on the clock of the controller.
    pub retry_at: Duration,
}

/// A frontend that two services claim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The frontend.
    pub frontend: Frontend,
    /// The other service.
    pub with: ObjectName,
    /// Whether this service has it rather than the other.
    pub won: bool,
}
