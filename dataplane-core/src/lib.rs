//! Forebay's dataplane, without a kernel: what services are, what tables hold, what happens to packets.
//!
//! From what people say to what packets meet:
//!
//! | module | holds |
//! | --- | --- |
//! | [`model`] | what an embedder says: services, frontends, backends, validated |
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
pub mod tables;
#[deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]
pub mod wire;
