//! What tests and the quickstart of Forebay stand on: real networks, frames and scenarios.
//!
//! | module | holds |
//! | --- | --- |
//! | [`net`] | network namespaces joined by veth, sockets for scenarios, kernel counters, topologies |
#![deny(unsafe_code)]

pub mod fill;
pub mod frames;
pub mod net;
