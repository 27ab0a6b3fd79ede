//! Forebay's dataplane, without a kernel: what services are, what tables hold, what happens to packets.
//!
//! From what people say to what packets meet:
//!
//! | module | holds |
//! | --- | --- |
//! | [`model`] | what an embedder says: services, frontends, backends, validated |
//! | [`source`] | the contract of a control source: transactions, ownership, the initial-sync barrier |
//! | [`state`] | desired state with revisions: the merge of all sources, who wins what, how far each object is |
//! | [`compile`] | model to rows: places in the tables, and their words |
//! | [`reconcile`] | desired against programmed: a pure plan, and its ordered, idempotent application |
//! | [`control`] | the controller that joins these four, without a runtime |
//! | [`event`] | what is told of drops and flows, read from records |
//! | [`tables`] | the seam: what a packet needs of tables, and what control needs |
//! | [`abi`] | keys and values of the tables as bytes |
//! | [`wire`] | headers as checked views |
//! | [`memory`] | the tables in RAM, and a simulator that runs frames through them |
//! | [`pipeline`] | what happens to a packet; compiled for the kernel and for the host |
//!
//! Without the feature `std` (on by default) only what runs in the kernel is left: `tables`' packet side, `abi`,
//! `wire` and `pipeline`.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
#[cfg(feature = "std")]
pub mod collect;
#[cfg(feature = "std")]
pub mod compile;
#[cfg(feature = "std")]
pub mod control;
#[cfg(feature = "std")]
pub mod event;
#[cfg(feature = "std")]
pub mod memory;
#[cfg(feature = "std")]
pub mod model;
#[deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]
pub mod pipeline;
#[cfg(feature = "std")]
pub mod reconcile;
#[cfg(feature = "std")]
mod slab;
#[cfg(feature = "std")]
pub mod source;
#[cfg(feature = "std")]
pub mod state;
pub mod tables;
#[deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]
pub mod wire;

#[cfg(feature = "std")]
pub use control::{Controller, ControllerError, Running, WaitError};
#[cfg(feature = "std")]
pub use reconcile::NextWake;
#[cfg(feature = "std")]
pub use source::{ControlSource, Precedence, Revision, SourceHandle};
